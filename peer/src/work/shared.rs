//! Leave-out trainings that begin where this node's own training of everything had come to the same.
//!
//! Invariant: only checkpoints that this node computed itself, in the classes of this machine, are begun from. Another's would
//! have to be executed again first, at the price of what they save, or a forged one would end as this node's own false result.

use bincode::{Decode, Encode};
use tributary_protocol::id::Hash;
use tributary_protocol::limits::REQUEST_MAX_BYTES;
use tributary_protocol::task::FineTune;
use tributary_protocol::wire;
use tributary_storage::blobs::BlobStore;

use super::check::recipe_of;
use super::train::{CHECKPOINTS, Noted};
use super::{JobError, Workshop};
use crate::engine::asking::AskFault;
use crate::engine::{Ask, Done, Run};

/// The journal's index of trainings that leave nobody out, by what those that do have in common with them: of each the newest,
/// which shares more steps with any of them than they share among each other.
const WHOLE: &str = "checkpoints-whole";

/// A training that leaves nobody out.
#[derive(Encode, Decode)]
struct Whole {
    /// Under which its checkpoints are noted.
    work: Hash,
    recipe: String,
}

/// What a leave-out training has in common with that of everything, which may evaluate on its way and end elsewhere.
fn common_id(work: &FineTune, classes: &[String]) -> Result<Hash, JobError> {
    let recipe = serde_json::to_string(&recipe_of(&work.recipe)?.without_evaluation());
    let recipe = recipe.map_err(|error| error.to_string())?;
    let common = wire::encode(&(classes, work.base, &work.head, recipe));
    Ok(Hash(blake3::derive_key("tributary beginning that trainings share v1", &common)))
}

impl Workshop {
    /// Has leave-out trainings find the checkpoints of this training, which are noted under `id`, if it is of everything.
    pub(super) fn note_whole(&self, id: Hash, work: &FineTune) -> Result<(), JobError> {
        if !work.leave_out.is_empty() {
            return Ok(());
        }
        let common = common_id(work, &self.bases.classes())?;
        let whole = wire::encode(&Whole { work: id, recipe: work.recipe.clone() });
        Ok(self.journal.index_put(WHOLE, &common.0, &whole).map_err(|error| error.to_string())?)
    }

    /// Notes under `id`, as a leave-out training's own, the checkpoints to commit to up to which this node's training of
    /// everything did the same. None where there was no such training.
    ///
    /// # Errors
    /// When the disk is full or fails, or the job was stopped.
    pub(super) async fn begun_as_whole(
        &self,
        job: Hash,
        id: Hash,
        work: &FineTune,
        run: &Run,
    ) -> Result<Noted, JobError> {
        let mut begun = Noted::new();
        let Some(whole) = self.trained_whole(work)? else { return Ok(begun) };
        let every = recipe_of(&work.recipe)?.checkpoint_every;
        let checkpoints = self.noted(CHECKPOINTS, whole.work)?;
        for (step, hash) in checkpoints.into_iter().filter(|(step, _)| step.is_multiple_of(every) && *step < work.steps)
        {
            let Some(bytes) = self.store.get(hash).await.map_err(|error| error.to_string())? else { break };
            let (run, recipe, checkpoint) = (run.clone(), whole.recipe.clone(), bytes.to_vec());
            match self.engine.ask(job, &Ask::Adopt { job, run, whole: recipe, checkpoint }).await {
                Ok(Done::Adopted(Ok(own))) => self.note(id, &mut begun, step, own).await?,
                // Mostly the first checkpoint after the runs have parted. Whatever it is, the training itself makes the next.
                Ok(Done::Adopted(Err(reason))) => {
                    tracing::debug!(job = %job.short(), step, %reason, "a checkpoint is not shared");
                    break;
                }
                Ok(other) => return Err(format!("the engine answered another question: {other:?}").into()),
                // What is too large together with a checkpoint may be trained from nothing.
                Err(AskFault::Engine(error)) => {
                    tracing::info!(job = %job.short(), %error, "checkpoints can't be shared");
                    break;
                }
                Err(fault) => return Err(fault.into()),
            }
        }
        let steps = begun.last().map_or(0, |(step, _)| *step);
        tracing::info!(job = %job.short(), steps, of = work.steps, "first steps are those of the training of everything");
        Ok(begun)
    }

    /// This node's training of everything that a leave-out training may begin from.
    fn trained_whole(&self, work: &FineTune) -> Result<Option<Whole>, JobError> {
        if work.leave_out.is_empty() {
            return Ok(None);
        }
        let common = common_id(work, &self.bases.classes())?;
        let found = self.journal.index_get(WHOLE, &common.0).map_err(|error| error.to_string())?;
        Ok(found.and_then(|bytes| wire::decode(&bytes, REQUEST_MAX_BYTES).ok()))
    }
}
