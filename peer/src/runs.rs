//! Training runs: one fine-tune task, one leave-out task for each contributor, the attribution index, the release.
//!
//! Invariant: a run is durable before its first task is offered, and every step follows from what the node
//! knows, so a killed builder goes on where it was and nothing is bought twice.

use std::sync::Arc;
use std::time::Duration;

use bincode::{Decode, Encode};
use serde::Serialize;
use tributary_protocol::datanet::Head;
use tributary_protocol::id::{AccountId, Amount, ChainAddress, Hash, NodeId};
use tributary_protocol::limits::REQUEST_MAX_BYTES;
use tributary_protocol::message::{BASE_ALONE, Contributor, Release};
use tributary_protocol::node::{Command, FineTuneCommand, Node, Phase, RequestView};
use tributary_protocol::task::FineTune;
use tributary_protocol::wire;
use tributary_storage::journal::{Journal, JournalError};

use crate::work::Workshop;

/// The journal's index of runs by key.
const RUNS: &str = "runs";
/// Its index of runs that were stopped.
const STOPPED: &str = "runs-stopped";
/// Runs kept.
const RUNS_MAX: usize = 4096;
/// How often a run is looked at.
const STEP_INTERVAL: Duration = Duration::from_millis(400);

/// What a user wants trained and released.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RunSpec {
    /// The user's key.
    pub key: Hash,
    /// The release's name.
    pub name: String,
    /// The base's blob.
    pub base: Hash,
    /// The version of the datanet.
    pub head: Head,
    /// The recipe as canonical JSON.
    pub recipe: String,
    /// Its steps.
    pub steps: u32,
    /// The most to pay for all trainings of the run, fees included.
    pub budget: Amount,
    /// When each training must be there, in milliseconds since 1970.
    pub deadline_ms: u64,
    /// Segments of each training to be executed again.
    pub segments_checked: u16,
    /// The fee of one answer.
    pub answer_fee: Amount,
    /// Whether leave-out trainings make an attribution index; without, the adapter cannot be released.
    pub attribution: bool,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// The adapter is being trained.
    Training,
    /// The leave-out runs are being trained.
    Attributing,
    /// The index is being built.
    Releasing,
    /// Released, or trained when no attribution was wanted.
    Done,
    /// Given up.
    Failed,
    /// Stopped by its requester.
    Stopped,
}

impl RunSpec {
    /// The key of the main task.
    #[must_use]
    pub fn main_key(&self) -> Hash {
        Hash(blake3::derive_key("tributary run main task v1", &self.key.0))
    }

    /// The key of the leave-out task of `contributor`.
    #[must_use]
    pub fn leave_out_key(&self, contributor: &AccountId) -> Hash {
        Hash(blake3::derive_key("tributary run leave-out task v1", &[self.key.0, contributor.0].concat()))
    }

    /// Contributors of the version, by number.
    pub fn contributors(&self) -> impl Iterator<Item = AccountId> + '_ {
        self.head.logs.iter().map(|log| log.contributor)
    }

    /// Contributors that a leave-out training is made for: without the only contributor there is nothing to train
    /// on, and what is left is the base alone.
    pub fn left_out(&self) -> impl Iterator<Item = AccountId> + '_ {
        let several = self.attribution && self.head.logs.len() > 1;
        self.contributors().filter(move |_| several)
    }

    /// Trainings of the run.
    #[must_use]
    pub fn tasks(&self) -> u128 {
        u128::try_from(self.left_out().count() + 1).unwrap_or(1)
    }

    fn command(&self, leave_out: Option<AccountId>) -> FineTuneCommand {
        FineTuneCommand {
            key: leave_out.as_ref().map_or_else(|| self.main_key(), |contributor| self.leave_out_key(contributor)),
            work: FineTune {
                base: self.base,
                head: self.head.clone(),
                recipe: self.recipe.clone(),
                steps: self.steps,
                leave_out,
            },
            budget: Amount(self.budget.0 / self.tasks()),
            deadline_ms: self.deadline_ms,
            segments_checked: self.segments_checked,
        }
    }

    /// Where the run stands, and why it failed if it did; `is_stopped` when its requester wants no more of it.
    #[must_use]
    pub fn state(&self, node: &Node, is_stopped: bool) -> (RunState, Option<String>) {
        let main = node.request(&self.main_key());
        let leave_out: Vec<Option<RequestView>> =
            self.left_out().map(|contributor| node.request(&self.leave_out_key(&contributor))).collect();
        let adapter = main.as_ref().and_then(done_adapter);
        let is_released = adapter.is_some_and(|adapter| !self.attribution || node.release_of(&adapter).is_some());
        if is_stopped && !is_released {
            return (RunState::Stopped, Some("stopped by its requester".into()));
        }
        let failed = std::iter::once(&main).chain(&leave_out).flatten().find_map(|view| match &view.phase {
            Phase::Failed(reason) => Some(reason.clone()),
            _ => None,
        });
        if failed.is_some() {
            return (RunState::Failed, failed);
        }
        if adapter.is_none() {
            return (RunState::Training, None);
        }
        if is_released {
            return (RunState::Done, None);
        }
        let all = leave_out.iter().all(|view| view.as_ref().and_then(done_adapter).is_some());
        (if all { RunState::Releasing } else { RunState::Attributing }, None)
    }
}

/// The adapter of a task that is paid and done.
#[must_use]
pub fn done_adapter(view: &RequestView) -> Option<Hash> {
    match view.phase {
        Phase::Done(_) => view.result.as_ref().map(|result| result.adapter),
        _ => None,
    }
}

/// The runs of a node.
pub struct Runs {
    journal: Arc<Journal>,
    workshop: Arc<Workshop>,
}

impl Runs {
    /// The runs kept in `journal`.
    #[must_use]
    pub fn new(journal: Arc<Journal>, workshop: Arc<Workshop>) -> Self {
        Self { journal, workshop }
    }

    /// Keeps a run; one with the same key stays as it is.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn add(&self, spec: &RunSpec) -> Result<(), JournalError> {
        if self.get(&spec.key)?.is_none() {
            self.journal.index_put(RUNS, &spec.key.0, &wire::encode(spec))?;
        }
        Ok(())
    }

    /// One run.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn get(&self, key: &Hash) -> Result<Option<RunSpec>, JournalError> {
        let found = self.journal.index_get(RUNS, &key.0)?;
        Ok(found.and_then(|bytes| wire::decode(&bytes, REQUEST_MAX_BYTES).ok()))
    }

    /// All runs.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn all(&self) -> Result<Vec<RunSpec>, JournalError> {
        let found = self.journal.index_scan(RUNS, &[], RUNS_MAX)?;
        Ok(found.into_iter().filter_map(|(_, bytes)| wire::decode(&bytes, REQUEST_MAX_BYTES).ok()).collect())
    }

    /// Stops a run for good: what is not committed yet is given up, what is committed is paid as always.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn stop(&self, key: &Hash) -> Result<(), JournalError> {
        self.journal.index_put(STOPPED, &key.0, &[1])
    }

    /// Whether a run was stopped.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn is_stopped(&self, key: &Hash) -> Result<bool, JournalError> {
        Ok(self.journal.index_get(STOPPED, &key.0)?.is_some())
    }

    /// Moves every open run on, for ever.
    pub async fn drive(self: Arc<Self>) {
        let mut interval = tokio::time::interval(STEP_INTERVAL);
        loop {
            interval.tick().await;
            let Ok(runs) = self.all() else { continue };
            for spec in runs {
                if let Err(reason) = self.step(spec).await {
                    tracing::info!(%reason, "a run waits");
                }
            }
        }
    }

    async fn step(&self, spec: RunSpec) -> Result<(), String> {
        let looked = spec.clone();
        let node = &self.workshop.node;
        let is_stopped = self.is_stopped(&spec.key).map_err(|error| error.to_string())?;
        let (state, commands) = node
            .view(move |node| {
                let (state, _) = looked.state(node, is_stopped);
                (state, commands(&looked, node, state))
            })
            .await
            .map_err(|error| error.to_string())?;
        for command in commands {
            node.command(command).await.map_err(|error| error.to_string())?;
        }
        if state == RunState::Releasing {
            self.release(&spec).await?;
        }
        Ok(())
    }

    async fn release(&self, spec: &RunSpec) -> Result<(), String> {
        let node = &self.workshop.node;
        let looked = spec.clone();
        let found = node.view(move |node| gather(&looked, node)).await.map_err(|error| error.to_string())?;
        let Gathered { adapter, contributors, builder, own, unchecked } = found.ok_or("a task's result is missing")?;
        let leave_out: Vec<Hash> = contributors.iter().map(|contributor| contributor.leave_out).collect();
        let index = self.workshop.build_index(spec.base, adapter, &leave_out, &[]).await?;
        let release = Release {
            name: spec.name.clone(),
            adapter,
            base: spec.base,
            datanet: spec.head.datanet,
            head: spec.head.id(),
            contributors,
            index,
            answer_fee: spec.answer_fee,
            builder,
            node: own,
            unchecked,
        };
        node.command(Command::Release(Box::new(release))).await.map_err(|error| error.to_string())
    }
}

/// What the run wants of the node now: its next task, or that nobody works on it any more.
fn commands(spec: &RunSpec, node: &Node, state: RunState) -> Vec<Command> {
    if state != RunState::Stopped {
        return missing_task(spec, node, state).map(Command::FineTune).into_iter().collect();
    }
    let keys = spec.left_out().map(|contributor| spec.leave_out_key(&contributor)).chain([spec.main_key()]);
    let is_open =
        |key: &Hash| node.request(key).is_some_and(|request| matches!(request.phase, Phase::Auction | Phase::Leased));
    keys.filter(is_open).map(Command::StopFineTune).collect()
}

/// The next task of the run that the node does not know yet.
fn missing_task(spec: &RunSpec, node: &Node, state: RunState) -> Option<FineTuneCommand> {
    match state {
        RunState::Training if node.request(&spec.main_key()).is_none() => Some(spec.command(None)),
        RunState::Attributing => spec
            .left_out()
            .find(|contributor| node.request(&spec.leave_out_key(contributor)).is_none())
            .map(|contributor| spec.command(Some(contributor))),
        _ => None,
    }
}

struct Gathered {
    adapter: Hash,
    contributors: Vec<Contributor>,
    builder: ChainAddress,
    own: NodeId,
    unchecked: u32,
}

fn gather(spec: &RunSpec, node: &Node) -> Option<Gathered> {
    let adapter = done_adapter(&node.request(&spec.main_key())?)?;
    let datanet = node.datanet(&spec.head.datanet)?;
    let contributors = spec
        .contributors()
        .map(|account| {
            let leave_out = match spec.head.logs.len() {
                1 => BASE_ALONE,
                _ => done_adapter(&node.request(&spec.leave_out_key(&account))?)?,
            };
            let newest = spec.head.logs.iter().find(|log| log.contributor == account)?.length.checked_sub(1)?;
            let payout = datanet.entries(&account, newest, 1).first()?.body.payout;
            Some(Contributor { account, payout, leave_out })
        })
        .collect::<Option<Vec<_>>>()?;
    let tasks = spec.left_out().map(|account| spec.leave_out_key(&account)).chain([spec.main_key()]);
    let unchecked = tasks.filter_map(|key| node.request(&key)).filter(|task| task.verdict.is_none()).count();
    let unchecked = u32::try_from(unchecked).unwrap_or(u32::MAX);
    Some(Gathered { adapter, contributors, builder: node.chain_address(), own: node.id(), unchecked })
}
