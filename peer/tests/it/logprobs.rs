//! Probabilities of tokens over the network: three nodes, of which one asks, one answers and one recomputes.

use serde_json::{Value, json};

use super::support::{NodeProcess, eventually, folder, run, stderr};

const BUILDER: &[&str] = &["--network", "test", "--roles", "witness"];

/// A model that the first node had the others train.
fn released(nodes: &[NodeProcess; 3], folder: &std::path::Path) {
    let made = nodes[0].post("/api/datanets", &json!({"name": "letters", "licence": "CC0-1.0"})).unwrap();
    let id = made["id"].as_str().unwrap().to_owned();
    let file = folder.join("letters.jsonl");
    let line = |number: u8| {
        format!("{{\"prompt\":\"Letter {number}?\",\"completion\":\" It is {}.\"}}\n", char::from(b'a' + number))
    };
    std::fs::write(&file, (0..8).map(line).collect::<String>()).unwrap();
    nodes[0].post(&format!("/api/datanets/{id}/records"), &json!({"path": file})).unwrap();
    let start = json!({"name": "letters", "base": "builtin", "datanet": id, "recipe": {"steps": 12, "batch": 8},
        "budget": "9000000000000000000", "attribution": true});
    let mut refused = start.clone();
    refused["recipe"]["warmup"] = json!(20);
    assert!(nodes[0].post("/api/runs", &refused).unwrap_err().to_string().contains("lower warmup"));
    let mut trial = start.clone();
    trial["dry_run"] = json!(true);
    nodes[0].post("/api/runs", &trial).unwrap();
    assert_eq!(nodes[0].get("/api/runs").unwrap(), json!([]), "nothing begins in a dry run");
    nodes[0].post("/api/runs", &start).unwrap();
    let served = |releases: &Value| releases[0]["served_by"].as_u64() == Some(2);
    eventually("the model is served by both", || nodes[0].get("/api/releases").is_ok_and(|found| served(&found)));
}

/// The whole answer and what its checker found.
fn checked(node: &NodeProcess, path: &str, body: &Value) -> (Value, Value) {
    let answer = node.post(path, body).unwrap();
    let key = answer["id"].as_str().unwrap().rsplit_once('-').unwrap().1.to_owned();
    let mut verdict = Value::Null;
    eventually("the check", || {
        verdict = node.get(&format!("/api/asks/{key}")).unwrap()["verdict"].clone();
        !verdict.is_null()
    });
    (answer, verdict)
}

#[test]
fn probabilities_reach_the_asker_and_are_checked_like_the_text() {
    let folder = folder();
    let first = NodeProcess::start(&folder.path().join("0"), BUILDER);
    let ticket = first.get("/api/net/invite").unwrap()["ticket"].as_str().unwrap().to_owned();
    let worker =
        |name: &str| NodeProcess::start(&folder.path().join(name), &["--join", &ticket, "--roles", "worker,verifier"]);
    let nodes = [first, worker("1"), worker("2")];
    released(&nodes, folder.path());
    let body = json!({
        "model": "letters", "prompt": "Letter 3?", "max_tokens": 12, "temperature": 0, "logprobs": 2, "check": true,
    });
    let (answer, verdict) = checked(&nodes[0], "/v1/completions", &body);
    assert_eq!(verdict["outcome"], "confirmed", "{verdict}");
    let choice = &answer["choices"][0];
    let tokens: Vec<&str> = choice["logprobs"]["tokens"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(tokens.concat(), choice["text"].as_str().unwrap());
    let numbers = choice["logprobs"]["token_logprobs"].as_array().unwrap();
    assert!(!numbers.is_empty() && numbers.iter().all(|number| number.as_f64().is_some_and(|number| number <= 0.0)));
    let top = choice["logprobs"]["top_logprobs"][0].as_object().unwrap();
    assert!(top.contains_key(tokens[0]) && top.len() == 2, "without temperature the likeliest is taken: {top:?}");
    // The receipt commits to them, and to none where none were asked for.
    let of_receipt = |answer: &Value| {
        let id = answer["tributary"]["receipt"].as_str().unwrap().to_owned();
        let receipt = nodes[0].get(&format!("/api/receipts/{id}")).unwrap();
        receipt["receipt"]["work"]["logprobs"].clone()
    };
    assert!(of_receipt(&answer).is_string(), "{answer}");
    let chat = json!({
        "model": "letters", "messages": [{"role": "user", "content": "Letter 3?"}], "max_tokens": 12, "temperature": 0,
        "logprobs": true, "top_logprobs": 2, "check": true,
    });
    let (chat, verdict) = checked(&nodes[0], "/v1/chat/completions", &chat);
    assert_eq!(verdict["outcome"], "confirmed", "{verdict}");
    let content = chat["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.iter().map(|one| one["logprob"].clone()).collect::<Vec<_>>(), *numbers);
    let mut plain = body;
    plain["logprobs"] = Value::Null;
    let (plain, _) = checked(&nodes[0], "/v1/completions", &plain);
    assert_eq!((&plain["choices"][0]["logprobs"], &of_receipt(&plain)), (&Value::Null, &Value::Null));
    assert_eq!(plain["choices"][0]["text"], choice["text"], "asking for them changes no token");
    let refused = nodes[0].post("/v1/completions", &json!({"model": "letters", "prompt": "p", "logprobs": 21}));
    assert!(refused.unwrap_err().to_string().contains("logprobs"));
    explained(&nodes[0], &answer);
}

/// An amount in OPEN as people read it.
fn atto(open: &str) -> u128 {
    let (whole, part) = open.split_once('.').unwrap_or((open, ""));
    format!("{whole}{part:0<18}").parse().expect("an amount")
}

/// What a person reads about the answer sums to the whole, and so does what a program reads.
fn explained(node: &NodeProcess, answer: &Value) {
    let key = answer["id"].as_str().unwrap().rsplit_once('-').unwrap().1;
    let place = node.folder.to_str().unwrap();
    let asked = |form: &[&str]| {
        let output = run(&[&["answer", "explain", key, "--data-dir", place], form].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let document: Value = serde_json::from_str(&asked(&["--json"])).unwrap();
    let weights = document["shares"].as_array().unwrap().iter().map(|share| share["weight"].as_u64().unwrap());
    assert_eq!(weights.sum::<u64>() + document["commons"].as_u64().unwrap(), 1_000_000, "{document}");
    assert_eq!((&document["method"]["name"], &document["evidence"]["shards"]), (&json!("loco-delta"), &json!(1)));
    let quality = &document["method"]["measured_quality"];
    assert_eq!((&quality["answers"], &quality["correlation"]), (&json!(8), &Value::Null), "{document}");
    assert!(quality["misallocated"].as_u64().unwrap() < 20_000, "{document}");
    assert!(document["evidence"]["record_words"].as_u64().unwrap() >= 8 * 7, "{document}");
    let shown = asked(&[]);
    assert!(
        shown.contains("together")
            && shown.contains("100.0 %")
            && shown.contains("on 8 records")
            && shown.contains("Letter 3?")
            && !shown.contains("\n\n\n"),
        "{shown}"
    );
    let own = node.get("/api/status").unwrap()["account"].clone();
    let is_paid = document["shares"].as_array().unwrap().iter().any(|share| share["account"] == own);
    assert_eq!(shown.contains("(you)"), is_paid, "{shown}");
    let of_column =
        |line: &str| line.split_once('%').and_then(|(_, rest)| rest.split_whitespace().next().map(str::to_owned));
    let rows = shown
        .lines()
        .skip_while(|line| !line.contains("KNOWN BY"))
        .skip(1)
        .take(document["shares"].as_array().unwrap().len() + 2);
    let open: Vec<u128> = rows.filter_map(of_column).map(|open| atto(&open)).collect();
    let (together, single) = open.split_last().unwrap();
    assert!(single.len() > 1 && single.iter().sum::<u128>() == *together && *together > 0, "{shown}");
    // The receipt gives the same figure for a share.
    let first = document["shares"][0]["account"].as_str().unwrap();
    let row = shown.lines().find(|line| line.trim_start().starts_with(&first[..10])).unwrap();
    let part = row[..=row.find('%').unwrap()].rsplit("  ").next().unwrap().trim();
    let why = run(&["receipt", "why", document["receipt"].as_str().unwrap(), "--data-dir", place]);
    let why = String::from_utf8(why.stdout).unwrap();
    assert!(why.contains(&format!("{part} of the contributors' part")), "{part} in {why}");
    // A record with the letter that the answer has has the most of its contributor's share, and all have no more than that. The
    // receipt's id names the answer as well.
    let receipt = document["receipt"].as_str().unwrap();
    let output = run(&["answer", "explain", &receipt[..12], "--records", "--json", "--data-dir", place]);
    assert!(output.status.success(), "{}", stderr(&output));
    let behind = &serde_json::from_slice::<Value>(&output.stdout).unwrap()["records"];
    let (said, learned) = (document["text"].as_str().unwrap(), behind["records"][0]["completion"].as_str().unwrap());
    assert!(learned.split(' ').next_back().is_some_and(|letter| said.contains(letter)), "{said}: {behind}");
    assert_eq!((&behind["looked_at"], &behind["admitted"]), (&json!(8), &json!(8)), "{behind}");
    let most = document["shares"][0]["weight"].as_u64().unwrap();
    assert!((1..=most).contains(&behind["helped_weight"].as_u64().unwrap()), "{behind}");
    assert!(asked(&["--records"]).contains("Which records helped"));
    // Going through the training backwards comes to the very adapter, and finds such a record too.
    let exactly = asked(&["--records", "--exact", "--json"]);
    let behind = &serde_json::from_str::<Value>(&exactly).unwrap()["records"];
    let learned = behind["records"][0]["completion"].as_str().unwrap();
    assert!(learned.split(' ').next_back().is_some_and(|letter| said.contains(letter)), "{said}: {behind}");
    assert_eq!((&behind["looked_at"], &behind["exact"]), (&json!(8), &json!(true)), "{behind}");
    assert!((1..=most).contains(&behind["helped_weight"].as_u64().unwrap()), "{behind}");
    assert!(asked(&["--records", "--exact"]).contains("training backwards"));
}
