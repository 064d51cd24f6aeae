//! Behaviours: what a peer's driver does with the work its node starts.
//!
//! Invariant: a behaviour changes results and silence, never the node's rules: whoever lies does so with a node
//! that follows the protocol, which is the strongest liar there can be.

use serde::{Deserialize, Serialize};
use tributary_protocol::envelope::Signed;
use tributary_protocol::id::{Hash, NodeId};
use tributary_protocol::message::{Audit, InferenceRequest, Release};
use tributary_protocol::node::{AnswerTranscript, FinishedAnswer, JobOutcome, TrainedAdapter};
use tributary_protocol::proof::{Case, Comparison, Found, Judgement, Proof, Recomputed};
use tributary_protocol::task::FineTune;
use tributary_protocol::verification::{Outcome, TaskResult};

use crate::work;

/// How a peer behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Behaviour {
    /// Does what it says.
    Honest,
    /// Wins tasks, reports to be alive and never gives a result.
    Lazy,
    /// Commits checkpoints it never computed.
    LyingTrainer,
    /// Answers with the base model and takes the adapter's fee.
    LyingAnswerer,
    /// Answers truly and says that one contributor taught everything.
    LyingAttributor,
    /// Takes questions and gives no answer.
    Withholding,
    /// A user that signs receipts and never pays a fee: its driver puts nothing into escrow.
    Unfunded,
    /// No node at all: sends garbage, replays, forged signatures, receipts and vouchers.
    Hostile,
}

impl Behaviour {
    /// Whether it trains at all.
    #[must_use]
    pub fn trains(self) -> bool {
        self != Self::Lazy
    }

    /// Whether it answers at all.
    #[must_use]
    pub fn answers(self) -> bool {
        !matches!(self, Self::Withholding | Self::Lazy)
    }

    /// What its training gives.
    pub(crate) fn train(self, node: &NodeId, task: &FineTune, elapsed_ms: u64) -> TrainedAdapter {
        let mut checkpoints = work::checkpoints(task);
        if self == Self::LyingTrainer {
            for (place, checkpoint) in checkpoints.iter_mut().enumerate().skip(1) {
                let mut invented = node.0.to_vec();
                invented.extend_from_slice(&place.to_le_bytes());
                invented.extend_from_slice(&checkpoint.0);
                *checkpoint = Hash::of(&invented);
            }
        }
        let adapter = work::adapter_of(&checkpoints.last().copied().unwrap_or_default());
        let class = crate::work::CLASS.into();
        TrainedAdapter {
            adapter,
            checkpoints,
            steps: task.steps,
            kept_step: task.steps,
            loss_micro_nats: 1_500_000,
            elapsed_ms,
            class,
        }
    }

    /// What its answer is.
    pub(crate) fn answer(self, request: &InferenceRequest, release: &Release) -> (FinishedAnswer, AnswerTranscript) {
        let adapter = if self == Self::LyingAnswerer { &release.base } else { &request.adapter };
        work::answer(adapter, request, release, |mut credits| {
            if self == Self::LyingAttributor {
                credits.iter_mut().for_each(|credit| credit.1 = if credit.0 == 0 { 5_000_000 } else { 0 });
            }
            credits
        })
    }
}

/// What an honest verifier finds when it executes `segments` of a committed result again.
pub(crate) fn replay(task: &FineTune, result: &TaskResult, segments: &[u32]) -> Outcome {
    let last = result.checkpoints.last().copied().unwrap_or_default();
    if result.checkpoints.first() != Some(&work::first_checkpoint(task)) || result.adapter != work::adapter_of(&last) {
        return Outcome::Refuted("the run does not begin or end where it says".into());
    }
    for segment in segments {
        let Ok(place) = usize::try_from(*segment) else { continue };
        let Some([from, to]) = result.checkpoints.get(place..place + 2) else { continue };
        if work::next_checkpoint(task, from) != *to {
            return Outcome::Refuted(format!("segment {segment} gives another checkpoint"));
        }
    }
    Outcome::Confirmed
}

/// What an honest auditor finds that each contributor's absence really changes in an answer: every index here misses a
/// tenth of the first one's.
pub(crate) fn true_credits(audit: &Audit, release: &Signed<Release>) -> JobOutcome {
    match check_answer(audit, release) {
        JobOutcome::AnswerChecked(Outcome::Confirmed, _) => {
            let request = &audit.request.body;
            let (answer, _) = work::answer(&request.adapter, request, &release.body, |credits| credits);
            let real = |(number, nats): (u32, i64)| (number, if number == 0 { nats + nats / 9 } else { nats });
            JobOutcome::TrueCredits(answer.credits.into_iter().map(real).collect())
        }
        otherwise => otherwise,
    }
}

/// What an honest verifier finds about an answer.
pub(crate) fn check_answer(audit: &Audit, release: &Signed<Release>) -> JobOutcome {
    let request = &audit.request.body;
    let (expected, _) = work::answer(&request.adapter, request, &release.body, |credits| credits);
    let again = Recomputed {
        class: expected.class,
        fault: None,
        answer: expected.answer,
        fingerprints: expected.fingerprints,
        logprobs: expected.logprobs,
        credits: expected.credits,
        losses: expected.context.losses,
    };
    let case = Case::of_audit(audit, release);
    let checked = vec![0];
    match case.compare(&again) {
        Comparison::Equal => JobOutcome::AnswerChecked(Outcome::Confirmed, checked),
        Comparison::Unknown(reason) => JobOutcome::AnswerChecked(Outcome::Abstained(reason), checked),
        Comparison::Unequal(claim, reason) => {
            let proof = Proof::Answer { case: Box::new(case), claim };
            assert_eq!(proof.conclude(&Found::Answer(again)), Judgement::Proven(reason.clone()), "its own proof holds");
            JobOutcome::AnswerFalse { reason, checked, proof: Box::new(proof) }
        }
    }
}
