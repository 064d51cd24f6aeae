//! Routes about fine-tune tasks, and how a task is shown.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use tributary_protocol::id::{Amount, NodeId};
use tributary_protocol::node::{Node, Phase, RequestView};
use tributary_protocol::refusal::DeclineReason;
use tributary_protocol::verification::Outcome;

use super::{Answer, Api};
use crate::runtime::now_ms;

pub(super) async fn list(State(api): Api) -> Answer<Vec<Value>> {
    let show_all = |node: &Node| node.requests().into_iter().map(|(_, view)| show(node, &view)).collect();
    Ok(Json(api.handle.view(show_all).await?))
}

/// Why an auction has brought no bid yet, as far as it is known here.
pub(super) fn silence(node: &Node, view: &RequestView) -> Option<String> {
    if view.phase != Phase::Auction || view.bids != (0, 0) {
        return None;
    }
    if !view.declines.is_empty() {
        return Some(declined(&view.declines, view.command.budget));
    }
    let now = now_ms();
    let workers = node.peers().filter(|(_, peer)| peer.is_fresh(now) && peer.record.roles.worker).count();
    let workers = workers + usize::from(node.record_view().roles.worker);
    match (workers, view.offers) {
        (0, _) => Some("no worker is known here: start one, or join others with tributary net join".into()),
        // The first offer is still open.
        (_, 0 | 1) => None,
        (1, _) => Some("1 worker is known and has not answered the offers so far".into()),
        (known, _) => Some(format!("{known} workers are known and none has answered the offers so far")),
    }
}

/// What workers said who heard the offer and do not bid.
fn declined(declines: &[(NodeId, DeclineReason)], budget: Amount) -> String {
    let asks = declines.iter().filter_map(|(_, reason)| match reason {
        DeclineReason::BudgetTooLow { asks } => Some(*asks),
        _ => None,
    });
    let (dear, cheapest) = (asks.clone().count(), asks.min());
    let count = |wanted: &DeclineReason| declines.iter().filter(|(_, reason)| reason == wanted).count();
    let (busy, without) = (count(&DeclineReason::Busy), count(&DeclineReason::DatanetUnknown));
    let verb = |number: usize, one: &str, more: &str| format!("{number} {}", if number == 1 { one } else { more });
    let mut parts = Vec::new();
    if let Some(cheapest) = cheapest {
        let (cheapest, budget) = (cheapest.to_open(), budget.to_open());
        let asks = verb(dear, "asks", "ask");
        parts.push(format!("{asks} at least {cheapest} OPEN, this training's part of the budget is {budget} OPEN"));
    }
    if busy > 0 {
        parts.push(format!("{} busy", verb(busy, "is", "are")));
    }
    if without > 0 {
        parts.push(format!("{} not have the datanet yet", verb(without, "does", "do")));
    }
    let unable = declines.iter().filter_map(|(_, reason)| match reason {
        DeclineReason::Unable { says } => Some(says),
        _ => None,
    });
    parts.extend(unable.map(|says| format!("1 could not do it: {says}")));
    let heard = verb(declines.len(), "worker", "workers");
    format!("{heard} heard the offer: {}", parts.join(", "))
}

pub(super) fn show(node: &Node, view: &RequestView) -> Value {
    let silence = silence(node, view);
    let (phase, reason, receipt) = match &view.phase {
        Phase::Auction => ("auction", silence.as_ref(), None),
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
            "kept_step": result.kept_step,
            "loss_micro_nats": result.loss_micro_nats,
            "elapsed_ms": result.elapsed_ms,
            "checkpoints": result.checkpoints.len(),
        })
    });
    let progress = view.progress.as_ref().map(|beat| {
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
        "steps": view.command.work.steps,
        "phase": phase,
        "reason": reason,
        "bids": [view.bids.0, view.bids.1],
        "offers": view.offers,
        "declines": view.declines.iter().map(|(node, reason)| json!({"node": node, "reason": reason})).collect::<Vec<_>>(),
        "checked": is_checked(view),
        "worker": worker,
        "progress": progress,
        "result": result,
        "verdict": view.verdict.as_ref().map(|verdict| verdict_json(&verdict.account.to_string(), &verdict.body)),
        "receipt": receipt,
    })
}

/// Whether another peer executed parts of the training again; nothing is said before its check ended.
pub(super) fn is_checked(view: &RequestView) -> Option<bool> {
    let ended = matches!(view.phase, Phase::Settling | Phase::Done(_));
    ended.then(|| view.verdict.is_some())
}

pub(super) fn verdict_json(verifier: &str, verdict: &tributary_protocol::verification::Verdict) -> Value {
    let (outcome, detail) = match &verdict.outcome {
        Outcome::Confirmed => ("confirmed", ""),
        Outcome::Refuted(reason) => ("refuted", reason.as_str()),
        Outcome::Abstained(reason) => ("abstained", reason.as_str()),
    };
    json!({
        "verifier": verifier, "outcome": outcome, "detail": detail, "checked": verdict.checked, "proof": verdict.proof,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declines_are_counted_by_reason_with_the_cheapest_price() {
        let asks = |tenths: u128| DeclineReason::BudgetTooLow { asks: Amount(Amount::OPEN.0 / 10 * tenths) };
        let heard = |reasons: &[DeclineReason]| -> Vec<(NodeId, DeclineReason)> {
            reasons.iter().zip(0..).map(|(reason, place)| (NodeId([place; 32]), reason.clone())).collect()
        };
        let budget = Amount(Amount::OPEN.0 / 2);
        let two = declined(&heard(&[asks(12), DeclineReason::Busy]), budget);
        assert!(two.starts_with("2 workers heard the offer: 1 asks at least 1.2"), "{two}");
        assert!(two.ends_with("1 is busy"), "{two}");
        let three = declined(&heard(&[asks(20), asks(11), DeclineReason::unable("the base is not Llama")]), budget);
        assert!(three.contains("2 ask at least 1.1") && three.ends_with("the base is not Llama"), "{three}");
        let one = declined(&heard(&[DeclineReason::DatanetUnknown]), budget);
        assert_eq!(one, "1 worker heard the offer: 1 does not have the datanet yet");
    }
}
