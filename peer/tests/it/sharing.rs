//! A worker that trained everything begins a leave-out training at a later step, and whoever executes it again from nothing
//! comes to the same.

use serde_json::{Value, json};

use super::support::{NodeProcess, folder, until};

/// Records of who has nearly all of them, and steps of a pass over all with a batch of two.
const MANY: u32 = 59;
const STEPS: u32 = 30;

fn add(node: &NodeProcess, datanet: &str, lines: &[Value]) {
    let file = node.folder.join("records.jsonl");
    std::fs::write(&file, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    node.post(&format!("/api/datanets/{datanet}/records"), &json!({"path": file})).unwrap();
}

/// The run of everything and the leave-out runs, after their end.
fn ran(builder: &NodeProcess, datanet: &str, seed: u32) -> Value {
    let recipe = json!({"rank": 2, "steps": STEPS, "batch": 2, "max_len": 16, "checkpoint_every": 1, "warmup": 2,
        "held_out": 0.01, "evaluate_every": 10, "dropout": 0.1, "seed": seed, "targets": ["q_proj", "v_proj"]});
    let name = format!("sharing {seed}");
    let start = json!({"name": name, "base": "builtin", "datanet": datanet, "budget": "9000000000000000000",
        "recipe": recipe, "attribution": true, "segments_checked": 64});
    let key = builder.post("/api/runs", &start).unwrap()["key"].as_str().unwrap().to_owned();
    until("the end", builder, &format!("/api/runs/{key}"), |run| (run["state"] == "done").then(|| run.clone()))
}

/// How many steps the worker shared at the most.
fn shared(worker: &NodeProcess) -> u32 {
    let log = worker.log();
    let lines = log.lines().filter(|line| line.contains("first steps are those of the training of everything"));
    let steps = lines.filter_map(|line| line.split("steps=").nth(1)?.split_whitespace().next()?.parse().ok());
    steps.max().unwrap_or_else(|| panic!("it never looked for them: {log}"))
}

#[test]
fn a_leave_out_training_begun_at_a_later_step_is_what_is_found_from_nothing() {
    let folder = folder();
    let builder = NodeProcess::start(&folder.path().join("0"), &["--network", "test", "--roles", "witness"]);
    let ticket = builder.get("/api/net/invite").unwrap()["ticket"].as_str().unwrap().to_owned();
    let other = |role: &str| NodeProcess::start(&folder.path().join(role), &["--join", &ticket, "--roles", role]);
    let (worker, verifier) = (other("worker"), other("verifier"));
    let made = builder.post("/api/datanets", &json!({"name": "places", "licence": "CC0-1.0"})).unwrap();
    let id = made["id"].as_str().unwrap().to_owned();
    let path = format!("/api/datanets/{id}");
    until("the datanet", &verifier, &path, |found| found["id"].as_str().map(|_| ()));
    let many = (0..MANY)
        .map(|number| json!({"prompt": format!("Letter {number}?"), "completion": format!(" It is {number}.")}));
    add(&builder, &id, &many.collect::<Vec<_>>());
    add(&verifier, &id, &[json!({"prompt": "Who keeps the old mill by the river?", "completion": " Odda Kree."})]);
    until("everybody's records", &builder, &path, |found| (found["records"] == MANY + 1).then_some(()));
    // Where the only record of one of them comes in the first step of all, another seed has another order.
    for seed in 0..4 {
        let run = ran(&builder, &id, seed);
        let tasks = run["leave_out"].as_array().unwrap();
        assert_eq!(tasks.len(), 2, "{run}");
        for task in tasks {
            assert_eq!(task["verdict"]["outcome"], "confirmed", "{task}");
            assert_eq!(task["verdict"]["checked"].as_array().unwrap().len(), STEPS as usize, "all of it: {task}");
        }
        if shared(&worker) > 0 {
            return;
        }
    }
    panic!("no step was shared: {}", worker.log());
}
