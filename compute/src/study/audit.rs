//! How much of the totals is misallocated after an audit: the protocol's own correction, over the study's questions.
//!
//! Invariant: which answers are audited and what follows is `protocol::attribution::audit`'s alone, by beacons that a seed
//! names; an audit sees the true shares of the answers that it draws, and no others.

use std::collections::BTreeMap;

use tributary_protocol::attribution::WHOLE;
use tributary_protocol::attribution::audit::{AuditError, AuditRate, Audited, corrected};
use tributary_protocol::economy::{Payment, PaymentRole};
use tributary_protocol::id::{Amount, ChainAddress, Hash, ReceiptId};

use super::bootstrap::{Figure, around};
use crate::statistics::{mean, misallocated};

/// Audits of one epoch, each by a beacon of its own.
const AUDITS: usize = 200;
/// Audits in each of the interval's draws: with all of them it would take minutes, with fewer it is somewhat wider.
const AUDITS_PER_DRAW: usize = 10;
/// Who is paid what no contributor explains.
const COMMONS: ChainAddress = ChainAddress([u8::MAX; 20]);

/// Total variation of contributors' totals after the audit of one in `one_in` answers, the mean over [`AUDITS`]: `given` and `due` are
/// the parts of each answer, a list for each question, which is answered so many `times`. The interval's draws are of questions and
/// audits.
///
/// # Errors
/// When one in zero is to be audited.
pub(super) fn misallocated_after(
    seed: u64,
    (given, due): (&[Vec<f64>], &[Vec<f64>]),
    one_in: u32,
    times: usize,
) -> Result<Option<Figure>, AuditError> {
    let receipts: Vec<ReceiptId> = (0..given.len() * times).map(|place| ReceiptId(name(seed, place))).collect();
    let rate = AuditRate::one_in(one_in)?;
    let drawn = |audit| {
        let beacon = Hash(name(seed, audit));
        receipts.iter().map(|receipt| rate.draws(&beacon, receipt)).collect()
    };
    let audits: Vec<Vec<bool>> = (0..AUDITS).map(drawn).collect();
    let contributors = due.first().map_or(0, Vec::len);
    let epoch = Epoch { given: payments(given), due: payments(due), receipts, contributors, rate };
    let left = |answers: &[usize], chosen: &[usize]| {
        let answers = answers.repeat(times);
        mean(&chosen.iter().map(|audit| epoch.misallocated(&answers, &audits[*audit])).collect::<Vec<_>>())
    };
    let all: Vec<usize> = (0..given.len()).collect();
    let value = left(&all, &(0..AUDITS).collect::<Vec<_>>());
    Ok(value.and_then(|value| {
        let few = |answers: &[usize], chosen: &[usize]| left(answers, &chosen[..AUDITS_PER_DRAW]);
        around(value, seed, [given.len(), AUDITS], few)
    }))
}

struct Epoch {
    /// What each question's answer pays, and should.
    given: Vec<Vec<Payment>>,
    due: Vec<Vec<Payment>>,
    /// Of the first answer, the second, whatever their questions.
    receipts: Vec<ReceiptId>,
    contributors: usize,
    rate: AuditRate,
}

impl Epoch {
    /// What an audit leaves in wrong hands where `answers` are to these questions, those audited that `drawn` marks.
    fn misallocated(&self, answers: &[usize], drawn: &[bool]) -> f64 {
        let audited = answers.iter().zip(&self.receipts).zip(drawn).filter(|(_, is_drawn)| **is_drawn);
        let audited: Vec<Audited<'_>> = audited
            .map(|((question, receipt), _)| Audited {
                receipt: *receipt,
                paid: &self.given[*question],
                due: &self.due[*question],
            })
            .collect();
        let found = corrected(&totals(&self.given, answers), &audited, self.rate, COMMONS)
            .expect("invariant: every answer pays a whole, and the totals are of all answers");
        let of = |amounts: &BTreeMap<ChainAddress, Amount>| -> Vec<f64> {
            let of = |number| amounts.get(&address(number)).map_or(0.0, |amount| amount.0 as f64);
            (0..self.contributors).map(of).collect()
        };
        misallocated(&of(&found), &of(&totals(&self.due, answers)))
    }
}

/// What all payees got for the answers to these questions.
fn totals(payments: &[Vec<Payment>], answers: &[usize]) -> BTreeMap<ChainAddress, Amount> {
    let mut sums: BTreeMap<ChainAddress, Amount> = BTreeMap::new();
    for payment in answers.iter().flat_map(|question| &payments[*question]) {
        // Millions of wholes are far below what an amount holds.
        sums.entry(payment.to).or_default().0 += payment.amount.0;
    }
    sums
}

/// Each answer's parts in millionths, what is missing to the whole the commons'.
fn payments(answers: &[Vec<f64>]) -> Vec<Vec<Payment>> {
    let of = |parts: &Vec<f64>| {
        let role = PaymentRole::Contributor;
        let mut payments: Vec<Payment> = parts
            .iter()
            .enumerate()
            .map(|(number, part)| Payment { to: address(number), role, amount: amount(*part) })
            .collect();
        let paid: u128 = payments.iter().map(|payment| payment.amount.0).sum();
        let rest = Amount(u128::from(WHOLE).saturating_sub(paid));
        payments.push(Payment { to: COMMONS, role: PaymentRole::Treasury, amount: rest });
        payments
    };
    answers.iter().map(of).collect()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part is from 0 to 1")]
fn amount(part: f64) -> Amount {
    Amount((part * f64::from(WHOLE)) as u128)
}

fn address(contributor: usize) -> ChainAddress {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&(contributor as u64).to_be_bytes());
    ChainAddress(bytes)
}

/// A name of its own for each number.
fn name(seed: u64, number: usize) -> [u8; 32] {
    Hash::of(&[seed.to_le_bytes(), (number as u64).to_le_bytes()].concat()).0
}

#[cfg(test)]
mod tests {
    use super::misallocated_after;

    /// Eighty answers among four; the rule pays the first a tenth of each too much, at the second's cost.
    fn parts() -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
        let due = |at: i32| {
            let third = 0.1 + 0.2 * f64::from(at % 3);
            vec![0.2, 0.3, third, 0.5 - third]
        };
        let given = |at: i32| {
            let due = due(at);
            vec![due[0] + 0.1, due[1] - 0.1, due[2], due[3]]
        };
        ((0..80).map(given).collect(), (0..80).map(due).collect())
    }

    #[test]
    fn an_audit_of_every_answer_leaves_nothing_misallocated() {
        let (given, due) = parts();
        let found = misallocated_after(1, (&given, &due), 1, 1).unwrap().unwrap();
        assert!(found.value.abs() < 1e-12 && found.high.abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn an_audit_of_some_answers_takes_back_most_of_what_is_always_wrong() {
        let (given, due) = parts();
        let of = |one_in| misallocated_after(1, (&given, &due), one_in, 1).unwrap().unwrap();
        let [four, eight, never] = [4, 8, u32::MAX].map(of);
        assert!((never.value - 0.1).abs() < 1e-5, "{never:?}");
        // By chance alone a share of .1 is off by .1 · sqrt((n - 1) / 80), four fifths of that in the mean.
        assert!((four.value - 0.0155).abs() < 0.003, "{four:?}");
        assert!((eight.value - 0.0236).abs() < 0.004, "{eight:?}");
        assert!(four.low <= four.value && four.value <= four.high, "{four:?}");
        assert_eq!(four, of(4));
        // Of sixteen times as many answers a quarter is left of what chance did.
        let many = misallocated_after(1, (&given, &due), 4, 16).unwrap().unwrap();
        assert!((many.value - 0.0155 / 4.0).abs() < 0.001, "{many:?}");
    }

    #[test]
    fn answers_that_nobody_explains_are_the_commons() {
        let (none, due) = (vec![vec![0.0; 2]; 8], vec![vec![0.5; 2]; 8]);
        let found = misallocated_after(1, (&none, &due), u32::MAX, 1).unwrap().unwrap();
        assert!((found.value - 1.0).abs() < 1e-12, "{found:?}");
        assert!(misallocated_after(1, (&none, &due), 0, 1).is_err());
    }
}
