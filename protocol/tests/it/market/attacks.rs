//! Epochs among payers who lie: forged workers, changed bindings, fees that are not there, receipts for nothing, dust; and a
//! builder who pays himself for others' records.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use tributary_protocol::attribution::{Share, WHOLE};
use tributary_protocol::batch::{Counted, EpochBody, EpochHead};
use tributary_protocol::economy;
use tributary_protocol::envelope::{self, NetworkId, Signed};
use tributary_protocol::id::{AccountId, Amount, ChainAddress, Hash, ReceiptId};
use tributary_protocol::limits::LEDGER_ACCOUNTS_PER_PAYER_MAX;
use tributary_protocol::message::{BASE_ALONE, Contributor, Message, Release, Roles};
use tributary_protocol::node::{Command, FACT_PART_BYTES, Fact, Input, NewShard, Node, NodeConfig, closing_facts};
use tributary_protocol::receipt::{ReceiptOffer, SignedReceipt};
use tributary_protocol::wire;

use super::{ADAPTER, FEE, Net, TREASURY, address, config, key, limit};

/// The worker whose fees are in question.
const WORKER: usize = 1;

fn account(key: &SigningKey) -> AccountId {
    AccountId(key.verifying_key().to_bytes())
}

/// A user, a worker, and one answer that the user paid for.
fn answered() -> (Net, SignedReceipt) {
    let mut net = Net::new(2, false);
    net.release();
    let receipt = net.ask(1, limit()).receipt.expect("the worker answers");
    let signed = net.hosts[0].node.receipt_of(&receipt).expect("it was paid").clone();
    net.pass(6);
    (net, signed)
}

/// A receipt like `honest` with all fees for its forger, who needs nobody's signature but its own two.
fn forged(honest: &SignedReceipt, payer: &SigningKey, worker: &SigningKey, fee: Amount) -> SignedReceipt {
    let mut receipt = honest.receipt.clone();
    (receipt.payer, receipt.worker) = (account(payer), account(worker));
    (receipt.sequence, receipt.finished_ms) = (0, 1);
    (receipt.price, receipt.worker_part) = (fee, Amount::ZERO);
    receipt.shares.clear();
    receipt.commons = 1_000_000;
    receipt.to.builder = ChainAddress([0x66; 20]);
    receipt.payments = economy::split(receipt.price, receipt.worker_part, receipt.policy, &receipt.to, &receipt.shares)
        .expect("a split of true parts");
    let signed = ReceiptOffer::new(receipt, worker).countersign(payer);
    signed.verify(NetworkId::named("market")).expect("its arithmetic holds");
    signed
}

fn kept(signed: &SignedReceipt) -> Fact {
    Fact::ReceiptKept(Box::new(signed.clone()))
}

/// The first epoch, over these receipts.
fn first_epoch(receipts: &[&SignedReceipt]) -> EpochBody {
    let counted = receipts.iter().map(|signed| (id(signed), &signed.receipt)).collect();
    EpochBody::after(None, &counted, &BTreeMap::new(), TREASURY).expect("sums fit")
}

fn id(signed: &SignedReceipt) -> ReceiptId {
    signed.receipt.id()
}

#[test]
fn a_payer_alone_can_neither_take_nor_strand_a_workers_fees() {
    for fee in [FEE, Amount(u128::MAX / 20_000), Amount::ZERO] {
        let (mut net, honest) = answered();
        let fake = forged(&honest, &key(100), &key(77), fee);
        net.restart(0, [kept(&fake)]);
        net.fees.insert((address(0), address(WORKER)), FEE);
        assert_eq!(net.close_epoch(0), [id(&honest)], "with a fake of {fee:?}");
    }
}

#[test]
fn a_receipt_too_large_for_what_arrived_is_left_out_and_those_after_it_count() {
    let (mut net, honest) = answered();
    let large = forged(&honest, &key(100), &key(100 + WORKER), Amount(2 * FEE.0));
    net.restart(0, [kept(&large)]);
    net.fees.insert((address(0), address(WORKER)), FEE);
    assert_eq!(net.close_epoch(0), [id(&honest)]);
}

#[test]
fn a_receipt_without_fees_is_not_counted() {
    let (mut net, honest) = answered();
    let free = forged(&honest, &key(100), &key(100 + WORKER), Amount::ZERO);
    net.restart(0, [kept(&free)]);
    net.fees.insert((address(0), address(WORKER)), FEE);
    assert_eq!(net.close_epoch(0), [id(&honest)]);
}

#[test]
fn fees_of_an_address_are_counted_once_whichever_accounts_it_was_bound_to() {
    let (mut net, honest) = answered();
    net.fees.insert((address(0), address(WORKER)), FEE);
    assert_eq!(net.close_epoch(0), [id(&honest)]);
    // The payer rotates the account of its address and signs again, in the new account's name.
    let again = forged(&honest, &key(78), &key(100 + WORKER), FEE);
    net.bound.insert(account(&key(78)), address(0));
    net.restart(0, [kept(&again)]);
    assert_eq!(net.close_epoch(0), [id(&honest)]);
    assert_eq!(net.hosts[0].posted.len(), 1, "nothing new makes no epoch");
}

#[test]
fn an_epoch_that_the_chain_cannot_pay_is_given_up_and_later_ones_stand() {
    let (mut net, honest) = answered();
    let unpaid = forged(&honest, &key(100), &key(100 + WORKER), FEE);
    net.fees.insert((address(0), address(WORKER)), FEE);
    net.refuses_epochs = true;
    let closing = closing_facts(&wire::encode(&first_epoch(&[&honest, &unpaid])));
    net.restart(0, [kept(&unpaid)].into_iter().chain(closing));
    net.refuses_epochs = false;
    net.pass(6);
    let posted = net.hosts[0].posted.last().expect("one that is covered stands");
    assert_eq!((posted.epoch, posted.receipts.len()), (1, 1));
}

#[test]
fn an_epoch_of_more_receipts_than_one_fact_holds_is_posted_after_a_restart() {
    let (mut net, honest) = answered();
    let mut body = first_epoch(&[&honest]);
    let counted = |number: u32| Counted { receipt: ReceiptId(Hash::of(&number.to_le_bytes()).0), since: 1 };
    body.receipts = (0..40_000).map(counted).collect();
    let facts = closing_facts(&wire::encode(&body));
    assert!(facts.len() > 1);
    // What a driver keeps as one fact has at most 1 MiB.
    assert!(facts.iter().all(|fact| wire::encode(fact).len() <= FACT_PART_BYTES + 64));
    net.restart(0, facts);
    net.pass(6);
    assert_eq!(net.hosts[0].posted.first(), Some(&body));
}

/// An epoch over `receipts` whose sums the poster changes as it likes, as the worker's node hears of it.
fn announced(net: &mut Net, number: u64, receipts: &[&SignedReceipt], change: impl Fn(&mut EpochBody)) {
    announced_with(net, number, receipts, 0, change);
}

/// The same, its head `off` from the sum of its body.
fn announced_with(net: &mut Net, number: u64, receipts: &[&SignedReceipt], off: u128, change: impl Fn(&mut EpochBody)) {
    let mut body = EpochBody { epoch: number, ..first_epoch(receipts) };
    change(&mut body);
    let bytes = wire::encode(&body);
    let node = net.hosts[0].node.id();
    let head = EpochHead {
        epoch: number,
        node,
        receipts_root: body.receipts_root(),
        body: Hash::of(&bytes),
        body_bytes: u64::try_from(bytes.len()).expect("a length fits"),
        total: Amount(body.earned.iter().map(|(_, amount)| amount.0).sum::<u128>() + off),
    };
    let blob = head.body;
    let message = Message::Epoch(Signed::new(NetworkId::named("market"), &key(100), head));
    let (network, sequence) = (NetworkId::named("market"), u64::MAX / 2 + net.now_ms + number);
    let sealed = envelope::seal(&key(0), network, sequence, net.now_ms, message.kind(), message.to_body());
    net.feed(WORKER, Input::Message { from: node, bytes: sealed });
    net.feed(WORKER, Input::Body { blob, bytes });
}

fn verdicts(net: &Net) -> Vec<(u64, bool)> {
    net.hosts[WORKER].node.epochs().iter().map(|epoch| (epoch.epoch, epoch.agrees)).collect()
}

#[test]
fn an_epoch_whose_fees_are_not_seen_yet_is_not_disputed() {
    let (mut net, honest) = answered();
    let payer = net.hosts[0].node.account();
    let bound = net.bound.remove(&payer).unwrap();
    announced(&mut net, 1, &[&honest], |_| {});
    net.pass(60);
    assert_eq!(verdicts(&net), [], "the payer's account is bound to no address that is seen");
    net.bound.insert(payer, bound);
    net.pass(60);
    assert_eq!(verdicts(&net), [], "nothing arrived");
    net.fees.insert((address(0), address(WORKER)), FEE);
    net.pass(6);
    assert_eq!(verdicts(&net), [(1, true)]);
}

#[test]
fn wrong_sums_are_disputed() {
    let (mut net, honest) = answered();
    net.fees.insert((address(0), address(WORKER)), FEE);
    announced(&mut net, 1, &[&honest], |body| body.earned[0].1.0 += 1);
    net.pass(6);
    assert_eq!(verdicts(&net), [(1, false)]);
}

#[test]
fn a_wrong_epoch_of_the_same_number_and_such_without_receipts_keep_no_true_one_out() {
    let (mut net, honest) = answered();
    net.fees.insert((address(0), address(WORKER)), FEE);
    // Somebody's own head for the true body says nothing of that body.
    net.blamed = Some(Vec::new());
    announced_with(&mut net, 1, &[&honest], 1, |_| {});
    let blamed = net.blamed.take().unwrap();
    assert!(matches!(blamed.as_slice(), [reason] if reason.contains("sum")), "{blamed:?}");
    net.pass(6);
    assert_eq!(verdicts(&net), []);
    announced(&mut net, 1, &[&honest], |body| body.earned[0].1.0 += 1);
    net.pass(6);
    // Receipts that nobody has.
    let unknown = |number: u64| Counted { receipt: ReceiptId(Hash::of(&number.to_le_bytes()).0), since: number };
    for number in 2..12 {
        announced(&mut net, number, &[&honest], |body| body.receipts.push(unknown(number)));
    }
    net.pass(130);
    announced(&mut net, 1, &[&honest], |_| {});
    net.pass(6);
    let of_first: Vec<bool> =
        verdicts(&net).into_iter().filter(|(number, _)| *number == 1).map(|(_, agrees)| agrees).collect();
    assert!(of_first.len() == 2 && of_first.contains(&true) && of_first.contains(&false), "{of_first:?}");
}

#[test]
fn epochs_that_nobody_funds_give_way_to_one_that_is() {
    let (mut net, honest) = answered();
    for number in 0..8 {
        announced(&mut net, 10 + number, &[&honest], |_| {});
    }
    net.pass(30);
    announced(&mut net, 1, &[&honest], |_| {});
    net.fees.insert((address(0), address(WORKER)), FEE);
    net.pass(6);
    assert!(verdicts(&net).contains(&(1, true)));
}

#[test]
fn a_payee_without_an_address_stops_no_epoch() {
    let mut net = Net::new(3, false);
    let roles = Roles { worker: false, verifier: true, witness: false, poster: false };
    let nobody = NodeConfig { roles, chain_address: ChainAddress::default(), ..config(2, false) };
    net.hosts[2].node = Node::new(net.now_ms + 1_000, nobody, Vec::new());
    net.pass(60);
    net.release();
    let receipt = net.ask(1, limit()).receipt.expect("the worker answers");
    let signed = net.hosts[0].node.receipt_of(&receipt).expect("it was paid").receipt.clone();
    assert_eq!(signed.to.verifier, ChainAddress::default());
    net.fees.insert((address(0), address(WORKER)), FEE);
    assert!(net.close_epoch(0).contains(&receipt));
    let earned: BTreeMap<_, _> = net.hosts[0].posted[0].earned.iter().copied().collect();
    // No tree of earnings has the zero address: what nobody can claim is the treasury's.
    let lost = signed.payments.iter().filter(|one| one.to == ChainAddress::default()).map(|one| one.amount.0);
    assert!(lost.clone().sum::<u128>() > 0 && !earned.contains_key(&ChainAddress::default()));
    assert!(earned[&TREASURY].0 >= lost.sum::<u128>(), "{earned:?}");
    assert_eq!(earned.values().map(|amount| amount.0).sum::<u128>(), signed.fee().0);
}

/// A receipt of next to nothing for as many payees as a receipt has, none of whom anybody else pays.
fn dust(honest: &SignedReceipt, payer: &SigningKey, worker: &SigningKey, number: u32) -> SignedReceipt {
    let share = |place: u32| {
        let id = (number * 256 + place).to_be_bytes();
        let (mut account, mut payout) = ([1; 32], [1; 20]);
        account[..4].copy_from_slice(&id);
        payout[..4].copy_from_slice(&id);
        Share { account: AccountId(account), payout: ChainAddress(payout), weight: 3_900 }
    };
    let mut receipt = honest.receipt.clone();
    (receipt.payer, receipt.worker, receipt.to.worker) = (account(payer), account(worker), address(78));
    (receipt.sequence, receipt.finished_ms) = (number.into(), 1);
    (receipt.price, receipt.worker_part) = (Amount(600), Amount::ZERO);
    receipt.shares = (0..256).map(share).collect();
    receipt.commons = WHOLE - 256 * 3_900;
    receipt.payments =
        economy::split(receipt.price, receipt.worker_part, receipt.policy, &receipt.to, &receipt.shares).expect("sums");
    ReceiptOffer::new(receipt, worker).countersign(payer)
}

#[test]
fn dust_for_ever_new_payees_fills_no_ledger() {
    const DUST: u32 = 40;
    let (mut net, honest) = answered();
    let (payer, worker) = (key(77), key(78));
    let receipts: Vec<SignedReceipt> = (0..DUST).map(|number| dust(&honest, &payer, &worker, number)).collect();
    receipts[0].verify(NetworkId::named("market")).unwrap();
    net.bound.insert(account(&payer), address(77));
    net.bound.insert(account(&worker), address(78));
    net.restart(0, receipts.into_iter().map(|one| Fact::ReceiptKept(Box::new(one))));
    net.fees.insert((address(0), address(WORKER)), FEE);
    net.fees.insert((address(77), address(78)), Amount(600 * u128::from(DUST)));
    let counted = net.close_epoch(0);
    assert!(counted.contains(&honest.receipt.id()), "who pays others' fees finds room");
    let rows = net.hosts[0].posted[0].earned.len();
    assert!((LEDGER_ACCOUNTS_PER_PAYER_MAX / 2..LEDGER_ACCOUNTS_PER_PAYER_MAX + 16).contains(&rows), "{rows} payees");
    // What was counted stays so, and takes no second place.
    net.fees.insert((address(0), address(WORKER)), Amount(2 * FEE.0));
    let next = net.ask(2, limit()).receipt.expect("the worker answers");
    assert!(net.close_epoch(0).contains(&next));
    assert_eq!(net.hosts[0].posted.last().map(|body| body.earned.len()), Some(rows));
}

#[test]
fn a_release_that_pays_somebody_else_for_a_contributors_records_is_not_served() {
    let mut net = Net::new(3, false);
    let datanet = net.datanet();
    net.pass(6);
    let shard = NewShard { datanet, shard: Hash([3; 32]), bytes: 700, records: 8, records_root: Hash([9; 32]) };
    net.command(2, Command::Contribute(shard));
    net.pass(10);
    let contributor = net.hosts[2].node.account();
    let release = |net: &Net, payout: ChainAddress, adapter: u8| Release {
        name: "almanac".into(),
        adapter: Hash([adapter; 32]),
        base: Hash([22; 32]),
        datanet,
        head: net.hosts[0].node.datanet(&datanet).expect("it was made here").head().id(),
        contributors: vec![Contributor {
            account: contributor,
            payout,
            leave_out: BASE_ALONE,
            together: None,
            entries: 1,
            estimated: false,
        }],
        notes: Vec::new(),
        index: Hash([6; 32]),
        answer_fee: FEE,
        builder: address(0),
        node: net.hosts[0].node.id(),
        unchecked: 0,
        quality: None,
    };
    let known = net.hosts[1].node.datanet(&datanet).expect("it has spread");
    assert_eq!(release(&net, address(2), 1).redirected(known), None);
    let stolen = release(&net, ChainAddress([0x66; 20]), ADAPTER.0[0]);
    assert_eq!(stolen.redirected(known), Some(contributor));
    net.command(0, Command::Release(Box::new(stolen)));
    net.pass(6);
    let asked = net.ask(1, limit());
    let reason = asked.failure.map(|refusal| refusal.reason).unwrap_or_default();
    assert!(asked.receipt.is_none() && reason.contains("did not name"), "{reason}");
    assert_eq!(net.hosts[WORKER].questions, 0);
}
