//! Routes about receipts, epochs and the wallet.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};
use tributary_protocol::batch::EpochBody;
use tributary_protocol::economy::PaymentRole;
use tributary_protocol::id::{Amount, ChainAddress, ReceiptId};
use tributary_protocol::limits::BATCH_MAX_BYTES;
use tributary_protocol::node::{Command, Debt, Node};
use tributary_protocol::receipt::{SignedReceipt, Voucher, Work};
use tributary_protocol::wire;
use tributary_storage::blobs::BlobStore;

use super::{Answer, Api, ApiError, ApiState};
use crate::home;
use crate::receiptfile;
use crate::runtime::now_ms;

/// A receipt as a row, with what it pays to `own`.
fn summary(id: &ReceiptId, signed: &SignedReceipt, own: ChainAddress) -> Value {
    let receipt = &signed.receipt;
    let paid = receipt.payments.iter().filter(|payment| payment.to == own).map(|payment| payment.amount);
    let own = paid.fold(Amount::ZERO, |sum, one| Amount(sum.0.saturating_add(one.0)));
    let kind = match receipt.work {
        Work::Training { .. } => "training",
        Work::Inference { .. } => "inference",
        Work::Audit { .. } => "audit",
    };
    json!({
        "id": id,
        "kind": kind,
        "audited": receipt.audited(),
        "payer": receipt.payer,
        "worker": receipt.worker,
        "price": receipt.price,
        "own": own,
        "finished_ms": receipt.finished_ms,
        "shares": receipt.shares,
    })
}

pub(super) async fn receipts(State(api): Api) -> Answer<Vec<Value>> {
    let look = |node: &Node| {
        let own = node.chain_address();
        node.receipts().map(|(id, signed)| summary(id, signed, own)).collect()
    };
    Ok(Json(api.handle.view(look).await?))
}

pub(super) async fn receipt(State(api): Api, Path(id): Path<ReceiptId>) -> Result<String, ApiError> {
    let found = api.handle.view(move |node| node.receipt_of(&id).map(receiptfile::render)).await?;
    found.ok_or_else(|| {
        ApiError::not_found(format!("receipt {id} is not known here"), "tributary receipt ls shows those that are")
    })
}

pub(super) async fn close_epoch(State(api): Api) -> Answer<Value> {
    let poster = api.handle.view(|node| node.record_view().roles.poster).await?;
    if !poster {
        return Err(ApiError::usage("this node does not anchor epochs", "start it with the poster role"));
    }
    api.handle.command(Command::CloseEpoch).await?;
    Ok(Json(json!({"closing": true})))
}

pub(super) async fn epochs(State(api): Api) -> Answer<Vec<Value>> {
    let epochs = api.handle.view(|node| {
        let show = |epoch: tributary_protocol::node::EpochView| {
            json!({
                "epoch": epoch.epoch,
                "total": epoch.total,
                "receipts_root": epoch.receipts_root,
                "agrees": epoch.agrees,
                "body": epoch.body,
            })
        };
        node.epochs().into_iter().map(show).collect()
    });
    Ok(Json(epochs.await?))
}

/// The epoch that stands on the chain and that this node found right, with its body.
async fn newest_epoch(api: &ApiState) -> Result<Option<EpochBody>, ApiError> {
    let agreeing = |node: &Node| node.epochs().into_iter().rev().filter(|epoch| epoch.agrees).collect::<Vec<_>>();
    let limit = usize::try_from(BATCH_MAX_BYTES).unwrap_or(usize::MAX);
    for epoch in api.handle.view(agreeing).await? {
        let bytes = api.workshop.store.get(epoch.body).await.map_err(ApiError::internal)?;
        let body: Option<EpochBody> = bytes.and_then(|bytes| wire::decode(&bytes, limit).ok());
        if let Some(body) = body
            && api.settlement.is_final(&body).await?
        {
            return Ok(Some(body));
        }
    }
    Ok(None)
}

async fn vouchers(api: &ApiState) -> Result<Vec<Voucher>, ApiError> {
    Ok(api.handle.view(|node| node.vouchers().cloned().collect()).await?)
}

pub(super) async fn wallet(State(api): Api) -> Answer<Value> {
    let (address, account, debts) =
        api.handle.view(|node| (node.chain_address(), node.account(), node.debts())).await?;
    let (owed, spent) = still_owed(&api, address, debts).await;
    let vouchers = vouchers(&api).await?;
    let mut shown = json!({"chain_address": address, "account": account, "owed_to_others": owed, "spent": spent, "chain_state": "none"});
    let on_chain = match api.settlement.notice() {
        None => json!({"vouchers": vouchers}),
        Some(_) => match on_chain(&api, address, &vouchers).await {
            Ok(found) => found,
            Err(error) => json!({"chain_state": "down", "chain_error": error.to_json(), "vouchers": vouchers}),
        },
    };
    if let (Some(fields), Value::Object(found)) = (shown.as_object_mut(), on_chain) {
        fields.extend(found);
    }
    Ok(Json(shown))
}

/// What is owed to each worker and in fees beside it, without what the chain has moved already, and what all work
/// so far has cost.
async fn still_owed(api: &ApiState, own: ChainAddress, debts: Vec<Debt>) -> (Vec<Value>, Amount) {
    let mut spent = Amount::ZERO;
    let mut owed = Vec::new();
    for Debt { worker, payee, worker_part, fees } in debts {
        let all = worker_part.0.saturating_add(fees.0);
        spent = Amount(spent.0.saturating_add(all));
        let (paid, moved) = api.settlement.settled(own, payee).await.unwrap_or_default();
        let left = |all: Amount, done: Amount| Amount(all.0.saturating_sub(done.0));
        let (worker_part, fees) = (left(worker_part, paid), left(fees, moved));
        if worker_part.0.saturating_add(fees.0) > 0 {
            owed.push(json!({"account": worker, "worker_part": worker_part, "fees": fees}));
        }
    }
    (owed, spent)
}

async fn on_chain(api: &Arc<ApiState>, address: ChainAddress, vouchers: &[Voucher]) -> Result<Value, ApiError> {
    let balance = api.settlement.balance(address).await?;
    let mut shown = Vec::with_capacity(vouchers.len());
    for voucher in vouchers {
        let (redeemed, moved) = api.settlement.settled(voucher.payer_address, voucher.payee).await?;
        let fees = Amount(voucher.fees_cumulative.0.saturating_sub(moved.0));
        let Voucher { payer, cumulative, .. } = voucher;
        shown.push(json!({"payer": payer, "cumulative": cumulative, "redeemed": redeemed, "fees": fees}));
    }
    let body = newest_epoch(api).await?;
    let (earned, claimable) = match &body {
        Some(body) => {
            let earned = body.earned.iter().find(|(to, _)| *to == address).map_or(Amount::ZERO, |(_, amount)| *amount);
            (earned, api.settlement.claimable(body, address).await?)
        }
        None => (Amount::ZERO, Amount::ZERO),
    };
    let is_behind = body.is_none() && api.settlement.newest().await? > 0;
    let claimed = earned.checked_sub(claimable).unwrap_or(Amount::ZERO);
    let Received { counted, waiting, audits } = received(api, address, body).await?;
    let (next_epoch_ms, posters) = api.handle.view(posting).await?;
    Ok(json!({
        "balance": balance,
        "vouchers": shown,
        "earned": earned,
        "claimed": claimed,
        "claimable": claimable,
        "waiting": waiting,
        "behind": is_behind,
        "audits": audits,
        "audits_gave": Amount(earned.0.saturating_sub(counted.0)),
        "audits_took": Amount(counted.0.saturating_sub(earned.0)),
        "next_epoch_in_ms": next_epoch_ms,
        "posters": posters,
        "chain_state": "up",
    }))
}

/// In how many milliseconds this node anchors the next epoch, if it does, and how many others do.
fn posting(node: &Node) -> (Option<u64>, usize) {
    let now = now_ms();
    let posters = node.peers().filter(|(_, peer)| peer.is_fresh(now) && peer.record.roles.poster).count();
    (node.next_epoch_ms(now).map(|next| next.saturating_sub(now)), posters)
}

/// What the receipts known here pay to an address, workers' parts aside.
struct Received {
    /// By those that the newest epoch counts: what audits found comes on top.
    counted: Amount,
    /// By those that no epoch counts yet.
    waiting: Amount,
    /// Audits that it counts.
    audits: usize,
}

async fn received(api: &ApiState, address: ChainAddress, newest: Option<EpochBody>) -> Result<Received, ApiError> {
    let counted: BTreeSet<ReceiptId> = newest.iter().flat_map(EpochBody::ids).copied().collect();
    let look = move |node: &Node| {
        let mut found = Received { counted: Amount::ZERO, waiting: Amount::ZERO, audits: 0 };
        for (id, signed) in node.receipts() {
            let is_counted = counted.contains(id);
            found.audits += usize::from(is_counted && signed.receipt.audited().is_some());
            let payments = signed.receipt.payments.iter();
            let due = payments.filter(|payment| payment.to == address && payment.role != PaymentRole::Worker);
            let sum = if is_counted { &mut found.counted } else { &mut found.waiting };
            *sum = due.fold(*sum, |sum, payment| Amount(sum.0.saturating_add(payment.amount.0)));
        }
        found
    };
    Ok(api.handle.view(look).await?)
}

pub(super) async fn redeem(State(api): Api) -> Answer<Value> {
    let vouchers = vouchers(&api).await?;
    let (redeemed, fees) = api.settlement.redeem(&vouchers).await?;
    Ok(Json(json!({"redeemed": redeemed, "fees": fees})))
}

pub(super) async fn claim(State(api): Api) -> Answer<Value> {
    // Who claims and holds vouchers helps everybody: their fees are what the next epoch pays from.
    let held = vouchers(&api).await?;
    let (redeemed, _) = api.settlement.redeem(&held).await?;
    let Some(body) = newest_epoch(&api).await? else {
        let reason = match api.settlement.newest().await? {
            0 => "no epoch is anchored yet: fees are counted once the workers that hold vouchers have redeemed them",
            _ => "the newest epoch is not here yet: try again in some seconds",
        };
        return Ok(Json(json!({"claimed": Amount::ZERO, "redeemed": redeemed, "reason": reason})));
    };
    let own = api.handle.view(Node::chain_address).await?;
    let treasury = home::chain_address(&home::treasury_key(&api.chain_key)).map_err(ApiError::internal)?;
    api.settlement.bind().await?;
    let for_itself = api.settlement.claim(&body, &[own]).await?;
    let of_treasury = match treasury == api.network.treasury {
        true => api.settlement.claim(&body, &[treasury]).await?,
        false => Amount::ZERO,
    };
    let claimed = for_itself.checked_add(of_treasury).ok_or_else(|| ApiError::internal("amount overflow"))?;
    Ok(Json(json!({"claimed": claimed, "treasury": of_treasury, "redeemed": redeemed, "epoch": body.epoch})))
}

#[derive(Deserialize)]
pub(super) struct Send {
    to: ChainAddress,
    amount: Amount,
}

pub(super) async fn send(State(api): Api, Json(send): Json<Send>) -> Answer<Value> {
    let transaction = api.settlement.send(send.to, send.amount).await?;
    Ok(Json(json!({"transaction": hex::encode(transaction)})))
}

pub(super) async fn totals(State(api): Api) -> Answer<Value> {
    let totals = api.settlement.totals().await?;
    let mut shown = json!(totals);
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("balance".into(), json!(totals.balance()));
    }
    Ok(Json(shown))
}
