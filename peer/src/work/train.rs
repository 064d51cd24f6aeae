//! Training a task that was won, from where an earlier process left off.
//!
//! Invariant: a checkpoint is in the store and noted durably before the next one is begun, so a killed worker
//! goes on from its newest checkpoint and commits to the same bytes as an unbroken run. Checkpoints are noted by what is
//! trained, not for whom: a run that was stopped goes on where it was when it is offered again.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tributary_protocol::datanet::Dated;
use tributary_protocol::id::Hash;
use tributary_protocol::limits::{CHECKPOINTS_MAX, REQUEST_MAX_BYTES};
use tributary_protocol::message::Heartbeat;
use tributary_protocol::node::{Input, JobOutcome, TrainedAdapter};
use tributary_protocol::task::{Award, FineTune, TaskOffer};
use tributary_protocol::wire;
use tributary_storage::blobs::BlobStore;

use super::{JobError, Workshop};
use crate::engine::{Ask, Done, Reply};

/// The journal's index of checkpoints to commit to, by what is trained.
pub(super) const CHECKPOINTS: &str = "checkpoints";
/// Its index of states that stopped trainings left.
const SAVED: &str = "checkpoints-saved";

/// Hashes of states by the steps after which they stood, ascending.
pub(super) type Noted = Vec<(u32, Hash)>;

/// What is trained, in the classes in which this machine computes: another's checkpoints would lead to other bits, with
/// dense bases or with quantised ones.
fn work_id(work: &FineTune, classes: &[String]) -> Hash {
    Hash(blake3::derive_key("tributary work of a training v2", &wire::encode(&(classes, work))))
}

impl Workshop {
    pub(super) async fn train(
        &self,
        job: Hash,
        offer: &TaskOffer,
        award: &Award,
        entries: &[Dated],
    ) -> Result<JobOutcome, JobError> {
        let began = Instant::now();
        let work = work_id(&offer.work, &self.bases.classes());
        let segments = offer.work.steps.div_ceil(super::check::checkpoint_every(&offer.work.recipe)?);
        if usize::try_from(segments).unwrap_or(usize::MAX) >= CHECKPOINTS_MAX {
            return Err(
                format!("the recipe makes {segments} checkpoints, at most {CHECKPOINTS_MAX} fit a result").into()
            );
        }
        self.hold_base(offer.work.base, &[offer.node]).await?;
        let run = self.run_of(&offer.work, entries).await?;
        let mut noted = self.noted(CHECKPOINTS, work)?;
        let mut resume = self.newest(work, &noted).await?;
        match &resume {
            Some((step, _)) => tracing::info!(job = %job.short(), step, "a training goes on from this step"),
            None => {
                noted = self.begun_as_whole(job, work, &offer.work, &run).await?;
                resume = self.newest(work, &noted).await?;
            }
        }
        self.note_whole(work, &offer.work)?;
        let ask = Ask::Train { job, run, resume: resume.map(|(_, bytes)| bytes.to_vec()) };
        let mut replies = self.begin(job, &ask).await?;
        while let Some(reply) = replies.recv().await {
            match reply {
                Reply::Checkpoint { step, bytes, .. } => self.note(work, &mut noted, step, bytes).await?,
                Reply::Saved { step, bytes, .. } => self.save(work, step, bytes).await?,
                Reply::Progress { step, steps, loss_micro_nats, tokens_per_s, curve, .. } => {
                    let (task, round) = (award.task, award.round);
                    let beat = Heartbeat { task, round, step, steps, loss_micro_nats, tokens_per_s, curve };
                    let _ = self.node.input(Input::Progress(beat)).await;
                }
                Reply::Done { outcome: Done::Trained { adapter, steps, kept_step, loss_micro_nats }, .. } => {
                    let adapter = self.keep(adapter).await?;
                    let checkpoints = noted.iter().map(|(_, hash)| *hash).collect();
                    let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    let class = self.bases.class(&offer.work.base).map_err(|error| error.to_string())?;
                    return Ok(JobOutcome::Trained(TrainedAdapter {
                        adapter,
                        checkpoints,
                        steps,
                        kept_step,
                        loss_micro_nats,
                        elapsed_ms,
                        class,
                    }));
                }
                Reply::Failed { reason, .. } => return Err(reason.into()),
                Reply::Late { after_s, .. } => return Err(JobError::Late(Duration::from_secs(after_s))),
                Reply::Done { .. }
                | Reply::Ready { .. }
                | Reply::Begun { .. }
                | Reply::Text { .. }
                | Reply::Working { .. }
                | Reply::Estimated { .. } => {}
            }
        }
        Err("the training was stopped".into())
    }

    pub(super) fn noted(&self, index: &str, work: Hash) -> Result<Noted, JobError> {
        let found = self.journal.index_get(index, &work.0).map_err(|error| error.to_string())?;
        Ok(found.and_then(|bytes| wire::decode(&bytes, REQUEST_MAX_BYTES).ok()).unwrap_or_default())
    }

    /// The furthest state of the work whose bytes are still here.
    async fn newest(&self, work: Hash, noted: &Noted) -> Result<Option<(u32, Bytes)>, JobError> {
        let Some(committed) = noted.last() else { return Ok(None) };
        let saved = self.noted(SAVED, work)?;
        let further = saved.last().filter(|(step, _)| *step > committed.0);
        for (step, hash) in further.into_iter().chain([committed]) {
            if let Some(bytes) = self.store.get(*hash).await.map_err(|error| error.to_string())? {
                return Ok(Some((*step, bytes)));
            }
        }
        Ok(None)
    }

    /// Keeps the state of a stopped training.
    async fn save(&self, work: Hash, step: u32, bytes: Vec<u8>) -> Result<(), JobError> {
        let saved: Noted = vec![(step, self.keep(bytes).await?)];
        Ok(self.journal.index_put(SAVED, &work.0, &wire::encode(&saved)).map_err(|error| error.to_string())?)
    }

    /// Keeps a checkpoint to commit to and notes it, unless one of this step is noted.
    pub(super) async fn note(&self, work: Hash, noted: &mut Noted, step: u32, bytes: Vec<u8>) -> Result<(), JobError> {
        if noted.iter().any(|(known, _)| *known == step) {
            return Ok(());
        }
        let hash = self.keep(bytes).await?;
        noted.push((step, hash));
        Ok(self.journal.index_put(CHECKPOINTS, &work.0, &wire::encode(noted)).map_err(|error| error.to_string())?)
    }
}
