use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// Payees of the random epochs, the commons first.
const PAYEES: u8 = 6;
const COMMONS: u8 = 0;
/// Who splits, and the names that it takes.
const SPLITTER: u8 = 1;
const NAMES: [u8; 3] = [101, 102, 103];

type Amounts = BTreeMap<ChainAddress, Amount>;

fn address(payee: u8) -> ChainAddress {
    ChainAddress([payee; 20])
}

fn payment(to: u8, amount: u128) -> Payment {
    Payment { to: address(to), role: PaymentRole::Contributor, amount: Amount(amount) }
}

fn rate(answers: u32) -> AuditRate {
    AuditRate::one_in(answers).unwrap()
}

/// What everybody got over all answers.
fn totals<'a>(answers: impl IntoIterator<Item = &'a Vec<Payment>>) -> Amounts {
    let mut totals = Amounts::new();
    for payment in answers.into_iter().flatten() {
        add(&mut totals, payment.to, payment.amount).unwrap();
    }
    totals.retain(|_, amount| *amount > Amount::ZERO);
    totals
}

/// An answer of an epoch, and whether it is audited.
#[derive(Debug, Clone)]
struct Answer {
    paid: Vec<Payment>,
    due: Vec<Payment>,
    is_drawn: bool,
}

fn paid(answers: &[Answer]) -> Amounts {
    totals(answers.iter().map(|answer| &answer.paid))
}

fn drawn(answers: &[Answer]) -> Vec<Audited<'_>> {
    let places = answers.iter().enumerate().filter(|(_, answer)| answer.is_drawn);
    places
        .map(|(place, Answer { paid, due, .. })| Audited {
            receipt: ReceiptId(Hash::of(&place.to_le_bytes()).0),
            paid,
            due,
        })
        .collect()
}

fn correct(answers: &[Answer], one_in: u32) -> Amounts {
    corrected(&paid(answers), &drawn(answers), rate(one_in), address(COMMONS)).unwrap()
}

/// `fee` divided by weights, what is missing to it the commons'.
fn divided(fee: u128, weights: &[u8]) -> Vec<Payment> {
    let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    let part = |weight: &u8| fee * u128::from(*weight) / sum.max(1);
    let mut payments: Vec<Payment> = (1..).zip(weights).map(|(to, weight)| payment(to, part(weight))).collect();
    let rest = fee - payments.iter().map(|payment| payment.amount.0).sum::<u128>();
    payments.push(payment(COMMONS, rest));
    payments
}

/// From no fee to a thousand million OPEN, all there is.
fn answer() -> impl Strategy<Value = Answer> {
    let fee = prop_oneof![0..1_000_u128, 0..1_000_000_u128, 0..1_000_000_000 * Amount::OPEN.0];
    let weights = || proptest::collection::vec(prop_oneof![Just(0), any::<u8>()], usize::from(PAYEES) - 1);
    (fee, weights(), weights(), any::<bool>()).prop_map(|(fee, paid, due, is_drawn)| Answer {
        paid: divided(fee, &paid),
        due: divided(fee, &due),
        is_drawn,
    })
}

fn epoch() -> impl Strategy<Value = Vec<Answer>> {
    proptest::collection::vec(answer(), 0..8)
}

fn one_in() -> impl Strategy<Value = u32> {
    prop_oneof![1..12_u32, Just(u32::MAX)]
}

fn signed(amounts: &Amounts, payee: u8) -> i128 {
    i128::try_from(amounts.get(&address(payee)).copied().unwrap_or_default().0).unwrap()
}

/// Due less paid in the answers drawn.
fn change(answers: &[Answer], payee: u8) -> i128 {
    let drawn = || answers.iter().filter(|answer| answer.is_drawn);
    signed(&totals(drawn().map(|answer| &answer.due)), payee)
        - signed(&totals(drawn().map(|answer| &answer.paid)), payee)
}

/// The difference estimator, which may be below zero.
fn estimate(answers: &[Answer], payee: u8, one_in: u32) -> i128 {
    signed(&paid(answers), payee) + i128::from(one_in) * change(answers, payee)
}

/// The splitter's payments under several names, the parts of each by `weights`.
fn split(payments: &[Payment], weights: [u8; 3]) -> Vec<Payment> {
    let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    let mut apart = Vec::new();
    for whole in payments {
        if whole.to != address(SPLITTER) {
            apart.push(*whole);
            continue;
        }
        let part = |weight: u8| whole.amount.0 / sum.max(1) * u128::from(weight);
        let [first, second, _] = weights.map(part);
        let rest = whole.amount.0 - first - second;
        apart.extend(NAMES.iter().zip([first, second, rest]).map(|(name, amount)| payment(*name, amount)));
    }
    apart
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn the_sum_is_exact(answers in epoch(), one_in in one_in()) {
        let sum = |amounts: &Amounts| amounts.values().map(|amount| amount.0).sum::<u128>();
        prop_assert_eq!(sum(&correct(&answers, one_in)), sum(&paid(&answers)));
    }

    #[test]
    fn nobody_ends_below_zero_or_beyond_the_estimate(answers in epoch(), one_in in one_in()) {
        let found = correct(&answers, one_in);
        // Parts of gains are rounded down, and the commons takes what is left of them.
        let dust = |payee: u8| if payee == COMMONS { i128::from(PAYEES) } else { 0 };
        for payee in 0..PAYEES {
            let (paid, estimate) = (signed(&paid(&answers), payee), estimate(&answers, payee, one_in));
            let found = signed(&found, payee);
            prop_assert!(found >= paid.min(estimate.max(0)), "{} {} {}", found, paid, estimate);
            prop_assert!(found <= paid.max(estimate) + dust(payee), "{} {} {}", found, paid, estimate);
        }
    }

    #[test]
    fn what_was_lacking_in_the_answers_audited_is_made_up(answers in epoch(), one_in in one_in()) {
        let found = correct(&answers, one_in);
        for payee in 0..PAYEES {
            let change = change(&answers, payee);
            if change > 0 {
                prop_assert!(signed(&found, payee) >= signed(&paid(&answers), payee) + change);
            }
        }
    }

    #[test]
    fn where_all_can_repay_it_is_the_estimate(answers in epoch(), one_in in one_in()) {
        if (0..PAYEES).all(|payee| estimate(&answers, payee, one_in) >= 0) {
            let found = correct(&answers, one_in);
            for payee in 0..PAYEES {
                prop_assert_eq!(signed(&found, payee), estimate(&answers, payee, one_in));
            }
        }
    }

    #[test]
    fn the_order_of_answers_does_not_matter(answers in epoch(), one_in in one_in(), turn in any::<Index>()) {
        let mut audited = drawn(&answers);
        let told = corrected(&paid(&answers), &audited, rate(one_in), address(COMMONS));
        audited.reverse();
        if !audited.is_empty() {
            let turn = turn.index(audited.len());
            audited.rotate_left(turn);
        }
        prop_assert_eq!(told, corrected(&paid(&answers), &audited, rate(one_in), address(COMMONS)));
    }

    #[test]
    fn auditing_every_answer_pays_what_was_due(mut answers in epoch()) {
        answers.iter_mut().for_each(|answer| answer.is_drawn = true);
        prop_assert_eq!(correct(&answers, 1), totals(answers.iter().map(|answer| &answer.due)));
    }

    #[test]
    fn splitting_gains_no_more_than_the_names_cannot_repay(
        answers in epoch(),
        one_in in one_in(),
        weights in proptest::collection::vec(any::<([u8; 3], [u8; 3])>(), 8),
    ) {
        let apart = answers.iter().zip(&weights).map(|(answer, (paid, due))| Answer {
            paid: split(&answer.paid, *paid),
            due: split(&answer.due, *due),
            ..answer.clone()
        });
        let apart: Vec<Answer> = apart.collect();
        let owed = |answers: &[Answer], payee| (-estimate(answers, payee, one_in)).max(0);
        let left: i128 = NAMES.iter().map(|name| owed(&apart, *name)).sum();
        let whole = signed(&correct(&answers, one_in), SPLITTER);
        let found = correct(&apart, one_in);
        let names: i128 = NAMES.iter().map(|name| signed(&found, *name)).sum();
        // Not even by rounding: each name's part is rounded down.
        prop_assert!(names <= whole + left - owed(&answers, SPLITTER), "{} {} {}", names, whole, left);
    }

    #[test]
    fn wide_products_are_divided_like_narrow_ones(whole in any::<u64>(), part in any::<u64>(), more in any::<u64>(), shift in 0..60_u32) {
        let of = u128::from(part) + u128::from(more) + 1;
        let narrow = portion(Amount(whole.into()), Amount(part.into()), Amount(of));
        prop_assert_eq!(narrow.unwrap().0, u128::from(whole) * u128::from(part) / of);
        // Both scaled alike give the same.
        let wide = portion(Amount(u128::from(whole)), Amount(u128::from(part) << shift), Amount(of << shift));
        prop_assert_eq!(wide, narrow);
    }
}

/// What is published epoch by epoch, where `answers` come in parts and what is drawn of a part is known in the next.
fn epochs(parts: &[Vec<Answer>], one_in: u32) -> Vec<Amounts> {
    let (mut published, mut told) = (Amounts::new(), Vec::new());
    for count in 0..=parts.len() {
        let before: Vec<Answer> = parts[..count.saturating_sub(1)].concat();
        let all: Vec<Answer> = parts[..count].concat();
        let corrections = Corrections::of(&drawn(&before), rate(one_in)).unwrap();
        let books = Books { published: &published, paid_then: &paid(&before), paid: &paid(&all) };
        published = settled(books, &corrections, address(COMMONS)).unwrap();
        told.push(published.clone());
    }
    told
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn over_epochs_sums_are_exact_and_nothing_published_falls(parts in proptest::collection::vec(epoch(), 0..5), one_in in one_in()) {
        let told = epochs(&parts, one_in);
        for (count, pair) in told.windows(2).enumerate() {
            let sum = |amounts: &Amounts| amounts.values().map(|amount| amount.0).sum::<u128>();
            prop_assert_eq!(sum(&pair[1]), sum(&paid(&parts[..=count].concat())));
            prop_assert!((0..PAYEES).all(|payee| signed(&pair[1], payee) >= signed(&pair[0], payee)), "{:?}", pair);
        }
    }

    #[test]
    fn who_was_never_audited_wrong_earns_what_receipts_pay(mut parts in proptest::collection::vec(epoch(), 0..5), one_in in one_in()) {
        // One whose part the audits always find right.
        let right = 1_u8;
        parts.iter_mut().flatten().for_each(|answer| {
            let own = payment(right, answer.paid.iter().filter(|one| one.to == address(right)).map(|one| one.amount.0).sum());
            let due = answer.due.iter().position(|one| one.to == address(right)).map(|at| answer.due.remove(at));
            answer.due.push(payment(COMMONS, due.map_or(0, |due| due.amount.0)));
            // The commons gives what he is due beyond that, where it has it; else nothing is audited here.
            let commons = answer.due.iter_mut().filter(|one| one.to == address(COMMONS)).max_by_key(|one| one.amount.0);
            match commons {
                Some(commons) if commons.amount >= own.amount => {
                    commons.amount = Amount(commons.amount.0 - own.amount.0);
                    answer.due.push(own);
                }
                _ => answer.due = answer.paid.clone(),
            }
        });
        for (count, found) in epochs(&parts, one_in).iter().enumerate() {
            prop_assert_eq!(signed(found, right), signed(&paid(&parts[..count].concat()), right));
        }
    }
}

#[test]
fn what_somebody_got_too_much_is_carried_until_he_has_earned_it() {
    // In the first epoch 10 are drawn that were the third's; the first payee has claimed them by the time it is known.
    let drawn = Answer { paid: vec![payment(1, 10)], due: vec![payment(3, 10)], is_drawn: true };
    let later = |amount: u128| Answer { paid: vec![payment(1, amount), payment(2, 5)], ..drawn.clone() };
    let undrawn = |answer: Answer| vec![Answer { due: answer.paid.clone(), is_drawn: false, ..answer }];
    let parts = [vec![drawn.clone()], undrawn(later(0)), undrawn(later(15)), undrawn(later(30))];
    let of = |first: u128, second: u128, third: u128| {
        totals([&vec![payment(1, first), payment(2, second), payment(3, third)]])
    };
    // At one in four 40 are owed: nothing can be taken at first, then 15, and at last the 25 that are left.
    let expected = [of(0, 0, 0), of(10, 0, 0), of(10, 5, 0), of(10, 10, 15), of(15, 15, 40)];
    assert_eq!(epochs(&parts, 4), expected);
}

/// Six answers among three, paid by a rule that is wrong by up to a fifth.
fn small_epoch() -> Vec<Answer> {
    let of = |paid: [u128; 3], due: [u128; 3]| {
        let payments = |amounts: [u128; 3]| (0..).zip(amounts).map(|(to, amount)| payment(to, amount)).collect();
        Answer { paid: payments(paid), due: payments(due), is_drawn: false }
    };
    vec![
        of([200, 500, 300], [200, 300, 500]),
        of([100, 450, 450], [150, 450, 400]),
        of([300, 300, 400], [300, 300, 400]),
        of([100, 600, 300], [0, 601, 399]),
        of([250, 250, 500], [251, 149, 600]),
        of([400, 300, 300], [377, 323, 300]),
    ]
}

#[test]
fn the_mean_over_all_samples_is_what_was_due() {
    let mut answers = small_epoch();
    let due = totals(answers.iter().map(|answer| &answer.due));
    let samples = 1_u32 << answers.len();
    let mut sums = [0; 3];
    // At one in two every sample is as likely as any other.
    for sample in 0..samples {
        (0..).zip(&mut answers).for_each(|(place, answer)| answer.is_drawn = sample >> place & 1 == 1);
        assert!((0..3).all(|payee| estimate(&answers, payee, 2) >= 0), "{answers:?}");
        let found = correct(&answers, 2);
        (0..).zip(&mut sums).for_each(|(payee, sum)| *sum += signed(&found, payee));
    }
    assert_eq!(sums, [0, 1, 2].map(|payee| i128::from(samples) * signed(&due, payee)));
    assert_ne!(due, paid(&answers));
}

#[test]
fn the_mean_over_many_beacons_is_what_was_due() {
    // Three times the same answers, so that all can repay whatever is drawn.
    let mut answers = [small_epoch(), small_epoch(), small_epoch()].concat();
    let due = totals(answers.iter().map(|answer| &answer.due));
    let beacons = 4_000;
    let mut sums = [0; 3];
    for beacon in 0..beacons {
        let beacon = Hash::of(&i128::to_le_bytes(beacon));
        let is_drawn = |place: usize| rate(4).draws(&beacon, &ReceiptId([u8::try_from(place).unwrap(); 32]));
        answers.iter_mut().enumerate().for_each(|(place, answer)| answer.is_drawn = is_drawn(place));
        (0..).zip(&mut sums).for_each(|(payee, sum)| *sum += signed(&correct(&answers, 4), payee));
    }
    for (payee, sum) in (0..).zip(sums) {
        let (mean, due) = (sum / beacons, signed(&due, payee));
        // Paid are 4,050, 7,200 and 6,750. The standard error of these means is 12 at most.
        assert!((mean - due).abs() < 40, "{payee}: {mean} {due}");
    }
}

#[test]
fn one_in_so_many_is_drawn_by_beacon_and_receipt() {
    let receipts: Vec<ReceiptId> = (0..10_000_u32).map(|at| ReceiptId(Hash::of(&at.to_le_bytes()).0)).collect();
    let drawn = |beacon: u8, one_in: u32| -> Vec<bool> {
        receipts.iter().map(|receipt| rate(one_in).draws(&Hash([beacon; 32]), receipt)).collect()
    };
    let count = |drawn: &[bool]| drawn.iter().filter(|is_drawn| **is_drawn).count();
    for one_in in [2, 3, 4, 8, 1_000] {
        let (mean, found) = (10_000.0 / f64::from(one_in), drawn(1, one_in));
        let far = (f64::from(u32::try_from(count(&found)).unwrap()) - mean).abs();
        assert!(far < 4.0 * mean.sqrt(), "{one_in} {far}");
        assert_ne!(found, drawn(2, one_in));
        assert_eq!(found, drawn(1, one_in));
    }
    assert_eq!(count(&drawn(1, 1)), receipts.len());
    assert_eq!(count(&drawn(1, u32::MAX)), 0);
}

#[test]
fn who_cannot_repay_ends_at_zero_and_who_gains_gets_less() {
    // Paid 10 and 90 of two answers; in the first, which is drawn at one in four, 10 were the third's, who has nothing.
    let first = Answer { paid: vec![payment(1, 10)], due: vec![payment(3, 10)], is_drawn: true };
    let second = Answer { paid: vec![payment(2, 90)], due: vec![payment(2, 90)], is_drawn: false };
    let found = correct(&[first.clone(), second.clone()], 4);
    assert_eq!(found, totals([&vec![payment(2, 90), payment(3, 10)]]));
    // The same under one name.
    let second = Answer { paid: vec![payment(1, 90)], due: vec![payment(1, 90)], ..second };
    assert_eq!(correct(&[first, second], 4), totals([&vec![payment(1, 60), payment(3, 40)]]));
}

#[test]
fn dust_is_the_commons() {
    // Of 42 that one in two says are too much 25 come back: 8 and a third for each of three.
    let due = vec![payment(2, 7), payment(3, 7), payment(4, 7)];
    let audited = Answer { paid: vec![payment(1, 21)], due, is_drawn: true };
    let other = Answer { paid: vec![payment(1, 4)], due: vec![payment(1, 4)], is_drawn: false };
    let found = correct(&[audited, other], 2);
    assert_eq!(found, totals([&vec![payment(2, 8), payment(3, 8), payment(4, 8), payment(COMMONS, 1)]]));
}

#[test]
fn what_makes_no_sense_is_refused() {
    assert_eq!(AuditRate::one_in(0), Err(AuditError::OneInZero));
    let (paid, due) = (vec![payment(1, 10)], vec![payment(2, 9)]);
    let receipt = ReceiptId([7; 32]);
    let wrong = Audited { receipt, paid: &paid, due: &due };
    let all = totals([&paid]);
    let of = |all: &Amounts, audited: &[Audited<'_>]| corrected(all, audited, rate(2), address(COMMONS));
    let unequal = AuditError::Unequal { receipt, paid: Amount(10), due: Amount(9) };
    assert_eq!(of(&all, &[wrong]), Err(unequal));
    let right = Audited { due: &paid, ..wrong };
    assert_eq!(of(&all, &[right, right]), Err(AuditError::Repeated(receipt)));
    // What is published already must be what was counted already, and nothing counted gets lost.
    let corrections = Corrections::of(&[right], rate(2)).unwrap();
    let (little, nothing) = (totals([&vec![payment(1, 4)]]), Amounts::new());
    for (published, paid_then, paid) in [(&little, &nothing, &all), (&all, &all, &little), (&nothing, &little, &all)] {
        let found = settled(Books { published, paid_then, paid }, &corrections, address(COMMONS));
        assert_eq!(found, Err(AuditError::OtherBooks));
    }
    let most = vec![payment(1, u128::MAX), payment(2, 1)];
    assert_eq!(of(&all, &[Audited { paid: &most, ..wrong }]), Err(AuditError::Overflow));
    // A worker's part is no matter of attribution, whatever it is.
    let worker = Payment { role: PaymentRole::Worker, ..payment(9, 5) };
    assert_eq!(of(&all, &[Audited { paid: &[paid[0], worker], ..right }]), Ok(all.clone()));
}
