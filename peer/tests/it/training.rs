//! Runs as their user sees them: curves in files, a run that is stopped and goes on, a run that ends early.

use std::path::Path;

use serde_json::{Value, json};

use super::models::small::Small;
use super::support::{NodeProcess, folder, on, stderr, until};

fn path(key: &str) -> String {
    format!("/api/runs/{key}")
}

/// A node of its own with a datanet of plain records and conversations.
fn node(folder: &Path) -> (NodeProcess, String) {
    let node = NodeProcess::start(&folder.join("node"), &["--offline"]);
    let made = node.post("/api/datanets", &json!({"name": "letters", "licence": "CC0-1.0"})).unwrap();
    let id = made["id"].as_str().unwrap().to_owned();
    let line = |number: u8| {
        let (asked, answer) = (format!("Letter {number}?"), format!(" It is {}.", char::from(b'a' + number)));
        let line = match number % 2 {
            0 => json!({"prompt": asked, "completion": answer}),
            _ => json!({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}),
        };
        format!("{line}\n")
    };
    let file = folder.join("letters.jsonl");
    std::fs::write(&file, (0..24).map(line).collect::<String>()).unwrap();
    node.post(&format!("/api/datanets/{id}/records"), &json!({"path": file})).unwrap();
    (node, id)
}

fn start(node: &NodeProcess, id: &str, recipe: &Value) -> String {
    let file = node.folder.join("recipe.json");
    std::fs::write(&file, recipe.to_string()).unwrap();
    let recipe = ["--recipe", file.to_str().unwrap()];
    let line = ["train", "start", "--data", id, "--budget", "100", "--yes", "--quiet", "--no-attribution"];
    let started = on(node, &[&line[..], &recipe[..]].concat());
    assert!(started.status.success(), "{}", stderr(&started));
    String::from_utf8(started.stdout).unwrap().trim().to_owned()
}

fn finished(run: &Value) -> Option<Value> {
    (run["state"] == "done").then(|| run.clone())
}

#[test]
fn a_stopped_run_goes_on_to_bitwise_the_same_adapter() {
    let recipe = json!({
        "rank": 4, "steps": 600, "batch": 8, "max_len": 32, "checkpoint_every": 200,
        "held_out": 0.3, "evaluate_every": 60, "dropout": 0.1,
    });
    let (first, second) = (folder(), folder());
    let (broken, id) = node(first.path());
    let key = start(&broken, &id, &recipe);
    let step = |run: &Value| run["main"]["progress"]["step"].as_u64().filter(|step| *step > 0);
    until("the first step", &broken, &path(&key), step);
    assert!(on(&broken, &["train", "stop", &key, "--yes"]).status.success());
    until("the stop", &broken, &path(&key), |run| (run["main"]["phase"] == "failed").then_some(()));
    let again = on(&broken, &["train", "watch", &key]);
    assert!(!again.status.success() && stderr(&again).contains("train resume"), "{}", stderr(&again));
    let resumed = on(&broken, &["train", "resume", &key, "--yes"]);
    assert!(resumed.status.success(), "{}", stderr(&resumed));
    assert_eq!(on(&broken, &["train", "resume", &key, "--yes"]).status.code(), Some(2), "it goes on already");
    let done = until("the end", &broken, &path(&key), finished);
    assert!(broken.log().contains("a training goes on from this step"), "{}", broken.log());

    let (whole, id) = node(second.path());
    let other = start(&whole, &id, &recipe);
    assert_eq!(until("the end", &whole, &path(&other), finished)["adapter"], done["adapter"]);
    curve(
        &whole,
        &until("the picture", &whole, &path(&other), |run| run["files"]["svg"].is_string().then(|| run.clone())),
    );
}

#[test]
fn a_node_that_is_stopped_saves_its_training_and_goes_on_there() {
    let folder = folder();
    let (mut node, id) = node(folder.path());
    // No checkpoint lies between the first step and the stop.
    let recipe = json!({"rank": 4, "steps": 4000, "batch": 8, "max_len": 32, "checkpoint_every": 4000});
    let key = start(&node, &id, &recipe);
    let step = |run: &Value| run["main"]["progress"]["step"].as_u64().filter(|step| *step > 0);
    until("the first step", &node, &path(&key), step);
    assert!(node.signal("TERM").success());
    node.restart();
    until("the training at a later step", &node, "/api/status", |_| {
        let log = node.log();
        let line = log.lines().rfind(|line| line.contains("a training goes on from this step"))?.to_owned();
        assert!(!line.contains("step=0"), "{line}");
        Some(())
    });
}

#[test]
fn bases_of_equal_weights_lead_to_adapters_of_their_own() {
    let root = folder();
    let small = Small::make(&root.path().join("small"));
    let other = small.with(&root.path().join("other"), "tokenizer_config.json", |_| {
        json!({"chat_template": "{{ messages[-1].content }}"}).to_string().into_bytes()
    });
    let (node, id) = node(root.path());
    let recipe = json!({"rank": 2, "steps": 3, "batch": 2, "max_len": 16, "targets": ["q_proj"]});
    let file = root.path().join("recipe.json");
    std::fs::write(&file, recipe.to_string()).unwrap();
    let mut adapters = Vec::new();
    for (name, source) in [("one", &small.folder), ("two", &other)] {
        assert!(on(&node, &["model", "pull", source.to_str().unwrap(), "--name", name]).status.success());
        // Records without conversations: their template makes no difference.
        let line = [
            "train",
            "start",
            "--data",
            &plain(&node, root.path(), &id),
            "--name",
            &format!("on {name}"),
            "--base",
            name,
        ];
        let rest = ["--budget", "1", "--recipe", file.to_str().unwrap(), "--yes", "--quiet"];
        let started = on(&node, &[&line[..], &rest[..]].concat());
        assert!(started.status.success(), "{}", stderr(&started));
        let key = String::from_utf8(started.stdout).unwrap().trim().to_owned();
        let done = until("the end", &node, &path(&key), finished);
        assert_eq!(done["release"]["name"], format!("on {name}"), "{done}");
        adapters.push(done["adapter"].clone());
    }
    assert_ne!(adapters[0], adapters[1]);
    let taken = on(&node, &["model", "pull", other.to_str().unwrap(), "--name", "one"]);
    assert_eq!(taken.status.code(), Some(2));
    assert!(
        stderr(&taken).contains("is called one already") && stderr(&taken).contains("--name"),
        "{}",
        stderr(&taken)
    );
    let taken = on(&node, &["train", "start", "--data", &id, "--name", "on one", "--budget", "1", "--yes"]);
    assert!(stderr(&taken).contains("is called on one already"), "{}", stderr(&taken));
    let removed = on(&node, &["model", "rm", "on one", "--yes"]);
    assert!(stderr(&removed).contains("released adapter"), "{}", stderr(&removed));
}

/// A datanet of plain records alone.
fn plain(node: &NodeProcess, folder: &Path, other: &str) -> String {
    let known = node.get("/api/datanets").unwrap();
    let made = known.as_array().unwrap().iter().find(|row| row["id"] != other).cloned();
    if let Some(made) = made {
        return made["id"].as_str().unwrap().to_owned();
    }
    let made = node.post("/api/datanets", &json!({"name": "plain", "licence": "CC0-1.0"})).unwrap();
    let id = made["id"].as_str().unwrap().to_owned();
    let file = folder.join("plain.jsonl");
    let line = |number: u8| format!("{{\"prompt\":\"Cat {number}?\",\"completion\":\" on the mat\"}}\n");
    std::fs::write(&file, (0..6).map(line).collect::<String>()).unwrap();
    node.post(&format!("/api/datanets/{id}/records"), &json!({"path": file})).unwrap();
    id
}

/// Every line of the metrics file parses, steps rise to the last, and the pictures are there.
fn curve(node: &NodeProcess, run: &Value) {
    let path = |name: &str| run["files"][name].as_str().unwrap().to_owned();
    let whole = |text: String| text.lines().any(|line| line.contains("\"step\":600,")).then_some(text);
    let read = || std::fs::read_to_string(path("metrics")).ok().and_then(whole);
    let text = until("the last point", node, &self::path(run["key"].as_str().unwrap()), |_| read());
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<u64> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=300).map(|point| 2 * point).collect::<Vec<u64>>(), "each point is told once");
    assert!(lines.iter().all(|line| line["loss"].as_f64().is_some_and(|loss| loss > 0.0 && loss < 20.0)));
    let evaluated: Vec<&Value> = lines.iter().filter(|line| line["held_out"].is_object()).collect();
    assert_eq!(evaluated.len(), 10);
    assert!(evaluated.iter().all(|line| line["held_out"]["exact_match"].is_f64()), "{evaluated:?}");
    let first = &evaluated[0]["held_out"];
    let (loss, perplexity) = (first["loss"].as_f64().unwrap(), first["perplexity"].as_f64().unwrap());
    assert!((loss.exp() - perplexity).abs() < 1e-6 * perplexity);
    let shown = String::from_utf8(on(node, &["train", "show", run["key"].as_str().unwrap()]).stdout).unwrap();
    assert!(["metrics.jsonl", "curve.svg", "curve.png"].iter().all(|name| shown.contains(name)), "{shown}");
    let picture = || std::fs::read(path("png")).ok().filter(|bytes| bytes.starts_with(b"\x89PNG"));
    until("the picture", node, &self::path(run["key"].as_str().unwrap()), |_| picture());
}

#[test]
fn a_run_ends_early_by_its_rule_and_its_worker_is_paid_for_the_steps_it_did() {
    let folder = folder();
    let (node, id) = node(folder.path());
    // Each letter is told once, so what is held out gets no better for long.
    let recipe = json!({
        "rank": 4, "steps": 2000, "batch": 8, "max_len": 32, "lr": 0.02, "checkpoint_every": 50,
        "held_out": 0.3, "evaluate_every": 10, "patience": 2,
    });
    let key = start(&node, &id, &recipe);
    let done = until("the end", &node, &path(&key), finished);
    let steps = done["main"]["result"]["steps"].as_u64().unwrap();
    assert!(steps < 2000 && steps % 10 == 0, "{done}");
    assert_eq!(done["main"]["result"]["kept_step"], steps - 20, "the best evaluation was the third from the end");
    let listed = String::from_utf8(on(&node, &["train", "ls"]).stdout).unwrap();
    assert!(listed.contains("ended early"), "{listed}");
    let receipt = done["main"]["receipt"].as_str().unwrap().to_owned();
    let receipt = node.get(&format!("/api/receipts/{receipt}")).unwrap().to_string();
    let whole: u128 = done["main"]["worker"]["price"].as_str().unwrap().parse().unwrap();
    let part = whole * u128::from(steps) / 2000;
    assert!(receipt.contains(&part.to_string()) && !receipt.contains(&whole.to_string()), "{part}: {receipt}");
}
