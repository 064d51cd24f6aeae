//! Routes about who was first: commitments to records that nobody has seen yet, and what several claim.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use tributary_protocol::datanet::Datanet;
use tributary_protocol::id::{AccountId, DatanetId, Hash};
use tributary_protocol::node::{Command, Node};
use tributary_protocol::note::Says;
use tributary_storage::admission::{Admission, Contest};
use tributary_storage::shard;

use super::datanets::{AddRecords, incomplete, is_opened, merged, present, read, unknown};
use super::{Answer, Api, ApiError};

/// Records that several claim, shown in one answer; the count says how many there are.
const CONTESTS_SHOWN: usize = 1_000;

/// Commits to the records of a file, of which nothing leaves this node but a hash.
pub(super) async fn commit(
    State(api): Api,
    Path(id): Path<DatanetId>,
    Json(AddRecords { path, licence }): Json<AddRecords>,
) -> Answer<Value> {
    let look = move |node: &Node| {
        let datanet = node.datanet(&id)?;
        let account = node.account();
        Some((datanet.genesis().body.licence.clone(), account, datanet.may_contribute(&account)))
    };
    let (known, account, may) = api.handle.view(look).await?.ok_or_else(|| unknown(&id))?;
    if !may {
        return Err(ApiError::usage(
            "the datanet's policy does not let this account contribute",
            "ask an owner to make you a member",
        ));
    }
    let (summary, records) = read(path, account, licence.unwrap_or(known)).await?;
    let records_root = shard::records_root(&records);
    api.handle.command(Command::Commit { datanet: id, records_root }).await?;
    let opening = api.handle.view(move |node| node.opening(&id, &records_root)).await?.ok_or_else(|| {
        let hint = "add the records without it, or in a datanet of your own";
        ApiError::usage("this account or this datanet has no room for further commitments", hint)
    })?;
    let shown =
        api.handle.view(move |node| node.datanet(&id).and_then(|datanet| show(datanet, &account, opening.note)));
    let shown = shown.await?.ok_or_else(|| unknown(&id))?;
    Ok(Json(merged(merged(summary, json!({"records": records.len()})), shown)))
}

/// A commitment as far as it is known here.
fn show(datanet: &Datanet, account: &AccountId, place: u64) -> Option<Value> {
    let (_, note) = datanet.notes_of(account)?.notes().get(usize::try_from(place).ok()?)?;
    let Says::Commitment(commitment) = note.body.says else { return None };
    Some(json!({
        "note": place,
        "commitment": commitment,
        "committed_ms": note.body.at_ms,
        "attested_ms": datanet.commitment_date(account, place).map(|date| date.ms()),
        "opened": is_opened(datanet, account, place),
        "notaries": datanet.genesis().body.notaries.len(),
        "quorum": datanet.quorum(),
    }))
}

fn own_commitments(node: &Node, datanet: &Datanet) -> Vec<Value> {
    let account = node.account();
    let (notes, _) = datanet.note_position(&account);
    (0..notes).filter_map(|place| show(datanet, &account, place)).collect()
}

/// This node's commitments in a datanet.
pub(super) async fn list(State(api): Api, Path(id): Path<DatanetId>) -> Answer<Value> {
    let found = api.handle.view(move |node| node.datanet(&id).map(|datanet| own_commitments(node, datanet))).await?;
    Ok(Json(json!(found.ok_or_else(|| unknown(&id))?)))
}

/// The records that several accounts claim, whose they are, and what says so.
pub(super) async fn claims(State(api): Api, Path(id): Path<DatanetId>) -> Answer<Value> {
    let Some(entries) = present(&api, id).await? else { return Err(incomplete()) };
    let claims = api.workshop.claims(&entries, usize::MAX).await.map_err(ApiError::internal)?;
    let judged = tokio::task::spawn_blocking(move || (Contest::among(&claims), credited(Admission::of(claims)))).await;
    let (contests, credited) = judged.map_err(ApiError::internal)?;
    let shown: Vec<Value> = contests.iter().take(CONTESTS_SHOWN).map(|contest| contested(contest, &credited)).collect();
    let look = move |node: &Node| {
        let datanet = node.datanet(&id)?;
        Some(json!({
            "notaries": datanet.genesis().body.notaries,
            "quorum": datanet.quorum(),
            "commitments": own_commitments(node, datanet),
        }))
    };
    let known = api.handle.view(look).await?.ok_or_else(|| unknown(&id))?;
    let attested = entries.iter().filter(|dated| dated.attested.is_some()).count();
    let own = json!({
        "additions": entries.len(), "attested": attested, "count": contests.len(), "contests": shown,
    });
    Ok(Json(merged(own, known)))
}

/// Who is credited for each record, a near copy's original being another's.
fn credited(admission: Admission) -> BTreeMap<Hash, AccountId> {
    let trained = admission.admitted.into_iter().map(|admitted| (admitted.record.id, admitted.account));
    trained.chain(admission.repeats.into_iter().map(|repeat| (repeat.record.id, repeat.credited))).collect()
}

fn contested(contest: &Contest, credited: &BTreeMap<Hash, AccountId>) -> Value {
    let record = &contest.record;
    let claims: Vec<Value> = contest
        .claims
        .iter()
        .map(|one| json!({"account": one.account, "proven_ms": one.proven.map(|date| date.ms()), "claimed_ms": one.claimed_ms}))
        .collect();
    json!({
        "record": {"id": record.id, "prompt": record.prompt, "completion": record.completion},
        "credited": credited.get(&record.id),
        "claims": claims,
    })
}
