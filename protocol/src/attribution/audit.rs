//! Audit correction: what an epoch paid, set right by a sample of its answers whose true shares were computed (design
//! section 8, "Audit correction").
//!
//! Invariant: a correction moves money between payees and neither makes nor loses any; what was published falls for nobody;
//! the result follows from the epoch before and the set of answers audited, in whatever order.
//!
//! With one answer in `n` drawn, `paid + n · Σ (due − paid)` over the answers drawn is a difference estimator (Särndal,
//! Swensson and Wretman, *Model Assisted Survey Sampling*, 1992, chapter 6): over all draws its mean is what was due over
//! all answers. For who earned in few answers it may be less than nothing. What is drawn is known only once an epoch stands
//! on the chain, where its earnings can be claimed; so what somebody got too much is carried: it is taken off what he earns
//! in the epochs after, to the last. **Until then it is missing, in proportion, from the corrections of those who get more.**
//! So nobody gets less than both what he was paid and what is estimated, and who was paid too little in the answers audited
//! gets at least that once all is repaid, whatever others do.
//!
//! *Splitting an identity* gains nothing where each of its names can repay, and elsewhere no more than what its names
//! can't. No rule of amounts alone lets less pass that is the estimator where all can repay and doesn't charge who was
//! found right with a stranger's debt. Take 90 earned in answers not drawn, and 10 in one drawn where nothing was due: one
//! name has 100 − 4 · 10 = 60 at one in four, but of two names one keeps 90 and the other owes 30 that it never had. A debt
//! stays with a name that is never used again; and one factor for all corrections, as large as leaves nobody below zero,
//! would let a single name with one bad answer cut everybody's to an `n`th.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use crate::economy::{Payment, PaymentRole};
use crate::id::{Amount, ChainAddress, Hash, ReceiptId};

/// Why an epoch can't be corrected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// A rate of one in zero.
    #[error("one answer in zero cannot be audited")]
    OneInZero,
    /// An answer is named twice.
    #[error("answer {0} was audited twice")]
    Repeated(ReceiptId),
    /// True shares of another sum than what was paid.
    #[error("answer {receipt} paid {paid}, but its true shares sum to {due}")]
    Unequal {
        /// The answer's receipt.
        receipt: ReceiptId,
        /// What it paid, the worker's part aside.
        paid: Amount,
        /// What the true shares would have paid.
        due: Amount,
    },
    /// What was published before is not the sum of what was counted before, or more was.
    #[error("the epoch before published another sum than its receipts pay")]
    OtherBooks,
    /// The amounts do not fit 128 bits.
    #[error("amount overflow")]
    Overflow,
}

/// How many answers are audited: one in so many, on average.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditRate(NonZeroU32);

impl AuditRate {
    /// A rate that is known to be none of one in zero.
    pub(crate) const fn of(answers: NonZeroU32) -> Self {
        Self(answers)
    }

    /// One answer in `answers`; 1 audits every answer.
    ///
    /// # Errors
    /// [`AuditError::OneInZero`].
    pub fn one_in(answers: u32) -> Result<Self, AuditError> {
        NonZeroU32::new(answers).map(Self).ok_or(AuditError::OneInZero)
    }

    /// Whether the answer is audited: with a probability of exactly one in so many, for each answer on its own. Nobody
    /// may know `beacon` before the receipts are sealed, or who makes an answer would know whether it is checked.
    #[must_use]
    pub fn draws(self, beacon: &Hash, receipt: &ReceiptId) -> bool {
        let mut hasher = blake3::Hasher::new_derive_key("tributary audit sample v1");
        let mut stream = hasher.update(&beacon.0).update(&receipt.0).finalize_xof();
        let one_in = u64::from(self.0.get());
        // Words beyond the last multiple would make some remainders likelier than others.
        let last = u64::MAX - (u64::MAX % one_in + 1) % one_in;
        loop {
            let mut word = [0; 8];
            stream.fill(&mut word);
            let word = u64::from_le_bytes(word);
            if word <= last {
                return word.is_multiple_of(one_in);
            }
        }
    }
}

/// An answer whose true shares were computed. The worker's part is no matter of attribution and left aside in both
/// lists, as in [`crate::batch::EpochBody`].
#[derive(Debug, Clone, Copy)]
pub struct Audited<'a> {
    /// Its receipt.
    pub receipt: ReceiptId,
    /// What it paid.
    pub paid: &'a [Payment],
    /// What its true shares would have paid, by [`crate::economy::split`].
    pub due: &'a [Payment],
}

/// What somebody was paid in the answers audited, and what was due.
#[derive(Default)]
struct Found {
    paid: Amount,
    due: Amount,
}

/// What audits found, over all answers as the sample tells: by payee, how much more is due than was paid, or less.
/// Its sum is zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Corrections(BTreeMap<ChainAddress, i128>);

impl Corrections {
    /// The difference estimator's: of each payee what was due less what was paid in the answers that `rate` drew, as many
    /// times as answers were left out for each.
    ///
    /// # Errors
    /// See [`AuditError`].
    pub fn of(audited: &[Audited<'_>], rate: AuditRate) -> Result<Self, AuditError> {
        let correction = |(to, found): (ChainAddress, Found)| {
            let lacking = whole(found.due)?.checked_sub(whole(found.paid)?);
            let over_all = lacking.and_then(|lacking| lacking.checked_mul(rate.0.get().into()));
            Ok((to, over_all.ok_or(AuditError::Overflow)?))
        };
        sums(audited)?.into_iter().map(correction).collect::<Result<_, _>>().map(Self)
    }

    fn to(&self, payee: &ChainAddress) -> i128 {
        self.0.get(payee).copied().unwrap_or_default()
    }
}

/// Amounts by payee.
pub type Amounts = BTreeMap<ChainAddress, Amount>;

/// What everybody earned, now and by the epoch before.
#[derive(Debug, Clone, Copy)]
pub struct Books<'a> {
    /// What the epoch before published, corrected as it was; nobody's falls, since it may be claimed already.
    pub published: &'a Amounts,
    /// What the receipts that it counted paid.
    pub paid_then: &'a Amounts,
    /// What all receipts pay that are counted now.
    pub paid: &'a Amounts,
}

/// What each payee has earned after the audits so far. Its sum is that of `books.paid`. What somebody got too much is taken
/// off what is new to him, now and as long as it takes, and given to those who lack something, in proportion to that: nobody
/// else is touched. Payees who get nothing are left out; rounding dust goes to `commons`. The rule stands at the head of
/// this module.
///
/// # Errors
/// See [`AuditError`].
pub fn settled(books: Books<'_>, corrections: &Corrections, commons: ChainAddress) -> Result<Amounts, AuditError> {
    let payees: BTreeSet<&ChainAddress> = [books.published, books.paid_then, books.paid]
        .into_iter()
        .flat_map(BTreeMap::keys)
        .chain(corrections.0.keys())
        .collect();
    if total(books.published)? != total(books.paid_then)? {
        return Err(AuditError::OtherBooks);
    }
    let (mut taken, mut lacking) = (Amount::ZERO, Amount::ZERO);
    let (mut settled, mut gains) = (Amounts::new(), Vec::new());
    for payee in payees {
        let of = |amounts: &Amounts| amounts.get(payee).copied().unwrap_or_default();
        let fresh = of(books.paid).checked_sub(of(books.paid_then)).ok_or(AuditError::OtherBooks)?;
        let without = of(books.published).checked_add(fresh).ok_or(AuditError::Overflow)?;
        let due = whole(of(books.paid))?.checked_add(corrections.to(payee)).ok_or(AuditError::Overflow)?;
        let excess = whole(without)?.checked_sub(due).ok_or(AuditError::Overflow)?;
        let difference = Amount(excess.unsigned_abs());
        let back = if excess > 0 { difference.min(fresh) } else { Amount::ZERO };
        settled.insert(*payee, without.checked_sub(back).ok_or(AuditError::Overflow)?);
        taken = taken.checked_add(back).ok_or(AuditError::Overflow)?;
        if excess < 0 {
            lacking = lacking.checked_add(difference).ok_or(AuditError::Overflow)?;
            gains.push((*payee, difference));
        }
    }
    let mut left = taken;
    for (to, gain) in gains {
        let part = portion(taken, gain, lacking).ok_or(AuditError::Overflow)?;
        left = left.checked_sub(part).ok_or(AuditError::Overflow)?;
        add(&mut settled, to, part)?;
    }
    add(&mut settled, commons, left)?;
    settled.retain(|_, amount| *amount > Amount::ZERO);
    Ok(settled)
}

/// The same of a single epoch of which nothing was published before.
///
/// # Errors
/// See [`AuditError`].
pub fn corrected(
    paid: &Amounts,
    audited: &[Audited<'_>],
    rate: AuditRate,
    commons: ChainAddress,
) -> Result<Amounts, AuditError> {
    let nothing = Amounts::new();
    let books = Books { published: &nothing, paid_then: &nothing, paid };
    settled(books, &Corrections::of(audited, rate)?, commons)
}

fn whole(amount: Amount) -> Result<i128, AuditError> {
    i128::try_from(amount.0).map_err(|_| AuditError::Overflow)
}

fn total(amounts: &Amounts) -> Result<Amount, AuditError> {
    let sum = amounts.values().try_fold(Amount::ZERO, |sum, amount| sum.checked_add(*amount));
    sum.ok_or(AuditError::Overflow)
}

/// By payee, over all answers audited.
fn sums(audited: &[Audited<'_>]) -> Result<BTreeMap<ChainAddress, Found>, AuditError> {
    let mut seen = BTreeSet::new();
    let mut sums: BTreeMap<ChainAddress, Found> = BTreeMap::new();
    for answer in audited {
        let receipt = answer.receipt;
        if !seen.insert(receipt) {
            return Err(AuditError::Repeated(receipt));
        }
        let paid = tally(answer.paid, &mut sums, |found| &mut found.paid)?;
        let due = tally(answer.due, &mut sums, |found| &mut found.due)?;
        if paid != due {
            return Err(AuditError::Unequal { receipt, paid, due });
        }
    }
    Ok(sums)
}

/// Adds payments to one side of `sums` and says what they are together.
fn tally(
    payments: &[Payment],
    sums: &mut BTreeMap<ChainAddress, Found>,
    side: impl Fn(&mut Found) -> &mut Amount,
) -> Result<Amount, AuditError> {
    let mut all = Amount::ZERO;
    for payment in payments.iter().filter(|payment| payment.role != PaymentRole::Worker) {
        let sum = side(sums.entry(payment.to).or_default());
        *sum = sum.checked_add(payment.amount).ok_or(AuditError::Overflow)?;
        all = all.checked_add(payment.amount).ok_or(AuditError::Overflow)?;
    }
    Ok(all)
}

fn add(amounts: &mut Amounts, to: ChainAddress, amount: Amount) -> Result<(), AuditError> {
    let sum = amounts.entry(to).or_default();
    *sum = sum.checked_add(amount).ok_or(AuditError::Overflow)?;
    Ok(())
}

/// `whole × part ÷ of`, rounded down, for `part` up to `of`: also where the product has more than 128 bits, as that of
/// two sums of thousands of OPEN has. `None` where `of` is zero or near 2^128.
fn portion(whole: Amount, part: Amount, of: Amount) -> Option<Amount> {
    if let Some(found) = whole.checked_mul_div(part.0, of.0) {
        return Some(found);
    }
    // Long multiplication from the highest bit, divided on the way.
    let (mut quotient, mut rest) = (0_u128, 0_u128);
    for bit in (0..u128::BITS).rev() {
        let next = if whole.0 >> bit & 1 == 1 { part.0 } else { 0 };
        rest = rest.checked_mul(2)?.checked_add(next)?;
        quotient = quotient.checked_mul(2)?.checked_add(rest.checked_div(of.0)?)?;
        rest = rest.checked_rem(of.0)?;
    }
    Some(Amount(quotient))
}

#[cfg(test)]
mod tests;
