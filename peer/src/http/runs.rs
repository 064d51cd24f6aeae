//! Routes about training runs and releases.

mod ground;

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tributary_compute::train::Recipe;
use tributary_protocol::id::{AccountId, Amount, DatanetId, Hash};
use tributary_protocol::limits::{CHECKPOINTS_MAX, CLOCK_WINDOW_MS, DEADLINE_MAX_MS, SEGMENTS_MAX};
use tributary_protocol::message::PeerRecord;
use tributary_protocol::node::{Node, RequestView};

use self::ground::Ground;
use super::{Answer, Api, ApiError, ApiState, bases, fresh_key, tasks};
use crate::names;
use crate::runs::{OpenRun, RunSpec, RunState, done_adapter};
use crate::runtime::now_ms;
use crate::work::{BaseFault, pools};

#[derive(Deserialize)]
pub(super) struct Start {
    key: Option<Hash>,
    name: String,
    base: String,
    datanet: DatanetId,
    recipe: Option<Map<String, Value>>,
    steps: Option<u32>,
    budget: Amount,
    deadline_s: Option<u64>,
    segments_checked: Option<u16>,
    answer_fee: Option<Amount>,
    attribution: bool,
    /// Leave-out trainings.
    leave_outs: Option<u16>,
    /// Only say whether it could begin.
    #[serde(default)]
    dry_run: bool,
}

/// Lines of a curve in one answer.
const LINES_AT_ONCE: usize = 4_096;
/// The least and the most seconds a training may take: an auction alone takes some, and what is offered lies no more than a
/// week ahead; the clocks of two machines differ.
const DEADLINE_MIN_S: u64 = 60;
const DEADLINE_MAX_S: u64 = (DEADLINE_MAX_MS - CLOCK_WINDOW_MS) / 1_000;
/// How long a run may take unless the user says otherwise.
const DEADLINE_S: u64 = 3_600;
/// The fee of an answer unless the builder says otherwise: nine tenths of it are others' than the treasury's.
const ANSWER_FEE: Amount = Amount(Amount::OPEN.0 / 20);

/// The recipe of the fields given; those left out suit them.
fn recipe_of(start: &Start) -> Result<Recipe, ApiError> {
    let hint = "see tributary train start --help for the recipe's fields";
    let mut fields = start.recipe.clone().unwrap_or_default();
    if let Some(steps) = start.steps {
        fields.insert("steps".into(), json!(steps));
    }
    let recipe = Recipe::of_fields(&fields).map_err(|error| ApiError::usage(error, hint))?;
    let checkpoints = recipe.steps.div_ceil(recipe.checkpoint_every);
    if usize::try_from(checkpoints).unwrap_or(usize::MAX) >= CHECKPOINTS_MAX {
        let reason = format!("{checkpoints} checkpoints are more than the {CHECKPOINTS_MAX} that fit a result");
        return Err(ApiError::usage(reason, "raise checkpoint_every in --recipe, or leave it out"));
    }
    Ok(recipe)
}

pub(super) async fn start(State(api): Api, Json(start): Json<Start>) -> Answer<Value> {
    if let Some(fault) = names::fault(&start.name) {
        return Err(ApiError::usage(fault, "choose another --name"));
    }
    let deadline_ms = deadline_ms(start.deadline_s)?;
    let recipe = recipe_of(&start)?;
    if let Some(key) = start.key.filter(|_| !start.dry_run)
        && api.runs.get(&key)?.is_some()
    {
        return Ok(Json(json!({"key": key})));
    }
    let ground = Ground::of(&api, start.datanet).await?;
    let leave_outs = if start.attribution { ground.leave_outs(start.leave_outs) } else { 0 };
    let trainings = 1 + leave_outs;
    if start.budget.0 / u128::try_from(trainings).unwrap_or(1) == 0 {
        let reason = format!("nobody works for a budget of {} OPEN for {trainings} trainings", start.budget.to_open());
        return Err(ApiError::usage(
            reason,
            "raise --budget; a thousand steps cost about 10 OPEN at a worker's own price",
        ));
    }
    let key = start.key.map_or_else(fresh_key, Ok)?;
    check_name(&api, &start.name).await?;
    check_funds(&api, start.budget).await?;
    if start.dry_run {
        bases::check(&api, &start.base)?;
        return Ok(Json(json!({
            "key": key,
            "verifiers": verifiers(&api).await?,
            "records": ground.records,
            "contributors": ground.head.logs.len(),
            "leave_outs": leave_outs,
            "leave_out_trainings": pools::trainings(leave_outs),
            "missing": ground.missing,
        })));
    }
    let base = bases::resolve(&api, &start.base).await?;
    let trained = ground.largest(start.leave_outs);
    let spec = RunSpec {
        key,
        name: start.name,
        base,
        head: ground.head,
        recipe: serde_json::to_string(&recipe).map_err(ApiError::internal)?,
        steps: recipe.steps,
        budget: start.budget,
        deadline_ms,
        segments_checked: start.segments_checked.unwrap_or(2).min(u16::try_from(SEGMENTS_MAX).unwrap_or(u16::MAX)),
        answer_fee: start.answer_fee.unwrap_or(ANSWER_FEE),
        attribution: start.attribution,
        trained,
    };
    api.runs.add(&spec)?;
    Ok(Json(json!({"key": key})))
}

/// When a run is to be there, in milliseconds since 1970.
fn deadline_ms(seconds: Option<u64>) -> Result<u64, ApiError> {
    let seconds = seconds.unwrap_or(DEADLINE_S);
    if !(DEADLINE_MIN_S..=DEADLINE_MAX_S).contains(&seconds) {
        let (least, most) = (DEADLINE_MIN_S / 60, DEADLINE_MAX_S / 60);
        let reason = format!("a training may take {least} to {most} minutes, not {}", seconds / 60);
        return Err(ApiError::usage(reason, "choose another --deadline-min"));
    }
    Ok(now_ms().saturating_add(seconds * 1_000))
}

/// A name that a released model, a base or a run under way has would mean two things.
async fn check_name(api: &ApiState, name: &str) -> Result<(), ApiError> {
    let hint = "choose another --name; a name always means one model";
    match api.workshop.free_name(name, None).await {
        Err(fault @ BaseFault::NameTaken { .. }) => return Err(ApiError::usage(fault, hint)),
        other => other?,
    }
    let named: Vec<OpenRun> = api.runs.all()?.into_iter().filter(|run| run.spec.name == name).collect();
    let is_open = |run: &OpenRun, node: &Node| {
        matches!(run.state(node).0, RunState::Training | RunState::Attributing | RunState::Releasing)
    };
    let open = api.handle.view(move |node| named.iter().find(|run| is_open(run, node)).map(|run| run.spec.key)).await?;
    match open {
        Some(key) => Err(ApiError::usage(format!("run {} is called {name} and is not done", key.short()), hint)),
        None => Ok(()),
    }
}

/// Other accounts' peers that check trainings.
async fn verifiers(api: &ApiState) -> Result<usize, ApiError> {
    let now = now_ms();
    let count = move |node: &Node| {
        let checks = |peer: &tributary_protocol::node::PeerView| peer.record.roles.verifier && peer.is_fresh(now);
        node.peers().filter(|(_, peer)| checks(peer)).count()
    };
    Ok(api.handle.view(count).await?)
}

/// Money promised must be there; without a chain nothing is promised.
async fn check_funds(api: &ApiState, budget: Amount) -> Result<(), ApiError> {
    if api.settlement.notice().is_none() {
        return Ok(());
    }
    let address = api.handle.view(Node::chain_address).await?;
    let have = api.settlement.balance(address).await?;
    if have < budget {
        let reason = format!("the budget is {} OPEN, the wallet holds {} OPEN", budget.to_open(), have.to_open());
        return Err(ApiError::funds(
            reason,
            "lower --budget, or have OPEN sent to this wallet (tributary wallet show)",
        ));
    }
    Ok(())
}

fn show_run(run: &OpenRun, node: &Node) -> Value {
    let (state, reason) = run.state(node);
    let spec = &run.spec;
    let main = run.task(node, &[]);
    let adapter = main.as_ref().and_then(done_adapter);
    let with_task = |left_out: Vec<AccountId>| run.task(node, &left_out).map(|task| (left_out, task));
    let without: Vec<(Vec<AccountId>, RequestView)> = run.left_out().into_iter().filter_map(with_task).collect();
    let all = || main.iter().chain(without.iter().map(|(_, view)| view));
    // Where an auction waits, its reason is the run's.
    let reason = reason.or_else(|| all().find_map(|view| tasks::silence(node, view)));
    let unchecked = all().filter(|view| tasks::is_checked(view) == Some(false)).count();
    let leave_out: Vec<Value> = without
        .iter()
        .filter_map(|(accounts, view)| {
            let mut task = tasks::show(node, view);
            task.as_object_mut()?.insert("without".into(), json!(accounts));
            Some(task)
        })
        .collect();
    let release = adapter.and_then(|adapter| node.release_of(&adapter)).map(|release| json!(release.body));
    json!({
        "key": spec.key,
        "name": spec.name,
        "state": state,
        "reason": reason,
        "head": spec.head.id(),
        "main": main.as_ref().map(|view| tasks::show(node, view)),
        "unchecked": unchecked,
        "clusters": run.left_out_together(),
        "pools": run.pools,
        "leave_out": leave_out,
        "adapter": adapter,
        "release": release,
    })
}

pub(super) async fn list(State(api): Api) -> Answer<Vec<Value>> {
    let runs = api.runs.all()?;
    let show = move |node: &Node| runs.iter().map(|run| show_run(run, node)).collect();
    Ok(Json(api.handle.view(show).await?))
}

fn find(api: &ApiState, key: &Hash) -> Result<OpenRun, ApiError> {
    api.runs.get(key)?.ok_or_else(|| {
        ApiError::not_found(format!("run {key} is not known here"), "tributary train ls shows this node's runs")
    })
}

pub(super) async fn show(State(api): Api, Path(key): Path<Hash>) -> Answer<Value> {
    let run = find(&api, &key)?;
    let mut shown = api.handle.view(move |node| show_run(&run, node)).await?;
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("files".into(), json!(api.runs.curves.files(&key)));
    }
    Ok(Json(shown))
}

/// Which lines of a run's curve are wanted.
#[derive(Deserialize)]
pub(super) struct After {
    #[serde(default)]
    after: usize,
}

pub(super) async fn metrics(State(api): Api, Path(key): Path<Hash>, Query(wanted): Query<After>) -> Answer<Value> {
    find(&api, &key)?;
    let mut lines = api.runs.curves.lines(&key, wanted.after);
    lines.truncate(LINES_AT_ONCE);
    Ok(Json(json!({"after": wanted.after + lines.len(), "lines": lines})))
}

async fn state_of(api: &ApiState, run: OpenRun) -> Result<RunState, ApiError> {
    let (state, _) = api.handle.view(move |node| run.state(node)).await?;
    Ok(state)
}

pub(super) async fn stop(State(api): Api, Path(key): Path<Hash>) -> Answer<Value> {
    let run = OpenRun { is_stopped: false, ..find(&api, &key)? };
    if matches!(state_of(&api, run).await?, RunState::Done | RunState::Failed) {
        return Err(ApiError::usage("the run has ended already", "tributary train show tells how"));
    }
    api.runs.stop(&key)?;
    // The run's driver tells the workers.
    let run = find(&api, &key)?;
    Ok(Json(api.handle.view(move |node| show_run(&run, node)).await?))
}

/// What may change when a run goes on.
#[derive(Deserialize)]
pub(super) struct Resume {
    deadline_s: Option<u64>,
}

pub(super) async fn resume(State(api): Api, Path(key): Path<Hash>, Json(wanted): Json<Resume>) -> Answer<Value> {
    let run = find(&api, &key)?;
    let budget = run.spec.budget;
    match state_of(&api, run).await? {
        RunState::Stopped | RunState::Failed => {}
        RunState::Done => return Err(ApiError::usage("the run is done", "tributary train start begins another")),
        _ => return Err(ApiError::usage("the run goes on already", "tributary train watch follows it")),
    }
    let deadline_ms = deadline_ms(wanted.deadline_s)?;
    check_funds(&api, budget).await?;
    let hint = "tributary train start begins another";
    api.runs.resume(&key, deadline_ms).map_err(|error| ApiError::usage(error, hint))?;
    let run = find(&api, &key)?;
    Ok(Json(api.handle.view(move |node| show_run(&run, node)).await?))
}

pub(super) async fn releases(State(api): Api) -> Answer<Vec<Value>> {
    let now = now_ms();
    let sizes = api.workshop.adapter_sizes();
    let releases = api.handle.view(move |node| {
        node.releases()
            .map(|release| {
                let adapter = release.body.adapter;
                let answers = |record: &PeerRecord| record.roles.worker && record.serving.contains(&adapter);
                let serving = node.peers().filter(|(_, peer)| peer.is_fresh(now) && answers(&peer.record)).count();
                let own = node.record_view();
                let here = own.serving.contains(&adapter);
                let mut shown = json!(release.body);
                if let Some(fields) = shown.as_object_mut() {
                    fields.insert("served_by".into(), json!(serving + usize::from(answers(&own))));
                    fields.insert("served_here".into(), json!(here));
                    fields.insert("builder_account".into(), json!(release.account));
                    fields.insert("kept_bytes".into(), json!(sizes.get(&adapter)));
                    fields.insert("pinned".into(), json!(release.account == node.account()));
                }
                shown
            })
            .collect()
    });
    Ok(Json(releases.await?))
}
