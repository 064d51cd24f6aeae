//! The market by hand: a single node that serves a chain, trains for itself, answers itself, anchors by itself and
//! pays out; refusals that come at once with their exit codes; auctions that say why nobody bids; runs that stop.

use std::time::Instant;

use serde_json::{Value, json};

use super::support::{NodeProcess, document, folder, on, stderr, until};

pub(super) const CHAIN: &[&str] = &["--serve-chain", "127.0.0.1:0", "--network", "test"];

/// A datanet with a few records, made by `node`.
pub(super) fn datanet(node: &NodeProcess, folder: &std::path::Path) -> String {
    let made = node.post("/api/datanets", &json!({"name": "letters", "licence": "CC0-1.0"})).unwrap();
    let id = made["id"].as_str().unwrap().to_owned();
    let file = folder.join("letters.jsonl");
    let line = |number: u8| {
        format!("{{\"prompt\":\"Letter {number}?\",\"completion\":\" It is {}.\"}}\n", char::from(b'a' + number))
    };
    std::fs::write(&file, (0..8).map(line).collect::<String>()).unwrap();
    node.post(&format!("/api/datanets/{id}/records"), &json!({"path": file})).unwrap();
    id
}

pub(super) fn state(key: &str) -> impl Fn(&Value) -> Option<Value> + '_ {
    move |runs: &Value| runs.as_array()?.iter().find(|run| run["key"] == key).cloned()
}

fn amount(value: &Value) -> u128 {
    value.as_str().unwrap().parse().unwrap()
}

#[test]
fn a_training_whose_engine_is_killed_goes_on_from_its_checkpoint_to_the_same_adapter() {
    let folder = folder();
    let node = NodeProcess::start(&folder.path().join("node"), CHAIN);
    let id = datanet(&node, folder.path());
    let adapter = |name: &str, steps: u32, kill: bool| {
        let recipe = folder.path().join("recipe.json");
        let written = json!({"steps": steps, "warmup": 2, "batch": 8, "checkpoint_every": 20});
        std::fs::write(&recipe, written.to_string()).unwrap();
        let recipe = recipe.display().to_string();
        let start = ["train", "start", "--data", &id, "--name", name, "--budget", "36", "--recipe", &recipe, "--yes"];
        let key = document(&node, &start)["key"].as_str().unwrap().to_owned();
        if kill {
            let under_way =
                |runs: &Value| state(&key)(runs)?["main"]["progress"]["step"].as_u64().filter(|step| *step >= 40);
            until("the training's middle", &node, "/api/runs", under_way);
            let pid = node.get("/api/status").unwrap()["engine"]["pid"].as_u64().unwrap();
            assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
        }
        let released = |runs: &Value| state(&key)(runs).filter(|run| run["state"] == "done");
        until("the release", &node, "/api/runs", released)["release"]["adapter"].clone()
    };
    // A node tells its progress every few seconds only: where the training had ended before the kill, a longer one is killed.
    let mut killed = [200, 400, 800, 1_600].into_iter().map(|steps| {
        let name = format!("killed-{steps}");
        (adapter(&name, steps, true), steps, name)
    });
    let is_in_the_middle = |_: &(Value, u32, String)| node.log().contains("the job is performed again");
    let (killed, steps, name) = killed.find(is_in_the_middle).expect("a training is killed in its middle");
    assert_eq!(killed, adapter("unbroken", steps, false));
    let shown = document(&node, &["train", "show", "unbroken"]);
    assert_eq!(shown["release"]["name"], name.as_str());
    let listed = String::from_utf8(on(&node, &["train", "ls"]).stdout).unwrap();
    assert!(listed.contains(&format!("exists already as {name}")), "{listed}");
}

#[test]
fn one_node_by_hand_trains_answers_itself_anchors_and_pays() {
    let folder = folder();
    let node = NodeProcess::start(&folder.path().join("node"), CHAIN);
    let id = datanet(&node, folder.path());
    let start = ["train", "start", "--data", &id, "--name", "letters", "--budget", "2", "--steps", "20", "--yes"];
    let run_key = document(&node, &start)["key"].as_str().unwrap().to_owned();
    let released = |runs: &Value| state(&run_key)(runs).filter(|run| run["state"] == "done");
    let done = until("the release", &node, "/api/runs", released);
    // Nobody else is there to check it, and its only contributor is not left out of anything.
    assert_eq!((&done["unchecked"], &done["release"]["unchecked"]), (&json!(1), &json!(1)), "{done}");
    assert_eq!(done["leave_out"], json!([]));
    assert_eq!(done["release"]["contributors"][0]["leave_out"], "00".repeat(32));
    let shown = on(&node, &["train", "show", "letters"]);
    assert!(stderr(&shown).contains("1 training unchecked"), "{}", stderr(&shown));

    let ticket = node.get("/api/net/invite").unwrap()["ticket"].as_str().unwrap().to_owned();
    let poor = NodeProcess::start(&folder.path().join("poor"), &["--join", &ticket, "--roles", "witness"]);
    let served = |releases: &Value| releases[0]["served_here"].as_bool().filter(|here| *here);
    until("the loading", &node, "/api/releases", served);
    let answer = document(&node, &["ask", "Letter 3?", "--model", "letters", "--max-tokens", "4", "--explain"]);
    assert_eq!(answer["worker"], node.get("/api/status").unwrap()["node"], "it answered itself");
    assert_eq!(amount(&answer["price"]), 50_000_000_000_000_000, "the fees alone: nobody pays himself");
    let weights: u64 = answer["shares"].as_array().unwrap().iter().map(|share| share["weight"].as_u64().unwrap()).sum();
    assert_eq!(weights + answer["commons"].as_u64().unwrap(), 1_000_000);
    mended(&node, &answer);
    refused_at_once(&node);
    let served = |releases: &Value| releases[0]["served_by"].as_u64().filter(|peers| *peers > 0);
    until("the model at the second node", &poor, "/api/releases", served);
    let refused = on(&poor, &["ask", "Letter?"]);
    assert_eq!(refused.status.code(), Some(5), "it has no OPEN: {}", stderr(&refused));
    paid_out(&node);
    // Whoever recomputes the epoch reads on the chain what was funded, and agrees.
    let agreed = |epochs: &Value| (epochs.as_array()?.last()?["agrees"] == true).then_some(());
    until("agreement with the epoch", &poor, "/api/epochs", agreed);
}

/// A damaged index is found when an answer is to be attributed; the answer stands, and its shares are those of the index
/// made anew.
fn mended(node: &NodeProcess, before: &Value) {
    let adapters = node.folder.join("engine").join("adapters");
    let only = |folder: &std::path::Path| {
        let mut names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        names.find(|path| path.is_dir() || path.extension().is_some_and(|end| end == "index")).unwrap()
    };
    let index = only(&only(&adapters));
    let whole = std::fs::read(&index).unwrap();
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&index, damaged).unwrap();
    let pid = node.get("/api/status").unwrap()["engine"]["pid"].as_u64().unwrap();
    assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    let answer = document(node, &["ask", "Letter 3?", "--model", "letters", "--max-tokens", "4", "--explain"]);
    assert_eq!((&answer["text"], &answer["shares"]), (&before["text"], &before["shares"]));
    assert!(node.log().contains("waits for its index"), "{}", node.log());
    assert_eq!(std::fs::read(&index).unwrap(), whole);
}

/// What no waiting would change is refused before the patience of `ask` is over, with its exit code.
fn refused_at_once(node: &NodeProcess) {
    let long = "word ".repeat(3_000);
    for (line, code, word) in [
        (&["ask", "Letter?", "--max-price", "0.01"][..], 2, "limit"),
        (&["ask", &long][..], 2, "tokens"),
        (&["ask", "Letter?", "--model", "nothing"][..], 2, "nothing"),
        (&["train", "start", "--budget", "0", "--yes"][..], 2, "budget"),
    ] {
        let began = Instant::now();
        let ended = on(node, line);
        assert_eq!(ended.status.code(), Some(code), "{word}: {}", stderr(&ended));
        assert!(stderr(&ended).contains(word), "{word}: {}", stderr(&ended));
        assert!(began.elapsed().as_secs() < 60, "{word} took {:?}", began.elapsed());
    }
}

/// The chain's own node anchors without being told to, and claims pay.
fn paid_out(node: &NodeProcess) {
    let owed = node.get("/api/wallet").unwrap();
    assert!(!owed["owed_to_others"].as_array().unwrap().is_empty(), "{owed}");
    let promised = |wallet: &Value| {
        let fees = |field: &str| wallet["owed_to_others"][0][field].as_str()?.parse::<u128>().ok();
        let voucher = wallet["vouchers"][0]["cumulative"].as_str()?.parse::<u128>().ok()?;
        (voucher >= fees("worker_part")? && fees("fees")? > 0).then_some(())
    };
    until("the voucher", node, "/api/wallet", promised);
    document(node, &["wallet", "redeem", "--yes"]);
    let wallet = node.get("/api/wallet").unwrap();
    assert_eq!(wallet["owed_to_others"], json!([]), "what the chain moved is owed no more: {wallet}");
    assert!(amount(&wallet["spent"]) > 0);
    assert!(wallet["next_epoch_in_ms"].is_u64(), "{wallet}");
    let anchored = |wallet: &Value| (amount(wallet.get("claimable")?) > 0).then_some(());
    until("the epoch", node, "/api/wallet", anchored);
    let claimed = document(node, &["wallet", "claim", "--yes"]);
    assert!(amount(&claimed["claimed"]) > 0, "{claimed}");
    let shown = on(node, &["wallet", "show"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains("next epoch") && text.contains("owed        0 OPEN"), "{text}");
}

#[test]
fn an_auction_without_bids_says_why_and_a_run_can_be_stopped_for_good() {
    let folder = folder();
    let mut node = NodeProcess::start(&folder.path().join("node"), &["--offline"]);
    let id = datanet(&node, folder.path());
    let start = |budget: &str, steps: &str| {
        let line = ["train", "start", "--data", &id, "--budget", budget, "--steps", steps, "--yes", "--no-attribution"];
        on(&node, &line)
    };
    let cheap = start("0.001", "1000");
    assert!(stderr(&cheap).contains("1 worker heard the offer: 1 asks at least 10.5"), "{}", stderr(&cheap));
    let cheap = String::from_utf8(cheap.stdout).unwrap().trim().to_owned();
    let long = start("100", "5000");
    let long = String::from_utf8(long.stdout).unwrap().trim().to_owned();
    let works = |runs: &Value| state(&long)(runs).filter(|run| run["main"]["phase"] == "leased");
    until("the lease", &node, "/api/runs", works);
    let busy = start("1", "20");
    assert!(stderr(&busy).contains("1 is busy"), "{}", stderr(&busy));

    for key in [&cheap, &long] {
        let stopped = on(&node, &["train", "stop", key, "--yes"]);
        assert_eq!(stopped.status.code(), Some(0), "{}", stderr(&stopped));
    }
    let stopped = |runs: &Value| {
        let runs = [&cheap, &long].map(|key| state(key)(runs));
        runs.iter().all(|run| run.as_ref().is_some_and(|run| run["main"]["phase"] == "failed")).then_some(())
    };
    until("the stop", &node, "/api/runs", stopped);
    // The worker is free again, so the third run gets it.
    let busy = String::from_utf8(busy.stdout).unwrap().trim().to_owned();
    let works = |runs: &Value| state(&busy)(runs).filter(|run| !run["main"]["worker"].is_null());
    until("the next lease", &node, "/api/runs", works);
    node.kill();
    node.restart();
    for key in [&cheap, &long] {
        assert_eq!(node.get(&format!("/api/runs/{key}")).unwrap()["state"], "stopped");
    }
    assert_eq!(on(&node, &["train", "watch", &long]).status.code(), Some(1));
    assert_eq!(on(&node, &["train", "stop", "nothing", "--yes"]).status.code(), Some(2));
}

#[test]
fn a_licence_is_an_spdx_expression_and_what_is_there_already_is_counted() {
    let folder = folder();
    let node = NodeProcess::start(&folder.path().join("node"), &["--offline"]);
    let refused = on(&node, &["data", "new", "letters", "--licence", "cc by 4.0"]);
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("SPDX") && stderr(&refused).contains("CC-BY-4.0"), "{}", stderr(&refused));
    let id = datanet(&node, folder.path());
    let file = folder.path().join("letters.jsonl");
    let more = folder.path().join("more.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    let new = "{\"text\":\"new\"}\n";
    std::fs::write(&more, format!("{text}{new}{new}")).unwrap();
    let add = |file: &std::path::Path| {
        let ended = on(&node, &["data", "add", file.to_str().unwrap(), "--to", &id]);
        assert!(ended.status.success(), "{}", stderr(&ended));
        String::from_utf8(ended.stdout).unwrap()
    };
    assert_eq!(add(&file), "0 records added · 0 refused · 0 duplicates · 8 there already\n");
    assert_eq!(add(&more), "1 record added · 0 refused · 1 duplicate · 8 there already\n");
    assert_eq!(node.get(&format!("/api/datanets/{id}")).unwrap()["records"], 9);
    let wrong = on(&node, &["data", "add", file.to_str().unwrap(), "--to", &id, "--licence", "free"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
}
