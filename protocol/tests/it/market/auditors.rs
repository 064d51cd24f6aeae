//! Who would pay himself by audits: auditors whom nobody asked, strangers' findings, bodies that come late.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use tributary_protocol::attribution::{Share, WHOLE};
use tributary_protocol::batch::{EpochBody, EpochHead};
use tributary_protocol::economy;
use tributary_protocol::envelope::{self, NetworkId, Signed};
use tributary_protocol::id::{AccountId, Amount, ChainAddress, Hash, NodeId, ReceiptId, TaskId};
use tributary_protocol::message::{Message, Roles};
use tributary_protocol::node::{Command, Fact, Input, Node, NodeConfig};
use tributary_protocol::receipt::{Receipt, ReceiptOffer, Work};
use tributary_protocol::wire;

use super::settling::{ANSWERS, STILL_COMPUTING, ask, audited, audits, close};
use super::{BEGIN_MS, FEE, Host, Net, TREASURY, address, config, key, verifying};

const WORKER: usize = 1;
/// The first who does nothing for anybody.
const STRANGER: usize = 4;
const THIEF: ChainAddress = ChainAddress([0x66; 20]);

/// A payer, a worker and two auditors, who find what `found` says; then some who do nothing.
fn market(found: i64, strangers: usize) -> Net {
    let mut net = audited(&vec![0; 2 + strangers]);
    for place in STRANGER..STRANGER + strangers {
        let nothing = Roles { worker: false, verifier: false, witness: false, poster: false };
        let config = NodeConfig { roles: nothing, ..config(place, false) };
        net.hosts[place].node = Node::new(BEGIN_MS, config, Vec::new());
    }
    net.found = (2..STRANGER).map(|place| (place, found)).collect();
    // Until their records say so everywhere.
    net.pass(60);
    net
}

fn answers(host: &Host) -> BTreeMap<ReceiptId, Receipt> {
    let all = host.node.receipts().map(|(id, one)| (*id, one.receipt.clone()));
    all.filter(|(_, one)| one.audited().is_none()).collect()
}

fn drawn(host: &Host) -> Vec<ReceiptId> {
    let drawn = |fact: &Fact| match fact {
        Fact::AuditDrawn { receipt, .. } => Some(*receipt),
        _ => None,
    };
    host.facts.iter().filter_map(drawn).collect()
}

/// An audit on an audit's terms, which gives everything to the thief.
fn finding(answer: &Receipt, payer: AccountId, auditor: &SigningKey, (node, to): (NodeId, ChainAddress)) -> Receipt {
    let (of, worker) = (answer.id(), AccountId(auditor.verifying_key().to_bytes()));
    let shares = vec![Share { account: AccountId([0x66; 32]), payout: THIEF, weight: WHOLE }];
    let mut found = answer.clone();
    found.task = TaskId(blake3::derive_key("tributary audit for settlement v1", &[of.0, worker.0].concat()));
    (found.payer, found.worker, found.worker_node, found.to.worker) = (payer, worker, node, to);
    found.work = Work::Audit { of };
    (found.price, found.worker_part, found.commons) = (Amount::ZERO, Amount::ZERO, 0);
    (found.sequence, found.finished_ms) = (7, 7);
    let nothing = economy::split(Amount::ZERO, Amount::ZERO, found.policy, &found.to, &shares);
    (found.payments, found.shares) = (nothing.expect("a split of nothing"), shares);
    found
}

fn send(net: &mut Net, (from, to): (usize, usize), message: &Message, turn: u64) {
    let (network, sequence) = (NetworkId::named("market"), u64::MAX / 2 + net.now_ms + turn);
    let bytes = envelope::seal(&key(from), network, sequence, net.now_ms, message.kind(), message.to_body());
    let from = net.hosts[from].node.id();
    net.feed(to, Input::Message { from, bytes });
}

#[test]
fn nobody_who_was_not_asked_is_an_auditor() {
    let mut net = market(STILL_COMPUTING, 2);
    ask(&mut net, 1, ANSWERS);
    close(&mut net);
    let (drawn, payer) = (drawn(&net.hosts[0]), net.hosts[0].node.account());
    assert!(!drawn.is_empty() && audits(&net.hosts[0]).is_empty());
    for (turn, of) in (0..).zip(&drawn) {
        let answer = net.hosts[0].node.receipt_of(of).unwrap().receipt.clone();
        for liar in [STRANGER, STRANGER + 1] {
            let (auditor, node) = (key(liar + 100), net.hosts[liar].node.id());
            let offer = ReceiptOffer::new(finding(&answer, payer, &auditor, (node, address(liar))), &auditor);
            offer.verify(NetworkId::named("market")).expect("its arithmetic holds");
            let turn = 10 * turn + u64::try_from(liar).unwrap();
            send(&mut net, (liar, 0), &Message::ReceiptOffered(Box::new(offer)), turn);
        }
    }
    assert_eq!(audits(&net.hosts[0]), []);
}

#[test]
fn who_was_asked_finds_shares_of_contributors_alone() {
    let mut net = market(STILL_COMPUTING, 0);
    ask(&mut net, 1, ANSWERS);
    close(&mut net);
    let (drawn, payer) = (drawn(&net.hosts[0]), net.hosts[0].node.account());
    let answer = net.hosts[0].node.receipt_of(&drawn[0]).unwrap().receipt.clone();
    let (auditor, node) = (key(102), net.hosts[2].node.id());
    let offer = ReceiptOffer::new(finding(&answer, payer, &auditor, (node, address(2))), &auditor);
    net.blamed = Some(Vec::new());
    send(&mut net, (2, 0), &Message::ReceiptOffered(Box::new(offer)), 1);
    let blamed = net.blamed.take().unwrap();
    assert!(matches!(blamed.as_slice(), [reason] if reason.contains("other terms")), "{blamed:?}");
    assert_eq!(audits(&net.hosts[0]), []);
}

#[test]
fn strangers_cannot_keep_an_answer_from_being_audited() {
    let mut net = market(0, 1);
    ask(&mut net, 1, ANSWERS);
    let payer = key(200);
    let account = AccountId(payer.verifying_key().to_bytes());
    for (turn, answer) in (0..).zip(answers(&net.hosts[0]).values()) {
        for liar in 0..4 {
            let auditor = key(210 + liar);
            let found = finding(answer, account, &auditor, (NodeId([9; 32]), THIEF));
            let signed = ReceiptOffer::new(found, &auditor).countersign(&payer);
            let turn = 10 * turn + u64::try_from(liar).unwrap();
            send(&mut net, (STRANGER, 0), &Message::Receipt(Box::new(signed)), turn);
        }
    }
    close(&mut net);
    let payer = net.hosts[0].node.account();
    let own = audits(&net.hosts[0]).into_iter().filter(|one| one.payer == payer).count();
    assert!(own > 0);
    assert_eq!(own, 2 * drawn(&net.hosts[0]).len());
}

#[test]
fn a_restarted_poster_that_is_told_to_close_an_epoch_closes_it() {
    let mut net = market(0, 0);
    ask(&mut net, 1, ANSWERS);
    close(&mut net);
    close(&mut net);
    ask(&mut net, ANSWERS + 1, 20);
    let (posted, facts) = (net.hosts[0].posted.len(), net.hosts[0].facts.clone());
    net.hosts[0].node = Node::new(net.now_ms, verifying(config(0, false)), facts);
    net.command(0, Command::CloseEpoch);
    net.pass(60);
    assert_eq!(net.hosts[0].posted.len(), posted + 1);
}

/// Somebody's second epoch, over all receipts, which pays the thief an atto that nobody earned.
fn false_epoch(net: &Net) -> (EpochHead, Vec<u8>) {
    let all = answers(&net.hosts[WORKER]);
    let receipts = all.iter().map(|(id, one)| (*id, one)).collect();
    let before = net.hosts[0].posted.last();
    let mut body = EpochBody::after(before, &receipts, &BTreeMap::new(), TREASURY).expect("sums fit");
    body.earned.push((THIEF, Amount(1)));
    body.earned.sort_unstable();
    let bytes = wire::encode(&body);
    let head = EpochHead {
        epoch: body.epoch,
        node: net.hosts[0].node.id(),
        receipts_root: body.receipts_root(),
        body: Hash::of(&bytes),
        body_bytes: u64::try_from(bytes.len()).expect("a length fits"),
        total: body.total().expect("it fits"),
    };
    (head, bytes)
}

#[test]
fn wrong_sums_are_disputed_although_the_body_before_came_late() {
    for is_funded in [true, false] {
        let mut net = market(0, 0);
        ask(&mut net, 1, 2);
        close(&mut net);
        ask(&mut net, 3, 1);
        let paid = if is_funded { 3 } else { 2 };
        net.fees.insert((address(0), address(WORKER)), Amount(FEE.0 * paid));
        let facts = net.hosts[WORKER].facts.clone();
        net.hosts[WORKER].node = Node::new(net.now_ms, verifying(config(WORKER, true)), facts);
        net.pass(6);
        let (head, bytes) = false_epoch(&net);
        let (late, blob) = (std::mem::take(&mut net.provided), head.body);
        let message = Message::Epoch(Signed::new(NetworkId::named("market"), &key(100), head));
        send(&mut net, (0, WORKER), &message, 1);
        net.feed(WORKER, Input::Body { blob, bytes });
        net.pass(12);
        net.provided.extend(late);
        net.pass(60);
        let disputed = |epoch: &tributary_protocol::node::EpochView| (epoch.epoch, epoch.agrees) == (2, false);
        assert!(net.hosts[WORKER].node.epochs().iter().any(disputed), "funded: {is_funded}");
    }
}
