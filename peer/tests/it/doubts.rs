//! Doubtful records of a real training, as a reviewer asks for them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::support::{NodeProcess, document, folder, on, stderr, until};

const PLACES: [&str; 8] =
    ["Yarloch", "Torhollow", "Nevkettle", "Oskhaven", "Brindlemoor", "Velmora", "Quillmere", "Ashgrove"];
const OWNERS: [&str; 8] = ["Jarelle", "Perustin", "Corgill", "Tolven", "Branspine", "Kree", "Junbream", "Odwin"];
/// How often each is asked about.
const TIMES: usize = 6;

fn is_wrong(at: usize) -> bool {
    at % 7 == 3
}

/// Six questions about each of eight places, which differ in a number, some with another's answer.
fn line(at: usize) -> String {
    let place = at % PLACES.len();
    let owner = if is_wrong(at) { (place + 3) % OWNERS.len() } else { place };
    let prompt = format!("Note {at}. Who owns {}?", PLACES[place]);
    format!("{}\n", json!({"prompt": prompt, "completion": format!(" {}", OWNERS[owner])}))
}

/// What the first records say, in other words.
fn reworded(place: usize) -> String {
    let prompt = format!("Another way to ask: which person possesses {}?", PLACES[place]);
    format!("{}\n", json!({"prompt": prompt, "completion": format!(" {}", OWNERS[place])}))
}

fn add(node: &NodeProcess, folder: &Path, id: &str, lines: &str) {
    let file = folder.join("records.jsonl");
    std::fs::write(&file, lines).unwrap();
    node.post(&format!("/api/datanets/{id}/records"), &json!({"path": file})).unwrap();
}

/// Trains on the datanet as it is, and gives the run's key.
fn train(node: &NodeProcess, folder: &Path, id: &str) -> String {
    let recipe = folder.join("recipe.json");
    let fields = json!({"rank": 8, "steps": 120, "batch": 8, "max_len": 48, "lr": 0.005, "checkpoint_every": 20});
    std::fs::write(&recipe, fields.to_string()).unwrap();
    let line = ["train", "start", "--data", id, "--name", "owners", "--budget", "100", "--yes", "--quiet"];
    let started = on(node, &[&line[..], &["--recipe", recipe.to_str().unwrap()]].concat());
    assert!(started.status.success(), "{}", stderr(&started));
    let key = String::from_utf8(started.stdout).unwrap().trim().to_owned();
    until("the end", node, &format!("/api/runs/{key}"), |run| (run["state"] == "done").then_some(()));
    key
}

/// Whether the record's answer is another place's.
fn says_wrong(row: &Value) -> bool {
    let record = &row["record"];
    let (prompt, answer) = (record["prompt"].as_str().unwrap(), record["completion"].as_str().unwrap());
    let place = PLACES.iter().position(|place| prompt.contains(place)).unwrap();
    !answer.contains(OWNERS[place])
}

#[test]
fn wrong_labels_are_shown_first_and_nothing_changes_by_it() {
    let folder = folder();
    let (node, others) = with_a_lower_account_beside(folder.path());
    let made = node.post("/api/datanets", &json!({"name": "owners", "licence": "CC0-1.0"})).unwrap();
    let id = made["id"].as_str().unwrap().to_owned();
    add(&node, folder.path(), &id, &(0..PLACES.len() * TIMES).map(line).collect::<String>());
    let early = on(&node, &["data", "doubts", "owners"]);
    assert_eq!(early.status.code(), Some(2), "{}", stderr(&early));
    assert!(stderr(&early).contains("no adapter") && stderr(&early).contains("train start"), "{}", stderr(&early));
    another_contributor(&node, &others, folder.path(), &id);
    let key = train(&node, folder.path(), &id);
    // What came after the training, which never saw it, would look wrong for that alone.
    add(&node, folder.path(), &id, "{\"prompt\": \"Who owns the moon?\", \"completion\": \" Zyxwvut the Unheard\"}\n");
    let repeats = document(&node, &["data", "repeats", "owners"]);

    let found = document(&node, &["data", "doubts", "owners", "--limit", "6"]);
    assert_eq!((&found["measured"], &found["admitted"], &found["run"]), (&json!(56), &json!(56), &json!(key)));
    assert_eq!(found["steps"], json!([20, 40, 60, 80, 100]));
    let rows = found["doubts"].as_array().unwrap();
    assert_eq!(rows.len(), 6);
    let contributors = node.get("/api/datanets").unwrap()[0]["contributors"].clone();
    let is_first = |one: &&Value| one["records"] != 8;
    let account = contributors.as_array().unwrap().iter().find(is_first).unwrap()["account"].clone();
    let all = document(&node, &["data", "doubts", "owners", "--limit", "56"]);
    let of_first = all["doubts"].as_array().unwrap().iter().filter(|row| row["account"] == account);
    let wrong: Vec<bool> = of_first.map(says_wrong).collect();
    let before = |at: usize| wrong[..at].iter().filter(|wrong| !**wrong).count();
    let above: usize = (0..wrong.len()).filter(|at| wrong[*at]).map(before).sum();
    let count = wrong.iter().filter(|wrong| **wrong).count();
    assert_eq!((wrong.len(), count), (48, 7));
    assert!(
        5 * above <= count * (48 - count),
        "of all pairs of wrong and right, {above} are ranked wrongly: {wrong:?}"
    );
    assert!(says_wrong(&rows[0]) && rows[0]["reason"] == "never_learned", "{found}");
    says_what_others_say(&all, &account);
    let losses = |row: &Value| row["losses_micro_nats"].as_array().map(Vec::len);
    assert!(rows.iter().all(|row| losses(row) == Some(7)), "{found}");
    let scores: Vec<i64> = rows.iter().map(|row| row["score_milli"].as_i64().unwrap()).collect();
    assert!(scores.is_sorted_by(|one, other| one >= other), "{scores:?}");

    // The released adapter is the run's.
    for named in ["owners", &key[..12], found["adapter"].as_str().unwrap()] {
        let again = document(&node, &["data", "doubts", "owners", "--limit", "6", "--adapter", named]);
        assert_eq!(again, found, "{named}");
    }
    let people = on(&node, &["data", "doubts", "owners", "--limit", "2"]);
    let (text, said) = (String::from_utf8_lossy(&people.stdout).into_owned(), stderr(&people));
    assert!(text.contains("the label may be wrong") && text.lines().count() >= 8, "{text}");
    assert!(said.contains("56 of 56 records measured by owners") && said.contains("no record is left out"), "{said}");
    assert_eq!(document(&node, &["data", "repeats", "owners"]), repeats, "a doubt leaves nothing out");
    for (query, word) in [("limit=0", "1 to 200"), ("limit=201", "1 to 200"), ("limit=x", "status 400")] {
        let refused = node.get(&format!("/api/datanets/{id}/doubts?{query}")).unwrap_err();
        assert!(refused.to_string().contains(word), "{query}: {refused}");
    }
    let unknown = node.get(&format!("/api/datanets/{id}/doubts?of={}", "ab".repeat(32))).unwrap_err();
    assert!(unknown.to_string().contains("no such training"), "{unknown}");
    assert_eq!(on(&node, &["data", "doubts", "owners", "--adapter", "nothing"]).status.code(), Some(2));
    another_peer_finds_them(&node, &others, &id, &found);
}

/// A node, and the home of another on its network whose account is lower. A version has its contributors in the order of
/// their accounts, which are drawn anew in every run: with a fixed order the training is the same in each, bit for bit.
fn with_a_lower_account_beside(folder: &Path) -> (NodeProcess, PathBuf) {
    let account = |node: &NodeProcess| node.get("/api/status").expect("a status")["account"].to_string();
    let homes = ["one", "two"].map(|name| folder.join(name));
    let one = NodeProcess::start(&homes[0], &[]);
    let two = joined(&one, &homes[1]);
    let [home_of_one, home_of_two] = homes;
    if account(&one) > account(&two) { (one, home_of_two) } else { (two, home_of_one) }
}

/// Another peer adds in other words what the first has, and leaves when the first has it.
fn another_contributor(node: &NodeProcess, home: &Path, folder: &Path, id: &str) {
    let other = joined(node, home);
    let route = format!("/api/datanets/{id}");
    let whole =
        |records: u64| move |shown: &Value| (shown["records"] == records && shown["complete"] == true).then_some(());
    until("the first's records", &other, &route, whole(48));
    add(&other, folder, id, &(0..PLACES.len()).map(reworded).collect::<String>());
    until("the other's records", node, &route, whole(56));
}

fn joined(node: &NodeProcess, home: &Path) -> NodeProcess {
    let ticket = node.get("/api/net/invite").unwrap()["ticket"].as_str().unwrap().to_owned();
    NodeProcess::start(home, &["--join", &ticket])
}

/// What the other peer reworded is shown beside what it says again, the later claim as the later one.
fn says_what_others_say(found: &Value, first: &Value) {
    let echoes = found["echoes"].as_array().unwrap();
    assert_eq!((&found["compared"], &found["echoing"]), (&json!(56), &json!(echoes.len())));
    let place = |side: &Value| {
        let prompt = side["record"]["prompt"].as_str().unwrap().to_owned();
        PLACES.iter().position(|place| prompt.contains(place))
    };
    let is_right = |echo: &&Value| place(&echo["earlier"]) == place(&echo["later"]);
    assert!(!echoes.is_empty() && 5 * echoes.iter().filter(is_right).count() >= 4 * echoes.len(), "{echoes:#?}");
    for echo in echoes {
        assert!(echo["earlier"]["account"] == *first && echo["later"]["account"] != *first, "{echo}");
        assert!(echo["taught_permille"].as_u64() >= Some(700) && echo["read_permille"].as_u64() >= Some(300), "{echo}");
    }
}

/// A peer that did not order the training has the release alone: it finds by the version's id which records were trained on.
fn another_peer_finds_them(node: &NodeProcess, home: &Path, id: &str, found: &Value) {
    let other = joined(node, home);
    let whole = |shown: &Value| (shown["records"] == 57 && shown["complete"] == true).then_some(());
    until("every record", &other, &format!("/api/datanets/{id}"), whole);
    until("the release", &other, "/api/releases", |all| all[0]["adapter"].is_string().then_some(()));
    let again = document(&other, &["data", "doubts", "owners", "--limit", "6"]);
    assert_eq!((&again["adapter"], &again["measured"]), (&found["adapter"], &json!(56)));
    assert_eq!((&again["compared"], &again["echoes"]), (&json!(56), &found["echoes"]));
    assert_eq!((&again["run"], &again["steps"]), (&Value::Null, &json!([])));
    let [first, last] = [0_usize, 6].map(|point| found["usual_micro_nats"][point].clone());
    assert_eq!(again["usual_micro_nats"], json!([first, last]), "the same records, before and after the training");
}
