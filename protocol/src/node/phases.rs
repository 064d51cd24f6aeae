//! What a requester does on each tick, by the phase of each request.
//!
//! Invariant: every phase either waits for a message that is asked for again, or has a time limit after which
//! the task goes to somebody else or fails with a reason.

use std::collections::BTreeSet;

use super::requester::{Phase, segments_checked, training_price};
use super::{Event, Fact, Node, Out};
use crate::envelope::Signed;
use crate::id::{Hash, NodeId};
use crate::limits::{
    AWARD_ROUNDS_MAX, FETCH_RETRY_MS, LEASE_MS, REOFFER_MAX_MS, RETRY_MS, STALL_MAX_MS, STALL_MIN_MS, TICK_MS,
    VERIFY_TIMEOUT_MS,
};
use crate::message::{Accepted, CheckWanted, Message};
use crate::task::Award;
use crate::verification::rendezvous;

/// How long a request waits for a verifier to appear before its result is accepted unchecked.
const NO_VERIFIER_MS: u64 = 30_000;
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
            let reason = format!("{AWARD_ROUNDS_MAX} workers in turn failed it");
            return self.fail_request(key, reason, out);
        }
        let best = request.auction.best(&offer.body, |node| self.requester.record_of(node)).cloned();
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
        let Some(worker) = request.award.as_ref().map(|award| award.body.node) else { return };
        let wait = &request.wait;
        let late = now_ms.saturating_sub(wait.asked_since_ms) > VERIFY_TIMEOUT_MS;
        let candidates = self.verifiers_for(now_ms, worker, &wait.given_up);
        let gone = wait.asked.filter(|asked| late || !candidates.contains(asked));
        let waited = now_ms.saturating_sub(wait.since_ms);
        let subject = request.result.as_ref().map(|result| result.id(self.config.network)).unwrap_or_default();
        let next = rendezvous(&subject.0, &candidates, |node| node.0).first().copied();
        let wanted = request.command.segments_checked;
        let Some(request) = self.requester.requests.get_mut(&key) else { return };
        if let Some(gone) = gone.filter(|_| late) {
            request.wait.give_up_on(gone);
            return;
        }
        if request.wait.asked.is_none() || gone.is_some() {
            request.wait.asked = next;
            request.wait.asked_since_ms = now_ms;
            request.wait.sent_ms = 0;
        }
        match request.wait.asked {
            Some(verifier) if wanted > 0 => self.ask_check(now_ms, key, verifier, out),
            None if wanted > 0 && waited < NO_VERIFIER_MS => {}
            _ => self.record(Fact::ResultChecked { key, verdict: None }, out),
        }
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
        let Some(price) = training_price(award.price) else { return };
        let Some(request) = self.requester.requests.get(&key) else { return };
        let accepted = Accepted {
            task: award.task,
            verifier: self.verifier_payout(request),
            segments_checked: segments_checked(request),
            price,
        };
        self.send(now_ms, award.node, &Message::Accepted(accepted), out);
    }
}
