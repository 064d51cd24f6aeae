//! Training a task that was won, from where an earlier process left off.
//!
//! Invariant: a checkpoint is in the store and noted durably before the next one is begun, so a killed worker
//! goes on from its newest checkpoint and commits to the same bytes as an unbroken run.

use std::time::Instant;

use tributary_protocol::datanet::Contribution;
use tributary_protocol::envelope::Signed;
use tributary_protocol::id::Hash;
use tributary_protocol::limits::{CHECKPOINTS_MAX, REQUEST_MAX_BYTES};
use tributary_protocol::message::Heartbeat;
use tributary_protocol::node::{Input, JobOutcome, TrainedAdapter};
use tributary_protocol::task::{Award, TaskOffer};
use tributary_protocol::wire;
use tributary_storage::blobs::BlobStore;

use super::{JobError, Workshop};
use crate::engine::{Ask, Done, Reply};

/// The journal's index of checkpoints by task.
const CHECKPOINTS: &str = "checkpoints";

type Noted = Vec<(u32, Hash)>;

impl Workshop {
    pub(super) async fn train(
        &self,
        job: Hash,
        offer: &TaskOffer,
        award: &Award,
        entries: &[Signed<Contribution>],
    ) -> Result<JobOutcome, JobError> {
        let began = Instant::now();
        let segments = offer.work.steps.div_ceil(super::check::checkpoint_every(&offer.work.recipe)?);
        if usize::try_from(segments).unwrap_or(usize::MAX) >= CHECKPOINTS_MAX {
            return Err(format!("the recipe makes {segments} checkpoints, at most {CHECKPOINTS_MAX} fit a result"));
        }
        self.hold_base(offer.work.base, &[offer.node]).await?;
        let run = self.run_of(&offer.work, entries).await?;
        let mut noted = self.noted(job)?;
        let resume = match noted.last() {
            Some((_, checkpoint)) => self.store.get(*checkpoint).await.map_err(|error| error.to_string())?,
            None => None,
        };
        if resume.is_none() {
            noted.clear();
        }
        let ask = Ask::Train { job, run, resume: resume.map(|bytes| bytes.to_vec()) };
        let mut replies = self.begin(job, &ask).await?;
        while let Some(reply) = replies.recv().await {
            match reply {
                Reply::Checkpoint { step, bytes, .. } => self.note(job, &mut noted, step, bytes).await?,
                Reply::Progress { step, steps, loss_micro_nats, tokens_per_s, .. } => {
                    let (task, round) = (award.task, award.round);
                    let beat = Heartbeat { task, round, step, steps, loss_micro_nats, tokens_per_s };
                    let _ = self.node.input(Input::Progress(beat)).await;
                }
                Reply::Done { outcome: Done::Trained { adapter, steps, loss_micro_nats }, .. } => {
                    let adapter = self.keep(adapter).await?;
                    let checkpoints = noted.iter().map(|(_, hash)| *hash).collect();
                    let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    let class = self.bases.class(&offer.work.base).map_err(|error| error.to_string())?;
                    let trained = TrainedAdapter { adapter, checkpoints, steps, loss_micro_nats, elapsed_ms, class };
                    return Ok(JobOutcome::Trained(trained));
                }
                Reply::Failed { reason, .. } => return Err(reason),
                Reply::Done { .. } | Reply::Ready { .. } | Reply::Begun { .. } | Reply::Text { .. } => {}
            }
        }
        Err("the training was stopped".into())
    }

    fn noted(&self, job: Hash) -> Result<Noted, JobError> {
        let found = self.journal.index_get(CHECKPOINTS, &job.0).map_err(|error| error.to_string())?;
        Ok(found.and_then(|bytes| wire::decode(&bytes, REQUEST_MAX_BYTES).ok()).unwrap_or_default())
    }

    async fn note(&self, job: Hash, noted: &mut Noted, step: u32, bytes: Vec<u8>) -> Result<(), JobError> {
        if noted.iter().any(|(known, _)| *known == step) {
            return Ok(());
        }
        let hash = self.keep(bytes).await?;
        noted.push((step, hash));
        self.journal.index_put(CHECKPOINTS, &job.0, &wire::encode(noted)).map_err(|error| error.to_string())
    }
}
