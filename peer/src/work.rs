//! Performs the node's jobs: gathers what they need from the network, has the engine compute, keeps what results.
//!
//! Invariant: whatever comes from a peer was checked against its hash by the store before it is used; what a
//! job produces is in the store before the node hears of it.

mod answer;
mod bases;
mod check;
mod data;
pub mod doubts;
pub mod influence;
pub(crate) mod judge;
mod places;
pub mod pools;
pub mod release;
mod retrieve;
mod room;
mod shared;
mod train;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tributary_protocol::attribution::Quality;
use tributary_protocol::datanet::Dated;
use tributary_protocol::envelope::Signed;
use tributary_protocol::id::{Hash, NodeId};
use tributary_protocol::message::{BASE_ALONE, Contributor, Release, clusters_of};
use tributary_protocol::node::{Input, JobOutcome, Work};
use tributary_protocol::proof::Proof;
use tributary_storage::blobs::{BlobStore, IrohBlobs};
use tributary_storage::journal::Journal;

pub use self::bases::BaseFault;
use self::room::Room;
use crate::answers::Answers;
use crate::bases::Bases;
use crate::bundle;
use crate::engine::asking::AskFault;
use crate::engine::parent::EngineHandle;
use crate::engine::{Ask, Done, ExampleFrame, Reply};
use crate::handle::NodeHandle;
use crate::lock::locked;
use crate::net::data::DataPlane;
use crate::retrieval::Retrieval;
use crate::traffic::Traffic;

/// Jobs beside answers that run at once on one node; more wait.
const JOBS_AT_ONCE: usize = 16;
/// Times that a job is performed when the engine dies beneath it: one that kills it itself must end.
const ENGINE_TRIES: u32 = 3;
/// Tries to fetch one blob before a job gives up; providers may be restarting.
const FETCH_TRIES: u32 = 12;
/// How often it is looked whether trainings have left their states.
const WIND_UP_LOOK: Duration = Duration::from_millis(20);
/// Time between such tries.
const FETCH_PAUSE: Duration = Duration::from_millis(1_500);

/// What all jobs share.
pub struct Workshop {
    /// Where blobs are kept.
    pub store: IrohBlobs,
    /// How blobs are fetched.
    pub data: DataPlane,
    /// The engine process.
    pub engine: EngineHandle,
    /// The base models.
    pub bases: Bases,
    /// Where a job remembers how far it is.
    pub journal: Arc<Journal>,
    /// The node.
    pub node: NodeHandle,
    /// The open answer streams.
    pub answers: Arc<Answers>,
    /// Bytes moved.
    pub traffic: Arc<Traffic>,
    /// Records by words and embeddings, for questions that want some.
    pub retrieval: Retrieval,
    room: Room,
    slots: Semaphore,
    loading: Mutex<BTreeSet<Hash>>,
    training: Mutex<BTreeSet<Hash>>,
    /// Held while a damaged index is made anew.
    mending: tokio::sync::Mutex<()>,
    /// Held by who looks for doubtful records.
    looking: tokio::sync::Mutex<()>,
}

/// Why a job could not be done; the text is for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// Something stood in its way.
    #[error("{0}")]
    Failed(String),
    /// A release commits to another index than its adapters make.
    #[error("the attribution index is not the one that was committed to")]
    OtherIndex {
        /// The commitment of the index that they make.
        built: Hash,
    },
    /// It took longer than it may, and the engine that did it was ended.
    #[error("the engine did not do it within {} s", .0.as_secs())]
    Late(Duration),
}

impl<T: Into<String>> From<T> for JobError {
    fn from(reason: T) -> Self {
        Self::Failed(reason.into())
    }
}

impl From<AskFault> for JobError {
    fn from(fault: AskFault) -> Self {
        match fault {
            AskFault::Late(allowed) => Self::Late(allowed),
            fault => Self::Failed(fault.to_string()),
        }
    }
}

impl Workshop {
    /// A workshop of these parts.
    #[must_use]
    pub fn new(
        store: IrohBlobs,
        data: DataPlane,
        engine: EngineHandle,
        bases: Bases,
        node: NodeHandle,
        answers: Arc<Answers>,
        traffic: Arc<Traffic>,
    ) -> Self {
        let room = Room::new(bases.limits().disk_bytes);
        let retrieval = Retrieval::at(bases.root().parent().unwrap_or(bases.root()).join("retrieval"));
        Self {
            store,
            data,
            engine,
            journal: Arc::clone(bases.journal()),
            bases,
            node,
            answers,
            traffic,
            retrieval,
            room,
            slots: Semaphore::new(JOBS_AT_ONCE),
            loading: Mutex::default(),
            training: Mutex::default(),
            mending: tokio::sync::Mutex::default(),
            looking: tokio::sync::Mutex::default(),
        }
    }

    /// Starts a job; its end reaches the node as [`Input::Finished`]. `entries` are those of the datanet's version.
    pub fn start(self: &Arc<Self>, job: Hash, work: Work, entries: Vec<Dated>) {
        let workshop = Arc::clone(self);
        tokio::spawn(async move {
            // Answers share the engine's steps, which has its own queue; the node bounds how many it takes.
            let _slot = match work {
                Work::Answer { .. } => None,
                _ => workshop.slots.acquire().await.ok(),
            };
            let outcome = match workshop.perform_to_the_end(job, work, entries).await {
                Ok(outcome) => outcome,
                Err(reason) => {
                    tracing::warn!(job = %job.short(), %reason, "a job failed");
                    // Peers hear of it, and have no business with this machine's folders.
                    JobOutcome::Failed(places::stripped(&reason.to_string(), &workshop.home()))
                }
            };
            let _ = workshop.node.input(Input::Finished { job, outcome: Box::new(outcome) }).await;
        });
    }

    /// Performs a job again where the engine died beneath it: a training goes on from its newest checkpoint. Answers
    /// outlive the engine by themselves, and one that was given up with it must not be tried again.
    async fn perform_to_the_end(&self, job: Hash, work: Work, entries: Vec<Dated>) -> Result<JobOutcome, JobError> {
        if matches!(work, Work::Answer { .. }) {
            return self.perform(job, work, entries).await;
        }
        let mut tries = 1;
        loop {
            let deaths = self.engine.deaths();
            match self.perform(job, work.clone(), entries.clone()).await {
                // What hung would hang again.
                Err(JobError::Failed(reason)) if self.engine.deaths() != deaths && tries < ENGINE_TRIES => {
                    tracing::warn!(job = %job.short(), %reason, "the job is performed again");
                    tries += 1;
                }
                ended => return ended,
            }
        }
    }

    async fn perform(&self, job: Hash, work: Work, entries: Vec<Dated>) -> Result<JobOutcome, JobError> {
        match work {
            Work::Train { offer, award } => {
                let _base = self.room.hold(offer.body.work.base);
                self.training().insert(job);
                let trained = self.train(job, &offer.body, &award, &entries).await;
                self.training().remove(&job);
                trained
            }
            Work::Replay { offer, result, worker, segments } => {
                let _base = self.room.hold(offer.body.work.base);
                self.replay(job, &offer.body, &result.body, worker, &segments, &entries).await
            }
            Work::Answer { request, release, stream } => self.answer(job, &request.body, &release.body, stream).await,
            Work::CheckAnswer { audit, release } => self.check_answer(job, &audit, &release).await,
            Work::TrueCredits { audit, release } => self.true_credits(job, &audit, &release).await,
        }
    }

    /// The node's folder.
    fn home(&self) -> PathBuf {
        self.bases.root().parent().unwrap_or(self.bases.root()).to_owned()
    }

    /// Stops a job; a training leaves its state, to go on from.
    pub fn stop(self: &Arc<Self>, job: Hash) {
        let workshop = Arc::clone(self);
        tokio::spawn(async move {
            let trains = workshop.training().contains(&job);
            match trains {
                true => workshop.engine.wind_up(job).await,
                false => workshop.engine.stop(job).await,
            }
        });
    }

    /// Has every training leave its state, to go on from, and waits until all have.
    pub async fn wind_up(&self) {
        let jobs: Vec<Hash> = self.training().iter().copied().collect();
        for job in jobs {
            self.engine.wind_up(job).await;
        }
        while self.engine.pid() != 0 && !self.training().is_empty() {
            tokio::time::sleep(WIND_UP_LOOK).await;
        }
    }

    /// The jobs that train.
    fn training(&self) -> MutexGuard<'_, BTreeSet<Hash>> {
        locked(&self.training)
    }

    /// Loads a released adapter for answering and checking; tells the node when it stands.
    pub fn load(self: &Arc<Self>, release: Signed<Release>) {
        let adapter = release.body.adapter;
        if !self.loading().insert(adapter) {
            return;
        }
        let workshop = Arc::clone(self);
        tokio::spawn(async move {
            let loaded = workshop.load_release(&release.body, &[]).await;
            workshop.loading().remove(&adapter);
            let found = match loaded {
                Ok(()) => Some(Input::Serving(adapter)),
                Err(reason) => {
                    tracing::warn!(adapter = %adapter.short(), %reason, "a release could not be loaded");
                    workshop.false_row(release, &reason).await
                }
            };
            if let Some(found) = found {
                let _ = workshop.node.input(found).await;
            }
        });
    }

    /// What the node is told of a release whose index its own adapters do not make.
    async fn false_row(&self, release: Signed<Release>, reason: &JobError) -> Option<Input> {
        let JobError::OtherIndex { built } = *reason else { return None };
        let network = self.node.view(tributary_protocol::node::Node::network).await.ok()?;
        Some(Input::FalsehoodFound(Box::new(Proof::Row { network, release: Box::new(release), built })))
    }

    fn loading(&self) -> MutexGuard<'_, BTreeSet<Hash>> {
        locked(&self.loading)
    }

    /// Has the engine keep a released adapter with the index that was committed to. Its builder and `more` provide it.
    ///
    /// # Errors
    /// When a blob can't be had, or the index is another one.
    pub async fn load_release(&self, release: &Release, more: &[NodeId]) -> Result<(), JobError> {
        if matches!(release.contributors.as_slice(), [only] if only.leave_out != BASE_ALONE) {
            return Err("without the only contributor there is the base alone, and the release says otherwise".into());
        }
        let providers = [&[release.node], more].concat();
        self.hold_base(release.base, &providers).await?;
        self.room.touch(release.adapter);
        let job = Hash::of(&[b"open".as_slice(), &release.adapter.0].concat());
        if self.ask(job, &Ask::Open { job, id: release.adapter, index: release.index }).await.is_ok() {
            return Ok(());
        }
        let built = self.build_release(release, &providers).await?;
        if built == release.index { Ok(()) } else { Err(JobError::OtherIndex { built }) }
    }

    /// Has the engine build and keep the index of a release; returns the commitment of what its adapters make.
    async fn build_release(&self, release: &Release, providers: &[NodeId]) -> Result<Hash, JobError> {
        self.build_index(release.base, release.adapter, &release.contributors, providers).await
    }

    /// Has the engine build the index and keep it with the adapter; returns the commitment.
    ///
    /// # Errors
    /// When a blob cannot be had or the engine refuses it.
    pub async fn build_index(
        &self,
        base: Hash,
        adapter: Hash,
        contributors: &[Contributor],
        providers: &[NodeId],
    ) -> Result<Hash, JobError> {
        self.index_of(base, adapter, contributors, providers, true).await
    }

    /// The commitment of the index that these adapters make; with `keep`, the engine answers by it from now on.
    async fn index_of(
        &self,
        base: Hash,
        adapter: Hash,
        contributors: &[Contributor],
        providers: &[NodeId],
        keep: bool,
    ) -> Result<Hash, JobError> {
        self.hold_base(base, providers).await?;
        let leave_out = left_out(contributors);
        let blobs: Vec<Hash> = std::iter::once(adapter).chain(leave_out.iter().filter_map(|(_, blob)| *blob)).collect();
        let purpose = if keep { b"index".as_slice() } else { b"judge".as_slice() };
        let job = Hash::of(&[purpose, &adapter.0].concat());
        let room = self.make_room_for_adapter(adapter, &blobs[1..]);
        let ask = Ask::Index { job, base, id: adapter, leave_out, clusters: clusters_of(contributors), keep };
        match self.ask_with(&blobs, providers, room, &ask).await? {
            Done::Indexed { commitment } => Ok(commitment),
            other => Err(format!("the engine answered another question: {other:?}").into()),
        }
    }

    /// How right the index is that `adapter` is kept with, measured on `records` by those adapters that were trained without
    /// one contributor.
    ///
    /// # Errors
    /// When a blob cannot be had or the engine refuses it.
    pub async fn measure_quality(
        &self,
        base: Hash,
        adapter: Hash,
        contributors: &[Contributor],
        records: Vec<ExampleFrame>,
    ) -> Result<Option<Quality>, JobError> {
        let leave_out = left_out_alone(contributors);
        let blobs: Vec<Hash> = leave_out.iter().filter_map(|(_, blob)| *blob).collect();
        let job = Hash::of(&[b"quality".as_slice(), &adapter.0].concat());
        let ask = Ask::Quality { job, base, id: adapter, leave_out, records };
        match self.ask_with(&blobs, &[], std::future::ready(Ok(())), &ask).await? {
            Done::Measured(quality) => Ok(quality),
            other => Err(format!("the engine answered another question: {other:?}").into()),
        }
    }

    /// Asks the engine for what needs adapters: they are where it finds them until it is done.
    async fn ask_with(
        &self,
        blobs: &[Hash],
        providers: &[NodeId],
        room: impl Future<Output = Result<(), JobError>>,
        ask: &Ask,
    ) -> Result<Done, JobError> {
        let job = ask.job();
        let asked = async {
            room.await?;
            self.ask(job, ask).await
        };
        self.handing_over(job, blobs, providers, asked).await
    }

    /// Works with blobs that lie where the engine finds them until it is done.
    async fn handing_over<T>(
        &self,
        job: Hash,
        blobs: &[Hash],
        providers: &[NodeId],
        work: impl Future<Output = Result<T, JobError>>,
    ) -> Result<T, JobError> {
        let done = async {
            for blob in blobs {
                self.hand_over(job, *blob, providers).await?;
            }
            work.await
        };
        let done = done.await;
        let folder = self.engine.folder().clone();
        let _ = tokio::task::spawn_blocking(move || folder.take_back(job)).await;
        done
    }

    /// Puts an adapter's blob where the engine finds it.
    async fn hand_over(&self, job: Hash, hash: Hash, providers: &[NodeId]) -> Result<(), JobError> {
        let bytes = self.blob(hash, providers, bundle::ADAPTER_MAX_BYTES).await?;
        self.put_for(job, hash, bytes).await
    }

    async fn put_for(&self, job: Hash, hash: Hash, bytes: Bytes) -> Result<(), JobError> {
        let folder = self.engine.folder().clone();
        let written = tokio::task::spawn_blocking(move || folder.hand_over(job, hash, &bytes)).await;
        let written = written.map_err(|error| error.to_string())?;
        Ok(written.map_err(|error| format!("blob {} can't be written: {error}", hash.short()))?)
    }

    /// A blob from the store, else from one of `providers`, tried again while they may be restarting.
    ///
    /// # Errors
    /// Says what every provider said.
    pub async fn blob(&self, hash: Hash, providers: &[NodeId], limit: usize) -> Result<Bytes, JobError> {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        let mut reason = "nobody provides it".to_owned();
        for attempt in 0..FETCH_TRIES {
            if let Some(bytes) = self.store.get(hash).await.map_err(|error| error.to_string())? {
                return Ok(bytes);
            }
            if attempt > 0 {
                tokio::time::sleep(FETCH_PAUSE).await;
            }
            match self.data.fetch(hash, providers, limit).await {
                Ok(bytes) => self.traffic.fetched(bytes),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(format!("blob {} cannot be fetched: {reason}", hash.short()).into())
    }

    /// Keeps bytes in the store.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub async fn keep(&self, bytes: Vec<u8>) -> Result<Hash, JobError> {
        Ok(self.store.put(Bytes::from(bytes)).await.map_err(|error| error.to_string())?)
    }

    /// Begins a job in the engine.
    async fn begin(&self, job: Hash, ask: &Ask) -> Result<mpsc::Receiver<Reply>, JobError> {
        Ok(self.engine.begin(job, ask).await.map_err(|error| error.to_string())?)
    }

    /// Begins a job in the engine and waits for its end; see [`EngineHandle::ask`].
    ///
    /// # Errors
    /// What the engine says of the job.
    pub async fn ask(&self, job: Hash, ask: &Ask) -> Result<Done, JobError> {
        Ok(self.engine.ask(job, ask).await?)
    }
}

/// Each contributor's leave-out adapter, by number.
fn left_out(contributors: &[Contributor]) -> Vec<(u32, Option<Hash>)> {
    (0..).zip(contributors).map(|(number, one)| (number, told(one.leave_out))).collect()
}

/// The same of those without each of whom alone an adapter was trained.
fn left_out_alone(contributors: &[Contributor]) -> Vec<(u32, Option<Hash>)> {
    let both = left_out(contributors).into_iter().zip(contributors);
    both.filter(|(_, one)| !one.estimated && one.together.is_none()).map(|(without, _)| without).collect()
}

/// The adapters that were trained without contributors, of whom several may have been left out together.
fn trained(contributors: &[Contributor]) -> Vec<(Vec<u32>, Option<Hash>)> {
    let mut sets: BTreeMap<u32, (Vec<u32>, Option<Hash>)> = BTreeMap::new();
    for (number, one) in (0..).zip(contributors).filter(|(_, one)| !one.estimated) {
        let (first, blob) = one.together.map_or((number, one.leave_out), |set| (set.first, set.without));
        sets.entry(first).or_insert_with(|| (Vec::new(), told(blob))).0.push(number);
    }
    sets.into_values().collect()
}

/// The blob of a leave-out adapter; nothing stands for the untrained one.
fn told(hash: Hash) -> Option<Hash> {
    Some(hash).filter(|hash| *hash != BASE_ALONE)
}
