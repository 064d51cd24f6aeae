//! The liar and what becomes of it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use serde_json::{Value, json};
use tributary_compute::frame;
use tributary_peer::engine::{Done, FRAME_MAX_BYTES, Reply};
use tributary_protocol::id::Hash;
use tributary_protocol::transcript::Transcript;
use tributary_protocol::wire;

use self::support::{NodeProcess, document, folder, on, stderr, until};

#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "../it/support.rs"]
mod support;

const TEST: &str = "falsified_weights_and_rows_are_caught_and_proven_by_who_did_not_serve_the_answer";
/// The file in the engine's folder that has answers be falsified.
const FALSE_ANSWERS: &str = "false-answers";
/// The file that has retrieved records be another contributor's.
const FALSE_RECORDS: &str = "false-records";
/// The file that has indexes be falsified.
const FALSE_INDEXES: &str = "false-indexes";

pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("engine") => engine(&arguments),
        Some("up" | "device" | "template") => tributary_peer::cli::main(),
        // As the harness of the other tests takes its command line.
        _ if arguments.iter().any(|argument| argument == "--list") => {
            println!("{TEST}: test");
            ExitCode::SUCCESS
        }
        _ if arguments.iter().any(|argument| !argument.starts_with('-') && !TEST.contains(argument.as_str())) => {
            ExitCode::SUCCESS
        }
        _ => {
            println!("test {TEST} ...");
            falsified_weights_and_rows_are_caught_and_proven_by_who_did_not_serve_the_answer();
            println!("test {TEST} ... ok");
            ExitCode::SUCCESS
        }
    }
}

/// Passes frames on between the node and the true engine, whose answers it falsifies.
fn engine(arguments: &[String]) -> ExitCode {
    let mut honest = Command::new(env!("CARGO_BIN_EXE_tributary"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut asks, mut replies) = (honest.stdin.take().unwrap(), honest.stdout.take().unwrap());
    std::thread::spawn(move || {
        let mut node = std::io::stdin().lock();
        while let Ok(Some(frame)) = frame::read(&mut node, FRAME_MAX_BYTES) {
            if frame::write(&mut asks, &frame).is_err() {
                return;
            }
        }
    });
    let folder = Path::new(&arguments[1]);
    let mut node = std::io::stdout().lock();
    while let Ok(Some(frame)) = frame::read(&mut replies, FRAME_MAX_BYTES) {
        if frame::write(&mut node, &falsified(folder, frame)).is_err() {
            break;
        }
    }
    let _ = honest.kill();
    let _ = honest.wait();
    ExitCode::SUCCESS
}

/// The frame of a reply: a false one where a file in `folder` says so.
fn falsified(folder: &Path, frame: Vec<u8>) -> Vec<u8> {
    let does = |what: &str| folder.join(what).exists();
    let mut reply: Reply = wire::decode(&frame, FRAME_MAX_BYTES).unwrap();
    match &mut reply {
        Reply::Done { outcome: Done::Answered { transcript, .. }, .. } if does(FALSE_ANSWERS) => {
            *transcript = all_by_the_last(transcript);
        }
        Reply::Done { outcome: Done::Answered { transcript, .. }, .. } if does(FALSE_RECORDS) => {
            *transcript = stolen(transcript);
        }
        Reply::Done { outcome: Done::Indexed { commitment }, .. } if does(FALSE_INDEXES) => {
            *commitment = Hash::of(b"another index");
        }
        _ => return frame,
    }
    wire::encode(&reply)
}

/// A transcript by which its last contributor taught everything.
fn all_by_the_last(transcript: &[u8]) -> Vec<u8> {
    let mut sent = Transcript::from_bytes(transcript).unwrap();
    let last = sent.credits.len().saturating_sub(1);
    for (place, (_, micro_nats)) in sent.credits.iter_mut().enumerate() {
        *micro_nats = if place == last { 7_000_000 } else { 0 };
    }
    sent.to_bytes()
}

/// A transcript by which the records before the question are of the first contributor, whoever added them.
fn stolen(transcript: &[u8]) -> Vec<u8> {
    let mut sent = Transcript::from_bytes(transcript).unwrap();
    sent.context.passages.iter_mut().for_each(|passage| passage.contributor = 1 - passage.contributor);
    sent.to_bytes()
}

/// The payer, the liar, who checks, and somebody who only judges.
struct Nodes {
    payer: NodeProcess,
    liar: NodeProcess,
    checker: NodeProcess,
    judge: NodeProcess,
}

fn started(folder: &Path) -> Nodes {
    let payer = NodeProcess::start(&folder.join("payer"), &["--network", "test", "--roles", "witness"]);
    let ticket = payer.get("/api/net/invite").unwrap()["ticket"].as_str().unwrap().to_owned();
    let join = |roles: &'static str| ["--join", &ticket, "--roles", roles].map(str::to_owned);
    let start = |name: &str, roles: &'static str| {
        NodeProcess::start(&folder.join(name), &join(roles).each_ref().map(String::as_str))
    };
    let own = std::env::current_exe().unwrap();
    let liar = NodeProcess::start_of(&own, &folder.join("liar"), &join("worker").each_ref().map(String::as_str));
    let (checker, judge) = (start("checker", "verifier"), start("judge", "witness"));
    Nodes { payer, liar, checker, judge }
}

/// Has an adapter trained and released, by `node` as its builder.
fn train(node: &NodeProcess, name: &str, datanet: &str, steps: u32) {
    let start = json!({"name": name, "base": "builtin", "datanet": datanet, "recipe": {"steps": steps, "batch": 8},
        "budget": "9000000000000000000", "attribution": true});
    let key = node.post("/api/runs", &start).unwrap()["key"].clone();
    let run = |runs: &Value| runs.as_array()?.iter().find(|run| run["key"] == key).cloned();
    let attributed = |runs: &Value| run(runs).filter(|run| run["state"] != "training").map(|_| ());
    until("the training", node, "/api/runs", attributed);
    let done = |runs: &Value| run(runs).filter(|run| run["state"] == "done").map(|_| ());
    until("the release", node, "/api/runs", done);
}

/// Two contributors' records, and a model that the liar trains honestly.
fn released(nodes: &Nodes, folder: &Path) -> String {
    let made = nodes.payer.post("/api/datanets", &json!({"name": "letters", "licence": "CC0-1.0"})).unwrap();
    let id = made["id"].as_str().unwrap().to_owned();
    for (node, first) in [(&nodes.payer, b'a'), (&nodes.checker, b'n')] {
        let file = folder.join(format!("{first}.jsonl"));
        let mut records = std::fs::File::create(&file).unwrap();
        for number in 0..8 {
            let letter = char::from(first + number);
            writeln!(records, "{{\"prompt\":\"Letter {letter}?\",\"completion\":\" It is {letter}{letter}.\"}}")
                .unwrap();
        }
        let path = format!("/api/datanets/{id}");
        until("the datanet", node, "/api/datanets", |all| {
            all.as_array()?.iter().any(|one| one["id"] == id.as_str()).then_some(())
        });
        node.post(&format!("{path}/records"), &json!({"path": file})).unwrap();
    }
    let both = |shown: &Value| (shown["records"].as_u64()? == 16).then_some(());
    until("all records", &nodes.payer, &format!("/api/datanets/{id}"), both);
    train(&nodes.payer, "letters", &id, 12);
    let served = |releases: &Value| (releases[0]["served_by"].as_u64()? >= 1).then_some(());
    until("the model at its worker", &nodes.payer, "/api/releases", served);
    let held = |releases: &Value| releases[0]["served_here"].as_bool().filter(|here| *here).map(|_| ());
    until("the model at its checker", &nodes.checker, "/api/releases", held);
    id
}

/// The key of an answer to `question`, when it was checked, and what its check found.
fn asked(nodes: &Nodes, question: &str) -> (String, Value) {
    asked_by(&nodes.payer, question, &[])
}

/// The same for another payer, with further options.
fn asked_by(payer: &NodeProcess, question: &str, options: &[&str]) -> (String, Value) {
    let line = ["ask", question, "--model", "letters", "--max-tokens", "6", "--check", "--timeout-s", "100"];
    let answer = document(payer, &[&line, options].concat());
    let key = answer["key"].as_str().unwrap().to_owned();
    let checked = |shown: &Value| Some(shown["verdict"].clone()).filter(|verdict| !verdict.is_null());
    let verdict = until("the check", payer, &format!("/api/asks/{key}"), checked);
    (key, verdict)
}

fn falsified_weights_and_rows_are_caught_and_proven_by_who_did_not_serve_the_answer() {
    let folder = folder();
    let nodes = started(folder.path());
    let datanet = released(&nodes, folder.path());
    falsified_weights(&nodes, folder.path());
    falsified_records(&nodes, folder.path());
    falsified_rows(&nodes, &datanet, &folder.path().join("row"));
}

fn falsified_weights(nodes: &Nodes, folder: &Path) {
    let (honest, verdict) = asked(nodes, "Letter b?");
    assert_eq!(verdict["outcome"], "confirmed", "{verdict}");
    equal_here(&nodes.payer, &honest);

    std::fs::write(nodes.liar.folder.join("engine").join(FALSE_ANSWERS), "").unwrap();
    let (key, verdict) = asked(nodes, "Letter c?");
    assert_eq!(
        (&verdict["outcome"], &verdict["detail"]),
        (&json!("refuted"), &json!("the attribution weights are others"))
    );
    let liar = nodes.liar.get("/api/status").unwrap()["account"].clone();
    // Who found it keeps the proof, and so does who paid.
    let kept = document(&nodes.checker, &["receipt", "proofs"]);
    assert_eq!((&kept[0]["kind"], &kept[0]["accused"], &kept[0]["id"]), (&json!("weight"), &liar, &verdict["proof"]));
    let id = verdict["proof"].as_str().unwrap();
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    for (node, name) in [(&nodes.checker, "found"), (&nodes.payer, "fetched")] {
        document(node, &["receipt", "proof", id, "--out", &file(name)]);
    }
    unequal_here(&nodes.payer, &key, &file("recomputed"));
    let found = std::fs::read(file("found")).unwrap();
    assert_eq!(found, std::fs::read(file("fetched")).unwrap());
    assert_eq!(found, std::fs::read(file("recomputed")).unwrap(), "two machines say the same of the same answer");
    // Anybody judges it: who has no node can't, and says so.
    let proven = document(&nodes.judge, &["receipt", "verify", &file("found")]);
    assert_eq!((&proven["outcome"], &proven["kind"], &proven["accused"]), (&json!("proven"), &json!("weight"), &liar));
    let nowhere = folder.join("nowhere");
    let alone = support::run(&["--data-dir", nowhere.to_str().unwrap(), "receipt", "verify", &file("found")]);
    assert_eq!(alone.status.code(), Some(8), "{}", stderr(&alone));
    assert!(String::from_utf8_lossy(&alone.stdout).starts_with("cannot be judged here: "));
    changed_files_convict_nobody(&nodes.judge, &found, &file("changed"));
}

/// The liar says of retrieved records that they are another contributor's: who checks knows whose they are.
fn falsified_records(nodes: &Nodes, folder: &Path) {
    let engine = nodes.liar.folder.join("engine");
    std::fs::remove_file(engine.join(FALSE_ANSWERS)).unwrap();
    let served = |releases: &Value| (releases[0]["served_by"].as_u64()? >= 1).then_some(());
    until("the model for another payer", &nodes.judge, "/api/releases", served);
    let (honest, verdict) = asked_by(&nodes.judge, "Letter b?", &["--retrieve=2"]);
    assert_eq!(verdict["outcome"], "confirmed", "{verdict}");
    equal_here(&nodes.judge, &honest);
    std::fs::write(engine.join(FALSE_RECORDS), "").unwrap();
    let (key, verdict) = asked_by(&nodes.judge, "Letter c?", &["--retrieve=2"]);
    assert_eq!(verdict["outcome"], "refuted", "{verdict}");
    assert!(verdict["detail"].as_str().unwrap().contains("trained on"), "{verdict}");
    let file = folder.join("records").to_str().unwrap().to_owned();
    let ended = on(&nodes.judge, &["answer", "verify", &key, "--proof", &file, "--json"]);
    assert_eq!(ended.status.code(), Some(6), "{}", stderr(&ended));
    let proven = document(&nodes.payer, &["receipt", "verify", &file]);
    assert_eq!((&proven["outcome"], &proven["kind"]), (&json!("proven"), &json!("answer")), "{proven}");
}

/// The liar releases an adapter with an index that its adapters do not make: whoever loads it proves so.
fn falsified_rows(nodes: &Nodes, datanet: &str, file: &Path) {
    std::fs::write(nodes.liar.folder.join("engine").join(FALSE_INDEXES), "").unwrap();
    train(&nodes.liar, "false", datanet, 6);
    let of_a_row = |proofs: &Value| proofs.as_array()?.iter().find(|proof| proof["kind"] == "row").cloned();
    let found = until("the proof of a false row", &nodes.checker, "/api/proofs", of_a_row);
    assert_eq!(found["accused"], nodes.liar.get("/api/status").unwrap()["account"]);
    let file = file.to_str().unwrap();
    document(&nodes.checker, &["receipt", "proof", found["id"].as_str().unwrap(), "--out", file]);
    let proven = document(&nodes.judge, &["receipt", "verify", file]);
    assert_eq!((&proven["outcome"], &proven["kind"], &proven["id"]), (&json!("proven"), &json!("row"), &found["id"]));
}

/// The payer computes an honest answer again and finds every weight equal.
fn equal_here(payer: &NodeProcess, key: &str) {
    let shown = document(payer, &["answer", "verify", key]);
    let again = &shown["recomputed"];
    assert_eq!((&again["outcome"], &shown["valid"]), (&json!("equal"), &json!(true)), "{shown}");
    let contributors = again["contributors"].as_array().unwrap();
    assert_eq!(contributors.len(), 2);
    assert!(contributors.iter().all(|one| one["weight"] == one["recomputed_weight"] && one["micro_nats"].is_i64()));
}

/// The payer computes the falsified answer again and writes the proof.
fn unequal_here(payer: &NodeProcess, key: &str, file: &str) {
    let ended = on(payer, &["answer", "verify", key, "--proof", file, "--json"]);
    assert_eq!(ended.status.code(), Some(6), "{}\n{}", stderr(&ended), payer.log());
    let shown: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let again = &shown["recomputed"];
    assert_eq!((&again["outcome"], &again["proof"]["kind"]), (&json!("unequal"), &json!("weight")), "{shown}");
    let differs = |one: &&Value| one["weight"] != one["recomputed_weight"];
    assert!(again["contributors"].as_array().unwrap().iter().filter(differs).count() >= 1, "{shown}");
    let told = on(payer, &["answer", "verify", key]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("unequal"));
}

/// A proof with a byte changed, anywhere, is none.
fn changed_files_convict_nobody(judge: &NodeProcess, found: &[u8], file: &str) {
    for place in (8..found.len()).step_by(found.len() / 6) {
        let mut changed = found.to_vec();
        changed[place] ^= 1;
        std::fs::write(file, changed).unwrap();
        let ended = on(judge, &["receipt", "verify", file]);
        assert!(matches!(ended.status.code(), Some(6 | 8)), "byte {place}: {}", String::from_utf8_lossy(&ended.stdout));
        assert!(!String::from_utf8_lossy(&ended.stdout).starts_with("proven"));
    }
}
