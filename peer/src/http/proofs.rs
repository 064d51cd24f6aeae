//! Routes about falsifications: answers computed again here, the proofs that are kept, and what is judged of one.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use tributary_protocol::attribution::{Share, WHOLE, commons_weight};
use tributary_protocol::id::{AccountId, Hash, NodeId};
use tributary_protocol::limits::PROOF_MAX_BYTES;
use tributary_protocol::message::Contributor;
use tributary_protocol::node::{Input, KeptProof, Node, shares_of};
use tributary_protocol::proof::{Case, Comparison, Found, Judgement, Proof, Recomputed};
use tributary_protocol::receipt::SignedReceipt;
use tributary_protocol::retrieval::Context;

use super::{Answer, Api, ApiError, ApiState, fresh_key};

/// What recomputing a question's answer needs.
async fn case_of(api: &ApiState, key: Hash) -> Result<Case, ApiError> {
    let look = move |node: &Node| {
        let audit = node.audit_of(&key)?.clone();
        let release = node.release_of(&audit.request.body.adapter)?.clone();
        Some((audit, release))
    };
    let found = api.handle.view(look).await?;
    let (audit, release) = found.ok_or_else(|| {
        ApiError::not_found(
            format!("what recomputing question {key} needs is not here"),
            "only answers that this node asked for are kept, the newest of them",
        )
    })?;
    Ok(Case::of_audit(&audit, &release))
}

/// Computes an answer of this node again, and says of each contributor what the worker signed and what it is.
pub(super) async fn verify(State(api): Api, Path(key): Path<Hash>) -> Answer<Value> {
    let case = case_of(&api, key).await?;
    let (again, compared) = match api.workshop.recompute(fresh_key()?, &case).await {
        Found::Answer(again) => {
            let compared = case.compare(&again);
            (Some(again), compared)
        }
        Found::Nothing(reason) => (None, Comparison::Unknown(reason)),
        Found::Index(_) | Found::Record(_) | Found::Shares(..) => {
            return Err(ApiError::internal("something else was computed"));
        }
    };
    let (outcome, detail, proof) = match compared {
        Comparison::Equal => ("equal", String::new(), Value::Null),
        Comparison::Unknown(reason) => ("unknown", reason, Value::Null),
        Comparison::Unequal(claim, reason) => {
            let proof = Proof::Answer { case: Box::new(case.clone()), claim };
            ("unequal", reason, keep(&api, proof).await?)
        }
    };
    let (audits, false_audit) = audits(&api, &case).await?;
    let classes = api.handle.view(|node| node.record_view().classes).await?;
    // Nothing but the fault stands for anything where the answer itself is another one.
    let again = again.filter(|again| again.fault.is_none());
    let recomputed = again.as_ref().map(|again| shares_again(&case, again));
    Ok(Json(json!({
        "outcome": outcome,
        "detail": detail,
        "class": case.receipt.class,
        "own_classes": classes,
        "contributors": contributors(&case, again.as_ref()),
        "commons": case.receipt.commons,
        "recomputed_commons": recomputed.as_deref().map(commons_weight),
        "whole": WHOLE,
        "audits": audits,
        "proof": if proof.is_null() { false_audit } else { proof },
    })))
}

/// Has the node keep a proof; as it is shown, with its file.
async fn keep(api: &ApiState, proof: Proof) -> Result<Value, ApiError> {
    let shown = json!({"id": id_of(&proof), "kind": proof.kind(), "file": hex::encode(proof.to_bytes())});
    api.handle.input(Input::FalsehoodFound(Box::new(proof))).await?;
    Ok(shown)
}

/// What was found about the answer for settlement, each held against what is computed here; and a proof against the first
/// auditor who signed something else.
async fn audits(api: &ApiState, case: &Case) -> Result<(Vec<Value>, Value), ApiError> {
    let of = case.receipt.id();
    let look = move |node: &Node| -> Vec<SignedReceipt> {
        let found = node.receipts().filter(|(_, signed)| signed.receipt.audited() == Some(of));
        found.map(|(_, signed)| signed.clone()).collect()
    };
    let signed = api.handle.view(look).await?;
    if signed.is_empty() {
        return Ok((Vec::new(), Value::Null));
    }
    let again = api.workshop.true_shares(fresh_key()?, case).await;
    let (mut shown, mut made) = (Vec::new(), Value::Null);
    for SignedReceipt { receipt, worker_signature, .. } in signed {
        let (outcome, detail) = match &again {
            Found::Shares(class, _) if *class != receipt.class => ("unknown", "computed in another class".into()),
            Found::Shares(_, shares) if *shares == receipt.shares => ("equal", String::new()),
            Found::Shares(_, shares) => {
                let (case, audit, shares) = (Box::new(case.clone()), Box::new(receipt.clone()), shares.clone());
                made = keep(api, Proof::Audit { case, audit, signature: worker_signature, shares }).await?;
                ("unequal", String::new())
            }
            Found::Nothing(reason) => ("unknown", reason.clone()),
            _ => ("unknown", "something else was computed".into()),
        };
        let (id, auditor) = (receipt.id(), receipt.worker);
        shown.push(json!({"receipt": id, "auditor": auditor, "outcome": outcome, "detail": detail}));
    }
    Ok((shown, made))
}

/// The shares that what was computed again gives, with the records that the worker sent.
fn shares_again(case: &Case, again: &Recomputed) -> Vec<Share> {
    let passages = case.transcript().map(|sent| sent.context.passages).unwrap_or_default();
    shares_of(&case.release.body, &again.credits, &Context { passages, losses: again.losses.clone() })
}

/// Each contributor with the credit and weight that the worker signed and those that were computed again.
fn contributors(case: &Case, again: Option<&Recomputed>) -> Vec<Value> {
    let release = &case.release.body;
    let sent = case.transcript().map(|sent| sent.credits).unwrap_or_default();
    let recomputed = again.map(|again| (&again.credits, shares_again(case, again)));
    let weight = |shares: &[Share], account: &AccountId| {
        shares.iter().find(|share| share.account == *account).map_or(0, |share| share.weight)
    };
    let credit = |credits: &[(u32, i64)], number: u32| credits.iter().find(|one| one.0 == number).map(|one| one.1);
    let row = |(number, contributor): (u32, &Contributor)| {
        let signed = weight(&case.receipt.shares, &contributor.account);
        let true_weight = recomputed.as_ref().map(|(_, shares)| weight(shares, &contributor.account));
        json!({
            "account": contributor.account,
            "weight": signed,
            "recomputed_weight": true_weight,
            "micro_nats": credit(&sent, number),
            "recomputed_micro_nats": recomputed.as_ref().and_then(|(credits, _)| credit(credits, number)),
        })
    };
    (0..).zip(&release.contributors).map(row).collect()
}

fn id_of(proof: &Proof) -> Hash {
    Hash::of(&proof.to_bytes())
}

/// A proof that is known of, with the peer that keeps it unless this node does.
struct Known {
    id: Hash,
    keeper: Option<NodeId>,
    shown: Value,
}

/// The proofs that this node found, and those that verdicts on its answers name.
fn known(node: &Node) -> Vec<Known> {
    let own = node.proofs().iter().map(|kept| {
        let KeptProof { proof, kind, accused, subject } = kept;
        let shown = json!({
            "id": proof, "kind": kind, "accused": accused, "subject": subject, "found_by": node.account(),
        });
        Known { id: *proof, keeper: None, shown }
    });
    let mut all: Vec<Known> = own.collect();
    for (_, view) in node.asks() {
        let Some(verdict) = view.verdict else { continue };
        let (Some(id), Some(receipt)) = (verdict.body.proof, view.receipt) else { continue };
        if all.iter().all(|known| known.id != id) {
            let accused = node.receipt_of(&receipt).map(|signed| signed.receipt.worker);
            let shown = json!({
                "id": id, "kind": null, "accused": accused, "subject": receipt, "found_by": verdict.account,
            });
            all.push(Known { id, keeper: node.node_of(&verdict.account), shown });
        }
    }
    all
}

pub(super) async fn list(State(api): Api) -> Answer<Vec<Value>> {
    Ok(Json(api.handle.view(|node| known(node).into_iter().map(|known| known.shown).collect()).await?))
}

/// A proof's file; one that another peer keeps is fetched from it.
pub(super) async fn show(State(api): Api, Path(id): Path<Hash>) -> Result<Bytes, ApiError> {
    let found = api.handle.view(move |node| known(node).into_iter().find(|known| known.id == id)).await?;
    let found = found.ok_or_else(|| {
        ApiError::not_found(format!("no proof {id} is known here"), "tributary receipt proofs shows those that are")
    })?;
    let keepers: Vec<NodeId> = found.keeper.into_iter().collect();
    let bytes = api.workshop.blob(id, &keepers, PROOF_MAX_BYTES).await;
    let bytes =
        bytes.map_err(|reason| ApiError::unreachable(reason, "try again when the peer that found it is online"))?;
    // Whoever named it may have named anything.
    Proof::from_bytes(&bytes)
        .map_err(|error| ApiError::verification(error, "tributary answer verify --proof makes one here"))?;
    Ok(bytes)
}

/// Judges a proof's file, computing here what that takes.
pub(super) async fn judge(State(api): Api, bytes: Bytes) -> Answer<Value> {
    let proof = Proof::from_bytes(&bytes)
        .map_err(|error| ApiError::usage(error, "send a file that tributary receipt proof wrote"))?;
    let judgement = api.workshop.judge(fresh_key()?, &proof).await;
    Ok(Json(judgement_json(&proof, &judgement)))
}

/// What a judge says of a proof, as the command line and this API show it.
#[must_use]
pub fn judgement_json(proof: &Proof, judgement: &Judgement) -> Value {
    let (outcome, detail) = match judgement {
        Judgement::Proven(reason) => ("proven", reason.as_str()),
        Judgement::Fails(reason) => ("fails", reason.as_str()),
        Judgement::Unknown(reason) => ("unknown", reason.as_str()),
        Judgement::Needs(_) => ("unknown", "it takes a computation that was not made"),
    };
    json!({
        "id": id_of(proof),
        "kind": proof.kind(),
        "accused": proof.accused(),
        "subject": proof.subject(),
        "outcome": outcome,
        "detail": detail,
    })
}
