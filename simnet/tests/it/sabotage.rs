//! Invariants that cannot fail prove nothing: each world here has a defect that must be reported.

use tributary_simnet::invariant::Violation;
use tributary_simnet::scenario::{Faults, Sabotage};
use tributary_simnet::{Report, Scenario, World};

fn run(sabotage: Sabotage) -> Report {
    let mut scenario = Scenario::small("sabotage", 3).with_sabotage(sabotage);
    scenario.limit_ms = 120_000;
    scenario.faults = Faults { crashes: 12, downtime_ms: (500, 2_000), until_ms: 60_000, ..Faults::none() };
    World::new(scenario).run()
}

fn finds(report: &Report, is_it: impl Fn(&Violation) -> bool) {
    assert!(report.violations.iter().any(is_it), "the defect was not found\n{report}");
}

#[test]
fn a_payment_made_twice_is_found() {
    finds(&run(Sabotage::PayTwice), |violation| matches!(violation, Violation::MoneyMade { .. }));
}

#[test]
fn a_disk_that_forgets_receipts_is_found() {
    finds(&run(Sabotage::ForgetReceipts), |violation| matches!(violation, Violation::ReceiptLost { .. }));
}

#[test]
fn a_voucher_above_the_receipts_is_found() {
    finds(&run(Sabotage::InflateVouchers), |violation| matches!(violation, Violation::VoucherAboveReceipts { .. }));
}

#[test]
fn an_epoch_that_hands_out_too_much_is_found() {
    finds(&run(Sabotage::InflateEpoch), |violation| matches!(violation, Violation::EpochSum { .. }));
}
