//! Answering questions: the worker's side of an answer stream.
//!
//! Invariant: a question is taken only when its payer, its price and its model are such that the answer will be
//! paid for; every other ends with a refusal that says whether it is worth asking again.

use std::collections::BTreeMap;

use super::io::{FinishedAnswer, Work};
use super::terms::AnswerTerms;
use super::{Node, Out, Output};
use crate::envelope::{self, Signed};
use crate::id::{AccountId, Amount, Hash, NodeId};
use crate::message::{InferenceRequest, Message, Release};
use crate::receipt::ReceiptOffer;
use crate::refusal::{Refusal, RefusalKind};

struct AnswerJob {
    stream: u64,
    request: Signed<InferenceRequest>,
}

/// The answers this node gives now.
#[derive(Default)]
pub(super) struct Answering {
    jobs: BTreeMap<Hash, AnswerJob>,
}

/// Answers a node gives or holds in its engine's queue at once: with what one machine computes, the last of them begins
/// before its asker gives up waiting. More are refused with a reason, and the asker turns to the next worker.
const ANSWERS_AT_ONCE: usize = 64;

impl Node {
    /// The worker's side: a question came in.
    pub(super) fn question(&mut self, now_ms: u64, from: NodeId, stream: u64, bytes: &[u8], out: &mut Out) {
        match self.check_question(now_ms, from, bytes) {
            Ok((request, release)) => {
                let job = request.id(self.config.network);
                self.answering.jobs.insert(job, AnswerJob { stream, request: request.clone() });
                let work = Work::Answer { request: Box::new(request), release: Box::new(release), stream };
                out.push(Output::Start { job, work });
            }
            Err(refusal) => out.push(Output::RefuseAnswer { stream, refusal }),
        }
    }

    fn check_question(
        &mut self,
        now_ms: u64,
        from: NodeId,
        bytes: &[u8],
    ) -> Result<(Signed<InferenceRequest>, Signed<Release>), Refusal> {
        let opened = envelope::open(bytes, self.config.network, now_ms, &mut self.guard).map_err(text)?;
        let message = Message::from_body(opened.kind, &opened.body).map_err(text)?;
        let Message::Question(request) = message else { return Err(invalid("expected a question")) };
        let body = &request.body;
        if opened.signer != from || body.node != from || body.worker != self.id {
            return Err(invalid("the question is not from you to me"));
        }
        request.verify(self.config.network).map_err(text)?;
        if !self.config.roles.worker || !self.worker.is_serving(&body.adapter) {
            return Err(format!("adapter {} is not served here", body.adapter.short()).into());
        }
        let release = self.worker.release(&body.adapter).ok_or("the adapter's release is unknown here")?;
        self.check_payouts(&release.body)?;
        let own_part = self.answer_price_for(&request.account);
        let price = own_part.checked_add(release.body.answer_fee).ok_or("the price overflows")?;
        if price > body.price_max {
            let (price, most) = (price.to_open(), body.price_max.to_open());
            let reason = format!("the price is {price} OPEN, above the limit of {most} OPEN");
            return Err(Refusal::new(RefusalKind::Price, reason));
        }
        if self.answering.jobs.len() >= ANSWERS_AT_ONCE {
            return Err("busy: try another worker".into());
        }
        if self.answering.jobs.contains_key(&request.id(self.config.network)) {
            return Err("this question is being answered already".into());
        }
        if request.account != self.account {
            let covered = self.receipts.check_exposure(&request.account);
            covered.map_err(|reason| Refusal::new(RefusalKind::Funds, reason))?;
        }
        Ok((*request, release.clone()))
    }

    pub(super) fn answered(&mut self, now_ms: u64, job: Hash, answer: &FinishedAnswer, out: &mut Out) {
        let Some(done) = self.answering.jobs.remove(&job) else { return };
        let Some(release) = self.worker.release(&done.request.body.adapter) else { return };
        let terms = AnswerTerms {
            network: self.config.network,
            request: &done.request,
            release: &release.body,
            worker: self.account,
            worker_payout: self.config.chain_address,
            worker_price: self.answer_price_for(&done.request.account),
            treasury: self.config.treasury,
        };
        match terms.receipt(answer, now_ms, now_ms) {
            Ok(receipt) => {
                let offer = ReceiptOffer::new(receipt, &self.config.account_key);
                let bytes = self.seal(now_ms, &Message::ReceiptOffered(Box::new(offer)));
                out.push(Output::FinishAnswer { stream: done.stream, bytes });
            }
            Err(error) => out.push(Output::RefuseAnswer { stream: done.stream, refusal: error.to_string().into() }),
        }
    }

    /// Refuses a release that pays somebody else for a contributor's records, as far as the datanet's logs are known here.
    pub(super) fn check_payouts(&self, release: &Release) -> Result<(), Refusal> {
        let Some(account) = self.datanet(&release.datanet).and_then(|datanet| release.redirected(datanet)) else {
            return Ok(());
        };
        let reason = format!("the model pays contributor {} at an address that he did not name", account.short());
        Err(Refusal::new(RefusalKind::Invalid, reason))
    }

    /// What this node asks `payer` for an answer: nobody pays himself.
    fn answer_price_for(&self, payer: &AccountId) -> Amount {
        if *payer == self.account { Amount::ZERO } else { self.config.answer_price }
    }

    /// Whether `job` was an answer of this node, whose stream then ends with the reason.
    pub(super) fn answer_job_failed(&mut self, job: Hash, refusal: &Refusal, out: &mut Out) -> bool {
        let Some(failed) = self.answering.jobs.remove(&job) else { return false };
        out.push(Output::RefuseAnswer { stream: failed.stream, refusal: refusal.clone() });
        true
    }
}

fn text(error: impl ToString) -> Refusal {
    error.to_string().into()
}

fn invalid(reason: &str) -> Refusal {
    Refusal::new(RefusalKind::Invalid, reason)
}
