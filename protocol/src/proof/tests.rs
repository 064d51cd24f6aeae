use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::{Case, Claim, Comparison, Found, Judgement, Kind, Need, Proof, ProofError, Recomputed};
use crate::attribution::{Share, commons_weight};
use crate::decoding::Decoding;
use crate::economy::{self, Beneficiaries, FeePolicy};
use crate::envelope::{NetworkId, Signed};
use crate::id::{AccountId, Amount, ChainAddress, DatanetId, Hash, NodeId, TaskId};
use crate::limits::PROOF_MAX_BYTES;
use crate::merkle;
use crate::message::{Contributor, InferenceRequest, Release};
use crate::node::{method_of, shares_of};
use crate::receipt::{AttributionNote, Receipt, ReceiptOffer, Work};
use crate::retrieval::{Context, Passage};
use crate::span::{self, PAGE_ENTRIES, Page, SpanRoots, page_hash};
use crate::transcript::Transcript;

const PAYER: u8 = 1;
const WORKER: u8 = 2;
const BUILDER: u8 = 3;
const AUDITOR: u8 = 4;
const CREDITS: [(u32, i64); 3] = [(0, 900_000), (1, 200_000), (2, -40_000)];

fn network() -> NetworkId {
    NetworkId::named("proofs")
}

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn account(number: u8) -> AccountId {
    AccountId(key(number).verifying_key().to_bytes())
}

fn release() -> Release {
    let contributor = |number: u8| Contributor {
        account: AccountId([number; 32]),
        payout: ChainAddress([number; 20]),
        leave_out: Hash([number; 32]),
        together: None,
        entries: 1,
        estimated: false,
    };
    Release {
        name: "almanac".into(),
        adapter: Hash([32; 32]),
        base: Hash([22; 32]),
        datanet: DatanetId([4; 32]),
        head: Hash([5; 32]),
        contributors: (10..13).map(contributor).collect(),
        notes: Vec::new(),
        index: Hash([6; 32]),
        answer_fee: Amount(1_000_000),
        builder: ChainAddress([7; 20]),
        node: NodeId([8; 32]),
        unchecked: 0,
        quality: None,
    }
}

fn request() -> InferenceRequest {
    InferenceRequest {
        node: NodeId([9; 32]),
        worker: NodeId([10; 32]),
        payer_address: ChainAddress([11; 20]),
        adapter: release().adapter,
        prompt: "What is smoked?".into(),
        decoding: Decoding { logprobs: Some(1), ..Decoding::default() },
        retrieve: 0,
        price_max: Amount(9_000_000),
        verifier: None,
        key: Hash([12; 32]),
    }
}

/// What base, adapter and index give, on the machine of whoever computes in that class.
fn truth() -> Recomputed {
    Recomputed {
        class: "test".into(),
        fault: None,
        answer: Hash::of(b"Corgill"),
        fingerprints: Hash([13; 32]),
        logprobs: Some(Hash([14; 32])),
        credits: CREDITS.to_vec(),
        losses: Vec::new(),
    }
}

/// What a worker signs that sends `credits` and claims these `shares`.
fn signed(credits: &[(u32, i64)], shares: Vec<Share>, change: impl Fn(&mut Receipt)) -> Case {
    signed_with(&Context::default(), credits, shares, change)
}

/// What a worker sends beside its answer.
fn transcript(context: &Context, credits: &[(u32, i64)]) -> Vec<u8> {
    let sent = Transcript {
        prompt_tokens: vec![1, 2, 3],
        output_tokens: vec![4, 5],
        fingerprints: vec![vec![6]],
        credits: credits.to_vec(),
        context: context.clone(),
    };
    sent.to_bytes()
}

/// The same of an answer before whose question these records stood; one was wanted.
fn signed_with(context: &Context, credits: &[(u32, i64)], shares: Vec<Share>, change: impl Fn(&mut Receipt)) -> Case {
    let asked = InferenceRequest { retrieve: u8::from(*context != Context::default()), ..request() };
    let (method, version) = method_of(&asked);
    let request = Signed::new(network(), &key(PAYER), asked);
    let (release, transcript, found) = (release(), transcript(context, credits), truth());
    let to = Beneficiaries {
        worker: ChainAddress([20; 20]),
        treasury: ChainAddress([21; 20]),
        builder: release.builder,
        verifier: ChainAddress([21; 20]),
    };
    let (price, worker_part, policy) = (Amount(1_500_001), Amount(500_000), FeePolicy::INFERENCE);
    let mut receipt = Receipt {
        network: network().0,
        task: TaskId(request.id(network()).0),
        payer: account(PAYER),
        worker: account(WORKER),
        worker_node: request.body.worker,
        base: release.base,
        datanet: release.datanet,
        head: release.head,
        work: Work::Inference {
            adapter: release.adapter,
            prompt: request.body.prompt.commitment(),
            answer: found.answer,
            prompt_tokens: 3,
            answer_tokens: 2,
            seed: 0,
            fingerprints: found.fingerprints,
            logprobs: found.logprobs,
            transcript: Transcript::commitment(&transcript),
        },
        class: found.class,
        attribution: AttributionNote {
            method: method.into(),
            version,
            index: release.index,
            contributors: release.contributors_commitment(),
            quality: release.quality,
        },
        commons: commons_weight(&shares).unwrap_or_default(),
        payments: economy::split(price, worker_part, policy, &to, &shares).unwrap_or_default(),
        shares,
        price,
        worker_part,
        policy,
        to,
        sequence: 1,
        finished_ms: 2,
    };
    change(&mut receipt);
    let offer = ReceiptOffer::new(receipt, &key(WORKER));
    let mut case = Case::of_offer(&offer, &request, &Signed::new(network(), &key(BUILDER), release), &transcript);
    case.payer_signature = Some(offer.countersign(&key(PAYER)).payer_signature);
    case
}

/// A case of a worker that sends these credits and computes its shares from them.
fn case_of(credits: &[(u32, i64)]) -> Case {
    signed(credits, plain(credits), |_| ())
}

fn plain(credits: &[(u32, i64)]) -> Vec<Share> {
    shares_of(&release(), credits, &Context::default())
}

fn weight(credits: &[(u32, i64)], losses: &[i64]) -> Claim {
    Claim::Weight { credits: credits.to_vec(), losses: losses.to_vec() }
}

fn proof(case: Case, claim: Claim) -> Proof {
    Proof::Answer { case: Box::new(case), claim }
}

/// What a judge says in the end, on a machine where the truth can be computed.
fn judged(proof: &Proof) -> Judgement {
    match proof.judge() {
        Judgement::Needs(Need::Answer) => proof.conclude(&Found::Answer(truth())),
        Judgement::Needs(Need::Index) => proof.conclude(&Found::Index(release().index)),
        Judgement::Needs(Need::Shares) => proof.conclude(&Found::Shares(truth().class, plain(&REAL))),
        judged => judged,
    }
}

fn is_proven(proof: &Proof) -> bool {
    matches!(judged(proof), Judgement::Proven(_))
}

/// Every claim that can be made against a worker, each with values that differ from the honest ones.
fn claims() -> Vec<Claim> {
    vec![
        Claim::Sum,
        Claim::Terms,
        weight(&[(0, 1)], &[]),
        weight(&CREDITS, &[]),
        weight(&CREDITS, &[1]),
        Claim::Answer,
        Claim::Logprobs { commitment: None },
    ]
}

#[test]
fn an_honest_worker_is_convicted_of_nothing() {
    assert_eq!(case_of(&CREDITS).compare(&truth()), Comparison::Equal);
    for claim in claims() {
        let said = judged(&proof(case_of(&CREDITS), claim.clone()));
        assert!(matches!(said, Judgement::Fails(_)), "{claim:?}: {said:?}");
    }
}

#[test]
fn a_falsified_weight_is_proven_by_one_recomputation() {
    let case = case_of(&[(0, 20_000), (1, 2_000_000), (2, -40_000)]);
    let Comparison::Unequal(claim, _) = case.compare(&truth()) else { panic!("it differs") };
    assert_eq!(claim, weight(&CREDITS, &[]));
    let proof = proof(case.clone(), claim);
    assert_eq!((proof.kind(), proof.accused()), (Kind::Weight, account(WORKER)));
    assert_eq!(proof.judge(), Judgement::Needs(Need::Answer));
    assert!(is_proven(&proof));
    assert!(is_proven(&Proof::from_bytes(&proof.to_bytes()).unwrap()));
    // What convicts is neither another class, nor a third result, nor a machine that could not compute it.
    let other = Recomputed { class: "another".into(), ..truth() };
    let third = Recomputed { credits: vec![(0, 5), (1, 6), (2, 7)], ..truth() };
    let ill = Recomputed { fault: Some("fingerprint 0 differs".into()), ..truth() };
    for found in [Found::Answer(other), Found::Answer(third), Found::Answer(ill), Found::Nothing("busy".into())] {
        assert!(matches!(proof.conclude(&found), Judgement::Unknown(_)), "{found:?}");
    }
    assert!(matches!(proof.conclude(&Found::Index(Hash::default())), Judgement::Unknown(_)));
}

/// A record that lowered an answer's loss from four nats to `with` beside an adapter that does nothing.
fn context(with: i64) -> Context {
    let passage =
        Passage { record: Hash([40; 32]), contributor: 1, prompt: "What?".into(), completion: "That.".into() };
    Context { passages: vec![passage], losses: vec![4_000_000, with, 4_000_000, with] }
}

/// A case of a worker that says so of the record.
fn retrieved(with: i64) -> Case {
    let context = context(with);
    signed_with(&context, &CREDITS, shares_of(&release(), &CREDITS, &context), |_| ())
}

#[test]
fn what_a_retrieved_record_explained_is_recomputed_and_a_false_loss_proven() {
    let again = Recomputed { losses: context(3_000_000).losses, ..truth() };
    let honest = retrieved(3_000_000);
    assert_eq!(honest.compare(&again), Comparison::Equal);
    assert!(honest.receipt.shares.iter().any(|share| share.account.0[0] == 11 && share.weight > 900_000));
    let case = retrieved(10);
    let Comparison::Unequal(claim, _) = case.compare(&again) else { panic!("it differs") };
    assert_eq!(claim, weight(&CREDITS, &again.losses));
    let said = proof(case, claim).conclude(&Found::Answer(again.clone()));
    assert!(matches!(said, Judgement::Proven(_)), "{said:?}");
    // Shares that leave the record out are false by arithmetic, more records than were wanted are not what was asked.
    let hidden = signed_with(&context(3_000_000), &CREDITS, plain(&CREDITS), |_| ());
    assert!(matches!(proof(hidden, Claim::Sum).judge(), Judgement::Proven(_)));
    let mut more = context(3_000_000);
    more.passages.push(Passage { record: Hash([41; 32]), ..more.passages[0].clone() });
    more.losses.extend(more.losses.clone());
    let case = signed_with(&more, &CREDITS, shares_of(&release(), &CREDITS, &more), |_| ());
    assert!(matches!(proof(case, Claim::Terms).judge(), Judgement::Proven(_)));
}

#[test]
fn false_sums_are_proven_offline() {
    let shares = || plain(&CREDITS);
    let more = |receipt: &mut Receipt| receipt.payments[0].amount = Amount(receipt.payments[0].amount.0 + 1);
    let commons = |receipt: &mut Receipt| receipt.commons += 1;
    let mut moved = shares();
    (moved[0].weight, moved[1].weight) = (moved[1].weight, moved[0].weight);
    let cases =
        [signed(&CREDITS, shares(), more), signed(&CREDITS, shares(), commons), signed(&CREDITS, moved, |_| ())];
    for case in cases {
        let said = proof(case.clone(), Claim::Sum).judge();
        assert!(matches!(said, Judgement::Proven(_)), "{said:?}");
        assert!(matches!(case.compare(&truth()), Comparison::Unequal(Claim::Sum, _)));
        // It is convicted of what was done, not of something else.
        assert!(!is_proven(&proof(case, Claim::Answer)));
    }
}

#[test]
fn terms_of_another_question_are_proven_offline() {
    let other = |receipt: &mut Receipt| {
        let Work::Inference { prompt, .. } = &mut receipt.work else { return };
        *prompt = Hash::of(b"another");
    };
    let case = signed(&CREDITS, plain(&CREDITS), other);
    assert!(matches!(proof(case, Claim::Terms).judge(), Judgement::Proven(_)));
}

#[test]
fn a_false_answer_and_false_probabilities_are_proven_by_recomputation() {
    let ill = Recomputed { fault: Some("output token 1 is 5, this base and adapter give 6".into()), ..truth() };
    let other = Recomputed { answer: Hash::of(b"Branspine"), ..truth() };
    for found in [ill, other] {
        let said = proof(case_of(&CREDITS), Claim::Answer).conclude(&Found::Answer(found));
        assert!(matches!(said, Judgement::Proven(_)), "{said:?}");
    }
    let right = Some(Hash([15; 32]));
    let found = Found::Answer(Recomputed { logprobs: right, ..truth() });
    let claim = Claim::Logprobs { commitment: right };
    assert!(matches!(proof(case_of(&CREDITS), claim).conclude(&found), Judgement::Proven(_)));
}

#[test]
fn what_an_accuser_exchanges_convicts_nobody() {
    let honest = || case_of(&CREDITS);
    let mut another_list = release();
    another_list.contributors.swap_remove(0);
    let mut cases = Vec::new();
    for release in [another_list, Release { index: Hash([99; 32]), ..release() }] {
        cases.push(Case { release: Signed::new(network(), &key(PAYER), release), ..honest() });
    }
    let asked = InferenceRequest { prompt: "Something else?".into(), ..request() };
    cases.push(Case { request: Signed::new(network(), &key(PAYER), asked), ..honest() });
    let sent = Transcript { output_tokens: vec![4, 6], credits: CREDITS.to_vec(), ..Transcript::default() };
    cases.push(Case { transcript: sent.to_bytes(), ..honest() });
    // The worker's word signed by somebody else.
    let mut receipt = honest().receipt;
    receipt.commons += 1;
    let worker_signature = ReceiptOffer::new(receipt.clone(), &key(PAYER)).worker_signature;
    cases.push(Case { receipt, worker_signature, ..honest() });
    for case in cases {
        for claim in claims() {
            let said = judged(&proof(case.clone(), claim));
            assert!(matches!(said, Judgement::Fails(_)), "{said:?}");
        }
        assert!(matches!(case.compare(&truth()), Comparison::Unknown(_)));
    }
}

#[test]
fn a_receipt_of_an_unknown_method_convicts_nobody() {
    let older = |receipt: &mut Receipt| {
        receipt.attribution.version -= 1;
        receipt.commons += 1;
    };
    let case = signed(&CREDITS, plain(&CREDITS), older);
    for claim in claims() {
        assert!(matches!(judged(&proof(case.clone(), claim)), Judgement::Unknown(_)));
    }
}

#[test]
fn a_released_index_that_its_adapters_do_not_make_convicts_its_builder() {
    let right = Hash([77; 32]);
    let row = |built| Proof::Row {
        network: network(),
        release: Box::new(Signed::new(network(), &key(BUILDER), release())),
        built,
    };
    assert_eq!(row(right).judge(), Judgement::Needs(Need::Index));
    assert!(matches!(row(right).conclude(&Found::Index(right)), Judgement::Proven(_)));
    assert_eq!((row(right).accused(), row(right).kind()), (account(BUILDER), Kind::Row));
    // The index is right, the adapters make a third one here, or a blob is missing.
    assert!(matches!(row(right).conclude(&Found::Index(release().index)), Judgement::Fails(_)));
    assert!(matches!(row(right).conclude(&Found::Index(Hash([78; 32]))), Judgement::Unknown(_)));
    assert!(matches!(row(right).conclude(&Found::Nothing("blob".into())), Judgement::Unknown(_)));
    assert!(matches!(row(release().index).judge(), Judgement::Fails(_)));
}

/// Roots of an index of one record whose order is `order`.
fn roots(text: &[u32], order: &[u32]) -> SpanRoots {
    let mut inverse = vec![0; order.len()];
    for (place, position) in (0_u32..).zip(order) {
        inverse[*position as usize] = place;
    }
    let entries = u64::try_from(text.len()).unwrap();
    assert!(entries <= PAGE_ENTRIES, "it is one page");
    let (shard, root) = (Hash([1; 32]), |leaf| merkle::root(&[leaf]));
    let (text, order, inverse) = (root(page_hash(text)), root(page_hash(order)), root(page_hash(&inverse)));
    SpanRoots { shard, entries, records: 1, text, order, inverse, starts: root(span::start_hash(0, &Hash([2; 32]))) }
}

fn page(entries: &[u32]) -> Page {
    Page { page: 0, entries: entries.to_vec(), siblings: Vec::new() }
}

#[test]
fn a_false_span_index_convicts_its_keeper_by_its_pages() {
    let text = [9, 5, 7, span::SEPARATOR];
    let (right, wrong) = ([3, 1, 2, 0], [3, 2, 1, 0]);
    let against = |order: &[u32; 4]| Proof::Span {
        network: network(),
        roots: Box::new(Signed::new(network(), &key(BUILDER), roots(&text, order))),
        fault: Box::new(span::Fault::Order { place: 1, order: vec![page(order)], text: vec![page(&text)] }),
    };
    assert!(matches!(against(&wrong).judge(), Judgement::Proven(_)));
    assert!(matches!(against(&right).judge(), Judgement::Fails(_)));
    assert_eq!((against(&wrong).accused(), against(&wrong).kind()), (account(BUILDER), Kind::Span));
    let words = Proof::Span {
        network: network(),
        roots: Box::new(Signed::new(network(), &key(BUILDER), roots(&text, &right))),
        fault: Box::new(span::Fault::Words {
            number: 0,
            record: Hash([2; 32]),
            start: 0,
            siblings: Vec::new(),
            content: "other words".into(),
            text: vec![page(&text)],
        }),
    };
    assert_eq!(words.judge(), Judgement::Needs(Need::Record));
    assert!(matches!(words.conclude(&Found::Record(true)), Judgement::Proven(_)));
    assert!(matches!(words.conclude(&Found::Record(false)), Judgement::Fails(_)));
}

#[test]
fn what_is_no_proof_says_so() {
    assert_eq!(Proof::from_bytes(b"{\n  \"receipt\""), Err(ProofError::Magic));
    let bytes = proof(case_of(&CREDITS), Claim::Sum).to_bytes();
    for length in 0..bytes.len() {
        assert!(Proof::from_bytes(&bytes[..length]).is_err());
    }
    let long = [bytes.as_slice(), &vec![0; PROOF_MAX_BYTES]].concat();
    assert!(matches!(Proof::from_bytes(&long), Err(ProofError::Wire(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_mutation_of_an_honest_workers_bytes_convicts(
        place in any::<prop::sample::Index>(),
        more in any::<prop::sample::Index>(),
        (flip, other) in (1..=255_u8, any::<u8>()),
        claim in 0..6_usize,
    ) {
        let mut bytes = proof(case_of(&CREDITS), claims().swap_remove(claim)).to_bytes();
        let (place, more) = (place.index(bytes.len()), more.index(bytes.len()));
        bytes[place] ^= flip;
        bytes[more] ^= other;
        if let Ok(read) = Proof::from_bytes(&bytes) {
            prop_assert!(!is_proven(&read), "{read:?}");
            prop_assert_eq!(read.to_bytes(), bytes);
        }
    }

    #[test]
    fn every_falsified_credit_vector_is_proven(
        credits in prop::collection::vec(-2_000_000..2_000_000_i64, 0..3),
    ) {
        let credits: Vec<(u32, i64)> = (0..).zip(credits).collect();
        let case = case_of(&credits);
        let Comparison::Unequal(claim, _) = case.compare(&truth()) else { return Err(TestCaseError::fail("equal")) };
        prop_assert!(is_proven(&proof(case, claim)));
    }

    #[test]
    fn every_share_that_the_credits_do_not_give_is_proven(
        weights in prop::collection::vec(0..400_000_u32, 3), credits in prop::collection::vec(any::<i64>(), 3),
    ) {
        let credits: Vec<(u32, i64)> = (0..).zip(credits).collect();
        let share = |(number, weight): (u8, u32)| {
            Share { account: AccountId([number; 32]), payout: ChainAddress([number; 20]), weight }
        };
        let shares: Vec<Share> = (10..).zip(weights).map(share).collect();
        prop_assume!(shares != plain(&credits));
        prop_assert!(is_proven(&proof(signed(&credits, shares, |_| ()), Claim::Sum)));
    }

    #[test]
    fn arbitrary_bytes_are_read_or_refused_and_never_convict(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let with_magic = [super::MAGIC.as_slice(), &bytes].concat();
        if let Ok(read) = Proof::from_bytes(&with_magic) {
            prop_assert!(!is_proven(&read));
        }
    }
}

/// The credits that the adapters really trained without each give: the index is a little off.
const REAL: [(u32, i64); 2] = [(0, 700_000), (1, 150_000)];

/// What an auditor signs about an honest answer, and the proof that it is another thing.
fn audited(found: &[(u32, i64)], claimed: &[(u32, i64)], change: impl Fn(&mut Receipt)) -> Proof {
    let case = case_of(&CREDITS);
    let mut audit = Receipt {
        task: TaskId([5; 32]),
        worker: account(AUDITOR),
        work: Work::Audit { of: case.receipt.id() },
        shares: plain(found),
        price: Amount::ZERO,
        worker_part: Amount::ZERO,
        ..case.receipt.clone()
    };
    change(&mut audit);
    let signature = ReceiptOffer::new(audit.clone(), &key(AUDITOR)).worker_signature;
    Proof::Audit { case: Box::new(case), audit: Box::new(audit), signature, shares: plain(claimed) }
}

#[test]
fn an_auditor_who_signs_other_shares_than_the_adapters_give_is_convicted() {
    assert_ne!(plain(&REAL), plain(&CREDITS));
    let of = |found: &[(u32, i64)], claimed: &[(u32, i64)]| audited(found, claimed, |_| ());
    let proof = of(&CREDITS, &REAL);
    assert!(is_proven(&proof), "{:?}", judged(&proof));
    assert_eq!((proof.accused(), proof.kind()), (account(AUDITOR), Kind::Audit));
    assert_eq!(Proof::from_bytes(&proof.to_bytes()), Ok(proof));
    // Who was right is never convicted, whatever is claimed, nor by what is computed here neither of them says.
    assert!(matches!(judged(&of(&REAL, &CREDITS)), Judgement::Fails(_)));
    assert!(matches!(judged(&of(&REAL, &REAL)), Judgement::Fails(_)));
    assert!(matches!(judged(&of(&CREDITS, &[(0, 1)])), Judgement::Unknown(_)));
    assert!(matches!(judged(&audited(&CREDITS, &REAL, |audit| audit.class = "other".into())), Judgement::Unknown(_)));
    let other = |audit: &mut Receipt| audit.work = Work::Audit { of: crate::id::ReceiptId([9; 32]) };
    assert!(matches!(judged(&audited(&CREDITS, &REAL, other)), Judgement::Fails(_)));
    let stranger = |audit: &mut Receipt| audit.worker = account(WORKER);
    assert!(matches!(judged(&audited(&CREDITS, &REAL, stranger)), Judgement::Fails(_)));
}
