//! A crash at each kind of durable fact, before it, after it and midway through what follows it.

use tributary_simnet::Scenario;
use tributary_simnet::behaviour::Behaviour;
use tributary_simnet::link::LinkModel;
use tributary_simnet::scenario::{CrashOnFact, CrashPoint, Faults};

const FACTS: [&str; 28] = [
    "genesis",
    "contribution",
    "shard_held",
    "requested",
    "offered",
    "award_given",
    "lapsed",
    "result_taken",
    "result_checked",
    "job_won",
    "job_finished",
    "job_closed",
    "receipt_kept",
    "settled",
    "answer_kept",
    "answer_verdict",
    "voucher_taken",
    "released",
    "batch_sealed",
    "batch_read",
    "epoch_closing",
    "epoch_posted",
    "epoch_checked",
    "batch_due",
    "witnessed",
    "verifier_payout",
    "result_refuted",
    "audit_drawn",
];

fn scenario(test: &str, point: CrashPoint, seed: u64) -> Scenario {
    let mut scenario = Scenario::small(test, seed)
        .with_behaviours(&[(Behaviour::LyingTrainer, 1)])
        .with_link(LinkModel { loss_ppm: 20_000, ..LinkModel::bad() }, 60_000);
    let on_fact =
        |(place, fact): (usize, &&str)| CrashOnFact { fact: (*fact).to_owned(), point, nth: u32::from(place % 2 == 1) };
    scenario.faults = Faults {
        crashes_on_fact: FACTS.iter().enumerate().map(on_fact).collect(),
        downtime_ms: (500, 6_000),
        until_ms: 60_000,
        ..Faults::none()
    };
    scenario.audit_ppm = 1_000_000;
    // Of so many the chain draws some.
    scenario.questions = 80;
    scenario
}

fn check(test: &str, point: CrashPoint) {
    for seed in [21, 22] {
        let report = super::run_clean(test, scenario(test, point, seed));
        assert!(report.count("crashes") >= 20, "{report}");
        assert!(report.count("audits counted") >= 2, "{report}");
    }
}

#[test]
fn before_each_fact() {
    check("crashes::before_each_fact", CrashPoint::BeforePersist);
}

#[test]
fn after_each_fact() {
    check("crashes::after_each_fact", CrashPoint::AfterPersist);
}

#[test]
fn midway_after_each_fact() {
    check("crashes::midway_after_each_fact", CrashPoint::Midway);
}
