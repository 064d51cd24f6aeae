//! The worker's side: bidding, training jobs, and the adapters it answers with.
//!
//! Invariant: a task that was won is durable before work on it starts, and its result before it is sent; after
//! a restart the job goes on from its checkpoints.

use std::collections::{BTreeMap, BTreeSet};

use super::io::{TrainedAdapter, Work};
use super::terms::TrainingTerms;
use super::{Event, Fact, Node, Out, Output};
use crate::envelope::{NetworkId, Signed};
use crate::id::{Amount, Hash, NodeId, TaskId};
use crate::limits::{
    ACCOUNT_PART, ANNOUNCE_MS, BID_HOLDS_MS, CURVE_POINTS_MAX, HEARTBEAT_MS, JOB_START_MAX_MS, OUTBOX_MAX, RETRY_MS,
    SERVING_MAX, TASKS_MAX,
};
use crate::message::{Accepted, BidSealed, Heartbeat, Measurement, Message, Release, TaskRound};
use crate::receipt::ReceiptOffer;
use crate::refusal::{DeclineReason, Declined, Refusal};
use crate::task::{Award, Bid, TaskOffer, task_id};
use crate::verification::TaskResult;

pub(super) struct OpenBid {
    offer: Signed<TaskOffer>,
    bid: Bid,
    sent_ms: u64,
}

pub(super) struct Job {
    pub(super) offer: Signed<TaskOffer>,
    pub(super) award: Award,
    pub(super) result: Option<Signed<TaskResult>>,
    /// How far it is; its points are those of `curve` that were not told twice yet.
    pub(super) progress: Option<Heartbeat>,
    /// All points, kept until the job ends.
    curve: Vec<Measurement>,
    /// How many of them went out with the last beat, and with the one before.
    told: [usize; 2],
    started: bool,
    since_ms: u64,
    sent_ms: u64,
}

#[derive(Default)]
pub(super) struct Worker {
    bids: BTreeMap<TaskId, OpenBid>,
    pub(super) jobs: BTreeMap<TaskId, Job>,
    releases: BTreeMap<Hash, Signed<Release>>,
    serving: BTreeSet<Hash>,
    load_asked: BTreeMap<Hash, u64>,
    /// Adapters that made room for others.
    dropped: BTreeSet<Hash>,
    /// When each requester was last told why its offer is declined.
    declined_ms: BTreeMap<NodeId, u64>,
    release_heard_ms: BTreeMap<Hash, u64>,
}

/// How long until the driver is asked again to load an adapter whose files it could not get.
const LOAD_RETRY_MS: u64 = 10_000;

/// Requesters are told no oftener than this, in milliseconds, why their offers are declined.
const DECLINE_INTERVAL_MS: u64 = 1_000;
/// About this many workers of a network of any size say why they decline an offer.
const DECLINES_PER_OFFER: usize = 16;

impl Worker {
    pub(super) fn apply_won(&mut self, offer: Signed<TaskOffer>, award: Award) {
        self.bids.remove(&award.task);
        let job = Job {
            offer,
            result: None,
            progress: None,
            curve: Vec::new(),
            told: [0, 0],
            started: false,
            since_ms: 0,
            sent_ms: 0,
            award,
        };
        self.jobs.insert(job.award.task, job);
    }

    pub(super) fn apply_finished(&mut self, result: Signed<TaskResult>) {
        if let Some(job) = self.jobs.get_mut(&result.body.task) {
            job.result = Some(result);
            job.sent_ms = 0;
        }
    }

    pub(super) fn apply_closed(&mut self, task: TaskId) {
        self.jobs.remove(&task);
    }

    pub(super) fn apply_release(&mut self, release: Signed<Release>) {
        self.releases.insert(release.body.adapter, release);
    }

    pub(super) fn progress(&mut self, mut beat: Heartbeat) {
        if let Some(job) = self.jobs.get_mut(&beat.task) {
            let room = CURVE_POINTS_MAX.saturating_sub(job.curve.len());
            job.curve.extend(std::mem::take(&mut beat.curve).into_iter().take(room));
            job.progress = Some(beat);
        }
    }

    pub(super) fn serve(&mut self, adapter: Hash) {
        if self.releases.contains_key(&adapter) && self.serving.len() < SERVING_MAX {
            self.serving.insert(adapter);
        }
    }

    /// Takes an adapter out of service; new ones may have its place, itself only after a restart.
    pub(super) fn drop_served(&mut self, adapter: Hash) {
        self.serving.remove(&adapter);
        if self.releases.contains_key(&adapter) {
            self.dropped.insert(adapter);
        }
    }

    pub(super) fn serving(&self) -> Vec<Hash> {
        self.serving.iter().copied().collect()
    }

    pub(super) fn is_serving(&self, adapter: &Hash) -> bool {
        self.serving.contains(adapter)
    }

    pub(super) fn release(&self, adapter: &Hash) -> Option<&Signed<Release>> {
        self.releases.get(adapter)
    }

    pub(super) fn releases(&self) -> impl Iterator<Item = &Signed<Release>> {
        self.releases.values()
    }

    fn training(&self) -> usize {
        self.jobs.values().filter(|job| job.result.is_none()).count() + self.bids.len()
    }
}

impl Node {
    /// A task is offered: bid if it fits, else say why not.
    pub(super) fn offer(&mut self, now_ms: u64, from: NodeId, offer: Signed<TaskOffer>, out: &mut Out) {
        let network = self.config.network;
        let task = task_id(network, &offer);
        let known = self.worker.bids.contains_key(&task) || self.worker.jobs.contains_key(&task);
        if !self.config.roles.worker || known || !offer.body.is_timely(now_ms) {
            return;
        }
        let bid = self.appraise(task, &offer.body);
        if bid.is_err() && !self.may_decline(now_ms, from, &task) {
            return;
        }
        if offer.body.node != from || offer.verify(network).is_err() {
            return self.blame(Some(from), "offered a task of somebody else".into(), out);
        }
        let answer = match bid {
            Ok(bid) => {
                let sealed = BidSealed { task, commitment: bid.commitment() };
                self.worker.bids.insert(task, OpenBid { offer, bid, sent_ms: now_ms });
                Message::BidSealed(sealed)
            }
            Err(reason) => {
                self.worker.declined_ms.insert(from, now_ms);
                Message::Declined(Declined { task, reason })
            }
        };
        self.send(now_ms, from, &answer, out);
    }

    /// This node's bid on an offer, or why it makes none.
    fn appraise(&self, task: TaskId, offer: &TaskOffer) -> Result<Bid, DeclineReason> {
        if self.datanets.get(&offer.work.head.datanet).is_none() {
            return Err(DeclineReason::DatanetUnknown);
        }
        let steps = offer.work.steps;
        let price = self.config.training_price_per_kilostep.checked_mul_div(steps.into(), 1_000);
        let price = Amount(price.unwrap_or(Amount(u128::MAX)).0.max(1));
        let asks = super::training_price(price).unwrap_or(Amount(u128::MAX));
        if asks > offer.budget {
            return Err(DeclineReason::BudgetTooLow { asks });
        }
        let slots = usize::try_from(self.config.training_slots).unwrap_or(usize::MAX);
        if self.worker.training() >= slots {
            return Err(DeclineReason::Busy);
        }
        let expected_ms = self.config.training_ms_per_kilostep.saturating_mul(steps.into()) / 1_000;
        Ok(Bid {
            task,
            worker: self.account,
            node: self.id,
            payout: self.config.chain_address,
            price,
            expected_ms,
            nonce: self.derived("bid", &task.0),
        })
    }

    /// Some workers of a large network speak for all, and none speaks often: an offer must not bring a flood.
    fn may_decline(&mut self, now_ms: u64, requester: NodeId, task: &TaskId) -> bool {
        let recent = |told: &u64| now_ms.saturating_sub(*told) < DECLINE_INTERVAL_MS;
        super::trim(&mut self.worker.declined_ms, OUTBOX_MAX, recent);
        let told = self.worker.declined_ms.get(&requester).is_some_and(recent);
        let draw = self.derived("decline", &task.0).0;
        let draw = usize::from(u16::from_le_bytes([draw[0], draw[1]]));
        !told && self.worker.declined_ms.len() <= OUTBOX_MAX && draw % self.peers.count().max(1) < DECLINES_PER_OFFER
    }

    pub(super) fn awarded(&mut self, now_ms: u64, from: NodeId, award: &Signed<Award>, out: &mut Out) {
        let body = &award.body;
        if body.node != self.id || self.worker.jobs.contains_key(&body.task) {
            return;
        }
        let refusal = Message::Cancelled(TaskRound { task: body.task, round: body.round });
        let Some(open) = self.worker.bids.get(&body.task) else {
            return self.send(now_ms, from, &refusal, out);
        };
        let agreed = open.bid.price == body.price && open.bid.payout == body.payout && open.offer.body.node == from;
        let by_requester = award.account == open.offer.account && award.verify(self.config.network).is_ok();
        if !agreed || !by_requester {
            return self.blame(Some(from), "awarded other terms than were bid".into(), out);
        }
        let offer = Box::new(open.offer.clone());
        self.record(Fact::JobWon { offer, award: body.clone() }, out);
        out.event(Event::JobWon(body.task));
        self.worker_tick(now_ms, out);
    }

    /// The requester does not want this round any more, or the worker does not have it.
    pub(super) fn cancelled(&mut self, now_ms: u64, from: NodeId, round: TaskRound, out: &mut Out) {
        let job = self.worker.jobs.get(&round.task);
        if job.is_some_and(|job| job.offer.body.node == from && job.award.round == round.round) {
            return self.close_job(round.task, "the requester stopped it or gave it to somebody else", out);
        }
        let requests = self.requester.requests.iter();
        let refused = requests
            .filter(|(_, request)| request.task == Some(round.task))
            .find(|(_, request)| {
                request.award.as_ref().is_some_and(|award| award.body.node == from && award.body.round == round.round)
            })
            .map(|(key, request)| (*key, request.phase.clone()));
        if let Some((key, super::Phase::Leased)) = refused {
            self.lapse(key, from, "the worker does not know its bid any more".into(), out);
            self.requester_tick(now_ms, out);
        }
    }

    fn close_job(&mut self, task: TaskId, reason: &str, out: &mut Out) {
        self.record(Fact::JobClosed(task), out);
        out.push(Output::Stop { job: Hash(task.0) });
        out.event(Event::JobLost { task, reason: reason.to_owned() });
    }

    pub(super) fn trained(&mut self, now_ms: u64, job: Hash, trained: TrainedAdapter, out: &mut Out) {
        let task = TaskId(job.0);
        let Some(won) = self.worker.jobs.get(&task) else { return };
        let body = TaskResult {
            task,
            round: won.award.round,
            adapter: trained.adapter,
            checkpoints: trained.checkpoints,
            steps: trained.steps,
            kept_step: trained.kept_step,
            loss_micro_nats: trained.loss_micro_nats,
            elapsed_ms: trained.elapsed_ms,
            class: trained.class,
        };
        if !body.is_well_formed() {
            return self.close_job(task, "the run made no segments that could be checked", out);
        }
        let result = Signed::new(self.config.network, &self.config.account_key, body);
        self.record(Fact::JobFinished(Box::new(result)), out);
        self.worker_tick(now_ms, out);
    }

    pub(super) fn job_failed(&mut self, now_ms: u64, job: Hash, refusal: Refusal, out: &mut Out) {
        let reason = &refusal.reason;
        if self.abstain(now_ms, job, reason, out) || self.answer_job_failed(job, &refusal, out) {
            return;
        }
        let task = TaskId(job.0);
        if let Some(won) = self.worker.jobs.get(&task) {
            let (requester, round) = (won.offer.body.node, TaskRound { task, round: won.award.round });
            let reason = DeclineReason::unable(&refusal.reason);
            self.send(now_ms, requester, &Message::Declined(Declined { task, reason }), out);
            self.send(now_ms, requester, &Message::Cancelled(round), out);
            self.close_job(task, &refusal.reason, out);
        }
    }

    /// The requester accepts the result: offer the receipt.
    pub(super) fn accepted(&mut self, now_ms: u64, from: NodeId, accepted: &Accepted, out: &mut Out) {
        let Some(job) = self.worker.jobs.get(&accepted.task).filter(|job| job.offer.body.node == from) else { return };
        let Some(result) = &job.result else { return };
        let earned = super::earned(job.award.price, result.body.steps, job.offer.body.work.steps);
        if super::training_price(earned) != Some(accepted.price) {
            return self.blame(Some(from), "accepted at another price than was agreed".into(), out);
        }
        let terms = TrainingTerms {
            network: self.config.network,
            offer: &job.offer,
            award: &job.award,
            result: &result.body,
            price: accepted.price,
            segments_checked: accepted.segments_checked,
            verifier: accepted.verifier,
            treasury: self.config.treasury,
        };
        if let Ok(receipt) = terms.receipt(now_ms, now_ms) {
            let offer = ReceiptOffer::new(receipt, &self.config.account_key);
            self.send(now_ms, from, &Message::ReceiptOffered(Box::new(offer)), out);
        }
    }

    pub(super) fn worker_tick(&mut self, now_ms: u64, out: &mut Out) {
        self.tick_bids(now_ms, out);
        self.tick_jobs(now_ms, out);
        self.tick_loads(now_ms, out);
    }

    fn tick_bids(&mut self, now_ms: u64, out: &mut Out) {
        self.worker.bids.retain(|_, open| now_ms <= open.offer.body.reveals_until_ms.saturating_add(BID_HOLDS_MS));
        let mut messages = Vec::new();
        for open in self.worker.bids.values_mut() {
            let offer = &open.offer.body;
            let revealing = now_ms > offer.bids_until_ms && now_ms <= offer.reveals_until_ms;
            let sealing = now_ms <= offer.bids_until_ms;
            if revealing && now_ms.saturating_sub(open.sent_ms) >= RETRY_MS / 4 {
                open.sent_ms = now_ms;
                messages.push((offer.node, Message::BidOpened(open.bid.clone())));
            } else if sealing && now_ms.saturating_sub(open.sent_ms) >= RETRY_MS / 4 {
                open.sent_ms = now_ms;
                let sealed = BidSealed { task: open.bid.task, commitment: open.bid.commitment() };
                messages.push((offer.node, Message::BidSealed(sealed)));
            }
        }
        for (to, message) in messages {
            self.send(now_ms, to, &message, out);
        }
    }

    fn tick_jobs(&mut self, now_ms: u64, out: &mut Out) {
        let mut messages = Vec::new();
        let mut overdue = Vec::new();
        for (task, job) in &mut self.worker.jobs {
            if now_ms > job.offer.body.deadline_ms.saturating_add(crate::limits::VERIFY_TIMEOUT_MS) {
                overdue.push(*task);
                continue;
            }
            if job.since_ms == 0 {
                job.since_ms = now_ms;
            }
            if !job.started && job.result.is_none() && now_ms.saturating_sub(job.since_ms) > JOB_START_MAX_MS {
                overdue.push(*task);
                continue;
            }
            if !job.started && job.result.is_none() && self.datanets.has_all(&job.offer.body.work.head) {
                job.started = true;
                let work = Work::Train { offer: Box::new(job.offer.clone()), award: job.award.clone() };
                out.push(Output::Start { job: Hash(task.0), work });
            }
            let requester = job.offer.body.node;
            messages.extend(job.due_messages(now_ms, *task).into_iter().map(|message| (requester, message)));
        }
        for (to, message) in messages {
            self.send(now_ms, to, &message, out);
        }
        for task in overdue {
            self.close_job(task, "its deadline passed, or its data could not be had", out);
        }
        super::trim(&mut self.worker.jobs, TASKS_MAX, |job| job.result.is_none());
    }

    /// Asks the driver for the files of released adapters this node could answer with or check.
    fn tick_loads(&mut self, now_ms: u64, out: &mut Out) {
        if !self.config.roles.worker && !self.config.roles.verifier {
            return;
        }
        for (adapter, release) in &self.worker.releases {
            let asked = self.worker.load_asked.get(adapter).copied().unwrap_or(0);
            let due = asked == 0 || now_ms.saturating_sub(asked) >= LOAD_RETRY_MS;
            let is_out = !self.worker.serving.contains(adapter) && !self.worker.dropped.contains(adapter);
            if is_out && due && self.worker.serving.len() < SERVING_MAX {
                self.worker.load_asked.insert(*adapter, now_ms);
                out.push(Output::Load { release: Box::new(release.clone()) });
            }
        }
    }

    pub(super) fn publish_release(&mut self, now_ms: u64, release: Release, out: &mut Out) {
        let signed = Signed::new(self.config.network, &self.config.account_key, release);
        self.worker.releases.remove(&signed.body.adapter);
        self.take_release(signed.clone(), out);
        self.publish(now_ms, Message::Release(Box::new(signed)), out);
    }

    pub(super) fn release(&mut self, now_ms: u64, from: NodeId, release: Signed<Release>, out: &mut Out) {
        if let Some(known) = self.worker.releases.get(&release.body.adapter) {
            if *known == release {
                self.worker.release_heard_ms.insert(release.body.adapter, now_ms);
            }
            return;
        }
        // Whoever trained or checked an adapter knows it before its builder releases it; only who paid may.
        let foreign = release.account != self.account && self.requester.paid_for(&release.body.adapter);
        if !foreign && verify_release(self.config.network, &release) {
            self.take_release(release, out);
        } else {
            self.blame(Some(from), "sent a release with a bad signature".into(), out);
        }
    }

    fn take_release(&mut self, release: Signed<Release>, out: &mut Out) {
        let of_account = || self.worker.releases.values().filter(|one| one.account == release.account).count();
        let room = self.worker.releases.len() < TASKS_MAX && of_account() < TASKS_MAX / ACCOUNT_PART;
        let own = release.account == self.account;
        if !(room || own) || self.worker.releases.contains_key(&release.body.adapter) {
            return;
        }
        self.record(Fact::Released(Box::new(release.clone())), out);
        out.event(Event::Released(Box::new(release)));
    }

    /// Announces the releases this node provides or serves and that nobody else announced lately.
    pub(super) fn announce_releases(&mut self, now_ms: u64, out: &mut Out) {
        let releases: Vec<Signed<Release>> = self
            .worker
            .releases
            .values()
            .filter(|release| release.body.node == self.id || self.worker.serving.contains(&release.body.adapter))
            .filter(|release| {
                let heard = self.worker.release_heard_ms.get(&release.body.adapter).copied().unwrap_or(0);
                now_ms.saturating_sub(heard) >= ANNOUNCE_MS
            })
            .cloned()
            .collect();
        for release in releases {
            self.publish(now_ms, Message::Release(Box::new(release)), out);
        }
    }
}

fn verify_release(network: NetworkId, release: &Signed<Release>) -> bool {
    release.verify(network).is_ok()
}

impl Job {
    /// What the requester should hear now: a sign of life, or the result once there is one, with the whole curve before it
    /// the first time.
    fn due_messages(&mut self, now_ms: u64, task: TaskId) -> Vec<Message> {
        let interval_ms = if self.result.is_some() { RETRY_MS } else { HEARTBEAT_MS };
        if now_ms.saturating_sub(self.sent_ms) < interval_ms {
            return Vec::new();
        }
        self.sent_ms = now_ms;
        let Some(result) = self.result.clone() else {
            return vec![Message::Heartbeat(self.beat(task))];
        };
        let result = Message::Result(Box::new(result));
        let is_new = self.told[1] < self.curve.len();
        self.told = [0, 0];
        let beat = is_new.then(|| Message::Heartbeat(self.beat(task)));
        self.told = [self.curve.len(); 2];
        beat.into_iter().chain([result]).collect()
    }

    /// How far the job is, with the points of the curve that were told less than twice: a message may be lost.
    fn beat(&mut self, task: TaskId) -> Heartbeat {
        let round = self.award.round;
        let idle = Heartbeat { task, round, step: 0, steps: 0, loss_micro_nats: 0, tokens_per_s: 0, curve: Vec::new() };
        let curve = self.curve.get(self.told[0]..).unwrap_or_default().to_vec();
        self.told = [self.told[1], self.curve.len()];
        Heartbeat { round, curve, ..self.progress.clone().unwrap_or(idle) }
    }
}
