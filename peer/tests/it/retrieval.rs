//! Answers with retrieved records over the network: three nodes, of which one asks, one answers and one recomputes.

use serde_json::{Value, json};

use super::support::{NodeProcess, builder_and_workers, document, eventually, folder, on, stderr, until};

/// Records of one contributor, each about a letter.
fn contributed(node: &NodeProcess, folder: &std::path::Path, datanet: &str, letters: std::ops::Range<u8>) {
    let file = folder.join(format!("from-{}.jsonl", letters.start));
    let line = |number: u8| {
        let letter = char::from(b'a' + number);
        format!("{{\"prompt\":\"What is letter {number}{letter}{letter}?\",\"completion\":\" Letter {letter}.\"}}\n")
    };
    std::fs::write(&file, letters.map(line).collect::<String>()).unwrap();
    node.post(&format!("/api/datanets/{datanet}/records"), &json!({"path": file})).unwrap();
}

/// A model of two contributors' records, trained and served by the second and third node; one of the contributors is left out by
/// a training, the other one by an estimate.
fn released(nodes: &[NodeProcess; 3], folder: &std::path::Path) {
    let made = nodes[0].post("/api/datanets", &json!({"name": "letters", "licence": "CC0-1.0"})).unwrap();
    let id = made["id"].as_str().unwrap().to_owned();
    contributed(&nodes[0], folder, &id, 0..8);
    until("the datanet", &nodes[1], &format!("/api/datanets/{id}"), |found| found["id"].as_str().map(|_| ()));
    contributed(&nodes[1], folder, &id, 8..16);
    let all = |found: &Value| (found["records"] == 16).then_some(());
    until("both contributors' records", &nodes[0], &format!("/api/datanets/{id}"), all);
    let start = json!({"name": "letters", "base": "builtin", "datanet": id, "recipe": {"steps": 12, "batch": 8},
        "budget": "9000000000000000000", "attribution": true, "leave_outs": 1});
    nodes[0].post("/api/runs", &start).unwrap();
    let served = |releases: &Value| (releases[0]["served_by"].as_u64() == Some(2)).then_some(());
    until("the model at both", &nodes[0], "/api/releases", served);
    // More records after the training change nothing of what this model's questions get.
    contributed(&nodes[0], folder, &id, 16..20);
    for node in nodes {
        let all = |found: &Value| (found["records"] == 20).then_some(());
        until("later records", node, &format!("/api/datanets/{id}"), all);
    }
}

/// The builder and somebody else compute index, estimate and quality again, and come to what was released.
fn held_against_its_records(nodes: &[NodeProcess; 3]) {
    let release = nodes[0].get("/api/releases").unwrap()[0].clone();
    let is_estimated = |one: &&Value| one["estimated"] == true;
    assert_eq!(release["contributors"].as_array().unwrap().iter().filter(is_estimated).count(), 1, "{release}");
    assert_eq!(release["quality"]["contributors"], 1, "{release}");
    for node in &nodes[..2] {
        let verified = on(node, &["model", "verify", "letters", "--json"]);
        assert!(verified.status.success(), "{}{}", String::from_utf8_lossy(&verified.stdout), stderr(&verified));
        let found: Value = serde_json::from_slice(&verified.stdout).unwrap();
        assert_eq!(found["index"]["equal"], true, "{found}");
        assert_eq!(found["estimates"], json!({"count": 1, "worst_millionths": 0}), "one class, the same bits");
        assert_eq!(found["clusters"], json!({"theirs": [], "own": []}), "each knows other letters");
        assert_eq!(found["quality"]["theirs"], found["quality"]["own"], "{found}");
    }
}

/// What its checker found of an answer.
fn verdict(node: &NodeProcess, key: &Value) -> Value {
    let path = format!("/api/asks/{}", key.as_str().unwrap());
    until("the check", node, &path, |seen| (!seen["verdict"].is_null()).then(|| seen["verdict"].clone()))
}

#[test]
fn records_before_a_question_are_checked_and_paid_like_the_adapter() {
    let folder = folder();
    let nodes = builder_and_workers(folder.path());
    released(&nodes, folder.path());
    held_against_its_records(&nodes);
    let line = ["ask", "What is letter 9jj?", "--model", "letters", "--max-tokens", "6", "--retrieve=3", "--check"];
    let answer = document(&nodes[0], &line);
    let found = &answer["sources"];
    let records = found["records"].as_array().unwrap();
    assert!((1..=3).contains(&records.len()), "{found}");
    // The nearest stands last; it was there when the model was trained.
    assert_eq!(records.last().unwrap()["text"], "What is letter 9jj? Letter j.", "{found}");
    let parts = records.iter().map(|record| record["weight"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(parts + found["adapter"].as_u64().unwrap() + found["nobody"].as_u64().unwrap(), 1_000_000, "{found}");
    let weights = answer["shares"].as_array().unwrap().iter().map(|share| share["weight"].as_u64().unwrap());
    assert_eq!(weights.sum::<u64>() + answer["commons"].as_u64().unwrap(), 1_000_000, "{answer}");
    let verdict_of = verdict(&nodes[0], &answer["key"]);
    assert_eq!(verdict_of["outcome"], "confirmed", "{verdict_of}");
    explained_and_recomputed(&nodes[0], answer["key"].as_str().unwrap());
    in_chats_and_with_embeddings(&nodes, &answer);
    let refused = nodes[0].post("/v1/completions", &json!({"model": "letters", "prompt": "p", "retrieve": 9}));
    assert!(refused.unwrap_err().to_string().contains("at most 5 records"));
    let plain = document(&nodes[0], &["ask", "What is letter 9jj?", "--model", "letters"]);
    assert_eq!(plain["sources"], Value::Null);
}

/// A person reads what the answer came from, and this node computes all of it again.
fn explained_and_recomputed(node: &NodeProcess, key: &str) {
    let explained = document(node, &["answer", "explain", key]);
    assert_eq!(explained["method"]["name"], "loco-delta+retrieval");
    let shown = String::from_utf8(on(node, &["answer", "explain", key]).stdout).unwrap();
    assert!(shown.contains("What it came from") && shown.contains("what the model was trained on"), "{shown}");
    let verified = on(node, &["answer", "verify", key, "--json"]);
    assert!(verified.status.success(), "{}", stderr(&verified));
    let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!(verified["recomputed"]["outcome"], "equal", "{verified}");
    let of = |field: &str| verified["recomputed"]["contributors"][0][field].clone();
    assert_eq!(of("weight"), of("recomputed_weight"));
}

/// The same through OpenAI's interface, when a worker has embedded the records.
fn in_chats_and_with_embeddings(nodes: &[NodeProcess; 3], answer: &Value) {
    let worker = nodes.iter().find(|node| node.get("/api/status").unwrap()["node"] == answer["worker"]).unwrap();
    let is_embedded = || {
        let kept = std::fs::read_dir(worker.folder.join("retrieval")).unwrap();
        kept.flatten().any(|entry| entry.path().extension().is_some_and(|extension| extension == "vectors"))
    };
    eventually("the embeddings", is_embedded);
    let chat = json!({
        "model": "letters", "messages": [{"role": "user", "content": "What is letter 2cc?"}], "max_tokens": 6,
        "temperature": 0, "retrieve": 1, "check": true,
    });
    let chat = nodes[0].post("/v1/chat/completions", &chat).unwrap();
    let key = chat["id"].as_str().unwrap().rsplit_once('-').unwrap().1;
    let shown = nodes[0].get(&format!("/api/asks/{key}")).unwrap();
    assert_eq!(shown["sources"]["records"].as_array().unwrap().len(), 1, "{shown}");
    let verdict = verdict(&nodes[0], &json!(key));
    assert_eq!(verdict["outcome"], "confirmed", "{verdict}");
}
