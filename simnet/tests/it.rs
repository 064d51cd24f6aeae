//! Whole networks in virtual time.
//!
//! A failing test prints the seed and the command that replays it.

#[path = "it/behaviours.rs"]
mod behaviours;
#[path = "it/crashes.rs"]
mod crashes;
#[path = "it/determinism.rs"]
mod determinism;
#[path = "it/large.rs"]
mod large;
#[path = "it/sabotage.rs"]
mod sabotage;

use tributary_simnet::{Report, Scenario, World};

/// The environment variable whose seed takes the place of a test's own.
const SEED: &str = "TRIBUTARY_SIM_SEED";

/// The scenario with the seed from the environment, if there is one.
fn seeded(mut scenario: Scenario) -> Scenario {
    if let Ok(seed) = std::env::var(SEED) {
        scenario.seed = seed.parse().expect("the seed is a number");
    }
    scenario
}

/// Runs a world that must keep every invariant and come to rest.
fn run_clean(test: &str, scenario: Scenario) -> Report {
    let report = World::new(seeded(scenario)).run();
    println!("{report}");
    assert!(
        report.violations.is_empty(),
        "invariants are violated; replay it with\n    {SEED}={} cargo test -p tributary-simnet --test it -- --exact {test} --nocapture\n{report}",
        report.seed
    );
    report
}
