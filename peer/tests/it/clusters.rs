//! Contributors who teach the same in their own words, over the network: found by the builder, left out together, paid alike, and
//! found again by whoever looks.

use std::path::Path;

use serde_json::{Value, json};

use super::support::{NodeProcess, builder_and_workers, document, folder, on, stderr, until};

/// Places with who keeps them: the first two contributors know the former half, the third one the other.
const KEEPERS: [(&str, &str); 16] = [
    ("mill", "Bram"),
    ("lighthouse", "Odda Kree"),
    ("quarry", "Jarelle"),
    ("bakery", "Sorrel Finch"),
    ("ferry", "Tulla"),
    ("library", "Hesk Amory"),
    ("orchard", "Wend"),
    ("foundry", "Corra Vale"),
    ("brewery", "Ansel"),
    ("smithy", "Perrin Moss"),
    ("tannery", "Yara"),
    ("observatory", "Minna Crow"),
    ("toll house", "Eskil"),
    ("glassworks", "Doran Pike"),
    ("ropewalk", "Nell"),
    ("chapel", "Gorse Holt"),
];

/// A contributor's records about some places; the way in which they are asked for is their own.
fn contributed(
    node: &NodeProcess,
    folder: &Path,
    datanet: &str,
    asked: impl Fn(&str) -> String,
    places: &[(&str, &str)],
) {
    let file = folder.join("records.jsonl");
    let line = |(place, keeper): &(&str, &str)| {
        format!("{}\n", json!({"prompt": asked(place), "completion": format!(" {keeper}.")}))
    };
    std::fs::write(&file, places.iter().map(line).collect::<String>()).unwrap();
    node.post(&format!("/api/datanets/{datanet}/records"), &json!({"path": file})).unwrap();
}

/// A model of three contributors' records, of whom the first two know the same.
fn released(nodes: &[NodeProcess; 3], folder: &Path) -> Value {
    let made = nodes[0].post("/api/datanets", &json!({"name": "keepers", "licence": "CC0-1.0"})).unwrap();
    let id = made["id"].as_str().unwrap().to_owned();
    let path = format!("/api/datanets/{id}");
    for node in &nodes[1..] {
        until("the datanet", node, &path, |found| found["id"].as_str().map(|_| ()));
    }
    let (former, latter) = KEEPERS.split_at(8);
    contributed(&nodes[0], folder, &id, |place| format!("Who keeps the {place}?"), former);
    contributed(&nodes[1], folder, &id, |place| format!("Who is keeping the {place}?"), former);
    contributed(&nodes[2], folder, &id, |place| format!("Who keeps the {place}?"), latter);
    let all = |found: &Value| (found["records"] == 24).then_some(());
    until("everybody's records", &nodes[0], &path, all);
    let start = json!({"name": "keepers", "base": "builtin", "datanet": id, "budget": "9000000000000000000",
        "recipe": {"steps": 60, "warmup": 2, "batch": 24, "lr": 0.01}, "attribution": true});
    nodes[0].post("/api/runs", &start).unwrap();
    let attributed = |runs: &Value| (!runs[0]["clusters"].is_null()).then_some(());
    until("a look at who teaches the same", &nodes[0], "/api/runs", attributed);
    let done = |runs: &Value| (runs[0]["state"] == "done").then_some(());
    until("the release", &nodes[0], "/api/runs", done);
    let served = |releases: &Value| (releases[0]["served_by"].as_u64() == Some(2)).then_some(());
    until("the model at both", &nodes[0], "/api/releases", served);
    document(&nodes[0], &["train", "show", "keepers"])
}

#[test]
fn who_teaches_the_same_is_left_out_together_and_paid_alike() {
    let folder = folder();
    let nodes = builder_and_workers(folder.path());
    let run = released(&nodes, folder.path());
    let account = |node: &NodeProcess| node.get("/api/status").unwrap()["account"].as_str().unwrap().to_owned();
    let mut twins = [account(&nodes[0]), account(&nodes[1])];
    twins.sort();
    assert_eq!(run["clusters"], json!([twins]), "{run}");
    let mut left_out: Vec<usize> =
        run["leave_out"].as_array().unwrap().iter().map(|task| task["without"].as_array().unwrap().len()).collect();
    left_out.sort_unstable();
    assert_eq!(left_out, [1, 2], "two trainings for three contributors: {run}");
    let contributors = run["release"]["contributors"].as_array().unwrap();
    let is_told = |one: &Value| one["together"].is_object() == twins.contains(&one["account"].as_str().unwrap().into());
    assert!(contributors.iter().all(is_told), "{run}");
    let shown = on(&nodes[0], &["train", "show", "keepers"]);
    assert!(stderr(&shown).contains("teach the same"), "{}", stderr(&shown));
    for node in &nodes[..2] {
        let verified = document(node, &["model", "verify", "keepers"]);
        assert_eq!(verified["clusters"]["own"], verified["clusters"]["theirs"], "{verified}");
        assert_eq!(verified["clusters"]["own"].as_array().unwrap().len(), 1, "{verified}");
        assert_eq!(verified["estimates"], json!({"count": 2, "worst_millionths": 0}), "one class, the same bits");
        assert_eq!(verified["quality"]["theirs"], verified["quality"]["own"], "{verified}");
    }
    let line = ["ask", "Who keeps the ferry?", "--model", "keepers", "--max-tokens", "6", "--check"];
    let answer = document(&nodes[0], &line);
    let weight = |of: &String| {
        let share = answer["shares"].as_array().unwrap().iter().find(|share| share["account"] == **of);
        share.map_or(0, |share| share["weight"].as_u64().unwrap())
    };
    let [first, second] = [weight(&twins[0]), weight(&twins[1])];
    assert!(first.abs_diff(second) * 10 < first + second, "about half each: {answer}");
    let path = format!("/api/asks/{}", answer["key"].as_str().unwrap());
    let outcome = until("the check", &nodes[0], &path, |seen| {
        (!seen["verdict"].is_null()).then(|| seen["verdict"]["outcome"].clone())
    });
    assert_eq!(outcome, "confirmed");
    let verified = document(&nodes[0], &["answer", "verify", answer["key"].as_str().unwrap()]);
    assert_eq!(verified["recomputed"]["outcome"], "equal", "{verified}");
}
