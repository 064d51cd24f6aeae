//! The route by which a release is held against its own files and records.
//!
//! Invariant: it looks and tells; only a false index makes a proof, since estimates and qualities of another machine's class may
//! differ in their last bits.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use tributary_protocol::id::Hash;
use tributary_protocol::message::Release;
use tributary_protocol::node::Node;

use super::{Answer, Api, ApiError};
use crate::runtime::now_ms;
use crate::work::JobError;
use crate::work::release::Verified;

pub(super) async fn verify(State(api): Api, Path(adapter): Path<Hash>) -> Answer<Value> {
    let look = move |node: &Node| {
        let release = node.release_of(&adapter)?.body.clone();
        Some((release, node.peers_serving(now_ms(), &adapter)))
    };
    let found = api.handle.view(look).await?;
    let (release, providers) = found.ok_or_else(|| {
        ApiError::not_found(format!("no model {adapter} is known here"), "tributary model ls shows the models")
    })?;
    let shown = match api.workshop.verify_release(&release, &providers).await {
        Ok(verified) => equal(&release, &verified),
        Err(JobError::OtherIndex { built }) => {
            json!({"index": {"theirs": release.index, "own": built, "equal": false}})
        }
        Err(error) => {
            let hint = "adapters and records come from the peers that have them: tributary net ls says who is there";
            return Err(ApiError::unreachable(format!("the release could not be verified: {error}"), hint));
        }
    };
    Ok(Json(shown))
}

fn equal(release: &Release, verified: &Verified) -> Value {
    let estimated = release.contributors.iter().filter(|one| one.estimated || one.together.is_some()).count();
    let (pooled, clusters): (Vec<_>, Vec<_>) =
        release.clusters().into_iter().partition(|members| verified.pools.contains(members));
    json!({
        "index": {"theirs": release.index, "own": release.index, "equal": true},
        "clusters": {"theirs": clusters, "own": verified.clusters},
        "pools": {"theirs": pooled, "own": verified.pools},
        "estimates": {"count": estimated, "worst_millionths": verified.estimates_millionths},
        "quality": {"theirs": release.quality, "own": verified.quality},
    })
}
