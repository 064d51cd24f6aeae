//! The route of a datanet's doubts: which of its records look wrong to an adapter that was trained on them, and which say what
//! others' say.
//!
//! Invariant: it looks and changes nothing; only the user of this node sees what it finds, and one look at a time takes the
//! engine.

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use serde_json::{Value, json};
use tributary_protocol::datanet::{Datanet, Dated, Head};
use tributary_protocol::id::{AccountId, DatanetId, Hash};
use tributary_protocol::message::Release;
use tributary_protocol::node::{Node, RequestView};
use tributary_storage::shard::Record;

use super::{Answer, Api, ApiError, datanets, fresh_key};
use crate::engine::triage::{Triaged, Why};
use crate::runs::{OpenRun, RunSpec, done_adapter};
use crate::work::JobError;
use crate::work::doubts::{Doubted, Doubts, Echoed, RECORDS_MAX, Trained};

/// Records that are shown unless the user says otherwise, and at most: more nobody reads, and an answer stays small.
const SHOWN: u32 = 20;
const SHOWN_MAX: u32 = 200;
/// Bytes of each of a record's texts in an answer.
const TEXT_MAX_BYTES: usize = 4 * 1024;

#[derive(Deserialize)]
pub(super) struct Wanted {
    /// A run's key, or the hash of a released adapter.
    of: Option<Hash>,
    limit: Option<u32>,
}

/// A training that is looked at, and what it is called.
struct Chosen {
    name: String,
    run: Option<Hash>,
    trained: Trained,
}

pub(super) async fn doubts(State(api): Api, Path(id): Path<DatanetId>, Query(wanted): Query<Wanted>) -> Answer<Value> {
    let limit = wanted.limit.unwrap_or(SHOWN);
    if !(1..=SHOWN_MAX).contains(&limit) {
        let reason = format!("{limit} records can't be shown, only 1 to {SHOWN_MAX}");
        return Err(ApiError::usage(reason, "choose another --limit"));
    }
    let runs: Vec<OpenRun> = api.runs.all()?.into_iter().filter(|run| run.spec.head.datanet == id).collect();
    let look = move |node: &Node| {
        let datanet = node.datanet(&id).ok_or_else(|| datanets::unknown(&id))?;
        choose(node, datanet, &runs, wanted.of)
    };
    let chosen = api.handle.view(look).await??;
    let Some(_turn) = api.workshop.turn_to_look() else {
        return Err(ApiError::usage("another look at doubts is under way", "try again when it has ended"));
    };
    let found = api.workshop.doubts(fresh_key()?, &chosen.trained, limit).await.map_err(|error| failed(&error))?;
    Ok(Json(shown(&chosen, &found)))
}

fn failed(error: &JobError) -> ApiError {
    let hint = "base, adapter and records come from the peers that have them: tributary net ls says who is there; the node's \
                log has more";
    ApiError::unreachable(format!("the records could not be measured: {error}"), hint)
}

/// The training that `of` names; without it the newest of this node's, else the only release.
fn choose(node: &Node, datanet: &Datanet, runs: &[OpenRun], of: Option<Hash>) -> Result<Chosen, ApiError> {
    let is_wanted = |key: &Hash| of.is_none_or(|of| of == *key);
    let ended = runs.iter().filter_map(|run| {
        let task = run.task(node, &[])?;
        let adapter = done_adapter(&task)?;
        (is_wanted(&run.spec.key) || is_wanted(&adapter)).then_some((run, task, adapter))
    });
    if let Some((run, task, adapter)) = ended.max_by_key(|(run, ..)| run.spec.deadline_ms) {
        return of_run(node, datanet, &run.spec, &task, adapter);
    }
    let on_it = node.releases().filter(|release| release.body.datanet == datanet.id());
    let releases: Vec<&Release> = on_it.map(|release| &release.body).filter(|it| is_wanted(&it.adapter)).collect();
    let list = "tributary train ls and tributary model ls show what was trained";
    match (releases.as_slice(), of) {
        ([release], _) => of_release(node, datanet, release),
        ([], Some(_)) => Err(ApiError::not_found("no such training of this datanet has ended here", list)),
        ([], None) => Err(ApiError::not_found(
            "no adapter that was trained on this datanet is known here",
            "tributary train start --data DATANET --budget OPEN trains one; another peer's release takes some seconds",
        )),
        (several, _) => {
            let reason = format!("{} models were trained on this datanet", several.len());
            Err(ApiError::usage(reason, "say which with --adapter; tributary model ls shows them"))
        }
    }
}

/// A run of this node that has its adapter.
fn of_run(
    node: &Node,
    datanet: &Datanet,
    spec: &RunSpec,
    task: &RequestView,
    adapter: Hash,
) -> Result<Chosen, ApiError> {
    let result = task.result.as_ref();
    let trained = Trained {
        base: spec.base,
        adapter,
        recipe: Some(spec.recipe.clone()),
        checkpoints: result.map(|result| result.checkpoints.clone()).unwrap_or_default(),
        steps: result.map_or([0, 0], |result| [result.steps, result.kept_step]),
        providers: task.award.iter().map(|award| award.node).collect(),
        entries: entries(node, datanet, &spec.head)?,
    };
    Ok(Chosen { name: spec.name.clone(), run: Some(spec.key), trained })
}

fn of_release(node: &Node, datanet: &Datanet, release: &Release) -> Result<Chosen, ApiError> {
    let head = release.version(datanet).ok_or_else(|| {
        ApiError::unreachable(
            format!("the records that {} was trained on are not all known here", release.name),
            "what others added takes some seconds to arrive; try again, or train on what is here",
        )
    })?;
    let trained = Trained {
        base: release.base,
        adapter: release.adapter,
        recipe: None,
        checkpoints: Vec::new(),
        steps: [0, 0],
        providers: vec![release.node],
        entries: entries(node, datanet, &head)?,
    };
    Ok(Chosen { name: release.name.clone(), run: None, trained })
}

fn entries(node: &Node, datanet: &Datanet, head: &Head) -> Result<Vec<Dated>, ApiError> {
    let version = datanet.version(head).filter(|all| all.iter().all(|dated| node.holds(&dated.entry.body.shard)));
    version.ok_or_else(datanets::incomplete)
}

fn shown(chosen: &Chosen, found: &Doubts) -> Value {
    let Triaged { measured, held_out, unusable, steps, usual_micro_nats, doubtful, compared, echoing, .. } =
        &found.triaged;
    json!({
        "name": chosen.name,
        "run": chosen.run,
        "adapter": chosen.trained.adapter,
        "admitted": found.admitted,
        "records_max": RECORDS_MAX,
        "measured": measured,
        "held_out": held_out,
        "unusable": unusable,
        "steps": steps,
        "usual_micro_nats": usual_micro_nats,
        "doubtful": doubtful,
        "doubts": found.records.iter().map(row).collect::<Vec<_>>(),
        "compared": compared,
        "echoing": echoing,
        "echoes": found.echoes.iter().map(echo).collect::<Vec<_>>(),
    })
}

fn echo(one: &Echoed) -> Value {
    let side = |(record, account): &(Record, AccountId)| json!({"record": shown_record(record), "account": account});
    json!({
        "later": side(&one.later),
        "earlier": side(&one.earlier),
        "taught_permille": one.found.taught_permille,
        "read_permille": one.found.read_permille,
    })
}

fn shown_record(record: &Record) -> Value {
    let text = |text: &str| text.chars().scan(0, begins).collect::<String>();
    json!({"id": record.id, "prompt": text(&record.prompt), "completion": text(&record.completion)})
}

fn row(one: &Doubted) -> Value {
    let found = &one.found;
    json!({
        "record": shown_record(&one.record),
        "account": one.account,
        "score_milli": found.score_milli,
        "reason": found.why.map(|why| match why {
            Why::NeverLearned => "never_learned",
            Why::LearnedEarly => "learned_early",
        }),
        "losses_micro_nats": found.losses_micro_nats,
        "gradients_permille": found.gradients_permille,
    })
}

/// The next letter, as long as the text is no longer than is shown.
fn begins(bytes: &mut usize, letter: char) -> Option<char> {
    *bytes += letter.len_utf8();
    (*bytes <= TEXT_MAX_BYTES).then_some(letter)
}
