//! The route of an answer's evidence: what it repeats word for word.

use axum::Json;
use axum::extract::{Path, State};
use tributary_protocol::id::Hash;
use tributary_protocol::node::Node;
use tributary_protocol::receipt::Work;

use super::{Answer, Api, ApiError};
use crate::evidence::Found;

/// The text of an answer and the shards of the datanet that its model was made of.
pub(super) async fn show(State(api): Api, Path(key): Path<Hash>) -> Answer<Found> {
    let look = move |node: &Node| {
        let view = node.ask_view(&key)?;
        let receipt = view.receipt.and_then(|id| node.receipt_of(&id));
        let adapter = match receipt.map(|signed| &signed.receipt.work) {
            Some(Work::Inference { adapter, .. }) => Some(*adapter),
            _ => None,
        };
        let datanet = adapter.and_then(|adapter| node.release_of(&adapter)).map(|release| release.body.datanet);
        let entries = datanet.and_then(|id| node.datanet(&id)).and_then(|datanet| datanet.version(&datanet.head()));
        Some((view.text, entries))
    };
    let found = api.handle.view(look).await?;
    let (text, entries) =
        found.ok_or_else(|| ApiError::not_found(format!("question {key} is not known here"), "ask it first"))?;
    let (Some(text), Some(entries)) = (text, entries) else {
        return Err(ApiError::not_found(
            "this question has no answer here, or its model's datanet is not known",
            "tributary answer show says how far it is",
        ));
    };
    let found = api.evidence.quotations(&api.workshop.store, entries, text).await;
    found.map(Json).map_err(ApiError::internal)
}
