//! Checking others' work: segments of a training executed again, answers by one prefill.
//!
//! Invariant: "refuted" is said only of bytes that the worker itself committed to and that this machine
//! recomputed in the same determinism class, and of an answer never without the proof; everything else that goes wrong
//! is an abstention.

use tributary_compute::train::Recipe;
use tributary_protocol::datanet::Dated;
use tributary_protocol::envelope::Signed;
use tributary_protocol::id::{Hash, NodeId};
use tributary_protocol::message::{Audit, Release};
use tributary_protocol::node::JobOutcome;
use tributary_protocol::proof::{Case, Comparison, Proof};
use tributary_protocol::task::TaskOffer;
use tributary_protocol::verification::{Outcome, TaskResult};

use super::{JobError, Workshop, left_out_alone};
use crate::bundle::ADAPTER_MAX_BYTES;
use crate::engine::{Ask, Done, Run};

/// A checkpoint holds the adapter, two moments of each weight, and the best evaluation's adapter.
pub(super) const CHECKPOINT_MAX_BYTES: usize = 4 * ADAPTER_MAX_BYTES;

/// Where a replay came to.
struct Replayed {
    end: Vec<u8>,
    adapter: Vec<u8>,
    kept_step: u32,
    is_over: bool,
}

/// A recipe out of its JSON, within its bounds.
pub(super) fn recipe_of(recipe: &str) -> Result<Recipe, JobError> {
    let recipe: Recipe = serde_json::from_str(recipe).map_err(|error| error.to_string())?;
    recipe.check().map_err(|error| error.to_string())?;
    Ok(recipe)
}

/// A number of steps out of a recipe; recipes were checked by the engine before anything was trained.
pub(super) fn checkpoint_every(recipe: &str) -> Result<u32, JobError> {
    Ok(recipe_of(recipe)?.checkpoint_every)
}

impl Workshop {
    pub(super) async fn replay(
        &self,
        job: Hash,
        offer: &TaskOffer,
        result: &TaskResult,
        worker: NodeId,
        segments: &[u32],
        entries: &[Dated],
    ) -> Result<JobOutcome, JobError> {
        self.hold_base(offer.work.base, &[offer.node, worker]).await?;
        let run = self.run_of(&offer.work, entries).await?;
        let every = checkpoint_every(&offer.work.recipe)?;
        let expected = result.steps.div_ceil(every);
        if result.steps == 0 || result.steps > offer.work.steps || result.segments() != expected {
            let reason = format!("{} segments are committed, the recipe makes {expected}", result.segments());
            return Ok(JobOutcome::Replayed(Outcome::Refuted(reason), Vec::new()));
        }
        if let Some(reason) = self.ends_fault(job, &run, result, worker).await? {
            return Ok(JobOutcome::Replayed(Outcome::Refuted(reason), Vec::new()));
        }
        for segment in segments {
            let to_step = segment.saturating_add(1).saturating_mul(every).min(result.steps);
            if let Some(reason) = self.segment_fault(job, &run, result, worker, *segment, to_step).await? {
                return Ok(JobOutcome::Replayed(Outcome::Refuted(reason), vec![*segment]));
            }
        }
        Ok(JobOutcome::Replayed(Outcome::Confirmed, segments.to_vec()))
    }

    async fn checkpoint(&self, result: &TaskResult, at: u32, worker: NodeId) -> Result<Vec<u8>, JobError> {
        let place = usize::try_from(at).map_err(|error| error.to_string())?;
        let hash = *result.checkpoints.get(place).ok_or("there is no such checkpoint")?;
        Ok(self.blob(hash, &[worker], CHECKPOINT_MAX_BYTES).await?.to_vec())
    }

    async fn replay_to(
        &self,
        job: Hash,
        run: &Run,
        start: Option<Vec<u8>>,
        to_step: u32,
    ) -> Result<Replayed, JobError> {
        let job = Hash::of(&[job.0.as_slice(), &to_step.to_le_bytes(), &[u8::from(start.is_some())]].concat());
        let ask = Ask::Replay { job, run: run.clone(), start, to_step };
        match self.ask(job, &ask).await? {
            Done::Replayed { end, adapter, kept_step, is_over } => Ok(Replayed { end, adapter, kept_step, is_over }),
            other => Err(format!("the engine answered another question: {other:?}").into()),
        }
    }

    /// Whether the run begins where its seed says and ends with the adapter that was handed in.
    async fn ends_fault(
        &self,
        job: Hash,
        run: &Run,
        result: &TaskResult,
        worker: NodeId,
    ) -> Result<Option<String>, JobError> {
        let beginning = self.replay_to(job, run, None, 0).await?;
        if result.checkpoints.first() != Some(&Hash::of(&beginning.end)) {
            return Ok(Some("the run does not begin where its seed says".into()));
        }
        let last = self.checkpoint(result, result.segments(), worker).await?;
        let at_end = self.replay_to(job, run, Some(last), result.steps).await?;
        if !at_end.is_over {
            return Ok(Some("the run ends before its recipe lets it".into()));
        }
        if Hash::of(&at_end.adapter) != result.adapter || at_end.kept_step != result.kept_step {
            return Ok(Some("the adapter is not the one that the last checkpoint keeps".into()));
        }
        Ok(None)
    }

    async fn segment_fault(
        &self,
        job: Hash,
        run: &Run,
        result: &TaskResult,
        worker: NodeId,
        segment: u32,
        to_step: u32,
    ) -> Result<Option<String>, JobError> {
        let start = self.checkpoint(result, segment, worker).await?;
        let end = self.replay_to(job, run, Some(start), to_step).await?.end;
        let place = usize::try_from(segment).map_err(|error| error.to_string())? + 1;
        let same = result.checkpoints.get(place) == Some(&Hash::of(&end));
        Ok((!same).then(|| format!("segment {segment} ends otherwise when it is executed again")))
    }

    pub(super) async fn check_answer(
        &self,
        job: Hash,
        audit: &Audit,
        release: &Signed<Release>,
    ) -> Result<JobOutcome, JobError> {
        let case = Case::of_audit(audit, release);
        let (fingerprints, found) = self.compute_again(job, &case).await?;
        let checked = (0..fingerprints).take(tributary_protocol::limits::SEGMENTS_MAX).collect();
        let compared = match found {
            Ok(again) => case.compare(&again),
            Err(reason) => Comparison::Unknown(reason),
        };
        Ok(match compared {
            Comparison::Equal => JobOutcome::AnswerChecked(Outcome::Confirmed, checked),
            Comparison::Unknown(reason) => JobOutcome::AnswerChecked(Outcome::Abstained(reason), Vec::new()),
            Comparison::Unequal(claim, reason) => {
                let proof = Box::new(Proof::Answer { case: Box::new(case), claim });
                JobOutcome::AnswerFalse { reason, checked, proof }
            }
        })
    }

    /// Checks an answer, and finds what the absence of those really changes in it without whom an adapter was trained alone.
    pub(super) async fn true_credits(
        &self,
        job: Hash,
        audit: &Audit,
        release: &Signed<Release>,
    ) -> Result<JobOutcome, JobError> {
        match self.check_answer(job, audit, release).await? {
            JobOutcome::AnswerChecked(Outcome::Confirmed, _) => {}
            otherwise => return Ok(otherwise),
        }
        let providers = [release.body.node, audit.receipt.receipt.worker_node];
        let credits = self.credits_by_adapters(job, &release.body, &audit.transcript, &providers).await?;
        Ok(JobOutcome::TrueCredits(credits))
    }

    /// The credits of an answer whose `transcript` this is, by the release's leave-out adapters as far as these were trained.
    pub(super) async fn credits_by_adapters(
        &self,
        job: Hash,
        release: &Release,
        transcript: &[u8],
        providers: &[NodeId],
    ) -> Result<Vec<(u32, i64)>, JobError> {
        let leave_out = left_out_alone(&release.contributors);
        let blobs: Vec<Hash> = leave_out.iter().filter_map(|(_, blob)| *blob).collect();
        let job = Hash::of(&[b"true credits".as_slice(), &job.0].concat());
        let (base, id, transcript) = (release.base, release.adapter, transcript.to_vec());
        let ask = Ask::TrueCredits { job, base, id, leave_out, transcript };
        match self.ask_with(&blobs, providers, std::future::ready(Ok(())), &ask).await? {
            Done::TrueCredits(credits) => Ok(credits),
            other => Err(format!("the engine answered another question: {other:?}").into()),
        }
    }
}
