//! The terms of receipts, built by one function on both sides, so that payer and worker sign what each of
//! them computed itself.

use crate::attribution::{CreditScore, Share, WHOLE, commons_weight, noise_of, shares};
use crate::economy::{self, Beneficiaries, FeePolicy, SplitError};
use crate::envelope::{NetworkId, Signed};
use crate::id::{AccountId, Amount, ChainAddress, Hash, NodeId, TaskId};
use crate::merkle;
use crate::message::{InferenceRequest, Release};
use crate::node::io::FinishedAnswer;
use crate::node::settling::task_of;
use crate::receipt::{AttributionNote, Receipt, Work};
use crate::retrieval::{self, Context};
use crate::task::{Award, TaskOffer, task_id};
use crate::verification::TaskResult;

/// The method of attribution this release of the protocol knows.
pub(crate) const METHOD: &str = "loco-delta";
/// Its version: another one whenever credits, or the shares that they give, are computed otherwise. Proofs of
/// falsification are judged by this version only, so a receipt of an earlier one convicts nobody.
pub(crate) const METHOD_VERSION: u16 = 3;
/// The method where records were to be retrieved: the same beside the Shapley values of [`retrieval`].
pub(crate) const RETRIEVAL_METHOD: &str = "loco-delta+retrieval";
/// Its version, raised with [`METHOD_VERSION`] too, and whenever the passages' form in the prompt changes.
pub(crate) const RETRIEVAL_METHOD_VERSION: u16 = 2;

/// How the shares of such a question's answer are found, and which version of it.
pub(crate) const fn method_of(request: &InferenceRequest) -> (&'static str, u16) {
    match request.retrieve {
        0 => (METHOD, METHOD_VERSION),
        _ => (RETRIEVAL_METHOD, RETRIEVAL_METHOD_VERSION),
    }
}

/// What payer and worker of a training agreed on.
pub(super) struct TrainingTerms<'a> {
    pub(super) network: NetworkId,
    pub(super) offer: &'a Signed<TaskOffer>,
    pub(super) award: &'a Award,
    pub(super) result: &'a TaskResult,
    pub(super) price: Amount,
    pub(super) segments_checked: u16,
    pub(super) verifier: ChainAddress,
    pub(super) treasury: ChainAddress,
}

impl TrainingTerms<'_> {
    fn worker_part(&self) -> Amount {
        super::earned(self.award.price, self.result.steps, self.offer.body.work.steps)
    }

    /// The receipt these terms make.
    pub(super) fn receipt(&self, sequence: u64, finished_ms: u64) -> Result<Receipt, SplitError> {
        let offer = &self.offer.body;
        let to = Beneficiaries {
            worker: self.award.payout,
            treasury: self.treasury,
            builder: offer.payer_address,
            verifier: self.verifier,
        };
        let policy = FeePolicy::TRAINING;
        Ok(Receipt {
            network: self.network.0,
            task: task_id(self.network, self.offer),
            payer: self.offer.account,
            worker: self.award.worker,
            worker_node: self.award.node,
            base: offer.work.base,
            datanet: offer.work.head.datanet,
            head: offer.work.head.id(),
            work: Work::Training {
                adapter: self.result.adapter,
                checkpoints: merkle::root(&self.result.checkpoints),
                steps: self.result.steps,
                leave_out: offer.work.leave_out.clone(),
                segments_checked: self.segments_checked,
            },
            class: self.result.class.clone(),
            attribution: AttributionNote {
                method: "none".into(),
                version: 0,
                index: Hash::default(),
                contributors: Hash::default(),
                quality: None,
            },
            shares: Vec::new(),
            commons: WHOLE,
            price: self.price,
            worker_part: self.worker_part(),
            policy,
            to,
            payments: economy::split(self.price, self.worker_part(), policy, &to, &[])?,
            sequence,
            finished_ms,
        })
    }
}

/// What payer and worker of an answer agreed on.
pub(super) struct AnswerTerms<'a> {
    pub(super) network: NetworkId,
    pub(super) request: &'a Signed<InferenceRequest>,
    pub(super) release: &'a Release,
    pub(super) worker: AccountId,
    pub(super) worker_payout: ChainAddress,
    pub(super) worker_price: Amount,
    pub(super) treasury: ChainAddress,
}

impl AnswerTerms<'_> {
    /// The receipt of `answer` on these terms.
    pub(super) fn receipt(
        &self,
        answer: &FinishedAnswer,
        sequence: u64,
        finished_ms: u64,
    ) -> Result<Receipt, SplitError> {
        let request = &self.request.body;
        let shares = shares_of(self.release, &answer.credits, &answer.context);
        let (method, version) = method_of(request);
        let price = self.worker_price.checked_add(self.release.answer_fee).ok_or(SplitError::Overflow)?;
        let to = Beneficiaries {
            worker: self.worker_payout,
            treasury: self.treasury,
            builder: self.release.builder,
            verifier: request.verifier.unwrap_or(self.treasury),
        };
        let policy = FeePolicy::INFERENCE;
        Ok(Receipt {
            network: self.network.0,
            task: TaskId(self.request.id(self.network).0),
            payer: self.request.account,
            worker: self.worker,
            worker_node: request.worker,
            base: self.release.base,
            datanet: self.release.datanet,
            head: self.release.head,
            work: Work::Inference {
                adapter: request.adapter,
                prompt: request.prompt.commitment(),
                answer: answer.answer,
                prompt_tokens: answer.prompt_tokens,
                answer_tokens: answer.answer_tokens,
                seed: request.decoding.seed,
                fingerprints: answer.fingerprints,
                logprobs: answer.logprobs,
                transcript: answer.transcript,
            },
            class: answer.class.clone(),
            attribution: AttributionNote {
                method: method.into(),
                version,
                index: self.release.index,
                contributors: self.release.contributors_commitment(),
                quality: self.release.quality,
            },
            commons: commons_weight(&shares).unwrap_or(0),
            payments: economy::split(price, self.worker_price, policy, &to, &shares)?,
            shares,
            price,
            worker_part: self.worker_price,
            policy,
            to,
            sequence,
            finished_ms,
        })
    }
}

/// What payer and auditor agree on for a settlement audit: everything is the answer's but who worked, and nobody is paid.
pub(super) struct AuditTerms<'a> {
    pub(super) network: NetworkId,
    pub(super) answer: &'a Receipt,
    /// Account, node and address.
    pub(super) auditor: (AccountId, NodeId, ChainAddress),
}

impl AuditTerms<'_> {
    /// The receipt that says that the answer would have paid these shares.
    pub(super) fn receipt(&self, shares: Vec<Share>, class: &str, finished_ms: u64) -> Result<Receipt, SplitError> {
        let (answer, nothing) = (self.answer, Amount::ZERO);
        let (worker, worker_node, worker_address) = self.auditor;
        let of = answer.id();
        let to = Beneficiaries { worker: worker_address, ..answer.to };
        Ok(Receipt {
            network: self.network.0,
            task: TaskId(task_of(&of, &worker).0),
            payer: answer.payer,
            worker,
            worker_node,
            base: answer.base,
            datanet: answer.datanet,
            head: answer.head,
            work: Work::Audit { of },
            class: class.to_owned(),
            attribution: answer.attribution.clone(),
            commons: commons_weight(&shares).ok_or(SplitError::Overflow)?,
            payments: economy::split(nothing, nothing, answer.policy, &to, &shares)?,
            shares,
            price: nothing,
            worker_part: nothing,
            policy: answer.policy,
            to,
            sequence: finished_ms,
            finished_ms,
        })
    }
}

/// The credits by account; numbers outside the release are dropped.
fn scores(release: &Release, credits: &[(u32, i64)]) -> Vec<CreditScore> {
    credits
        .iter()
        .filter_map(|(number, micro_nats)| {
            let contributor = release.contributors.get(usize::try_from(*number).ok()?)?;
            Some(CreditScore { account: contributor.account, payout: contributor.payout, micro_nats: *micro_nats })
        })
        .collect()
}

/// The shares that credits and context give under `release`; verifiers compare them with a receipt's.
#[must_use]
pub fn shares_of(release: &Release, credits: &[(u32, i64)], context: &Context) -> Vec<Share> {
    let (adapter, noise) = (scores(release, credits), noise_of(release.quality));
    let owner = |passage: &retrieval::Passage| {
        let contributor = release.contributors.get(usize::try_from(passage.contributor).ok()?)?;
        Some((contributor.account, contributor.payout))
    };
    // What is malformed was refused before; here it would have no owner to pay.
    let owners: Option<Vec<_>> = context.passages.iter().map(owner).collect();
    match (context.split(), owners) {
        (Some(split), Some(owners)) => retrieval::shares_with((&adapter, noise), &split, &owners),
        _ => shares(&adapter, noise),
    }
}
