//! Training runs: one fine-tune task, who teaches the same, leave-out tasks of contributors, the attribution index, the release.
//!
//! Invariant: a run is durable before its first task is offered, and every step follows from what the node
//! knows, so a killed builder goes on where it was and nothing is bought twice.

mod spec;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use tributary_protocol::attribution::Quality;
use tributary_protocol::datanet::Dated;
use tributary_protocol::id::{AccountId, ChainAddress, Hash, NodeId};
use tributary_protocol::limits::REQUEST_MAX_BYTES;
use tributary_protocol::message::{BASE_ALONE, Contributor, Measurement, Release, Together};
use tributary_protocol::node::{Command, FineTuneCommand, Node, Phase};
use tributary_protocol::wire;
use tributary_storage::journal::{Journal, JournalError};

pub use self::spec::{LEAVE_OUTS_TOLD_BY, OpenRun, RunSpec, RunState, done_adapter, leave_outs};
use crate::curves::{Curves, Trains};
use crate::lock::locked;
use crate::work::{JobError, Workshop};

/// The journal's index of runs by key.
const RUNS: &str = "runs";
/// Its index of runs that were stopped, and whether they still are.
const STOPPED: &str = "runs-stopped";
/// Its index of who was found to teach the same in a run.
const CLUSTERS: &str = "runs-clusters";
/// Its index of who is left out together in a run for having few records.
const POOLS: &str = "runs-pools";
/// Its index of how often runs were resumed.
const RESUMED: &str = "runs-resumed";
/// Times one run can be resumed.
const RESUMPTIONS_MAX: u32 = 64;
/// Runs kept.
const RUNS_MAX: usize = 4096;
/// How often it is tried to find who teaches the same, and the time between: an engine that starts again needs less.
const CLUSTERS_TRIES: u32 = 6;
/// See [`CLUSTERS_TRIES`].
const CLUSTERS_PAUSE: Duration = Duration::from_secs(30);
/// After a release that failed, mostly since somebody is just being started again.
const RELEASE_PAUSE: Duration = Duration::from_secs(3);
/// How often a run is looked at.
const STEP_INTERVAL: Duration = Duration::from_millis(400);

/// That a run goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
struct Resumption {
    count: u32,
    deadline_ms: u64,
}

/// Why a run does not go on.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// It was resumed too often.
    #[error("it was resumed {RESUMPTIONS_MAX} times already")]
    TooOften,
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// The runs of a node.
pub struct Runs {
    journal: Arc<Journal>,
    workshop: Arc<Workshop>,
    /// What was measured in them.
    pub curves: Arc<Curves>,
    looks: Mutex<Looks>,
}

/// What takes minutes of a run: looks at who teaches the same, releases with their estimates.
#[derive(Default)]
struct Looks {
    under_way: BTreeSet<Hash>,
    /// How often one has failed, and when the next one may begin.
    failed: BTreeMap<Hash, (u32, Instant)>,
    /// Why a release failed last, for whoever looks at the run.
    obstacles: BTreeMap<Hash, String>,
}

impl Looks {
    /// Whether one is to begin now, which is then under way.
    fn begin(&mut self, run: Hash, now: Instant) -> bool {
        let may_begin = self.failed.get(&run).is_none_or(|(_, next)| *next <= now);
        may_begin && self.under_way.insert(run)
    }

    /// One failed, and the next one may begin after `pause`; how often one has.
    fn fail(&mut self, run: Hash, now: Instant, pause: Duration) -> u32 {
        let (count, next) = self.failed.entry(run).or_insert((0, now));
        (*count, *next) = (*count + 1, now + pause);
        *count
    }
}

impl Runs {
    /// The runs kept in `journal`, their curves in `folder`.
    #[must_use]
    pub fn new(journal: Arc<Journal>, workshop: Arc<Workshop>, folder: PathBuf) -> Self {
        Self { journal, workshop, curves: Arc::new(Curves::new(folder)), looks: Mutex::default() }
    }

    /// Keeps a run; one with the same key stays as it is.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn add(&self, spec: &RunSpec) -> Result<(), JournalError> {
        if self.journal.index_get(RUNS, &spec.key.0)?.is_none() {
            self.journal.index_put(RUNS, &spec.key.0, &wire::encode(spec))?;
        }
        Ok(())
    }

    /// One run.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn get(&self, key: &Hash) -> Result<Option<OpenRun>, JournalError> {
        let found = self.journal.index_get(RUNS, &key.0)?;
        let spec: Option<RunSpec> = found.and_then(|bytes| wire::decode(&bytes, REQUEST_MAX_BYTES).ok());
        spec.map(|spec| self.opened(spec)).transpose()
    }

    fn opened(&self, mut spec: RunSpec) -> Result<OpenRun, JournalError> {
        let is_stopped = self.journal.index_get(STOPPED, &spec.key.0)?.is_some_and(|value| value == [1]);
        let resumption = self.resumption(&spec.key)?;
        if resumption.count > 0 {
            spec.deadline_ms = resumption.deadline_ms;
        }
        let clusters = self.sets(CLUSTERS, &spec.key)?;
        let pools = self.sets(POOLS, &spec.key)?.unwrap_or_default();
        let obstacle = locked(&self.looks).obstacles.get(&spec.key).cloned();
        Ok(OpenRun { spec, clusters, pools, resumed: resumption.count, is_stopped, obstacle })
    }

    /// Sets of contributors of a run.
    fn sets(&self, index: &str, key: &Hash) -> Result<Option<Vec<Vec<AccountId>>>, JournalError> {
        let found = self.journal.index_get(index, &key.0)?;
        Ok(found.and_then(|bytes| wire::decode(&bytes, REQUEST_MAX_BYTES).ok()))
    }

    fn resumption(&self, key: &Hash) -> Result<Resumption, JournalError> {
        let found = self.journal.index_get(RESUMED, &key.0)?;
        Ok(found.and_then(|bytes| wire::decode(&bytes, REQUEST_MAX_BYTES).ok()).unwrap_or_default())
    }

    /// All runs.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn all(&self) -> Result<Vec<OpenRun>, JournalError> {
        let found = self.journal.index_scan(RUNS, &[], RUNS_MAX)?;
        let specs = found.into_iter().filter_map(|(_, bytes)| wire::decode(&bytes, REQUEST_MAX_BYTES).ok());
        specs.map(|spec| self.opened(spec)).collect()
    }

    /// Stops a run: what is not committed yet is given up, what is committed is paid as always. Its workers keep their
    /// states, so that it can be resumed.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn stop(&self, key: &Hash) -> Result<(), JournalError> {
        self.journal.index_put(STOPPED, &key.0, &[1])
    }

    /// Has a run that was stopped or failed go on: what it has is kept, what it lacks is offered anew, and a worker that
    /// kept its state goes on from there.
    ///
    /// # Errors
    /// When it was resumed too often, or the disk is full or fails.
    pub fn resume(&self, key: &Hash, deadline_ms: u64) -> Result<(), ResumeError> {
        let count = self.resumption(key)?.count + 1;
        if count > RESUMPTIONS_MAX {
            return Err(ResumeError::TooOften);
        }
        self.journal.index_put(RESUMED, &key.0, &wire::encode(&Resumption { count, deadline_ms }))?;
        Ok(self.journal.index_put(STOPPED, &key.0, &[0])?)
    }

    /// Moves every open run on, for ever.
    pub async fn drive(self: Arc<Self>) {
        let mut interval = tokio::time::interval(STEP_INTERVAL);
        loop {
            interval.tick().await;
            let Ok(runs) = self.all() else { continue };
            for run in runs {
                if let Err(reason) = self.step(run).await {
                    tracing::info!(%reason, "a run waits");
                }
            }
        }
    }

    async fn step(self: &Arc<Self>, run: OpenRun) -> Result<(), String> {
        let looked = run.clone();
        let node = &self.workshop.node;
        let (state, commands, measured) = node
            .view(move |node| {
                let (state, _) = looked.state(node);
                (state, commands(&looked, node, state), measured(&looked, node))
            })
            .await
            .map_err(|error| error.to_string())?;
        let is_open =
            matches!(state, RunState::Training | RunState::Clustering | RunState::Attributing | RunState::Releasing);
        Arc::clone(&self.curves).hear(run.spec.key, run.spec.name.clone(), measured, is_open).await;
        for command in commands {
            node.command(command).await.map_err(|error| error.to_string())?;
        }
        match state {
            RunState::Clustering => self.begin(run, |this, run| async move {
                if let Err(reason) = this.cluster(&run).await {
                    tracing::info!(%reason, "it is not known yet who teaches the same");
                }
            }),
            RunState::Releasing => self.begin(run, |this, run| async move {
                if let Err(reason) = this.release(&run).await {
                    tracing::warn!(%reason, "a model can't be released yet");
                    let mut looks = locked(&this.looks);
                    looks.fail(run.spec.key, Instant::now(), RELEASE_PAUSE);
                    looks.obstacles.insert(run.spec.key, format!("it can't be released yet: {reason}"));
                }
            }),
            _ => {}
        }
        Ok(())
    }

    /// Has done what may take minutes while other runs go on, unless that is under way or has just failed.
    fn begin<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        run: OpenRun,
        work: impl FnOnce(Arc<Self>, OpenRun) -> F,
    ) {
        let (this, key) = (Arc::clone(self), run.spec.key);
        if locked(&self.looks).begin(key, Instant::now()) {
            let work = work(Arc::clone(self), run);
            tokio::spawn(async move {
                work.await;
                locked(&this.looks).under_way.remove(&key);
            });
        }
    }

    /// Whether a look at who teaches the same that failed is the last.
    fn clusters_are_given_up(&self, run: Hash) -> bool {
        locked(&self.looks).fail(run, Instant::now(), CLUSTERS_PAUSE) >= CLUSTERS_TRIES
    }

    /// Finds and keeps who is left out together, before anybody is: who teaches the same, and of the others who has few records.
    async fn cluster(&self, run: &OpenRun) -> Result<(), String> {
        let (node, spec) = (&self.workshop.node, &run.spec);
        let looked = run.clone();
        let look = move |node: &Node| {
            let adapter = done_adapter(&looked.task(node, &[])?)?;
            let head = &looked.spec.head;
            Some((adapter, node.datanet(&head.datanet)?.version(head)?))
        };
        let found = node.view(look).await.map_err(|error| error.to_string())?;
        let (adapter, entries) = found.ok_or("the adapter or its records are missing")?;
        let accounts: Vec<AccountId> = spec.contributors().collect();
        let found = match self.workshop.clusters((spec.base, adapter), &accounts, &entries, &[]).await {
            Ok(found) => found,
            Err(error) if self.clusters_are_given_up(spec.key) || matches!(error, JobError::Late(_)) => {
                tracing::warn!(adapter = %adapter.short(), %error, "who teaches the same could not be found: everybody is left out alone");
                Vec::new()
            }
            Err(error) => return Err(error.to_string()),
        };
        let account = |number: u32| accounts.get(usize::try_from(number).ok()?).copied();
        let is_wanted = |number: u32| account(number).is_some_and(|account| spec.is_left_out(&account));
        let pools = self.workshop.pools(&accounts, &entries, &found, is_wanted).await;
        let pools = pools.map_err(|error| error.to_string())?;
        let named = |members: Vec<u32>| members.into_iter().filter_map(account).collect::<Vec<AccountId>>();
        // The clusters last: once they are known, trainings are offered.
        for (index, sets) in [(POOLS, pools), (CLUSTERS, found)] {
            let sets: Vec<Vec<AccountId>> = sets.into_iter().map(named).collect();
            let kept = self.journal.index_put(index, &spec.key.0, &wire::encode(&sets));
            kept.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    async fn release(&self, run: &OpenRun) -> Result<(), String> {
        let (node, spec) = (&self.workshop.node, &run.spec);
        let looked = run.clone();
        let found = node.view(move |node| gather(&looked, node)).await.map_err(|error| error.to_string())?;
        let Gathered { adapter, contributors, builder, own, unchecked, entries } =
            found.ok_or("a task's result is missing")?;
        let workshop = &self.workshop;
        let contributors = workshop.estimate((spec.base, adapter), contributors, &entries).await;
        let contributors = contributors.map_err(|error| error.to_string())?;
        let index = workshop.build_index(spec.base, adapter, &contributors, &[]).await;
        let index = index.map_err(|error| error.to_string())?;
        let quality = self.quality(spec, adapter, &contributors, (index, &entries)).await;
        let release = Release {
            name: spec.name.clone(),
            adapter,
            base: spec.base,
            datanet: spec.head.datanet,
            head: spec.head.id(),
            contributors,
            notes: spec.head.notes.iter().map(|log| (log.contributor, log.length)).collect(),
            index,
            answer_fee: spec.answer_fee,
            builder,
            node: own,
            unchecked,
            quality,
        };
        node.command(Command::Release(Box::new(release))).await.map_err(|error| error.to_string())
    }

    /// How right the index is. What can't be measured is released without a figure, and says so.
    async fn quality(
        &self,
        spec: &RunSpec,
        adapter: Hash,
        contributors: &[Contributor],
        (index, entries): (Hash, &[Dated]),
    ) -> Option<Quality> {
        let measured = async {
            let records = self.workshop.drawn(index, entries).await?;
            self.workshop.measure_quality(spec.base, adapter, contributors, records).await
        };
        measured.await.unwrap_or_else(|reason| {
            tracing::warn!(adapter = %adapter.short(), %reason, "how right the attribution is could not be measured");
            None
        })
    }
}

/// What the run wants of the node now: its next task, or that nobody works on it any more.
fn commands(run: &OpenRun, node: &Node, state: RunState) -> Vec<Command> {
    if state != RunState::Stopped {
        return missing_task(run, node, state).map(Command::FineTune).into_iter().collect();
    }
    let keys = run.trainings().into_iter().map(|left_out| run.task_key(node, &left_out));
    let is_open =
        |key: &Hash| node.request(key).is_some_and(|request| matches!(request.phase, Phase::Auction | Phase::Leased));
    keys.filter(is_open).map(Command::StopFineTune).collect()
}

/// The next task of the run that the node does not know yet.
fn missing_task(run: &OpenRun, node: &Node, state: RunState) -> Option<FineTuneCommand> {
    match state {
        RunState::Training if run.task(node, &[]).is_none() => Some(run.command(node, Vec::new())),
        RunState::Attributing => {
            let missing = run.left_out().into_iter().find(|left_out| run.task(node, left_out).is_none());
            missing.map(|left_out| run.command(node, left_out))
        }
        _ => None,
    }
}

/// The curves of all trainings of the run, as far as the node knows them.
fn measured(run: &OpenRun, node: &Node) -> Vec<(Trains, Vec<Measurement>)> {
    let curve = |left_out: Vec<AccountId>| {
        let curve = node.curve(&run.task_key(node, &left_out));
        (if left_out.is_empty() { Trains::All } else { Trains::Without(left_out) }, curve)
    };
    run.trainings().into_iter().map(curve).filter(|(_, curve)| !curve.is_empty()).collect()
}

struct Gathered {
    adapter: Hash,
    contributors: Vec<Contributor>,
    builder: ChainAddress,
    own: NodeId,
    unchecked: u32,
    entries: Vec<Dated>,
}

fn gather(run: &OpenRun, node: &Node) -> Option<Gathered> {
    let spec = &run.spec;
    let adapter = done_adapter(&run.task(node, &[])?)?;
    let datanet = node.datanet(&spec.head.datanet)?;
    let contributors = spec
        .contributors()
        .map(|account| {
            let set = run.together_with(&account);
            let (without, estimated) = match set.len() {
                all if all == spec.head.logs.len() => (BASE_ALONE, false),
                _ if run.left_out().contains(&set) => (done_adapter(&run.task(node, &set)?)?, false),
                _ => (Hash::default(), true),
            };
            // Where several were left out, each one's own is made from that adapter, as is what nobody trained.
            let first = spec.contributors().position(|one| Some(&one) == set.first())?;
            let together = Together { first: u32::try_from(first).ok()?, without };
            let together = (set.len() > 1 && !estimated).then_some(together);
            let leave_out = if together.is_some() { Hash::default() } else { without };
            let entries = spec.head.logs.iter().find(|log| log.contributor == account)?.length;
            let payout = datanet.entries(&account, entries.checked_sub(1)?, 1).first()?.body.payout;
            Some(Contributor { account, payout, leave_out, together, entries, estimated })
        })
        .collect::<Option<Vec<_>>>()?;
    let views = run.trainings().into_iter().filter_map(|left_out| run.task(node, &left_out));
    let unchecked = views.filter(|task| task.verdict.is_none()).count();
    let unchecked = u32::try_from(unchecked).unwrap_or(u32::MAX);
    let entries = datanet.version(&spec.head)?;
    Some(Gathered { adapter, contributors, builder: node.chain_address(), own: node.id(), unchecked, entries })
}
