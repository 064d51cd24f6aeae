//! More than two hundred peers under loss, delay, duplication, partitions, crashes, lies and attacks.

use tributary_simnet::{Report, Scenario};

fn check(report: &Report) {
    assert!(report.peers >= 200, "{report}");
    assert!(report.epochs >= 1, "{report}");
    assert!(report.count("crashes") > 20, "{report}");
    assert!(report.count("tasks done") >= 15, "{report}");
    assert!(report.count("questions answered") >= 150, "{report}");
    assert!(report.count("answers confirmed") >= 5, "{report}");
}

#[test]
fn two_hundred_peers_live_through_everything() {
    let test = "large::two_hundred_peers_live_through_everything";
    check(&super::run_clean(test, Scenario::large("two hundred peers", 1)));
}
