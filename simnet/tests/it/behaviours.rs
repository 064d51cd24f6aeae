//! Each way to cheat is caught, and pays nothing that it should not.

use tributary_simnet::behaviour::Behaviour;
use tributary_simnet::link::LinkModel;
use tributary_simnet::{Report, Scenario};

fn run(test: &str, behaviour: Behaviour) -> Report {
    super::run_clean(test, Scenario::small(test, 11).with_behaviours(&[(behaviour, 1)]))
}

#[test]
fn an_honest_network_on_perfect_links_settles() {
    let test = "behaviours::an_honest_network_on_perfect_links_settles";
    let report = super::run_clean(test, Scenario::small(test, 10));
    assert_eq!(report.count("tasks done"), 3, "{report}");
    assert_eq!(report.count("questions answered"), 12, "{report}");
    let audits = usize::try_from(report.count("audits counted")).unwrap();
    assert_eq!(report.receipts - audits, 15, "{report}");
    assert_eq!(report.count("tasks lapsed") + report.count("tasks refuted"), 0, "{report}");
}

#[test]
fn a_lying_trainer_is_refuted_and_not_paid() {
    let report = run("behaviours::a_lying_trainer_is_refuted_and_not_paid", Behaviour::LyingTrainer);
    assert!(report.count("tasks refuted") >= 1, "{report}");
}

#[test]
fn a_lazy_worker_loses_its_task_and_is_not_paid() {
    let report = run("behaviours::a_lazy_worker_loses_its_task_and_is_not_paid", Behaviour::Lazy);
    assert!(report.count("tasks lapsed") >= 1, "{report}");
}

#[test]
fn a_lying_answerer_is_found_by_audits_and_asked_no_more() {
    let test = "behaviours::a_lying_answerer_is_found_by_audits_and_asked_no_more";
    let mut scenario = Scenario::small(test, 12).with_behaviours(&[(Behaviour::LyingAnswerer, 1)]);
    scenario.audit_ppm = 1_000_000;
    let report = super::run_clean(test, scenario);
    assert!(report.count("answers refuted") >= 1, "{report}");
    assert!(report.count("answers confirmed") >= 1, "{report}");
}

#[test]
fn who_falsifies_weights_is_convicted_by_who_did_not_serve_the_answer() {
    let test = "behaviours::who_falsifies_weights_is_convicted_by_who_did_not_serve_the_answer";
    let mut scenario = Scenario::small(test, 14).with_behaviours(&[(Behaviour::LyingAttributor, 1)]);
    scenario.audit_ppm = 1_000_000;
    let report = super::run_clean(test, scenario);
    assert!(report.count("answers refuted") >= 1, "{report}");
    assert!(report.count("answers confirmed") >= 1, "{report}");
    assert!(report.count("proofs kept") >= 1, "{report}");
}

#[test]
fn who_withholds_answers_is_passed_over() {
    let report = run("behaviours::who_withholds_answers_is_passed_over", Behaviour::Withholding);
    assert!(report.count("streams without an answer") >= 1, "{report}");
    assert_eq!(report.count("questions answered"), 12, "{report}");
}

#[test]
fn who_never_pays_its_fees_holds_up_nobody() {
    let report = run("behaviours::who_never_pays_its_fees_holds_up_nobody", Behaviour::Unfunded);
    assert_eq!(report.count("questions answered"), 12, "{report}");
    assert!(report.epochs >= 1, "{report}");
    assert!(report.count("epochs agreed") >= 1, "{report}");
    assert_eq!(report.count("epochs disputed"), 0, "{report}");
}

#[test]
fn attackers_are_blamed_and_change_nothing() {
    let test = "behaviours::attackers_are_blamed_and_change_nothing";
    let mut scenario = Scenario::small(test, 13).with_link(LinkModel::bad(), 30_000);
    scenario.population.hostile = 3;
    let report = super::run_clean(test, scenario);
    assert!(report.count("attackers blamed") >= 20, "{report}");
    assert_eq!(report.count("honest peers blamed"), 0, "{report}");
}
