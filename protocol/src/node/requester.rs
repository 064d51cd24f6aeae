//! The requester's side of fine-tune tasks: auction, lease, check, payment.
//!
//! Invariant: a request is paid at most once, by one receipt, however often its task was offered, awarded or
//! restarted; a worker is paid only for a committed result that was checked, or that nobody could check, and
//! whose adapter the requester holds.

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};

use super::terms::TrainingTerms;
use super::{Event, Fact, Node, Out, Output, phases::Waiting};
use crate::envelope::Signed;
use crate::id::{Amount, ChainAddress, Hash, NodeId, ReceiptId, TaskId};
use crate::limits::{BID_WINDOW_MS, BIDS_MAX, CURVE_POINTS_MAX, REVEAL_WINDOW_MS, TASKS_MAX};
use crate::message::{Heartbeat, Measurement, Message, TaskRound, computes_in};
use crate::receipt::ReceiptOffer;
use crate::refusal::{DeclineReason, Declined};
use crate::task::{Auction, Award, FineTune, Record, TaskOffer, task_id};
use crate::verification::{Outcome, Subject, TaskResult, Verdict, beacon_commitment};

/// The user wants an adapter trained.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct FineTuneCommand {
    /// The user's key: a second command with it changes nothing.
    pub key: Hash,
    /// What to train.
    pub work: FineTune,
    /// The most to pay, fees included.
    pub budget: Amount,
    /// When the result must be there, in milliseconds since 1970.
    pub deadline_ms: u64,
    /// Segments to be executed again.
    pub segments_checked: u16,
}

/// Where a request stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// No worker yet.
    Auction,
    /// A worker has it.
    Leased,
    /// The committed result is being checked.
    Checking,
    /// The result holds; the worker's receipt is awaited.
    Settling,
    /// Paid.
    Done(ReceiptId),
    /// Given up.
    Failed(String),
}

/// A request as the user sees it.
#[derive(Debug, Clone)]
pub struct RequestView {
    /// What was wanted.
    pub command: FineTuneCommand,
    /// Where it stands.
    pub phase: Phase,
    /// The task it was last offered as.
    pub task: Option<TaskId>,
    /// Sealed and opened bids of the present auction.
    pub bids: (usize, usize),
    /// How often the task was offered.
    pub offers: u64,
    /// Workers that heard an offer and do not bid, each with its last word.
    pub declines: Vec<(NodeId, DeclineReason)>,
    /// Who has it.
    pub award: Option<Award>,
    /// How far the worker is.
    pub progress: Option<Heartbeat>,
    /// The committed result.
    pub result: Option<TaskResult>,
    /// The finding about it.
    pub verdict: Option<Signed<Verdict>>,
}

pub(super) struct Request {
    pub(super) command: FineTuneCommand,
    pub(super) offer: Option<Signed<TaskOffer>>,
    pub(super) task: Option<TaskId>,
    task_awarded: bool,
    pub(super) attempts: u64,
    pub(super) auction: Auction,
    declines: BTreeMap<NodeId, DeclineReason>,
    pub(super) round: u32,
    pub(super) phase: Phase,
    pub(super) award: Option<Signed<Award>>,
    pub(super) progress: Option<Heartbeat>,
    pub(super) curve: BTreeMap<u32, Measurement>,
    pub(super) result: Option<Signed<TaskResult>>,
    pub(super) verdict: Option<Signed<Verdict>>,
    pub(super) verifier_payout: Option<ChainAddress>,
    pub(super) adapter_held: bool,
    /// Workers that had it and failed.
    failed_by: BTreeSet<NodeId>,
    /// The last word of one of them.
    last_said: Option<String>,
    pub(super) wait: Waiting,
}

#[derive(Default)]
pub(super) struct Requester {
    pub(super) requests: BTreeMap<Hash, Request>,
    tasks: BTreeMap<TaskId, Hash>,
    records: BTreeMap<NodeId, Record>,
    /// Workers one of whose results was refuted: they get a task only when nobody else bids.
    refuted: BTreeSet<NodeId>,
}

/// The price of a training whose worker asks `worker`: a twentieth more, which pays treasury and verifiers.
#[must_use]
pub fn training_price(worker: Amount) -> Option<Amount> {
    worker.checked_add(Amount(worker.0 / 20))
}

/// What a worker has earned that did `steps` of the `offered` ones for which it asks `price`: a run may end early where
/// its recipe says so, and is paid by the step.
#[must_use]
pub fn earned(price: Amount, steps: u32, offered: u32) -> Amount {
    let part = price.checked_mul_div(steps.into(), offered.max(1).into());
    if steps < offered { part.unwrap_or(price) } else { price }
}

/// The most a worker may ask so that the price stays within `budget`.
fn worker_ceiling(budget: Amount) -> Amount {
    budget.checked_mul_div(20, 21).unwrap_or_default()
}

impl Requester {
    pub(super) fn apply_requested(&mut self, command: FineTuneCommand) {
        super::trim(&mut self.requests, TASKS_MAX, |request| {
            !matches!(request.phase, Phase::Done(_) | Phase::Failed(_))
        });
        let request = Request {
            offer: None,
            task: None,
            task_awarded: false,
            attempts: 0,
            auction: Auction::default(),
            declines: BTreeMap::new(),
            round: 0,
            phase: Phase::Auction,
            award: None,
            progress: None,
            curve: BTreeMap::new(),
            result: None,
            verdict: None,
            verifier_payout: None,
            adapter_held: false,
            failed_by: BTreeSet::new(),
            last_said: None,
            wait: Waiting::default(),
            command,
        };
        self.requests.entry(request.command.key).or_insert(request);
    }

    pub(super) fn apply_offered(&mut self, network: crate::envelope::NetworkId, key: Hash, offer: Signed<TaskOffer>) {
        let task = task_id(network, &offer);
        if let Some(request) = self.requests.get_mut(&key) {
            let unawarded = request.task.filter(|_| !request.task_awarded);
            request.offer = Some(offer);
            request.task = Some(task);
            request.task_awarded = false;
            request.attempts += 1;
            request.auction.reopen();
            self.tasks.insert(task, key);
            // Nobody can come back to an offer that was given to nobody.
            if let Some(unawarded) = unawarded {
                self.tasks.remove(&unawarded);
            }
        }
    }

    pub(super) fn apply_award(&mut self, key: Hash, award: Signed<Award>) {
        if let Some(request) = self.requests.get_mut(&key) {
            request.round = award.body.round;
            request.task_awarded = true;
            request.declines.clear();
            request.award = Some(award);
            request.phase = Phase::Leased;
            request.wait = Waiting::default();
        }
    }

    pub(super) fn apply_lapsed(&mut self, key: Hash, node: NodeId) {
        self.records.entry(node).or_default().failed += 1;
        if let Some(request) = self.requests.get_mut(&key) {
            request.auction.exclude(node);
            request.failed_by.insert(node);
            request.award = None;
            request.progress = None;
            request.curve.clear();
            request.result = None;
            request.verdict = None;
            request.verifier_payout = None;
            request.adapter_held = false;
            request.phase = Phase::Auction;
            request.wait = Waiting::default();
        }
    }

    pub(super) fn apply_result(&mut self, key: Hash, result: Signed<TaskResult>) {
        if let Some(request) = self.requests.get_mut(&key) {
            request.result = Some(result);
            request.phase = Phase::Checking;
            request.wait = Waiting::default();
        }
    }

    pub(super) fn apply_checked(&mut self, key: Hash, verdict: Option<Signed<Verdict>>) {
        if let Some(request) = self.requests.get_mut(&key) {
            request.verdict = verdict;
            request.phase = Phase::Settling;
            request.wait = Waiting::default();
        }
    }

    pub(super) fn apply_payout(&mut self, key: Hash, to: ChainAddress) {
        if let Some(request) = self.requests.get_mut(&key) {
            request.verifier_payout = Some(to);
        }
    }

    pub(super) fn apply_failed(&mut self, key: Hash, reason: String) {
        if let Some(request) = self.requests.get_mut(&key) {
            request.phase = Phase::Failed(reason);
        }
    }

    pub(super) fn apply_settled(&mut self, key: Hash, receipt: ReceiptId) {
        if let Some(request) = self.requests.get_mut(&key) {
            request.phase = Phase::Done(receipt);
            if let Some(award) = &request.award {
                self.records.entry(award.body.node).or_default().confirmed += 1;
            }
        }
    }

    pub(super) fn apply_refuted(&mut self, node: NodeId) {
        self.refuted.insert(node);
    }

    pub(super) fn is_refuted(&self, node: &NodeId) -> bool {
        self.refuted.contains(node)
    }

    /// Whether this node had `adapter` trained.
    pub(super) fn paid_for(&self, adapter: &Hash) -> bool {
        let results = self.requests.values().filter_map(|request| request.result.as_ref());
        results.into_iter().any(|result| result.body.adapter == *adapter)
    }

    pub(super) fn record_of(&self, node: &NodeId) -> Record {
        self.records.get(node).copied().unwrap_or_default()
    }

    fn of_task(&mut self, task: &TaskId) -> Option<&mut Request> {
        let key = self.tasks.get(task)?;
        self.requests.get_mut(key)
    }

    fn key_of(&self, task: &TaskId) -> Option<Hash> {
        self.tasks.get(task).copied()
    }

    pub(super) fn fetched(&mut self, blob: Hash) {
        for request in self.requests.values_mut() {
            if request.result.as_ref().is_some_and(|result| result.body.adapter == blob) {
                request.adapter_held = true;
            }
        }
    }
}

impl Request {
    /// Why it is given up after its last round: how many workers tried, and what they said of it.
    pub(super) fn given_up(&self) -> String {
        let tried = match self.failed_by.len() {
            1 => "one worker".to_owned(),
            several => format!("{several} workers"),
        };
        let said = self.last_said.as_ref().map(|says| format!(": {says}")).unwrap_or_default();
        format!("{tried} failed it in {} attempts{said}", self.round)
    }

    pub(super) fn view(&self) -> RequestView {
        RequestView {
            command: self.command.clone(),
            phase: self.phase.clone(),
            task: self.task,
            bids: self.auction.counts(),
            offers: self.attempts,
            declines: self.declines.iter().map(|(node, reason)| (*node, reason.clone())).collect(),
            award: self.award.as_ref().map(|award| award.body.clone()),
            progress: self.progress.clone(),
            result: self.result.as_ref().map(|result| result.body.clone()),
            verdict: self.verdict.clone(),
        }
    }

    /// Whether `from` is the node that has the present round.
    fn is_leased_to(&self, from: NodeId, round: u32) -> bool {
        self.award.as_ref().is_some_and(|award| award.body.node == from && award.body.round == round)
    }
}

impl Node {
    pub(super) fn fine_tune(&mut self, now_ms: u64, command: FineTuneCommand, out: &mut Out) {
        if self.requester.requests.contains_key(&command.key) || self.asker.receipt_of(&command.key).is_some() {
            return;
        }
        let key = command.key;
        self.record(Fact::Requested(command), out);
        self.make_offer(now_ms, key, out);
    }

    /// Offers the request's task, anew if it was offered before.
    pub(super) fn make_offer(&mut self, now_ms: u64, key: Hash, out: &mut Out) {
        let Some(request) = self.requester.requests.get(&key) else { return };
        let nonce = request.attempts;
        let command = request.command.clone();
        let secret = self.beacon_secret(key, nonce);
        let body = TaskOffer {
            node: self.id,
            payer_address: self.config.chain_address,
            work: command.work,
            budget: command.budget,
            bids_until_ms: now_ms + BID_WINDOW_MS,
            reveals_until_ms: now_ms + BID_WINDOW_MS + REVEAL_WINDOW_MS,
            deadline_ms: command.deadline_ms,
            segments_checked: command.segments_checked,
            beacon_commitment: beacon_commitment(&secret),
            nonce,
        };
        if !body.is_well_formed() {
            let reason = "the deadline leaves no time for an auction, or the recipe is too long".to_owned();
            return self.fail_request(key, reason, out);
        }
        let offer = Signed::new(self.config.network, &self.config.account_key, body);
        self.record(Fact::Offered { key, offer: Box::new(offer.clone()) }, out);
        self.publish(now_ms, Message::Offer(Box::new(offer.clone())), out);
        let from = self.id;
        self.offer(now_ms, from, offer, out);
    }

    pub(super) fn beacon_secret(&self, key: Hash, nonce: u64) -> Hash {
        let mut subject = key.0.to_vec();
        subject.extend_from_slice(&nonce.to_le_bytes());
        self.derived("beacon", &subject)
    }

    pub(super) fn fail_request(&mut self, key: Hash, reason: String, out: &mut Out) {
        self.record(Fact::RequestFailed { key, reason: reason.clone() }, out);
        out.event(Event::TaskFailed { key, reason });
    }

    pub(super) fn bid_sealed(&mut self, now_ms: u64, from: NodeId, bid: crate::message::BidSealed) {
        let Some(request) = self.requester.of_task(&bid.task) else { return };
        if let (Some(offer), Phase::Auction) = (&request.offer, &request.phase) {
            // A late or repeated bid is the bidder's loss; nothing follows from it here.
            let _ = request.auction.commit(now_ms, &offer.body, from, bid.commitment);
            // Who was unable before may well be so again: its word stays until somebody has the task.
            request.declines.retain(|node, reason| *node != from || matches!(reason, DeclineReason::Unable { .. }));
        }
    }

    /// A worker says why it does not bid, or why it gives the task back.
    pub(super) fn declined(&mut self, from: NodeId, declined: Declined) {
        let works = |node| self.peers.get(node).is_some_and(|peer| peer.record.roles.worker);
        let is_worker = from == self.id || works(&from);
        let Some(request) = self.requester.of_task(&declined.task).filter(|_| is_worker) else { return };
        let leased = request.award.as_ref().is_some_and(|award| award.body.node == from);
        let heard = match request.phase {
            Phase::Auction => true,
            Phase::Leased => leased,
            _ => false,
        };
        if heard && (request.declines.len() < BIDS_MAX || request.declines.contains_key(&from)) {
            if let DeclineReason::Unable { says } = &declined.reason {
                request.last_said = Some(says.clone());
            }
            request.declines.insert(from, declined.reason);
        }
    }

    /// The user does not want a request any more. What a worker has committed is checked and paid all the same.
    pub(super) fn stop_fine_tune(&mut self, now_ms: u64, key: Hash, out: &mut Out) {
        let Some(request) = self.requester.requests.get(&key) else { return };
        let award = match request.phase {
            Phase::Auction => None,
            Phase::Leased => request.award.as_ref().map(|award| award.body.clone()),
            _ => return,
        };
        self.fail_request(key, "stopped by its requester".into(), out);
        if let Some(Award { task, round, node, .. }) = award {
            self.send(now_ms, node, &Message::Cancelled(TaskRound { task, round }), out);
        }
    }

    pub(super) fn bid_opened(&mut self, now_ms: u64, from: NodeId, bid: crate::task::Bid) {
        let Some(request) = self.requester.of_task(&bid.task) else { return };
        let ceiling = worker_ceiling(request.command.budget);
        if let (Some(offer), Phase::Auction, true) = (&request.offer, &request.phase, bid.node == from) {
            let _ = request.auction.reveal(now_ms, &offer.body, ceiling, bid);
        }
    }

    pub(super) fn heartbeat(&mut self, now_ms: u64, from: NodeId, mut beat: Heartbeat, out: &mut Out) {
        let key = self.requester.key_of(&beat.task);
        let Some(request) = self.requester.of_task(&beat.task) else { return };
        if !request.is_leased_to(from, beat.round) || matches!(request.phase, Phase::Failed(_)) {
            let round = TaskRound { task: beat.task, round: beat.round };
            return self.send(now_ms, from, &Message::Cancelled(round), out);
        }
        let curve = std::mem::take(&mut beat.curve);
        request.curve.extend(curve.into_iter().take(CURVE_POINTS_MAX).map(|point| (point.step, point)));
        while request.curve.len() > CURVE_POINTS_MAX {
            request.curve.pop_first();
        }
        if request.phase == Phase::Leased {
            request.wait.heard_ms = now_ms;
            if request.progress.as_ref().is_none_or(|before| before.step < beat.step) {
                request.wait.advanced_ms = now_ms;
            }
            request.progress = Some(beat.clone());
            if let Some(key) = key {
                out.event(Event::TaskProgress { key, progress: beat });
            }
        }
    }

    /// The worker commits its result.
    pub(super) fn result(&mut self, now_ms: u64, from: NodeId, result: Signed<TaskResult>, out: &mut Out) {
        let network = self.config.network;
        let task = result.body.task;
        let Some(key) = self.requester.key_of(&task) else { return };
        let Some(request) = self.requester.of_task(&task) else { return };
        if !request.is_leased_to(from, result.body.round) || matches!(request.phase, Phase::Failed(_)) {
            let round = TaskRound { task, round: result.body.round };
            return self.send(now_ms, from, &Message::Cancelled(round), out);
        }
        request.wait.heard_ms = now_ms;
        if matches!(request.phase, Phase::Done(_)) {
            // Its worker has not heard that it is paid.
            let paid = self.receipts.paid(&task).cloned();
            return paid.into_iter().for_each(|paid| self.send(now_ms, from, &Message::Receipt(Box::new(paid)), out));
        }
        if request.phase != Phase::Leased {
            return;
        }
        let by_winner = request.award.as_ref().is_some_and(|award| award.body.worker == result.account);
        let announced = self.peers.get(&from).map(|peer| &peer.record.classes);
        let other_class = announced.is_some_and(|classes| !computes_in(classes, &result.body.class));
        if other_class {
            // A class that it did not announce would choose who can check it.
            return self.lapse(key, from, "its result is of another class than it announced".into(), out);
        }
        if !by_winner || result.verify(network).is_err() {
            return self.blame(Some(from), "sent a result that its account did not sign".into(), out);
        }
        self.record(Fact::ResultTaken { key, result: Box::new(result) }, out);
        self.requester_tick(now_ms, out);
    }

    /// A verifier's finding about a result of one of our tasks, or about one of our answers.
    pub(super) fn verdict(&mut self, now_ms: u64, from: NodeId, verdict: Signed<Verdict>, out: &mut Out) {
        let other = self.peers.account_of(&from).is_some_and(|account| account != verdict.account);
        if other || verdict.verify(self.config.network).is_err() {
            return self.blame(Some(from), "sent a verdict that its account did not sign".into(), out);
        }
        let Subject::Training(committed) = verdict.body.subject else {
            return self.answer_verdict(from, verdict, out);
        };
        let network = self.config.network;
        let Some(key) = self.requester.key_of(&verdict.body.task) else { return };
        let Some(request) = self.requester.requests.get_mut(&key) else { return };
        let asked = request.phase == Phase::Checking && request.wait.asked == Some(from);
        let about_it = request.result.as_ref().is_some_and(|result| result.id(network) == committed);
        if !asked || !about_it {
            return;
        }
        let worker = request.award.as_ref().map(|award| award.body.node);
        out.event(Event::TaskChecked { key, verdict: Box::new(verdict.clone()) });
        match &verdict.body.outcome {
            Outcome::Confirmed => {
                let payout = self.peers.get(&from).map(|peer| peer.record.certificate.body.chain_address);
                self.record(Fact::ResultChecked { key, verdict: Some(Box::new(verdict)) }, out);
                if let Some(to) = payout {
                    self.record(Fact::VerifierPayout { key, to }, out);
                }
            }
            Outcome::Abstained(_) => request.wait.give_up_on(from),
            Outcome::Refuted(reason) => {
                let reason = format!("the check failed: {reason}");
                if let Some(worker) = worker {
                    self.record(Fact::ResultRefuted(worker), out);
                    self.lapse(key, worker, reason, out);
                }
            }
        }
        self.requester_tick(now_ms, out);
    }

    /// Takes the task from a worker.
    pub(super) fn lapse(&mut self, key: Hash, worker: NodeId, reason: String, out: &mut Out) {
        self.record(Fact::Lapsed { key, node: worker }, out);
        out.event(Event::TaskLapsed { key, worker, reason });
    }

    /// The worker offers the receipt of an accepted training.
    pub(super) fn training_receipt_offered(&mut self, now_ms: u64, offer: ReceiptOffer, out: &mut Out) {
        let task = offer.receipt.task;
        let Some(key) = self.requester.key_of(&task) else { return };
        let Some(expected) = self.expected_receipt(key, &offer) else { return };
        if expected != offer.receipt {
            // The terms may have moved since the worker heard them, for one when the verifier's record came in
            // late; they are sent again, and the worker's next offer fits.
            return;
        }
        let signed = offer.countersign(&self.config.account_key);
        let receipt = signed.receipt.id();
        self.record(Fact::Settled { key, receipt }, out);
        self.keep_receipt(now_ms, signed, out);
        out.event(Event::TaskDone { key, receipt });
    }

    fn expected_receipt(&self, key: Hash, offer: &ReceiptOffer) -> Option<crate::receipt::Receipt> {
        let request = self.requester.requests.get(&key)?;
        if request.phase != Phase::Settling || !request.adapter_held {
            return None;
        }
        let award = &request.award.as_ref()?.body;
        let terms = TrainingTerms {
            network: self.config.network,
            offer: request.offer.as_ref()?,
            award,
            result: &request.result.as_ref()?.body,
            price: training_price(worker_part(request)?)?,
            segments_checked: segments_checked(request),
            verifier: self.verifier_payout(request),
            treasury: self.config.treasury,
        };
        terms.receipt(offer.receipt.sequence, offer.receipt.finished_ms).ok()
    }

    /// Where the verifier of a result is paid; the treasury when nobody could check.
    pub(super) fn verifier_payout(&self, request: &Request) -> ChainAddress {
        request.verifier_payout.unwrap_or(self.config.treasury)
    }

    /// Whether `node` belongs to somebody else than `worker`: nobody checks its own account's work.
    pub(super) fn is_independent(&self, node: NodeId, worker: NodeId) -> bool {
        let of_peer = |node: &NodeId| self.peers.account_of(node);
        let account = |node: &NodeId| if *node == self.id { Some(self.account) } else { of_peer(node) };
        node != worker && (account(&worker).is_none() || account(&node) != account(&worker))
    }

    /// Nodes that have not been asked about `request` and could check it.
    pub(super) fn verifiers_for(&self, now_ms: u64, worker: NodeId, given_up: &BTreeSet<NodeId>) -> Vec<NodeId> {
        let mut nodes = self.peers.fresh(now_ms, |record| record.roles.verifier);
        nodes.retain(|node| self.is_independent(*node, worker) && !given_up.contains(node));
        nodes
    }

    pub(super) fn refresh_fetch(&mut self, now_ms: u64, key: Hash, out: &mut Out) {
        let Some(request) = self.requester.requests.get_mut(&key) else { return };
        let (Some(result), Some(award)) = (&request.result, &request.award) else { return };
        if !request.adapter_held && request.wait.fetch_due(now_ms) {
            let (blob, providers) = (result.body.adapter, vec![award.body.node]);
            out.push(Output::Fetch { blob, bytes: crate::limits::SHARD_MAX_BYTES, providers });
        }
    }
}

/// What the present result's worker has earned.
pub(super) fn worker_part(request: &Request) -> Option<Amount> {
    let (award, result) = (&request.award.as_ref()?.body, &request.result.as_ref()?.body);
    Some(earned(award.price, result.steps, request.offer.as_ref()?.body.work.steps))
}

/// Segments the verdict says were found equal.
pub(super) fn segments_checked(request: &Request) -> u16 {
    let checked = request.verdict.as_ref().map_or(0, |verdict| verdict.body.checked.len());
    u16::try_from(checked).unwrap_or(u16::MAX)
}
