//! One fixed example of every message and every statement.

use ed25519_dalek::SigningKey;
use tributary_protocol::attribution::{Quality, Share, WHOLE};
use tributary_protocol::batch::{BatchHead, EpochHead};
use tributary_protocol::card::{CardChange, CardHead};
use tributary_protocol::datanet::{Contribution, Genesis, Head, LogHead, Policy, Schema};
use tributary_protocol::decoding::{Decoding, Format};
use tributary_protocol::economy::{self, Beneficiaries, FeePolicy};
use tributary_protocol::envelope::{NetworkId, Signed, Statement, statement_digest};
use tributary_protocol::id::{AccountId, Amount, ChainAddress, DatanetId, Hash, NodeId, ReceiptId, TaskId};
use tributary_protocol::message::{
    Accepted, Audit, BidSealed, Certificate, CheckWanted, Contributor, Heartbeat, HeldOut, InferenceRequest, LogWanted,
    Measurement, Message, PeerRecord, Release, Roles, TaskRound,
};
use tributary_protocol::note::{Note, Opening, Says, Seen};
use tributary_protocol::receipt::{AttributionNote, Receipt, ReceiptOffer, SignedReceipt, Voucher, Work};
use tributary_protocol::refusal::{DeclineReason, Declined};
use tributary_protocol::span::SpanRoots;
use tributary_protocol::task::{Award, Bid, FineTune, TaskOffer};
use tributary_protocol::verification::{Outcome, Subject, TaskResult, Verdict};
use tributary_protocol::wire;

/// When the examples were made.
pub const NOW_MS: u64 = 1_800_000_000_000;

pub fn network() -> NetworkId {
    NetworkId::named("golden")
}

pub fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn account(number: u8) -> AccountId {
    AccountId(key(number).verifying_key().to_bytes())
}

fn node(number: u8) -> NodeId {
    NodeId(key(number).verifying_key().to_bytes())
}

fn hash(number: u8) -> Hash {
    Hash([number; 32])
}

fn address(number: u8) -> ChainAddress {
    ChainAddress([number; 20])
}

pub fn signed<T: Statement>(number: u8, body: T) -> Signed<T> {
    Signed::new(network(), &key(number), body)
}

pub fn genesis() -> Genesis {
    Genesis {
        name: "almanac".into(),
        owners: vec![account(1)],
        licence: "CC0-1.0".into(),
        policy: Policy::Members(vec![account(2), account(3)]),
        schema: Schema::PromptCompletion,
        notaries: vec![account(1), account(4)],
        created_ms: NOW_MS,
    }
}

fn contribution() -> Contribution {
    Contribution {
        datanet: DatanetId([4; 32]),
        sequence: 1,
        previous: hash(5),
        shard: hash(6),
        bytes: 7_000,
        records: 80,
        records_root: hash(9),
        payout: address(10),
        claimed_ms: NOW_MS,
        opening: Some(Opening { note: 2, salt: hash(82) }),
    }
}

pub fn card_change() -> CardChange {
    CardChange { datanet: DatanetId([4; 32]), sequence: 1, previous: hash(74), change: vec![75, 76, 77] }
}

pub fn card_head() -> CardHead {
    CardHead { datanet: DatanetId([4; 32]), logs: head().logs }
}

pub fn head() -> Head {
    let mut logs = vec![
        LogHead { contributor: account(1), length: 3, newest: hash(11) },
        LogHead { contributor: account(2), length: 1, newest: hash(12) },
    ];
    logs.sort();
    let notes = vec![LogHead { contributor: account(4), length: 2, newest: hash(83) }];
    Head { datanet: DatanetId([4; 32]), logs, notes }
}

/// A commitment and an attestation.
pub fn notes() -> [Note; 2] {
    let Head { logs, notes, .. } = head();
    [Says::Commitment(hash(84)), Says::Attestation(Seen { logs, notes })].map(|says| Note {
        datanet: DatanetId([4; 32]),
        sequence: 1,
        previous: hash(85),
        at_ms: NOW_MS,
        says,
    })
}

/// Two contributors who are left out together.
fn cluster() -> Vec<AccountId> {
    let mut members = vec![account(1), account(2)];
    members.sort_unstable();
    members
}

pub fn offer() -> TaskOffer {
    TaskOffer {
        node: node(20),
        payer_address: address(21),
        work: FineTune {
            base: hash(22),
            head: head(),
            recipe: r#"{"rank":8}"#.into(),
            steps: 60,
            leave_out: cluster(),
        },
        budget: Amount::OPEN,
        bids_until_ms: NOW_MS + 1_500,
        reveals_until_ms: NOW_MS + 3_000,
        deadline_ms: NOW_MS + 600_000,
        segments_checked: 3,
        beacon_commitment: hash(23),
        nonce: 24,
    }
}

fn bid() -> Bid {
    Bid {
        task: TaskId([25; 32]),
        worker: account(26),
        node: node(27),
        payout: address(28),
        price: Amount(29),
        expected_ms: 30,
        nonce: hash(31),
    }
}

fn award() -> Award {
    Award {
        task: TaskId([25; 32]),
        round: 1,
        worker: account(26),
        node: node(27),
        payout: address(28),
        price: Amount(29),
    }
}

fn result() -> TaskResult {
    TaskResult {
        task: TaskId([25; 32]),
        round: 1,
        adapter: hash(32),
        checkpoints: vec![hash(33), hash(34), hash(35)],
        steps: 60,
        kept_step: 50,
        loss_micro_nats: 1_234_567,
        elapsed_ms: 8_000,
        class: "x86-64-v3 f32".into(),
    }
}

fn verdict() -> Verdict {
    Verdict {
        task: TaskId([25; 32]),
        subject: Subject::Training(hash(36)),
        checked: vec![0, 1],
        outcome: Outcome::Refuted("segment 1 gives another checkpoint".into()),
        proof: Some(hash(80)),
    }
}

fn span_roots() -> SpanRoots {
    let root = hash(81);
    SpanRoots { shard: hash(6), entries: 900, records: 80, text: root, order: root, inverse: root, starts: root }
}

fn batch_head() -> BatchHead {
    BatchHead {
        node: node(37),
        sequence: 38,
        count: 39,
        root: hash(40),
        price: Amount(41),
        body: hash(42),
        body_bytes: 43_000,
    }
}

fn epoch_head() -> EpochHead {
    EpochHead {
        epoch: 1,
        node: node(44),
        receipts_root: hash(45),
        body: hash(46),
        body_bytes: 47_000,
        total: Amount::OPEN,
    }
}

fn certificate(number: u8) -> Certificate {
    Certificate { node: node(number), chain_address: address(number), expires_ms: NOW_MS + 86_400_000 }
}

const fn quality() -> Quality {
    Quality { answers: 16, contributors: 1, misallocated: 21_000, correlation: Some(987_000), noise: 40_000 }
}

pub fn release() -> Release {
    let mut contributors = vec![
        Contributor {
            account: account(1),
            payout: address(1),
            leave_out: hash(48),
            together: None,
            entries: 2,
            estimated: false,
        },
        Contributor {
            account: account(2),
            payout: address(2),
            leave_out: hash(49),
            together: None,
            entries: 1,
            estimated: true,
        },
    ];
    contributors.sort_by_key(|contributor| contributor.account);
    Release {
        name: "almanac-1".into(),
        adapter: hash(32),
        base: hash(22),
        datanet: DatanetId([4; 32]),
        head: head().id(),
        contributors,
        notes: vec![(account(4), 2)],
        index: hash(50),
        answer_fee: Amount(1_000_000),
        builder: address(51),
        node: node(52),
        unchecked: 1,
        quality: Some(quality()),
    }
}

fn request() -> InferenceRequest {
    InferenceRequest {
        node: node(53),
        worker: node(54),
        payer_address: address(55),
        adapter: hash(32),
        prompt: "What is the capital?".into(),
        decoding: Decoding {
            max_tokens: 32,
            temperature_milli: 700,
            seed: 7,
            top_k: 40,
            top_p_bp: 9_500,
            min_p_bp: 50,
            repetition_penalty_milli: 1_100,
            frequency_penalty_milli: -500,
            presence_penalty_milli: 500,
            stop: vec!["\n\n".into()],
            format: Format::JsonSchema("{}".into()),
            logprobs: Some(3),
        },
        retrieve: 3,
        price_max: Amount(2_000_000),
        verifier: Some(address(56)),
        key: hash(57),
    }
}

fn receipt() -> Receipt {
    let mut shares = vec![
        Share { account: account(1), payout: address(1), weight: 700_000 },
        Share { account: account(2), payout: address(2), weight: 250_000 },
    ];
    shares.sort_by_key(|share| share.account);
    let to = Beneficiaries { worker: address(58), treasury: address(59), builder: address(51), verifier: address(56) };
    let (price, worker_part, policy) = (Amount(1_500_001), Amount(500_000), FeePolicy::INFERENCE);
    Receipt {
        network: network().0,
        task: TaskId([60; 32]),
        payer: account(61),
        worker: account(62),
        worker_node: node(54),
        base: hash(22),
        datanet: DatanetId([4; 32]),
        head: head().id(),
        work: Work::Inference {
            adapter: hash(32),
            prompt: hash(63),
            answer: hash(64),
            prompt_tokens: 9,
            answer_tokens: 12,
            seed: 7,
            fingerprints: hash(65),
            logprobs: Some(hash(66)),
            transcript: hash(78),
        },
        class: "x86-64-v3 f32".into(),
        attribution: AttributionNote {
            method: "loco-delta".into(),
            version: 1,
            index: hash(50),
            contributors: hash(79),
            quality: Some(quality()),
        },
        commons: WHOLE - 950_000,
        payments: economy::split(price, worker_part, policy, &to, &shares).expect("the example splits"),
        shares,
        price,
        worker_part,
        policy,
        to,
        sequence: 66,
        finished_ms: NOW_MS,
    }
}

fn receipt_offer() -> ReceiptOffer {
    ReceiptOffer::new(receipt(), &key(62))
}

pub fn signed_receipt() -> SignedReceipt {
    receipt_offer().countersign(&key(61))
}

fn voucher() -> Voucher {
    Voucher {
        payer: account(61),
        worker: account(62),
        payer_address: address(67),
        payee: address(58),
        cumulative: Amount(500_000),
        fees_cumulative: Amount(1_000_001),
        signature: (0..65).collect(),
    }
}

pub fn peer_record() -> PeerRecord {
    PeerRecord {
        certificate: signed(68, certificate(69)),
        roles: Roles { worker: true, verifier: false, witness: true, poster: false },
        control: vec!["/ip4/127.0.0.1/udp/4001/quic-v1".into()],
        data: vec!["127.0.0.1:4002".into()],
        classes: vec!["x86-64-v3 f32".into(), "x86-64-v3 q".into()],
        serving: vec![hash(32)],
        answer_price: Amount(500_000),
        batches: 3,
    }
}

/// One message of each kind.
pub fn messages() -> Vec<Message> {
    let task = TaskId([25; 32]);
    let audit = Audit { receipt: signed_receipt(), request: signed(61, request()), transcript: vec![1, 2, 3] };
    let check =
        CheckWanted { offer: signed(20, offer()), worker: node(27), result: signed(26, result()), secret: hash(70) };
    let accepted = Accepted { task, verifier: address(71), segments_checked: 2, price: Amount(30) };
    let wanted = LogWanted { datanet: DatanetId([4; 32]), contributor: account(1), from: 2 };
    let held_out =
        HeldOut { loss_micro_nats: 2_100_000, exact_match_millionths: Some(500_000), rouge_l_millionths: None };
    let point = Measurement { step: 6, elapsed_ms: 40, loss_micro_nats: 2_000_000, tokens_per_s: 900, held_out: None };
    let curve = vec![Measurement { step: 5, held_out: Some(held_out), ..point }, point];
    let beat = Heartbeat { task, round: 1, step: 6, steps: 60, loss_micro_nats: 2_000_000, tokens_per_s: 900, curve };
    vec![
        Message::Peer(Box::new(peer_record())),
        Message::Genesis(Box::new(signed(1, genesis()))),
        Message::Head(head()),
        Message::GenesisWanted(DatanetId([4; 32])),
        Message::LogWanted(wanted),
        Message::LogEntries(vec![signed(2, contribution())]),
        Message::Offer(Box::new(signed(20, offer()))),
        Message::BidSealed(BidSealed { task, commitment: bid().commitment() }),
        Message::BidOpened(bid()),
        Message::Awarded(signed(20, award())),
        Message::Heartbeat(beat),
        Message::Cancelled(TaskRound { task, round: 1 }),
        Message::Result(Box::new(signed(26, result()))),
        Message::CheckWanted(Box::new(check)),
        Message::Verdict(Box::new(signed(72, verdict()))),
        Message::Accepted(accepted),
        Message::ReceiptOffered(Box::new(receipt_offer())),
        Message::Receipt(Box::new(signed_receipt())),
        Message::ReceiptKept(ReceiptId([73; 32])),
        Message::Voucher(Box::new(voucher())),
        Message::VoucherKept(Amount(500_000)),
        Message::Release(Box::new(signed(51, release()))),
        Message::AuditWanted(Box::new(audit.clone())),
        Message::Batches(vec![signed(37, batch_head())]),
        Message::BatchesWanted(2),
        Message::Epoch(signed(44, epoch_head())),
        Message::Question(Box::new(signed(61, request()))),
        Message::Declined(Declined { task, reason: DeclineReason::BudgetTooLow { asks: Amount(1_200_000) } }),
        Message::CardHead(card_head()),
        Message::CardWanted(card_head()),
        Message::CardChanges(vec![signed(2, card_change())]),
        Message::NotesWanted(wanted),
        Message::Notes(notes().map(|note| signed(1, note)).to_vec()),
        Message::SharesWanted(Box::new(audit)),
    ]
}

/// A statement's name, kind, bytes and digest.
pub type StatementSample = (&'static str, u16, Vec<u8>, Hash);

fn statement<T: Statement>(name: &'static str, body: &T) -> StatementSample {
    (name, T::KIND, wire::encode(body), statement_digest(network(), body))
}

/// One statement of each kind.
pub fn statements() -> Vec<StatementSample> {
    vec![
        statement("Receipt", &receipt()),
        statement("Genesis", &genesis()),
        statement("Contribution", &contribution()),
        statement("TaskOffer", &offer()),
        statement("Award", &award()),
        statement("TaskResult", &result()),
        statement("Verdict", &verdict()),
        statement("BatchHead", &batch_head()),
        statement("EpochHead", &epoch_head()),
        statement("Certificate", &certificate(69)),
        statement("Release", &release()),
        statement("InferenceRequest", &request()),
        statement("CardChange", &card_change()),
        statement("SpanRoots", &span_roots()),
        statement("Note", &notes()[1]),
    ]
}
