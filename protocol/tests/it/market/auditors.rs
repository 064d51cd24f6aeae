//! Who would pay himself by audits: auditors whom nobody asked, strangers' findings, bodies that come late.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;
use tributary_protocol::attribution::{Share, WHOLE};
use tributary_protocol::batch::{EpochBody, EpochHead, pair_of};
use tributary_protocol::economy;
use tributary_protocol::envelope::{self, NetworkId, ReplayGuard, Signed};
use tributary_protocol::id::{AccountId, Amount, ChainAddress, Hash, NodeId, ReceiptId, TaskId};
use tributary_protocol::message::{Message, Roles};
use tributary_protocol::node::{Command, Fact, Input, Node, NodeConfig, Output};
use tributary_protocol::receipt::{Receipt, ReceiptOffer, Work};
use tributary_protocol::verification::{Outcome, Subject, Verdict};
use tributary_protocol::wire;

use super::settling::{ANSWERS, STILL_COMPUTING, ask, audited, audits, close};
use super::{BEGIN_MS, FEE, Host, Net, TREASURY, address, config, key, limit, verifying};

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
        Fact::AuditDrawn { receipt, auditors } if !auditors.is_empty() => Some(*receipt),
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

/// An audit on an audit's terms by an auditor, who finds that the answer owes nothing to any contributor.
fn nothing_owed(net: &Net, of: &ReceiptId, auditor: usize, class: &str) -> ReceiptOffer {
    let answer = &net.hosts[0].node.receipt_of(of).expect("the payer has it").receipt;
    let (signer, node) = (key(auditor + 100), net.hosts[auditor].node.id());
    let mut found = finding(answer, answer.payer, &signer, (node, address(auditor)));
    (found.shares, found.commons, found.class) = (Vec::new(), WHOLE, class.into());
    let nothing = economy::split(Amount::ZERO, Amount::ZERO, found.policy, &found.to, &[]);
    found.payments = nothing.expect("a split of nothing");
    ReceiptOffer::new(found, &signer)
}

fn tell_found(net: &mut Net, of: &ReceiptId, class: &str, turn: u64) {
    for auditor in [2, 3] {
        let offer = nothing_owed(net, of, auditor, class);
        let turn = 10 * turn + u64::try_from(auditor).expect("few hosts");
        send(net, (auditor, 0), &Message::ReceiptOffered(Box::new(offer)), turn);
    }
}

fn tell_verdict(net: &mut Net, of: &ReceiptId, auditor: usize, outcome: Outcome, proof: Option<Hash>) {
    let task = net.hosts[0].node.receipt_of(of).expect("the payer has it").receipt.task;
    let body = Verdict { task, subject: Subject::Answer(*of), checked: Vec::new(), outcome, proof };
    let verdict = Signed::new(NetworkId::named("market"), &key(auditor + 100), body);
    send(net, (auditor, 0), &Message::Verdict(Box::new(verdict)), u64::try_from(auditor).expect("few hosts"));
}

/// A market in which a block drew answers that two auditors compute for long.
fn computing() -> (Net, Vec<ReceiptId>) {
    let mut net = market(STILL_COMPUTING, 0);
    ask(&mut net, 1, ANSWERS);
    close(&mut net);
    let drawn = drawn(&net.hosts[0]);
    assert!(drawn.len() > 2, "{}", drawn.len());
    (net, drawn)
}

#[test]
fn a_late_confirmation_of_the_ordinary_check_ends_no_audit() {
    let (mut net, drawn) = computing();
    for auditor in [2, 3] {
        tell_verdict(&mut net, &drawn[0], auditor, Outcome::Confirmed, None);
    }
    net.pass(5);
    tell_found(&mut net, &drawn[0], "test", 1);
    assert_eq!(audits(&net.hosts[0]).len(), 2);
}

#[test]
fn what_auditors_find_late_or_after_a_restart_still_counts() {
    for restarts in [false, true] {
        let (mut net, drawn) = computing();
        net.pass(2 * 3_600);
        if restarts {
            let facts = net.hosts[0].facts.clone();
            net.hosts[0].node = Node::new(net.now_ms, verifying(config(0, false)), facts);
            net.pass(6);
        }
        for (turn, of) in (0..).zip(&drawn) {
            tell_found(&mut net, of, "test", turn);
        }
        assert_eq!(audits(&net.hosts[0]).len(), 2 * drawn.len(), "restarts: {restarts}");
    }
}

/// Which answers the payer asks its auditors about, and how often, within some seconds in which it hears nothing.
fn wanted(net: &mut Net, seconds: u64) -> (BTreeMap<NodeId, BTreeSet<ReceiptId>>, u32) {
    let (mut wanted, mut sent) = (BTreeMap::new(), 0);
    for _ in 0..seconds {
        net.now_ms += 1_000;
        for output in net.hosts[0].node.handle(net.now_ms, Input::Tick) {
            let Output::Send { to, bytes } = output else { continue };
            let network = NetworkId::named("market");
            let opened = envelope::open(&bytes, network, net.now_ms, &mut ReplayGuard::default()).expect("an envelope");
            if let Ok(Message::SharesWanted(audit)) = Message::from_body(opened.kind, &opened.body) {
                wanted.entry(to).or_insert_with(BTreeSet::new).insert(audit.receipt.receipt.id());
                sent += 1;
            }
        }
    }
    (wanted, sent)
}

#[test]
fn an_auditor_is_asked_about_two_answers_at_a_time_and_seldom_again() {
    let (mut net, _) = computing();
    let (first, sent) = wanted(&mut net, 600);
    assert_eq!(first.len(), 2);
    assert!(first.values().all(|answers| answers.len() == 2), "{first:?}");
    assert!((4 * 8..4 * 16).contains(&sent), "{sent} in ten minutes");
    let done = *first.values().next().and_then(|answers| answers.first()).unwrap();
    tell_found(&mut net, &done, "test", 1);
    let (then, _) = wanted(&mut net, 600);
    assert!(then.values().all(|answers| answers.len() == 2 && !answers.contains(&done)), "{then:?}");
}

#[test]
fn who_finds_in_another_class_than_the_answers_is_not_counted() {
    let (mut net, drawn) = computing();
    net.blamed = Some(Vec::new());
    tell_found(&mut net, &drawn[0], "a machine that nobody has", 1);
    assert_eq!((audits(&net.hosts[0]), net.blamed.take().unwrap().len()), (Vec::new(), 2));
    let answer = net.hosts[0].node.receipt_of(&drawn[0]).unwrap().receipt.clone();
    let pairs = |class: &str| {
        let found = [2, 3].map(|auditor| nothing_owed(&net, &drawn[0], auditor, class).receipt);
        pair_of(&answer, &found.each_ref()).is_some()
    };
    assert!(pairs("test") && !pairs("a machine that nobody has"));
}

#[test]
fn an_auditor_of_another_class_declines() {
    let mut net = audited(&[0, 0, 0]);
    let other = NodeConfig { classes: vec!["other".into()], ..verifying(config(2, false)) };
    net.hosts[2].node = Node::new(BEGIN_MS, other, Vec::new());
    net.pass(60);
    net.release();
    ask(&mut net, 1, ANSWERS);
    close(&mut net);
    let (found, declined) = (audits(&net.hosts[0]), net.hosts[2].node.account());
    assert_eq!(found.len(), 2 * drawn(&net.hosts[0]).len());
    assert!(!found.is_empty() && found.iter().all(|one| one.worker != declined));
}

#[test]
fn what_an_auditor_proves_against_the_worker_counts_and_what_it_only_says_does_not() {
    let (mut net, drawn) = computing();
    let is_told = |net: &Net| {
        let views = (1..=ANSWERS).filter_map(|number| net.hosts[0].node.ask_view(&Hash([number; 32])));
        views.filter(|view| view.verdict.is_some()).count()
    };
    let false_answer = || Outcome::Refuted("the answer is another".into());
    tell_verdict(&mut net, &drawn[0], 3, false_answer(), None);
    tell_verdict(&mut net, &drawn[0], 1, false_answer(), Some(Hash([8; 32])));
    assert_eq!(is_told(&net), 0);
    tell_verdict(&mut net, &drawn[0], 2, false_answer(), Some(Hash([8; 32])));
    assert_eq!(is_told(&net), 1);
    let before = net.hosts[WORKER].questions;
    let facts = net.hosts[0].facts.clone();
    net.hosts[0].node = Node::new(net.now_ms, verifying(config(0, false)), facts);
    net.pass(6);
    assert!(net.ask(ANSWERS + 1, limit()).receipt.is_none(), "a liar is not asked again");
    assert_eq!((is_told(&net), net.hosts[WORKER].questions), (1, before));
}

#[test]
fn names_made_after_the_block_audit_nothing_that_it_drew() {
    for restarts in [false, true] {
        let mut net = market(0, 3);
        let nothing = Roles { worker: false, verifier: false, witness: false, poster: false };
        net.hosts[3].node = Node::new(net.now_ms, NodeConfig { roles: nothing, ..config(3, false) }, Vec::new());
        net.pass(60);
        ask(&mut net, 1, ANSWERS);
        close(&mut net);
        for place in STRANGER..STRANGER + 3 {
            net.hosts[place].node = Node::new(net.now_ms, verifying(config(place, false)), Vec::new());
            net.found.insert(place, 90_000_000);
        }
        if restarts {
            let facts = net.hosts[0].facts.clone();
            net.hosts[0].node = Node::new(net.now_ms, verifying(config(0, false)), facts);
        }
        net.pass(120);
        close(&mut net);
        assert_eq!((audits(&net.hosts[0]).len(), drawn(&net.hosts[0]).len()), (0, 0), "restarts: {restarts}");
        // They audit what is drawn later.
        ask(&mut net, ANSWERS + 1, ANSWERS);
        close(&mut net);
        assert!(!drawn(&net.hosts[0]).is_empty(), "restarts: {restarts}");
    }
}
