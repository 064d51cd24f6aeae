//! Epochs: what everybody has earned, cumulative, beside what vouchers pay.
//!
//! Invariant: an epoch follows from the one before it, its receipts and the chain's beacons alone, whatever the order in
//! which they arrived; every receipt is counted once; nobody's earnings fall, and their sum is what the receipts pay.
//! Workers' parts are not in it, since vouchers pay those.
//!
//! Some receipts are audits: two who did not serve an answer computed what it would have paid by the adapters that were
//! really trained without each contributor. Which answers are audited is drawn by the block in which the epoch was anchored
//! that counted them first, so that nobody who made, paid or counted an answer knew.

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{BatchError, root_of};
use crate::attribution::audit::{Amounts, AuditError, AuditRate, Audited, Books, Corrections, settled};
use crate::economy::{self, Payment, PaymentRole};
use crate::envelope::Statement;
use crate::id::{AccountId, Amount, ChainAddress, Hash, NodeId, ReceiptId};
use crate::limits::{AUDIT_ONE_IN, LEDGER_ACCOUNTS_MAX};
use crate::receipt::{Receipt, Work};

/// Who must find the same before it corrects anything: one liar, who takes what he finds as often as he is asked, would be
/// enough to pay himself.
pub const AUDITORS: usize = 2;

/// A receipt that an epoch counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
pub struct Counted {
    /// The receipt.
    pub receipt: ReceiptId,
    /// The epoch that counted it first.
    pub since: u64,
}

/// What the chain says of an epoch that stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchored {
    /// The epoch.
    pub epoch: u64,
    /// The hash of its body.
    pub body: Hash,
    /// The hash of the block in which it was anchored, which nobody knew before.
    pub beacon: Hash,
}

/// An epoch as its poster publishes it: which receipts it counts and what everybody has earned by then.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct EpochBody {
    /// The epoch, from one.
    pub epoch: u64,
    /// All receipts counted so far, ascending.
    pub receipts: Vec<Counted>,
    /// Cumulative earnings, ascending by address.
    pub earned: Vec<(ChainAddress, Amount)>,
}

/// An epoch was anchored on the settlement chain.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct EpochHead {
    /// The epoch.
    pub epoch: u64,
    /// The poster's node, which provides the body.
    pub node: NodeId,
    /// The Merkle root over all receipts counted.
    pub receipts_root: Hash,
    /// The blob that holds [`EpochBody`].
    pub body: Hash,
    /// Its size in bytes.
    pub body_bytes: u64,
    /// The sum of all earnings so far.
    pub total: Amount,
}

impl Statement for EpochHead {
    const KIND: u16 = 9;
}

/// Why receipts make no epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EpochError {
    /// Sums would not fit.
    #[error("the epoch's sums overflow")]
    Overflow,
    /// Too many accounts.
    #[error("an epoch has at most {LEDGER_ACCOUNTS_MAX} accounts")]
    Full,
    /// What the epoch before counted is not among them.
    #[error("receipt {0} was counted before and is missing")]
    Missing(ReceiptId),
    /// The beacon of an epoch that drew what is audited is not known.
    #[error("the beacon of epoch {0} is not known")]
    Beacon(u64),
    /// An audit that does not hold.
    #[error("the audits of receipt {receipt} don't hold: {reason}")]
    Audit {
        /// What was audited.
        receipt: ReceiptId,
        /// What is wrong.
        reason: &'static str,
    },
    /// The audits can't be settled.
    #[error(transparent)]
    Settled(#[from] AuditError),
}

/// The rate at which answers are audited.
const fn rate() -> AuditRate {
    AuditRate::of(AUDIT_ONE_IN)
}

/// Whether the beacon of the epoch that counted an answer first draws it to be audited.
#[must_use]
pub fn is_drawn(beacon: &Hash, receipt: &ReceiptId) -> bool {
    rate().draws(beacon, receipt)
}

/// These payments, but what nobody can claim, since no tree of earnings has the zero address, is the commons'.
fn claimable(payments: &[Payment], commons: ChainAddress) -> Vec<Payment> {
    let to = |payment: &Payment| if payment.to == ChainAddress::default() { commons } else { payment.to };
    payments.iter().map(|payment| Payment { to: to(payment), ..*payment }).collect()
}

/// What receipts pay beside workers' parts, by payee.
fn paid_by<'a>(receipts: impl Iterator<Item = &'a Receipt>, commons: ChainAddress) -> Result<Amounts, EpochError> {
    let mut paid = Amounts::new();
    let payments = receipts.flat_map(|receipt| claimable(&receipt.payments, commons));
    for payment in payments.filter(|payment| payment.role != PaymentRole::Worker) {
        let sum = paid.entry(payment.to).or_default();
        *sum = sum.checked_add(payment.amount).ok_or(EpochError::Overflow)?;
    }
    if paid.len() > LEDGER_ACCOUNTS_MAX {
        return Err(EpochError::Full);
    }
    Ok(paid)
}

/// The audits among receipts, by what was audited.
fn audits<'a>(receipts: &BTreeMap<ReceiptId, &'a Receipt>) -> BTreeMap<ReceiptId, Vec<&'a Receipt>> {
    let mut audits: BTreeMap<ReceiptId, Vec<&Receipt>> = BTreeMap::new();
    for receipt in receipts.values() {
        if let Work::Audit { of } = receipt.work {
            audits.entry(of).or_default().push(receipt);
        }
    }
    audits
}

/// Whether somebody paid for an answer, gave it, or is paid for his records by it or by what was found.
#[must_use]
pub fn has_part(account: AccountId, answer: &Receipt, found: &Receipt) -> bool {
    let shares = answer.shares.iter().chain(&found.shares);
    [answer.payer, answer.worker].contains(&account) || shares.into_iter().any(|share| share.account == account)
}

/// Why two findings say nothing of an answer, if they don't.
fn fault(answer: &Receipt, [one, other]: [&Receipt; AUDITORS]) -> Option<&'static str> {
    if !matches!(answer.work, Work::Inference { .. }) {
        return Some("no answer was audited");
    }
    if one.worker == other.worker || has_part(one.worker, answer, one) || has_part(other.worker, answer, other) {
        return Some("an auditor stands twice or has a part in the answer");
    }
    if one.payer != answer.payer || other.payer != answer.payer {
        return Some("somebody else than its payer signed");
    }
    if one.class != answer.class || other.class != answer.class {
        return Some("an auditor computed in another class");
    }
    (one.shares != other.shares).then_some("the auditors disagree")
}

/// Findings about one answer that are looked at: a payer who has it audited again and again pays with his own answer only.
pub const FINDINGS_MAX: usize = 8;

/// The first two of these audits of an answer, in the order given, that agree and come from two who have no part in it.
#[must_use]
pub fn pair_of<'a>(answer: &Receipt, audits: &[&'a Receipt]) -> Option<[&'a Receipt; AUDITORS]> {
    let audits = &audits[..audits.len().min(FINDINGS_MAX)];
    audits.iter().enumerate().find_map(|(place, one)| {
        let others = &audits[place + 1..];
        others.iter().map(|other| [*one, *other]).find(|pair| fault(answer, *pair).is_none())
    })
}

/// What an answer paid, and what it would have by the audit.
type Difference = (ReceiptId, Vec<Payment>, Vec<Payment>);

impl EpochBody {
    /// The epoch after `before`, which is none for the first, that counts `receipts`; `beacons` are those of epochs before, as
    /// far as they are needed. What can't be paid out evenly goes to `commons`.
    ///
    /// # Errors
    /// See [`EpochError`].
    pub fn after(
        before: Option<&Self>,
        receipts: &BTreeMap<ReceiptId, &Receipt>,
        beacons: &BTreeMap<u64, Hash>,
        commons: ChainAddress,
    ) -> Result<Self, EpochError> {
        let epoch = before.map_or(1, |before| before.epoch.saturating_add(1));
        let known = before.map(Self::since).unwrap_or_default();
        if let Some(missing) = known.keys().find(|id| !receipts.contains_key(id)) {
            return Err(EpochError::Missing(*missing));
        }
        let published: Amounts = before.map(|before| before.earned.iter().copied().collect()).unwrap_or_default();
        let paid_then =
            paid_by(receipts.iter().filter(|(id, _)| known.contains_key(id)).map(|(_, one)| *one), commons)?;
        let paid = paid_by(receipts.values().copied(), commons)?;
        let differences = differences(receipts, &known, beacons, commons)?;
        let audited: Vec<Audited<'_>> =
            differences.iter().map(|(receipt, paid, due)| Audited { receipt: *receipt, paid, due }).collect();
        let books = Books { published: &published, paid_then: &paid_then, paid: &paid };
        let earned = settled(books, &Corrections::of(&audited, rate())?, commons)?;
        let counted = |receipt: &ReceiptId| Counted { receipt: *receipt, since: *known.get(receipt).unwrap_or(&epoch) };
        Ok(Self { epoch, receipts: receipts.keys().map(counted).collect(), earned: earned.into_iter().collect() })
    }

    /// The receipts counted, ascending.
    pub fn ids(&self) -> impl Iterator<Item = &ReceiptId> {
        self.receipts.iter().map(|counted| &counted.receipt)
    }

    /// The epoch that counted each receipt first.
    fn since(&self) -> BTreeMap<ReceiptId, u64> {
        self.receipts.iter().map(|counted| (counted.receipt, counted.since)).collect()
    }

    /// The epoch that counted a receipt first.
    #[must_use]
    pub fn since_of(&self, receipt: &ReceiptId) -> Option<u64> {
        let place = self.receipts.binary_search_by_key(receipt, |counted| counted.receipt).ok()?;
        self.receipts.get(place).map(|counted| counted.since)
    }

    /// Of the receipts that this epoch counts, those that are drawn, as far as the beacons are known.
    #[must_use]
    pub fn all_drawn(&self, beacons: &BTreeMap<u64, Hash>) -> BTreeSet<ReceiptId> {
        let drawn = |one: &&Counted| beacons.get(&one.since).is_some_and(|beacon| is_drawn(beacon, &one.receipt));
        self.receipts.iter().filter(drawn).map(|counted| counted.receipt).collect()
    }

    /// The Merkle root over all receipts counted.
    #[must_use]
    pub fn receipts_root(&self) -> Hash {
        root_of(self.ids())
    }

    /// The sum of all earnings, or `None` when it does not fit.
    #[must_use]
    pub fn total(&self) -> Option<Amount> {
        self.earned.iter().try_fold(Amount::ZERO, |sum, (_, amount)| sum.checked_add(*amount))
    }

    /// Whether the head is this body's, so that whatever is found of the sums follows from the body alone: anybody may sign a head
    /// of his own for somebody else's body.
    ///
    /// # Errors
    /// When number, root or sum are others.
    pub fn check(&self, head: &EpochHead) -> Result<(), BatchError> {
        if self.epoch != head.epoch {
            return Err(BatchError::Count);
        }
        if self.receipts_root() != head.receipts_root {
            return Err(BatchError::Root);
        }
        if self.total() != Some(head.total) {
            return Err(BatchError::Sum);
        }
        Ok(())
    }
}

/// What audits say of the answers that earlier epochs counted.
fn differences(
    receipts: &BTreeMap<ReceiptId, &Receipt>,
    known: &BTreeMap<ReceiptId, u64>,
    beacons: &BTreeMap<u64, Hash>,
    commons: ChainAddress,
) -> Result<Vec<Difference>, EpochError> {
    let difference = |(of, found): (ReceiptId, Vec<&Receipt>)| {
        let wrong = |reason| EpochError::Audit { receipt: of, reason };
        let answer = *receipts.get(&of).ok_or(wrong("the answer is not counted"))?;
        let since = known.get(&of).ok_or(wrong("no epoch before counted the answer"))?;
        let beacon = beacons.get(since).ok_or(EpochError::Beacon(*since))?;
        if !is_drawn(beacon, &of) {
            return Err(wrong("the answer was not drawn"));
        }
        let pair: [&Receipt; AUDITORS] = found.try_into().map_err(|_| wrong("there are not two"))?;
        if let Some(reason) = fault(answer, pair) {
            return Err(wrong(reason));
        }
        let Receipt { price, worker_part, policy, to, .. } = answer;
        let due = economy::split(*price, *worker_part, *policy, to, &pair[0].shares);
        let due = due.map_err(|_| EpochError::Overflow)?;
        Ok((of, claimable(&answer.payments, commons), claimable(&due, commons)))
    };
    audits(receipts).into_iter().map(difference).collect()
}

#[cfg(test)]
mod tests;
