//! What a requester does on each tick, by the phase of each request.
//!
//! Invariant: every phase either waits for a message that is asked for again, or has a time limit after which
//! the task goes to somebody else or fails with a reason.

use std::collections::BTreeSet;

use super::requester::{Phase, Request, segments_checked, training_price, worker_part};
use super::{Event, Fact, Node, Out};
use crate::envelope::Signed;
use crate::id::{Hash, NodeId};
use crate::limits::{
    AWARD_ROUNDS_MAX, BID_HOLDS_MS, FETCH_RETRY_MS, LEASE_MS, REOFFER_MAX_MS, RETRY_MS, STALL_MAX_MS, STALL_MIN_MS,
    TICK_MS, VERIFY_TIMEOUT_MS,
};
use crate::message::{Accepted, CheckWanted, Message, computes_in};
use crate::task::{Award, Bid, TaskOffer};
use crate::verification::rendezvous;

/// How long a request waits for a verifier to appear before its result is accepted unchecked.
const NO_VERIFIER_MS: u64 = 30_000;
/// How long a result may wait for its check while there are verifiers that could do it.
const UNCHECKABLE_MS: u64 = 2 * VERIFY_TIMEOUT_MS;
/// How long until verifiers that abstained or did not answer are asked again.
const CHECK_AGAIN_MS: u64 = 10_000;
/// How long a worker whose result was accepted may take to offer its receipt and files.
const SETTLE_MS: u64 = 5 * LEASE_MS;

/// Times and tries of the present phase; not durable, a restart begins the phase's waiting anew.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting {
    pub(super) since_ms: u64,
    pub(super) heard_ms: u64,
    /// When the worker last got further.
    pub(super) advanced_ms: u64,
    pub(super) sent_ms: u64,
    pub(super) fetched_ms: u64,
    pub(super) asked: Option<NodeId>,
    pub(super) asked_since_ms: u64,
    pub(super) given_up: BTreeSet<NodeId>,
}

impl Waiting {
    fn begin(&mut self, now_ms: u64) {
        if self.since_ms == 0 {
            self.since_ms = now_ms;
            self.heard_ms = self.heard_ms.max(now_ms);
            self.advanced_ms = self.advanced_ms.max(now_ms);
        }
    }

    fn send_due(&mut self, now_ms: u64) -> bool {
        let due = now_ms.saturating_sub(self.sent_ms) >= RETRY_MS;
        if due {
            self.sent_ms = now_ms;
        }
        due
    }

    pub(super) fn fetch_due(&mut self, now_ms: u64) -> bool {
        let due = now_ms.saturating_sub(self.fetched_ms) >= FETCH_RETRY_MS;
        if due {
            self.fetched_ms = now_ms;
        }
        due
    }

    /// Turns to the next verifier when the one asked is gone or late; when all were asked in vain, to all again.
    fn choose_checker(&mut self, now_ms: u64, subject: &Hash, able: &[NodeId]) {
        if now_ms.saturating_sub(self.asked_since_ms) > VERIFY_TIMEOUT_MS {
            self.asked.into_iter().for_each(|late| self.give_up_on(late));
        }
        self.asked = self.asked.filter(|asked| able.contains(asked));
        if self.asked.is_some() {
            return;
        }
        let left: Vec<NodeId> = able.iter().filter(|node| !self.given_up.contains(node)).copied().collect();
        if let Some(next) = rendezvous(&subject.0, &left, |node| node.0).first() {
            (self.asked, self.asked_since_ms, self.sent_ms) = (Some(*next), now_ms, 0);
        } else if now_ms.saturating_sub(self.asked_since_ms) >= CHECK_AGAIN_MS {
            self.given_up.clear();
        }
    }

    pub(super) fn give_up_on(&mut self, node: NodeId) {
        self.given_up.insert(node);
        self.asked = None;
    }
}

impl Node {
    pub(super) fn requester_tick(&mut self, now_ms: u64, out: &mut Out) {
        let open: Vec<(Hash, Phase)> = self
            .requester
            .requests
            .iter()
            .filter(|(_, request)| !matches!(request.phase, Phase::Done(_) | Phase::Failed(_)))
            .map(|(key, request)| (*key, request.phase.clone()))
            .collect();
        for (key, phase) in open {
            if let Some(request) = self.requester.requests.get_mut(&key) {
                request.wait.begin(now_ms);
                if now_ms > request.command.deadline_ms {
                    let reason = format!("the deadline passed in phase {phase:?}");
                    self.fail_request(key, reason, out);
                    continue;
                }
            }
            match phase {
                Phase::Auction => self.tick_auction(now_ms, key, out),
                Phase::Leased => self.tick_leased(now_ms, key, out),
                Phase::Checking => self.tick_checking(now_ms, key, out),
                Phase::Settling => self.tick_settling(now_ms, key, out),
                Phase::Done(_) | Phase::Failed(_) => {}
            }
        }
    }

    fn tick_auction(&mut self, now_ms: u64, key: Hash, out: &mut Out) {
        let Some(request) = self.requester.requests.get(&key) else { return };
        let Some(offer) = request.offer.as_ref().filter(|_| request.attempts > 0) else {
            return self.make_offer(now_ms, key, out);
        };
        let closed_ms = offer.body.reveals_until_ms;
        if now_ms <= closed_ms {
            return;
        }
        if request.round >= AWARD_ROUNDS_MAX {
            let reason = request.given_up();
            return self.fail_request(key, reason, out);
        }
        let best = self.best_bid(now_ms, request, &offer.body);
        let (Some(bid), Some(task)) = (best, request.task) else {
            // Each offer is a durable fact and a gossip message: when nobody bids they become rarer.
            let pause_ms = (TICK_MS << request.attempts.saturating_sub(1).min(8)).min(REOFFER_MAX_MS);
            if now_ms >= closed_ms.saturating_add(pause_ms) {
                self.make_offer(now_ms, key, out);
            }
            return;
        };
        let round = request.round + 1;
        let award = Award { task, round, worker: bid.worker, node: bid.node, payout: bid.payout, price: bid.price };
        let signed = Signed::new(self.config.network, &self.config.account_key, award.clone());
        self.record(Fact::AwardGiven { key, award: Box::new(signed) }, out);
        out.event(Event::TaskAwarded { key, award });
        self.tick_leased(now_ms, key, out);
    }

    /// The bid that wins now. Workers hold their bids only for a while: later ones are asked for anew, instead of
    /// wearing out one after the other who have long taken something else.
    fn best_bid(&self, now_ms: u64, request: &Request, offer: &TaskOffer) -> Option<Bid> {
        if now_ms > offer.reveals_until_ms.saturating_add(BID_HOLDS_MS / 2) {
            return None;
        }
        let checked = request.command.segments_checked > 0;
        let classes = self.verifier_classes(now_ms);
        let last = |node: &NodeId| {
            // Who cheated before, whose own part is at stake, and whose work nobody here could check come after all others.
            let account = self.certificate_of(node).map(|certificate| certificate.account);
            let at_stake = account.is_some_and(|account| request.command.work.leave_out.contains(&account));
            let own = self.peers.get(node).map(|peer| &peer.record.classes);
            let unchecked = checked && own.is_some_and(|own| own.iter().all(|class| !classes.contains(class.as_str())));
            self.requester.is_refuted(node) || at_stake || unchecked
        };
        request.auction.best_by(offer, |node| self.requester.record_of(node), last).cloned()
    }

    fn verifier_classes(&self, now_ms: u64) -> BTreeSet<&str> {
        let views = self.peers.iter().filter(|(_, view)| view.is_fresh(now_ms) && view.record.roles.verifier);
        views.flat_map(|(_, view)| view.record.classes.iter().map(String::as_str)).collect()
    }

    fn tick_leased(&mut self, now_ms: u64, key: Hash, out: &mut Out) {
        let Some(request) = self.requester.requests.get_mut(&key) else { return };
        request.wait.begin(now_ms);
        let Some(award) = request.award.clone() else { return };
        if now_ms.saturating_sub(request.wait.heard_ms) > LEASE_MS {
            let reason = format!("no heartbeat for {} s", LEASE_MS / 1_000);
            return self.lapse(key, award.body.node, reason, out);
        }
        let left_ms = request.command.deadline_ms.saturating_sub(request.wait.advanced_ms);
        if now_ms.saturating_sub(request.wait.advanced_ms) > (left_ms / 4).clamp(STALL_MIN_MS, STALL_MAX_MS) {
            let reason = "it reports to be alive but gets no further".to_owned();
            return self.lapse(key, award.body.node, reason, out);
        }
        if request.progress.is_none() && request.wait.send_due(now_ms) {
            self.send(now_ms, award.body.node, &Message::Awarded(award), out);
        }
    }

    fn tick_checking(&mut self, now_ms: u64, key: Hash, out: &mut Out) {
        self.refresh_fetch(now_ms, key, out);
        let Some(request) = self.requester.requests.get(&key) else { return };
        let (Some(award), Some(result)) = (&request.award, &request.result) else { return };
        let worker = award.body.node;
        let able = self.checkers(now_ms, worker, &result.body.class);
        let subject = result.id(self.config.network);
        let wanted = request.command.segments_checked > 0;
        let Some(request) = self.requester.requests.get_mut(&key) else { return };
        let waited_ms = now_ms.saturating_sub(request.wait.since_ms);
        let someone = !able.is_empty() || !request.wait.given_up.is_empty();
        if !wanted || (!someone && waited_ms >= NO_VERIFIER_MS) {
            return self.record(Fact::ResultChecked { key, verdict: None }, out);
        }
        request.wait.choose_checker(now_ms, &subject, &able);
        if let Some(verifier) = request.wait.asked {
            return self.ask_check(now_ms, key, verifier, out);
        }
        // There are verifiers and none could check it: the worker keeps its checkpoints to itself.
        if someone && waited_ms >= UNCHECKABLE_MS {
            self.lapse(key, worker, "nobody could get its checkpoints to check them".into(), out);
        }
    }

    /// Fresh verifiers that could check a result of `class`: those of another could only abstain.
    fn checkers(&self, now_ms: u64, worker: NodeId, class: &str) -> Vec<NodeId> {
        let mut nodes = self.peers.fresh(now_ms, |record| record.roles.verifier && computes_in(&record.classes, class));
        nodes.retain(|node| self.is_independent(*node, worker));
        nodes
    }

    fn ask_check(&mut self, now_ms: u64, key: Hash, verifier: NodeId, out: &mut Out) {
        let Some(request) = self.requester.requests.get_mut(&key) else { return };
        if !request.wait.send_due(now_ms) {
            return;
        }
        let (Some(offer), Some(result), Some(award)) =
            (request.offer.clone(), request.result.clone(), request.award.clone())
        else {
            return;
        };
        let secret = self.beacon_secret(key, offer.body.nonce);
        let check = CheckWanted { offer, worker: award.body.node, result, secret };
        self.send(now_ms, verifier, &Message::CheckWanted(Box::new(check)), out);
    }

    fn tick_settling(&mut self, now_ms: u64, key: Hash, out: &mut Out) {
        self.refresh_fetch(now_ms, key, out);
        let Some(request) = self.requester.requests.get_mut(&key) else { return };
        let Some(award) = request.award.as_ref().map(|award| award.body.clone()) else { return };
        if now_ms.saturating_sub(request.wait.since_ms) > SETTLE_MS
            && now_ms.saturating_sub(request.wait.heard_ms) > LEASE_MS
        {
            let reason = "the worker went away before it gave the adapter".to_owned();
            return self.lapse(key, award.node, reason, out);
        }
        if !request.adapter_held || !request.wait.send_due(now_ms) {
            return;
        }
        let Some(request) = self.requester.requests.get(&key) else { return };
        let Some(price) = worker_part(request).and_then(training_price) else { return };
        let accepted = Accepted {
            task: award.task,
            verifier: self.verifier_payout(request),
            segments_checked: segments_checked(request),
            price,
        };
        self.send(now_ms, award.node, &Message::Accepted(accepted), out);
    }
}
