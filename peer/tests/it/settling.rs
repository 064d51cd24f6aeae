//! Settlement audits among real nodes: what the chain draws of a payer's answers is computed again by two who did not serve
//! them, and the next epoch counts what they found.

use serde_json::{Value, json};

use super::market::{CHAIN, datanet, state};
use super::support::{NodeProcess, document, folder, on, until};

/// Answers of one epoch, of which one in sixteen is drawn; and epochs until one of them is, at the most: that none is drawn of
/// all of them happens once in five million times.
const ANSWERS: usize = 16;
const ROUNDS: usize = 15;

/// Asks some questions and pays for them.
fn ask(node: &NodeProcess, round: usize) {
    for number in 0..ANSWERS {
        let question = format!("Letter {}?", round * ANSWERS + number);
        document(node, &["ask", &question, "--model", "letters", "--max-tokens", "2"]);
    }
    // The last promise may take a moment to be signed.
    let redeemed = |_: &Value| {
        document(node, &["wallet", "redeem", "--yes"]);
        let owed = node.get("/api/wallet").ok()?["owed_to_others"].clone();
        (owed == json!([])).then_some(())
    };
    until("that all is redeemed", node, "/api/wallet", redeemed);
}

/// Asks, and has an epoch count some of it, unless one was due by itself; waits until everybody has recomputed it.
fn ask_and_close(node: &NodeProcess, others: &[&NodeProcess], round: usize) {
    let before = number_of(&node.get("/api/epochs").unwrap());
    ask(node, round);
    node.post("/api/epochs/close", &json!({})).unwrap();
    let stands = |epochs: &Value| Some(number_of(epochs)).filter(|number| *number > before);
    let number = until("the epoch", node, "/api/epochs", stands);
    for other in others {
        let checked = |epochs: &Value| epochs.as_array()?.iter().any(|epoch| epoch["epoch"] == number).then_some(());
        until("the other's word", other, "/api/epochs", checked);
    }
}

fn number_of(epochs: &Value) -> u64 {
    epochs.as_array().into_iter().flatten().filter_map(|epoch| epoch["epoch"].as_u64()).max().unwrap_or(0)
}

fn audits(node: &NodeProcess) -> Vec<Value> {
    let receipts = node.get("/api/receipts").unwrap();
    receipts.as_array().unwrap().iter().filter(|receipt| receipt["kind"] == "audit").cloned().collect()
}

/// The audits of an answer that has two: several may be drawn at once.
fn two_of_one(audits: Vec<Value>) -> Option<Vec<Value>> {
    let of =
        |one: &Value| audits.iter().filter(|other| other["audited"] == one["audited"]).cloned().collect::<Vec<_>>();
    audits.iter().map(of).find(|own| own.len() >= 2)
}

/// Its payer computes the audits of an answer again.
fn verified(node: &NodeProcess, receipt: &str) {
    let asks = node.get("/api/asks").unwrap();
    let ask = asks.as_array().unwrap().iter().find(|ask| ask["receipt"] == receipt).unwrap();
    let verified = document(node, &["answer", "verify", ask["key"].as_str().unwrap()]);
    let audits = verified["recomputed"]["audits"].as_array().unwrap();
    assert!(audits.len() >= 2 && audits.iter().all(|audit| audit["outcome"] == "equal"), "{verified}");
}

#[test]
fn what_the_chain_draws_is_audited_by_two_and_counted_in_the_next_epoch() {
    let folder = folder();
    let node = NodeProcess::start(&folder.path().join("node"), CHAIN);
    let id = datanet(&node, folder.path());
    let ticket = node.get("/api/net/invite").unwrap()["ticket"].as_str().unwrap().to_owned();
    let auditor =
        |name: &str| NodeProcess::start(&folder.path().join(name), &["--join", &ticket, "--roles", "verifier,witness"]);
    let others = [auditor("one"), auditor("other")];
    let others: Vec<&NodeProcess> = others.iter().collect();
    let start = ["train", "start", "--data", &id, "--name", "letters", "--budget", "2", "--steps", "20", "--yes"];
    let run = document(&node, &start)["key"].as_str().unwrap().to_owned();
    until("the release", &node, "/api/runs", |runs: &Value| state(&run)(runs).filter(|run| run["state"] == "done"));
    for place in std::iter::once(&node).chain(others.iter().copied()) {
        until("the loading", place, "/api/releases", |all: &Value| {
            all[0]["served_here"].as_bool().filter(|here| *here)
        });
    }
    let mut rounds = 0..ROUNDS;
    let drawn = rounds.find(|round| {
        ask_and_close(&node, &others, *round);
        node.log().contains("drawn to be audited")
    });
    assert!(drawn.is_some(), "the chain drew nothing of {} answers", ANSWERS * ROUNDS);
    let found = until("two audits of one answer", &node, "/api/receipts", |_: &Value| two_of_one(audits(&node)));
    let of_worker = |audit: &Value| audit["worker"].as_str().unwrap().to_owned();
    assert_ne!(of_worker(&found[0]), node.get("/api/status").unwrap()["account"].as_str().unwrap());
    let shown = on(&node, &["receipt", "why", found[0]["id"].as_str().unwrap()]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains("audited by") && text.contains("nobody"), "{text}");
    verified(&node, found[0]["audited"].as_str().unwrap());
    // Should no epoch have been due meanwhile, the next one counts them.
    node.post("/api/epochs/close", &json!({})).unwrap();
    let counted = |wallet: &Value| wallet["audits"].as_u64().filter(|audits| *audits >= 2);
    for place in std::iter::once(&node).chain(others.iter().copied()) {
        until("an epoch with the audits", place, "/api/wallet", counted);
        let epochs = place.get("/api/epochs").unwrap();
        assert!(epochs.as_array().unwrap().iter().all(|epoch| epoch["agrees"] == true), "{epochs}");
    }
}
