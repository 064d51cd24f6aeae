use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::attribution::{Share, commons_weight};
use crate::economy::{Beneficiaries, FeePolicy};
use crate::id::{AccountId, DatanetId, TaskId};
use crate::receipt::AttributionNote;

const COMMONS: ChainAddress = address(0);
/// Payees of the random answers, the commons aside.
const PAYEES: u8 = 4;
const PAYER: u8 = 90;

const fn address(payee: u8) -> ChainAddress {
    ChainAddress([payee; 20])
}

/// Shares of contributors from one on, and what is left to the commons.
fn shares(weights: &[u8]) -> Vec<Share> {
    let share = |(payee, weight): (u8, &u8)| Share {
        account: AccountId([payee; 32]),
        payout: address(payee),
        weight: u32::from(*weight) * 900,
    };
    (1..).zip(weights).map(share).filter(|share| share.weight > 0).collect()
}

/// An answer by the worker 80, the `number`th, of this price and these shares.
fn answer(number: u32, price: u128, weights: &[u8]) -> Receipt {
    let to = Beneficiaries { worker: address(80), treasury: COMMONS, builder: address(5), verifier: COMMONS };
    let (price, worker_part, policy, shares) = (Amount(price), Amount::ZERO, FeePolicy::INFERENCE, shares(weights));
    let nothing = Hash::default();
    Receipt {
        network: nothing,
        task: TaskId(Hash::of(&number.to_le_bytes()).0),
        payer: AccountId([PAYER; 32]),
        worker: AccountId([80; 32]),
        worker_node: NodeId([80; 32]),
        base: nothing,
        datanet: DatanetId([0; 32]),
        head: nothing,
        work: Work::Inference {
            adapter: nothing,
            prompt: nothing,
            answer: nothing,
            prompt_tokens: 1,
            answer_tokens: 1,
            seed: 0,
            fingerprints: nothing,
            logprobs: None,
            transcript: nothing,
        },
        class: "test".into(),
        attribution: AttributionNote {
            method: "loco-delta".into(),
            version: 3,
            index: nothing,
            contributors: nothing,
            quality: None,
        },
        commons: commons_weight(&shares).expect("the weights fit"),
        payments: economy::split(price, worker_part, policy, &to, &shares).expect("a split"),
        shares,
        price,
        worker_part,
        policy,
        to,
        sequence: 0,
        finished_ms: 0,
    }
}

/// What an auditor found about an answer.
fn audit(of: &Receipt, auditor: u8, weights: &[u8]) -> Receipt {
    let mut audit = answer(0, 0, weights);
    audit.task = TaskId([auditor; 32]);
    audit.worker = AccountId([auditor; 32]);
    audit.work = Work::Audit { of: of.id() };
    audit
}

type Found<'a> = BTreeMap<ReceiptId, &'a Receipt>;

fn all<'a>(receipts: impl IntoIterator<Item = &'a Receipt>) -> Found<'a> {
    receipts.into_iter().map(|receipt| (receipt.id(), receipt)).collect()
}

/// A beacon that draws the first and not the second.
fn beacon_that_draws(drawn: &ReceiptId, other: Option<&ReceiptId>) -> Hash {
    let beacons = (0_u32..).map(|number| Hash::of(&number.to_le_bytes()));
    let fits = |beacon: &Hash| is_drawn(beacon, drawn) && other.is_none_or(|other| !is_drawn(beacon, other));
    beacons.into_iter().find(fits).expect("one in sixteen does")
}

fn earned(body: &EpochBody, payee: u8) -> u128 {
    body.earned.iter().find(|(to, _)| *to == address(payee)).map_or(0, |(_, amount)| amount.0)
}

/// An answer that paid the first contributor what the audits of it say is the second's, and all beacons known.
fn audited() -> (Receipt, [Receipt; 2], EpochBody, BTreeMap<u64, Hash>) {
    let wrong = answer(1, 1_000_000, &[200, 0]);
    let audits = [audit(&wrong, 70, &[0, 200]), audit(&wrong, 71, &[0, 200])];
    let first = EpochBody::after(None, &all([&wrong]), &BTreeMap::new(), COMMONS).unwrap();
    let beacons = BTreeMap::from([(1, beacon_that_draws(&wrong.id(), None))]);
    (wrong, audits, first, beacons)
}

#[test]
fn what_two_auditors_find_is_made_up_from_what_is_earned_later() {
    let (wrong, [one, other], first, beacons) = audited();
    // 55 % of a fee are the contributors'; 200 weights of 900 millionths each are 18 % of that.
    assert_eq!((earned(&first, 1), earned(&first, 2)), (99_000, 0));
    let second = EpochBody::after(Some(&first), &all([&wrong, &one, &other]), &beacons, COMMONS).unwrap();
    assert_eq!((earned(&second, 1), earned(&second, 2)), (99_000, 0), "he may have claimed it");
    assert_eq!(second.earned, first.earned);
    // Sixteen times 99,000 are owed: all that the first earns goes to the second, until it is repaid.
    let later = answer(2, 10_000_000, &[200, 0]);
    let third = EpochBody::after(Some(&second), &all([&wrong, &one, &other, &later]), &beacons, COMMONS).unwrap();
    assert_eq!((earned(&third, 1), earned(&third, 2)), (99_000, 990_000));
    let last = answer(3, 10_000_000, &[200, 0]);
    let all = all([&wrong, &one, &other, &later, &last]);
    let fourth = EpochBody::after(Some(&third), &all, &beacons, COMMONS).unwrap();
    assert_eq!((earned(&fourth, 1), earned(&fourth, 2)), (99_000 + 990_000 + 990_000 - 1_584_000, 1_584_000));
    assert_eq!(fourth.total(), Some(Amount(21_000_000)));
    let since: Vec<u64> = [&wrong, &one, &later, &last].map(|receipt| fourth.since()[&receipt.id()]).to_vec();
    assert_eq!(since, [1, 2, 3, 4]);
}

#[test]
fn audits_that_do_not_hold_make_no_epoch() {
    let (wrong, [one, other], first, beacons) = audited();
    let refused = |receipts: Found<'_>, beacons: &BTreeMap<u64, Hash>| match EpochBody::after(
        Some(&first),
        &receipts,
        beacons,
        COMMONS,
    ) {
        Err(EpochError::Audit { reason, .. }) => reason,
        found => panic!("{found:?}"),
    };
    let with = |audits: [&Receipt; 2]| refused(all([&wrong, audits[0], audits[1]]), &beacons);
    assert_eq!(refused(all([&wrong, &one]), &beacons), "there are not two");
    let unknown = EpochBody::after(Some(&first), &all([&wrong, &one, &other]), &BTreeMap::new(), COMMONS);
    assert_eq!(unknown, Err(EpochError::Beacon(1)));
    let unlucky = answer(9, 5, &[]);
    let never = BTreeMap::from([(1, beacon_that_draws(&unlucky.id(), Some(&wrong.id())))]);
    assert_eq!(refused(all([&wrong, &one, &other]), &never), "the answer was not drawn");
    assert_eq!(with([&one, &audit(&wrong, 71, &[1, 200])]), "the auditors disagree");
    let again = Receipt { finished_ms: 5, ..one.clone() };
    assert_eq!(with([&one, &again]), "an auditor stands twice or has a part in the answer");
    for party in [80, PAYER] {
        let own = audit(&wrong, party, &[0, 200]);
        assert_eq!(with([&one, &own]), "an auditor stands twice or has a part in the answer");
    }
    let paid = [audit(&wrong, 70, &[0, 0, 200]), audit(&wrong, 3, &[0, 0, 200])];
    assert_eq!(with([&paid[0], &paid[1]]), "an auditor stands twice or has a part in the answer");
    assert_eq!(with([&one, &audit(&wrong, 1, &[0, 200])]), "an auditor stands twice or has a part in the answer");
    let stranger = Receipt { payer: AccountId([1; 32]), ..other.clone() };
    assert_eq!(with([&one, &stranger]), "somebody else than its payer signed");
    // Of an answer that is counted in the same epoch nobody could know that it would be drawn.
    let new = answer(2, 7, &[1]);
    let early = [audit(&new, 70, &[2]), audit(&new, 71, &[2])];
    assert_eq!(refused(all([&wrong, &new, &early[0], &early[1]]), &beacons), "no epoch before counted the answer");
    assert_eq!(refused(all([&wrong, &early[0], &early[1]]), &beacons), "the answer is not counted");
    let of_audit = [audit(&one, 72, &[2]), audit(&one, 73, &[2])];
    let second = EpochBody::after(Some(&first), &all([&wrong, &one, &other]), &beacons, COMMONS).unwrap();
    let beacons: BTreeMap<u64, Hash> = [(1, beacons[&1]), (2, beacon_that_draws(&one.id(), None))].into();
    let receipts = all([&wrong, &one, &other, &of_audit[0], &of_audit[1]]);
    let found = EpochBody::after(Some(&second), &receipts, &beacons, COMMONS);
    assert_eq!(found, Err(EpochError::Audit { receipt: one.id(), reason: "no answer was audited" }));
    assert_eq!(EpochBody::after(Some(&first), &all([&one]), &beacons, COMMONS), Err(EpochError::Missing(wrong.id())));
}

#[test]
fn a_liar_among_auditors_needs_a_second_one() {
    let (wrong, [one, other], ..) = audited();
    let liar = audit(&wrong, 72, &[200, 50]);
    assert_eq!(pair_of(&wrong, &[&liar, &one]), None);
    assert_eq!(pair_of(&wrong, &[&liar, &one, &other]), Some([&one, &other]));
    assert_eq!(pair_of(&wrong, &[]), None);
    // Whoever is asked again and again is not looked at for ever.
    let liars: Vec<Receipt> = (100..=200).map(|liar| audit(&wrong, liar, &[liar])).collect();
    let many: Vec<&Receipt> = liars.iter().chain([&one, &other]).collect();
    assert_eq!(pair_of(&wrong, &many), None);
}

/// Answers of an epoch: price, shares, and what the audits would find.
fn answers() -> impl Strategy<Value = Vec<(u64, Vec<u8>, Vec<u8>)>> {
    let weights = || proptest::collection::vec(any::<u8>(), usize::from(PAYEES));
    proptest::collection::vec((1..1_000_000_000_u64, weights(), weights()), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_audits_find_sums_are_exact_and_earnings_never_fall(
        parts in proptest::collection::vec(answers(), 1..5),
        turn in any::<Index>(),
    ) {
        let mut receipts: Vec<Receipt> = Vec::new();
        let mut due: Vec<(Receipt, Vec<u8>)> = Vec::new();
        let (mut before, mut beacons) = (None::<EpochBody>, BTreeMap::new());
        for (epoch, part) in (1_u64..).zip(&parts) {
            // What was drawn of the epoch before is audited by now.
            let audits = due.iter().filter(|(of, _)| {
                before.as_ref().is_some_and(|before| before.all_drawn(&beacons).contains(&of.id()))
                    && !receipts.iter().any(|one| one.audited() == Some(of.id()))
            });
            let audits: Vec<Receipt> =
                audits.flat_map(|(of, found)| [audit(of, 70, found), audit(of, 71, found)]).collect();
            receipts.extend(audits);
            for (number, (price, paid, found)) in (0_u32..).zip(part) {
                let one = answer(u32::try_from(epoch).unwrap() * 100 + number, (*price).into(), paid);
                receipts.push(one.clone());
                due.push((one, found.clone()));
            }
            let body = EpochBody::after(before.as_ref(), &all(&receipts), &beacons, COMMONS).unwrap();
            let mut turned = receipts.clone();
            turned.rotate_left(turn.index(receipts.len()));
            prop_assert_eq!(&body, &EpochBody::after(before.as_ref(), &all(&turned), &beacons, COMMONS).unwrap());
            let price = receipts.iter().map(|receipt| receipt.price.0).sum::<u128>();
            prop_assert_eq!(body.total(), Some(Amount(price)));
            for (payee, earned) in before.iter().flat_map(|before| &before.earned) {
                prop_assert!(body.earned.iter().any(|(to, now)| to == payee && now >= earned));
            }
            // Who has no part in attribution is never touched.
            let builder: u128 = receipts.iter().flat_map(|one| &one.payments).filter(|one| one.to == address(5)).map(|one| one.amount.0).sum();
            prop_assert_eq!(self::earned(&body, 5), builder);
            beacons.insert(epoch, Hash::of(&crate::wire::encode(&body)));
            before = Some(body);
        }
    }
}
