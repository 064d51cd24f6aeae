//! The route of an answer's evidence: what it repeats word for word, and how its contributors' shares are known.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use tributary_protocol::id::{AccountId, Hash};
use tributary_protocol::message::{Contributor, clusters_of};
use tributary_protocol::node::Node;
use tributary_protocol::receipt::Work;

use super::{Answer, Api, ApiError};
use crate::evidence::Found;

/// What an answer repeats, and who of its model's contributors was left out how.
#[derive(Serialize)]
pub(super) struct Evidence {
    #[serde(flatten)]
    found: Found,
    contributors: Vec<LeftOut>,
}

/// How one knows what a contributor taught.
#[derive(Serialize)]
struct LeftOut {
    account: AccountId,
    /// Whether it was estimated from gradients, and nothing trained without this contributor.
    estimated: bool,
    /// Who was left out with it by the same training, since they teach the same.
    together_with: Vec<AccountId>,
}

fn left_out(contributors: &[Contributor]) -> Vec<LeftOut> {
    let clusters = clusters_of(contributors);
    let account = |number: u32| Some(contributors.get(usize::try_from(number).ok()?)?.account);
    let one = |(number, one): (u32, &Contributor)| {
        let members = clusters.iter().filter(|members| members.contains(&number)).flatten();
        let others = members.filter(|member| **member != number).filter_map(|member| account(*member)).collect();
        LeftOut { account: one.account, estimated: one.estimated, together_with: others }
    };
    (0..).zip(contributors).map(one).collect()
}

/// The text of an answer and the shards of the datanet that its model was made of.
pub(super) async fn show(State(api): Api, Path(key): Path<Hash>) -> Answer<Evidence> {
    let look = move |node: &Node| {
        let view = node.ask_view(&key)?;
        let receipt = view.receipt.and_then(|id| node.receipt_of(&id));
        let adapter = match receipt.map(|signed| &signed.receipt.work) {
            Some(Work::Inference { adapter, .. }) => Some(*adapter),
            _ => None,
        };
        let release = adapter.and_then(|adapter| node.release_of(&adapter)).map(|release| &release.body);
        let datanet = release.map(|release| release.datanet);
        let entries = datanet.and_then(|id| node.datanet(&id)).and_then(|datanet| datanet.version(&datanet.head()));
        Some((view.text, entries, left_out(release.map_or(&[], |release| release.contributors.as_slice()))))
    };
    let found = api.handle.view(look).await?;
    let (text, entries, contributors) =
        found.ok_or_else(|| ApiError::not_found(format!("question {key} is not known here"), "ask it first"))?;
    let (Some(text), Some(entries)) = (text, entries) else {
        return Err(ApiError::not_found(
            "this question has no answer here, or its model's datanet is not known",
            "tributary answer show says how far it is",
        ));
    };
    let found = api.evidence.quotations(&api.workshop.store, entries, text).await;
    found.map(|found| Json(Evidence { found, contributors })).map_err(ApiError::internal)
}
