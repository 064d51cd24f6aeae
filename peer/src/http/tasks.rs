//! Routes about fine-tune tasks, and how a task is shown.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use tributary_protocol::node::{Phase, RequestView};
use tributary_protocol::verification::Outcome;

use super::{Answer, Api};

pub(super) async fn list(State(api): Api) -> Answer<Vec<Value>> {
    let tasks = api.handle.view(|node| node.requests().into_iter().map(|(_, view)| show(&view)).collect());
    Ok(Json(tasks.await?))
}

pub(super) fn show(view: &RequestView) -> Value {
    let (phase, reason, receipt) = match &view.phase {
        Phase::Auction => ("auction", None, None),
        Phase::Leased => ("leased", None, None),
        Phase::Checking => ("checking", None, None),
        Phase::Settling => ("settling", None, None),
        Phase::Done(receipt) => ("done", None, Some(receipt)),
        Phase::Failed(reason) => ("failed", Some(reason), None),
    };
    let worker =
        view.award.as_ref().map(|award| json!({"node": award.node, "account": award.worker, "price": award.price}));
    let result = view.result.as_ref().map(|result| {
        json!({
            "adapter": result.adapter,
            "steps": result.steps,
            "loss_micro_nats": result.loss_micro_nats,
            "elapsed_ms": result.elapsed_ms,
            "checkpoints": result.checkpoints.len(),
        })
    });
    let progress = view.progress.map(|beat| {
        json!({
            "step": beat.step,
            "steps": beat.steps,
            "loss_micro_nats": beat.loss_micro_nats,
            "tokens_per_s": beat.tokens_per_s,
        })
    });
    json!({
        "key": view.command.key,
        "task": view.task,
        "phase": phase,
        "reason": reason,
        "bids": [view.bids.0, view.bids.1],
        "worker": worker,
        "progress": progress,
        "result": result,
        "verdict": view.verdict.as_ref().map(|verdict| verdict_json(&verdict.account.to_string(), &verdict.body)),
        "receipt": receipt,
    })
}

pub(super) fn verdict_json(verifier: &str, verdict: &tributary_protocol::verification::Verdict) -> Value {
    let (outcome, detail) = match &verdict.outcome {
        Outcome::Confirmed => ("confirmed", ""),
        Outcome::Refuted(reason) => ("refuted", reason.as_str()),
        Outcome::Abstained(reason) => ("abstained", reason.as_str()),
    };
    json!({"verifier": verifier, "outcome": outcome, "detail": detail, "checked": verdict.checked})
}
