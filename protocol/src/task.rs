//! Tasks: the offer, sealed bids, the award and the lease.
//!
//! Invariant: a bid counts only if its hash was committed before bidding closed; the award follows from offer
//! and revealed bids by one published rule, so anybody who saw them finds the same winner.

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::datanet::Head;
use crate::envelope::{NetworkId, Signed, Statement};
use crate::id::{AccountId, Amount, ChainAddress, Hash, NodeId, TaskId};
use crate::limits::{
    BID_WINDOW_MS, BIDS_MAX, CLOCK_WINDOW_MS, DEADLINE_MAX_MS, LEFT_OUT_MAX, RECIPE_MAX_BYTES, REVEAL_WINDOW_MS,
};

/// What a fine-tune task trains.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct FineTune {
    /// The base model's hash.
    pub base: Hash,
    /// The exact version of the datanet.
    pub head: Head,
    /// The recipe as canonical JSON: data, never code.
    pub recipe: String,
    /// The recipe's optimiser steps, from which workers compute their price.
    pub steps: u32,
    /// The contributors whose records count nothing, ascending, when this is a leave-out run of attribution: one, or all of a
    /// knowledge cluster.
    pub leave_out: Vec<AccountId>,
}

impl FineTune {
    fn is_well_formed(&self) -> bool {
        self.recipe.len() <= RECIPE_MAX_BYTES && self.head.is_well_formed() && can_be_left_out(&self.leave_out)
    }
}

/// Whether one training can leave these out: few, and in ascending order.
pub(crate) fn can_be_left_out(accounts: &[AccountId]) -> bool {
    accounts.len() <= LEFT_OUT_MAX && accounts.windows(2).all(|pair| pair[0] < pair[1])
}

/// A fine-tune task is announced.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct TaskOffer {
    /// The node that runs the auction.
    pub node: NodeId,
    /// The payer's address on the settlement chain.
    pub payer_address: ChainAddress,
    /// What is to be trained.
    pub work: FineTune,
    /// The most the requester pays, fees included.
    pub budget: Amount,
    /// When sealed bids close, in milliseconds since 1970.
    pub bids_until_ms: u64,
    /// When opened bids close.
    pub reveals_until_ms: u64,
    /// When the result must be there.
    pub deadline_ms: u64,
    /// Segments of the run that another peer executes again.
    pub segments_checked: u16,
    /// The hash of the secret that will pick those segments: revealed only after the result is committed.
    pub beacon_commitment: Hash,
    /// Makes two equal offers two tasks.
    pub nonce: u64,
}

impl Statement for TaskOffer {
    const KIND: u16 = 4;
}

/// The task's id: the offer's signed digest.
#[must_use]
pub fn task_id(network: NetworkId, offer: &Signed<TaskOffer>) -> TaskId {
    TaskId(offer.id(network).0)
}

impl TaskOffer {
    /// Whether its times are such that a worker may take part: bidding is open and ends soon, and the work is not
    /// owed for ever.
    #[must_use]
    pub fn is_timely(&self, now_ms: u64) -> bool {
        let until = |span_ms: u64| now_ms.saturating_add(CLOCK_WINDOW_MS).saturating_add(span_ms);
        now_ms <= self.bids_until_ms
            && self.bids_until_ms <= until(BID_WINDOW_MS)
            && self.reveals_until_ms <= until(BID_WINDOW_MS + REVEAL_WINDOW_MS)
            && self.deadline_ms <= until(DEADLINE_MAX_MS)
    }

    /// Whether sizes and times make sense.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        self.work.is_well_formed()
            && self.bids_until_ms < self.reveals_until_ms
            && self.reveals_until_ms < self.deadline_ms
    }
}

/// A bid, opened.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Bid {
    /// The task.
    pub task: TaskId,
    /// Who bids.
    pub worker: AccountId,
    /// On which node.
    pub node: NodeId,
    /// Where the worker is paid.
    pub payout: ChainAddress,
    /// The price asked, fees not included.
    pub price: Amount,
    /// How long the worker expects to need, in milliseconds, from its own measurements.
    pub expected_ms: u64,
    /// Keeps the sealed bid from being guessed.
    pub nonce: Hash,
}

impl Bid {
    /// The sealed form: the hash of the bid.
    #[must_use]
    pub fn commitment(&self) -> Hash {
        Hash(blake3::derive_key("tributary sealed bid v1", &crate::wire::encode(self)))
    }
}

/// Who got the task.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Award {
    /// The task.
    pub task: TaskId,
    /// Rises each time the task is given to somebody.
    pub round: u32,
    /// The winner.
    pub worker: AccountId,
    /// Its node.
    pub node: NodeId,
    /// Where it is paid.
    pub payout: ChainAddress,
    /// The worker's price.
    pub price: Amount,
}

impl Statement for Award {
    const KIND: u16 = 5;
}

/// What checked work says of a worker: verdicts, never opinions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Record {
    /// Tasks that a verifier confirmed.
    pub confirmed: u32,
    /// Tasks that a verifier refuted, or that the worker let lapse.
    pub failed: u32,
}

/// The published rule: price, times the share of the time limit it would use, times how often the worker
/// failed. The smallest wins; equal scores go to the smaller node id.
#[must_use]
pub fn score(bid: &Bid, offer: &TaskOffer, record: Record) -> u128 {
    let limit_ms = u128::from(offer.deadline_ms.saturating_sub(offer.reveals_until_ms).max(1));
    let time_parts = 1_000 + u128::from(bid.expected_ms).saturating_mul(1_000) / limit_ms;
    let tried = u128::from(record.confirmed) + u128::from(record.failed) + 1;
    let trust_parts = 1_000 * tried / (u128::from(record.confirmed) + 1);
    (bid.price.0 / 1_000_000).saturating_mul(time_parts).saturating_mul(trust_parts)
}

/// Why a bid is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BidError {
    /// Came after its time.
    #[error("the bid came too late")]
    Late,
    /// No sealed bid of this node has this hash.
    #[error("the bid differs from its sealed form")]
    NotCommitted,
    /// A second sealed bid of one node.
    #[error("the node has a sealed bid already")]
    Repeated,
    /// Enough bids.
    #[error("the task has {BIDS_MAX} bids already")]
    Full,
    /// Above what the requester pays.
    #[error("the price exceeds the budget")]
    AboveBudget,
}

/// One auction: collects sealed and opened bids.
#[derive(Debug, Clone, Default)]
pub struct Auction {
    sealed: BTreeMap<NodeId, Hash>,
    opened: BTreeMap<NodeId, Bid>,
    excluded: BTreeSet<NodeId>,
    failures: BTreeMap<NodeId, u32>,
}

impl Auction {
    /// Takes a sealed bid.
    ///
    /// # Errors
    /// See [`BidError`].
    pub fn commit(&mut self, now_ms: u64, offer: &TaskOffer, node: NodeId, commitment: Hash) -> Result<(), BidError> {
        if now_ms > offer.bids_until_ms {
            return Err(BidError::Late);
        }
        match self.sealed.get(&node) {
            Some(known) if *known == commitment => return Ok(()),
            Some(_) => return Err(BidError::Repeated),
            None => {}
        }
        if self.sealed.len() >= BIDS_MAX {
            return Err(BidError::Full);
        }
        self.sealed.insert(node, commitment);
        Ok(())
    }

    /// Takes an opened bid; `ceiling` is the most a worker may ask.
    ///
    /// # Errors
    /// See [`BidError`].
    pub fn reveal(&mut self, now_ms: u64, offer: &TaskOffer, ceiling: Amount, bid: Bid) -> Result<(), BidError> {
        if now_ms > offer.reveals_until_ms {
            return Err(BidError::Late);
        }
        if self.sealed.get(&bid.node) != Some(&bid.commitment()) {
            return Err(BidError::NotCommitted);
        }
        if bid.price > ceiling {
            return Err(BidError::AboveBudget);
        }
        self.opened.insert(bid.node, bid);
        Ok(())
    }

    /// Takes `node` out: it failed this task.
    pub fn exclude(&mut self, node: NodeId) {
        self.excluded.insert(node);
        *self.failures.entry(node).or_default() += 1;
    }

    /// Begins anew: everybody may bid again, but who failed before comes after all who did not.
    pub fn reopen(&mut self) {
        let failures = std::mem::take(&mut self.failures);
        *self = Self { failures, ..Self::default() };
    }

    /// The best bid left by the published rule.
    pub fn best(&self, offer: &TaskOffer, record: impl Fn(&NodeId) -> Record) -> Option<&Bid> {
        self.best_by(offer, record, |_| false)
    }

    /// The best bid left by the published rule, those whom `last` names after all others.
    pub fn best_by(
        &self,
        offer: &TaskOffer,
        record: impl Fn(&NodeId) -> Record,
        last: impl Fn(&NodeId) -> bool,
    ) -> Option<&Bid> {
        self.opened.values().filter(|bid| !self.excluded.contains(&bid.node)).min_by_key(|bid| {
            let failures = self.failures.get(&bid.node).copied().unwrap_or(0);
            (failures, last(&bid.node), score(bid, offer, record(&bid.node)), bid.node)
        })
    }

    /// Sealed and opened bids so far.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.sealed.len(), self.opened.len())
    }
}
