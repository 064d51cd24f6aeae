//! Routes about datanets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};
use tributary_protocol::datanet::{Datanet, Dated, Genesis, Policy, Schema};
use tributary_protocol::envelope::Signed;
use tributary_protocol::id::{AccountId, DatanetId, Hash};
use tributary_protocol::limits::{NAME_MAX_BYTES, NOTARIES_MAX};
use tributary_protocol::node::{Command, NewShard, Node};
use tributary_protocol::note::Opening;
use tributary_storage::admission::{Admission, Admitted};
use tributary_storage::blobs::BlobStore;
use tributary_storage::ingest::{self, IngestLimits, Ingested};
use tributary_storage::shard::{self, Record};

use super::{Answer, Api, ApiError, ApiState};
use crate::licence;
use crate::runtime::now_ms;

/// Copies shown in an answer; the count says how many there are.
const REPEATS_SHOWN: usize = 1_000;

/// Refusals shown in an answer; the count says how many there are.
const REFUSALS_SHOWN: usize = 200;

#[derive(Deserialize)]
pub(super) struct Create {
    name: String,
    licence: String,
    members: Option<Vec<AccountId>>,
    /// Who attests what was there when; the owner where nobody is named.
    notaries: Option<Vec<AccountId>>,
}

fn check_licence(licence: &str) -> Result<(), ApiError> {
    licence::check(licence).map_err(|wrong| ApiError::usage(wrong.message, &wrong.hint))
}

pub(super) async fn create(State(api): Api, Json(create): Json<Create>) -> Answer<Value> {
    if create.name.is_empty() || create.name.len() > NAME_MAX_BYTES {
        return Err(ApiError::usage(format!("a name has 1 to {NAME_MAX_BYTES} bytes"), "choose another name"));
    }
    check_licence(&create.licence)?;
    let notaries: BTreeSet<AccountId> = create.notaries.into_iter().flatten().collect();
    if notaries.len() > NOTARIES_MAX {
        return Err(ApiError::usage(format!("a datanet has at most {NOTARIES_MAX} notaries"), "name fewer"));
    }
    let name = create.name.clone();
    let look = move |node: &Node| {
        let own = |datanet: &Datanet| {
            let genesis = &datanet.genesis().body;
            genesis.name == name && genesis.owners.contains(&node.account())
        };
        (node.account(), node.network(), node.datanets().any(own))
    };
    let (account, network, is_taken) = api.handle.view(look).await?;
    if is_taken {
        return Err(ApiError::usage(
            format!("this account has a datanet {} already", create.name),
            "choose another name",
        ));
    }
    let genesis = Genesis {
        name: create.name,
        owners: vec![account],
        licence: create.licence,
        policy: create.members.map_or(Policy::Open, Policy::Members),
        schema: Schema::PromptCompletion,
        notaries: if notaries.is_empty() { vec![account] } else { notaries.into_iter().collect() },
        created_ms: now_ms(),
    };
    let id = DatanetId(Signed::new(network, &api.account_key, genesis.clone()).id(network).0);
    api.handle.command(Command::CreateDatanet(genesis)).await?;
    Ok(Json(json!({"id": id})))
}

fn show_datanet(node: &Node, datanet: &Datanet) -> Value {
    let genesis = &datanet.genesis().body;
    let head = datanet.head();
    let dated = datanet.version(&head).unwrap_or_default();
    let contributors: Vec<Value> = head
        .logs
        .iter()
        .map(|log| {
            let of = |entry: &&Signed<_>| entry.account == log.contributor;
            let records: u64 = datanet.all_entries().filter(of).map(|entry| u64::from(entry.body.records)).sum();
            let bytes: u64 = datanet.all_entries().filter(of).map(|entry| entry.body.bytes).sum();
            json!({"account": log.contributor, "entries": log.length, "records": records, "bytes": bytes})
        })
        .collect();
    json!({
        "id": datanet.id(),
        "name": genesis.name,
        "licence": genesis.licence,
        "owners": genesis.owners,
        "own": genesis.owners.contains(&node.account()),
        "head": head.id(),
        "contributors": contributors,
        "notaries": genesis.notaries,
        "quorum": datanet.quorum(),
        "additions": dated.len(),
        "attested": dated.iter().filter(|dated| dated.attested.is_some()).count(),
        "records": datanet.all_entries().map(|entry| u64::from(entry.body.records)).sum::<u64>(),
        "bytes": datanet.all_entries().map(|entry| entry.body.bytes).sum::<u64>(),
        "complete": datanet.all_entries().all(|entry| node.holds(&entry.body.shard)),
    })
}

/// A datanet and how many changes its card has.
type Shown = (DatanetId, usize, Value);

fn look(node: &Node, datanet: &Datanet) -> Shown {
    let id = datanet.id();
    let changes = node.card_logs(&id).map_or(0, |logs| logs.changes().len());
    (id, changes, show_datanet(node, datanet))
}

async fn titled(api: &ApiState, (id, changes, mut shown): Shown) -> Result<Value, ApiError> {
    shown["title"] = json!(api.cards.title(id, changes).await?);
    Ok(shown)
}

pub(super) async fn list(State(api): Api) -> Answer<Vec<Value>> {
    let looked: Vec<Shown> =
        api.handle.view(|node| node.datanets().map(|datanet| look(node, datanet)).collect()).await?;
    let mut list = Vec::with_capacity(looked.len());
    for datanet in looked {
        list.push(titled(&api, datanet).await?);
    }
    Ok(Json(list))
}

pub(super) fn unknown(id: &DatanetId) -> ApiError {
    let hint = "tributary data ls shows the datanets known here; a new one takes some seconds to arrive";
    ApiError::not_found(format!("datanet {id} is not known here"), hint)
}

pub(super) fn incomplete() -> ApiError {
    let hint = "they arrive by themselves while a peer that has them is there; try again in a minute";
    ApiError::unreachable("not all records of the datanet are here yet", hint)
}

pub(super) async fn show(State(api): Api, Path(id): Path<DatanetId>) -> Answer<Value> {
    let found = api.handle.view(move |node| node.datanet(&id).map(|datanet| look(node, datanet))).await?;
    Ok(Json(titled(&api, found.ok_or_else(|| unknown(&id))?).await?))
}

#[derive(Deserialize)]
pub(super) struct AddRecords {
    pub(super) path: PathBuf,
    pub(super) licence: Option<String>,
}

pub(super) async fn add_records(
    State(api): Api,
    Path(id): Path<DatanetId>,
    Json(add): Json<AddRecords>,
) -> Answer<Value> {
    let known = api
        .handle
        .view(move |node| node.datanet(&id).map(|datanet| (datanet.genesis().body.licence.clone(), node.account())));
    let (licence, account) = known.await?.ok_or_else(|| unknown(&id))?;
    if let Some(licence) = &add.licence {
        check_licence(licence)?;
    }
    let licence = add.licence.unwrap_or(licence);
    let (summary, records) = read(add.path, account, licence).await?;
    let opening = unopened(&api, id, shard::records_root(&records)).await?;
    // What was committed to is shown whole, also where somebody else has shown some of it before: this is the appeal.
    let (records, already) = if opening.is_some() { (records, 0) } else { new_records(&api, id, records).await? };
    let summary = merged(summary, json!({"already": already, "commitment": opening.map(|opening| opening.note)}));
    if records.is_empty() {
        let head = api.handle.view(move |node| node.datanet(&id).map(|datanet| datanet.head().id())).await?;
        return Ok(Json(merged(summary, json!({"added": 0, "head": head}))));
    }
    let (own, records_root) =
        (records.iter().map(|record| record.id).collect::<BTreeSet<Hash>>(), shard::records_root(&records));
    let count = u32::try_from(records.len()).map_err(ApiError::internal)?;
    let bytes = tokio::task::spawn_blocking(move || shard::write(&records))
        .await
        .map_err(ApiError::internal)?
        .map_err(ApiError::internal)?;
    let size = u64::try_from(bytes.len()).map_err(ApiError::internal)?;
    let shard = api.workshop.keep(bytes).await.map_err(ApiError::internal)?;
    let new = NewShard { datanet: id, shard, bytes: size, records: count, records_root };
    api.handle.command(Command::Contribute(new)).await?;
    let head = accepted(&api, id, account, shard).await?;
    // What others have added and this node has not heard of yet may be repeated too: training looks again.
    let (repeated, others) = match admission_of(&api, id).await? {
        Some(admission) => {
            let repeated = admission.repeats.iter().filter(|repeat| own.contains(&repeat.record.id)).count();
            let is_others = |one: &&Admitted| one.account != account && own.contains(&one.record.id);
            (json!(repeated), json!(admission.admitted.iter().filter(is_others).count()))
        }
        None => (Value::Null, Value::Null),
    };
    let own = json!({
        "added": count, "shard": shard, "bytes": size, "head": head, "repeated": repeated, "credited_to_others": others,
    });
    Ok(Json(merged(summary, own)))
}

/// What opens this node's commitment to records with this root, when they have not been shown yet.
async fn unopened(api: &ApiState, id: DatanetId, root: Hash) -> Result<Option<Opening>, ApiError> {
    let look = move |node: &Node| {
        let opening = node.opening(&id, &root)?;
        let is_opened = node.datanet(&id).is_some_and(|datanet| is_opened(datanet, &node.account(), opening.note));
        (!is_opened).then_some(opening)
    };
    Ok(api.handle.view(look).await?)
}

/// Whether the records have been shown that a commitment of the account's is to, by its place in their log of notes.
pub(super) fn is_opened(datanet: &Datanet, account: &AccountId, place: u64) -> bool {
    let mut own = datanet.all_entries().filter(|entry| entry.account == *account);
    own.any(|entry| entry.body.opening.is_some_and(|opening| opening.note == place))
}

/// Who is credited for the datanet's records; nothing when not all of them are here.
async fn admission_of(api: &ApiState, id: DatanetId) -> Result<Option<Admission>, ApiError> {
    match present(api, id).await? {
        Some(entries) => Ok(Some(api.workshop.admission(&entries).await.map_err(ApiError::internal)?)),
        None => Ok(None),
    }
}

/// The datanet's present version; nothing when not all of its records are here.
pub(super) async fn present(api: &ApiState, id: DatanetId) -> Result<Option<Vec<Dated>>, ApiError> {
    let look = move |node: &Node| {
        let datanet = node.datanet(&id)?;
        let is_complete = datanet.all_entries().all(|entry| node.holds(&entry.body.shard));
        Some(datanet.version(&datanet.head()).filter(|_| is_complete))
    };
    api.handle.view(look).await?.ok_or_else(|| unknown(&id))
}

/// The records that repeat another one and are neither trained nor credited.
pub(super) async fn repeats(State(api): Api, Path(id): Path<DatanetId>) -> Answer<Value> {
    let Some(admission) = admission_of(&api, id).await? else {
        return Err(incomplete());
    };
    let originals: BTreeMap<Hash, &Record> =
        admission.admitted.iter().map(|admitted| (admitted.record.id, &admitted.record)).collect();
    let text = |record: &Record| json!({"id": record.id, "prompt": record.prompt, "completion": record.completion});
    let shown: Vec<Value> = admission
        .repeats
        .iter()
        .take(REPEATS_SHOWN)
        .map(|repeat| {
            json!({
                "record": text(&repeat.record), "account": repeat.account,
                "of": originals.get(&repeat.of).map(|original| text(original)), "credited": repeat.credited,
                "similarity_permille": repeat.similarity_permille,
            })
        })
        .collect();
    Ok(Json(json!({"trained": admission.admitted.len(), "count": admission.repeats.len(), "repeats": shown})))
}

/// The records that the datanet does not have yet, whoever added them, and how many it has: an exact duplicate is
/// credited to its earliest claim and would only be carried twice.
async fn new_records(api: &ApiState, id: DatanetId, records: Vec<Record>) -> Result<(Vec<Record>, usize), ApiError> {
    let look = move |node: &Node| {
        let entries = node.datanet(&id).into_iter().flat_map(Datanet::all_entries);
        entries.map(|entry| entry.body.shard).collect::<BTreeSet<Hash>>()
    };
    let mut known = BTreeSet::new();
    for shard in api.handle.view(look).await? {
        // A shard that has not arrived yet is counted as soon as it has; training credits its records once anyway.
        let Some(bytes) = api.workshop.store.get(shard).await.map_err(ApiError::internal)? else { continue };
        let read = tokio::task::spawn_blocking(move || shard::read(&bytes)).await.map_err(ApiError::internal)?;
        known.extend(read.into_iter().flatten().map(|record| record.id));
    }
    let all = records.len();
    let new: Vec<Record> = records.into_iter().filter(|record| !known.contains(&record.id)).collect();
    let already = all - new.len();
    Ok((new, already))
}

/// Waits until the entry stands in the log; says why when the datanet refuses it.
async fn accepted(api: &ApiState, id: DatanetId, account: AccountId, shard: Hash) -> Result<Hash, ApiError> {
    let (member, head) = api
        .handle
        .view(move |node| {
            let datanet = node.datanet(&id)?;
            let there = datanet.all_entries().any(|entry| entry.account == account && entry.body.shard == shard);
            Some((there, datanet.head().id()))
        })
        .await?
        .ok_or_else(|| unknown(&id))?;
    if !member {
        return Err(ApiError::usage(
            "the datanet's policy does not let this account contribute",
            "ask an owner to make you a member",
        ));
    }
    Ok(head)
}

pub(super) async fn read(path: PathBuf, account: AccountId, licence: String) -> Result<(Value, Vec<Record>), ApiError> {
    let read = tokio::task::spawn_blocking(move || ingest::read_path(&path, &IngestLimits::default()));
    let ingested = read
        .await
        .map_err(ApiError::internal)?
        .map_err(|error| ApiError::usage(error, "give a JSONL, CSV or text file, or a folder of them"))?;
    let summary = summary_of(&ingested);
    Ok((summary, ingested.into_records(account, &licence)))
}

fn summary_of(ingested: &Ingested) -> Value {
    let refused: Vec<Value> = ingested
        .refused
        .iter()
        .take(REFUSALS_SHOWN)
        .map(|refusal| {
            json!({"file": refusal.file.display().to_string(), "line": refusal.line, "reason": refusal.reason.to_string()})
        })
        .collect();
    json!({
        "refused": refused,
        "refused_count": ingested.refused_total,
        "duplicates": ingested.duplicates,
        "stopped": ingested.stopped.as_ref().map(ToString::to_string),
    })
}

pub(super) fn merged(mut left: Value, right: Value) -> Value {
    if let (Some(left), Value::Object(right)) = (left.as_object_mut(), right) {
        left.extend(right);
    }
    left
}
