//! More than two hundred peers under loss, delay, duplication, partitions, crashes, lies and attacks.

use tributary_simnet::{Report, Scenario};

fn check(report: &Report) {
    assert!(report.peers >= 200, "{report}");
    assert!(report.epochs >= 1, "{report}");
    assert!(report.count("crashes") > 20, "{report}");
    assert!(report.count("tasks done") >= 15, "{report}");
    // By what is on disk: who dies right after that hears of no event.
    assert!(report.count("fact answer_kept") >= 150, "{report}");
    assert_eq!(report.count("forks found"), 0, "attackers cannot sign for others: {report}");
    assert!(report.count("answers confirmed") >= 5, "{report}");
    // Two for each answer that the chain drew.
    assert!(report.count("audits counted") >= 2, "{report}");
}

fn live(test: &str, seed: u64) {
    check(&super::run_clean(test, Scenario::large("two hundred peers", seed)));
}

#[test]
fn two_hundred_peers_live_through_everything() {
    live("large::two_hundred_peers_live_through_everything", 1);
}

#[test]
fn two_hundred_peers_do_so_from_another_seed() {
    live("large::two_hundred_peers_do_so_from_another_seed", 77);
}
