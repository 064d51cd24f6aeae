//! One seed, one history.

use tributary_simnet::link::LinkModel;
use tributary_simnet::{Scenario, World};

fn scenario(seed: u64) -> Scenario {
    Scenario::small("determinism", seed).with_link(LinkModel::bad(), 30_000)
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let (one, other) = (World::new(scenario(5)).run(), World::new(scenario(5)).run());
    assert_eq!(one.history, other.history);
    assert_eq!(one, other);
}

#[test]
fn another_seed_gives_another_history() {
    assert_ne!(World::new(scenario(5)).run().history, World::new(scenario(6)).run().history);
}

#[test]
fn a_scenario_survives_json() {
    let scenario = Scenario::large("json", 9);
    let text = serde_json::to_string(&scenario).unwrap();
    assert_eq!(serde_json::from_str::<Scenario>(&text).unwrap(), scenario);
}
