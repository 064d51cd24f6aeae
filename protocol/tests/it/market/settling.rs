//! Settlement audits: what the chain draws is computed by two auditors, and the next epochs make up for what was wrong.

use tributary_protocol::attribution::WHOLE;
use tributary_protocol::economy::{FeePolicy, PaymentRole};
use tributary_protocol::id::{Amount, ReceiptId};
use tributary_protocol::node::{Command, Fact, Node, NodeConfig};
use tributary_protocol::receipt::Receipt;

use super::{BEGIN_MS, FEE, Host, Net, address, config, limit, verifying};

/// Answers of the first epoch: some are drawn, whatever the beacon.
pub(super) const ANSWERS: u8 = 80;
const WORKER: usize = 1;
/// Of an auditor who has not found anything yet.
pub(super) const STILL_COMPUTING: i64 = i64::MIN;

/// A payer, the only worker, and auditors; all are witnesses. Each auditor finds `found`.
pub(super) fn audited(found: &[i64]) -> Net {
    let mut net = Net::new(2 + found.len(), false);
    for (place, host) in net.hosts.iter_mut().enumerate() {
        host.node = Node::new(BEGIN_MS, verifying(config(place, place == WORKER)), Vec::new());
        host.facts.clear();
    }
    net.found = (2..).zip(found.iter().copied()).collect();
    net.pass(6);
    net.release();
    net
}

/// Asks and pays for `count` answers, beginning with the `first`.
pub(super) fn ask(net: &mut Net, first: u8, count: u8) {
    for number in first..first + count {
        net.ask(number, limit()).receipt.expect("the worker answers");
        net.pass(1);
    }
    let paid = u128::from(first + count - 1);
    net.fees.insert((address(0), address(WORKER)), Amount(FEE.0 * paid));
    net.pass(12);
}

pub(super) fn close(net: &mut Net) {
    net.command(0, Command::CloseEpoch);
    net.pass(12);
}

/// The audits that the payer's node holds.
pub(super) fn audits(host: &Host) -> Vec<Receipt> {
    host.node.receipts().map(|(_, one)| one.receipt.clone()).filter(|one| one.audited().is_some()).collect()
}

/// What the newest epoch says that the contributor has earned: what it has as the builder is left away.
fn contributor(net: &Net) -> u128 {
    let posted = net.hosts[0].posted.last().expect("one was posted");
    let answers = posted.ids().filter_map(|id| net.hosts[0].node.receipt_of(id)).map(|signed| &signed.receipt);
    let builders = answers.flat_map(|one| &one.payments).filter(|one| one.role == PaymentRole::Builder);
    let all = posted.earned.iter().find(|(to, _)| *to == address(0)).map_or(0, |(_, amount)| amount.0);
    all - builders.map(|payment| payment.amount.0).sum::<u128>()
}

fn verdicts(net: &Net, host: usize) -> Vec<(u64, bool)> {
    net.hosts[host].node.epochs().iter().map(|epoch| (epoch.epoch, epoch.agrees)).collect()
}

/// What one answer pays the contributor, whose credit is nine tenths of a nat.
fn each() -> u128 {
    let FeePolicy { treasury_bps, builder_bps, verifier_bps } = FeePolicy::INFERENCE;
    let data = FEE.0 / 10_000 * u128::from(10_000 - treasury_bps - builder_bps - verifier_bps);
    let whole = u128::from(WHOLE);
    data * (895_000 * whole / 945_000) / whole
}

#[test]
fn what_is_drawn_is_audited_and_later_earnings_make_up_for_it() {
    let mut net = audited(&[0, 0]);
    ask(&mut net, 1, ANSWERS);
    assert_eq!(audits(&net.hosts[0]), [], "nothing is drawn before an epoch stands");
    close(&mut net);
    let first = contributor(&net);
    assert_eq!(first, u128::from(ANSWERS) * each());
    let found = audits(&net.hosts[0]);
    let drawn: Vec<ReceiptId> = found.iter().filter_map(Receipt::audited).collect();
    assert!((4..40).contains(&found.len()) && found.len().is_multiple_of(2), "two of each: {}", found.len());
    assert!(found.iter().all(|one| one.shares.is_empty() && one.price == Amount::ZERO));
    // The next epoch counts the audits: nothing is new that could be taken, and nothing falls.
    close(&mut net);
    assert_eq!((net.hosts[0].posted.len(), contributor(&net)), (2, first));
    ask(&mut net, ANSWERS + 1, ANSWERS);
    close(&mut net);
    let owed = 16 * u128::try_from(drawn.len() / 2).unwrap() * each();
    assert_eq!(contributor(&net), first.max(2 * u128::from(ANSWERS) * each() - owed));
    let total = net.hosts[0].posted.last().unwrap().total();
    assert_eq!(total, Some(Amount(2 * u128::from(ANSWERS) * FEE.0)), "what he lacks others have");
    // Everybody who has the receipts comes to the same.
    for host in 1..net.hosts.len() {
        assert_eq!(verdicts(&net, host), [(1, true), (2, true), (3, true)], "host {host}");
    }
}

#[test]
fn one_auditor_is_not_enough_and_a_third_decides_between_two() {
    let mut alone = audited(&[0]);
    ask(&mut alone, 1, ANSWERS);
    close(&mut alone);
    assert_eq!(audits(&alone.hosts[0]), [], "a single one is not even asked");
    for (liar, found) in [[0, 0, 5_000_000], [0, 5_000_000, 0], [5_000_000, 0, 0]].into_iter().enumerate() {
        let mut net = audited(&found);
        ask(&mut net, 1, ANSWERS);
        close(&mut net);
        close(&mut net);
        let posted = net.hosts[0].posted.last().unwrap();
        let counted = posted.ids().filter_map(|id| net.hosts[0].node.receipt_of(id)).map(|one| &one.receipt);
        let counted: Vec<&Receipt> = counted.filter(|one| one.audited().is_some()).collect();
        assert!(!counted.is_empty() && counted.iter().all(|one| one.shares.is_empty()), "liar {liar}: {counted:?}");
    }
}

#[test]
fn who_has_nothing_checked_shows_nothing_to_auditors() {
    let mut net = audited(&[0, 0]);
    net.hosts[0].node = Node::new(net.now_ms, NodeConfig { audit_ppm: 0, ..verifying(config(0, false)) }, Vec::new());
    net.pass(6);
    net.release();
    ask(&mut net, 1, ANSWERS);
    close(&mut net);
    assert_eq!((net.hosts[0].posted.len(), audits(&net.hosts[0]).len()), (1, 0));
}

#[test]
fn an_auditor_who_cannot_compute_is_replaced_and_what_is_drawn_survives_a_restart() {
    let mut net = audited(&[0, 0, 0]);
    net.found.clear();
    ask(&mut net, 1, ANSWERS);
    close(&mut net);
    assert_eq!(audits(&net.hosts[0]), []);
    let drawn = net.hosts[0].facts.iter().filter(|fact| matches!(fact, Fact::AuditDrawn { .. })).count();
    assert!(drawn > 0);
    let facts = net.hosts[0].facts.clone();
    net.hosts[0].node = Node::new(net.now_ms, verifying(config(0, false)), facts);
    net.found = [(3, 0), (4, 0)].into();
    net.pass(60);
    assert_eq!(audits(&net.hosts[0]).len(), 2 * drawn);
}
