//! `tributary status` and `tributary ps`: the node, and what runs on it.

use serde_json::{Value, json};

use super::failure::Failure;
use super::output::{Context, Output};
use super::table::Table;
use super::text;

pub(super) async fn status(context: &Context) -> Result<Output, Failure> {
    Ok(show(context.client.get("/api/status").await?))
}

pub(super) async fn ps(context: &Context) -> Result<Output, Failure> {
    let status = context.client.get("/api/status").await?;
    let runs = context.client.get("/api/runs").await?;
    Ok(processes(&status, &runs))
}

/// The roles that are switched on.
pub(super) fn roles(roles: &Value) -> String {
    let on = ["worker", "verifier", "witness", "poster"].into_iter().filter(|role| roles[*role] == true);
    let on: Vec<&str> = on.collect();
    if on.is_empty() { "none".into() } else { on.join(", ") }
}

fn chain(chain: &Value) -> String {
    let served = if chain["served"].is_string() { ", served by this node" } else { "" };
    match chain["state"].as_str() {
        Some("none") | None => "none: amounts stand in receipts only".into(),
        Some(state) => format!("{} · {}{served}", text::line(state), text::field(&chain["url"])),
    }
}

fn show(status: Value) -> Output {
    let number = |name: &str| text::number(&status[name]);
    let uptime = text::duration(number("uptime_ms"));
    let classes: Vec<String> = text::rows(&status["classes"]).iter().map(text::field).collect();
    let jobs = text::rows(&status["jobs"]).len();
    let work = match status["idle_reason"].as_str() {
        Some(reason) => text::line(reason),
        None => text::counted(u64::try_from(jobs).unwrap_or(0), "job"),
    };
    let serving = u64::try_from(text::rows(&status["serving"]).len()).unwrap_or(0);
    let shown = text::fields(&[
        ("node", text::field(&status["node"])),
        ("network", format!("{} · {}", text::field(&status["network"]), text::counted(number("peers"), "peer"))),
        ("up", format!("{uptime} · version {} · {}", text::field(&status["version"]), classes.join(", "))),
        ("roles", roles(&status["roles"])),
        ("work", work),
        ("serves", text::counted(serving, "model")),
        (
            "knows",
            format!(
                "{} · {} · {}",
                text::counted(number("datanets"), "datanet"),
                text::counted(number("releases"), "model"),
                text::counted(number("receipts"), "receipt"),
            ),
        ),
        ("chain", chain(&status["chain"])),
        ("account", text::field(&status["account"])),
    ]);
    let next = next(&status);
    Output::new(status.clone(), vec![text::field(&status["node"])], shown).next(next)
}

/// What a node in this state most likely wants.
fn next(status: &Value) -> &'static str {
    if text::number(&status["peers"]) == 0 {
        "tributary net invite, for a second machine"
    } else if text::number(&status["releases"]) > 0 {
        "tributary ask \"…\" --explain"
    } else if text::number(&status["datanets"]) > 0 {
        "tributary data ls"
    } else {
        "tributary data new NAME --licence SPDX"
    }
}

fn processes(status: &Value, runs: &Value) -> Output {
    let open = |run: &&Value| !["done", "failed", "stopped"].iter().any(|end| run["state"] == *end);
    let runs: Vec<Value> = text::rows(runs).iter().filter(open).cloned().collect();
    let mut table = Table::new(&["ID", "WHAT", "STEP", "SPEED", "STATE"]);
    for job in text::rows(&status["jobs"]) {
        table.row([
            text::short(&job["task"]),
            "training for a requester".into(),
            format!("{}/{}", text::number(&job["step"]), text::number(&job["steps"])),
            format!("{} tokens/s", text::grouped(text::number(&job["tokens_per_s"]))),
            if job["finished"] == true { "finished, to be settled".into() } else { "running".into() },
        ]);
    }
    for run in &runs {
        let what = format!("own training {}", text::field(&run["name"]));
        table.row([text::short(&run["key"]), what, "-".into(), "-".into(), text::field(&run["state"])]);
    }
    let ids = [text::ids(&status["jobs"], "task"), runs.iter().map(|run| text::field(&run["key"])).collect()].concat();
    let is_idle = ids.is_empty();
    let document = json!({"jobs": status["jobs"], "runs": runs, "idle_reason": status["idle_reason"]});
    let output = Output::new(document, ids, table.render());
    if !is_idle {
        return output;
    }
    let reason = status["idle_reason"].as_str().map_or_else(|| "nothing runs".into(), text::line);
    output.note(reason).next("tributary status")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_shows_roles_chain_and_why_it_is_idle() {
        let output = show(json!({
            "node": "ab", "network": "net", "peers": 2, "uptime_ms": 180_000, "version": "1", "classes": ["c", "q"],
            "roles": {"worker": true, "witness": true, "verifier": false}, "idle_reason": "ready", "releases": 1,
            "chain": {"state": "up", "url": "http://127.0.0.1:8545", "served": null},
        }));
        for part in ["worker, witness", "ready", "up · http://127.0.0.1:8545", "3 min", "2 peers"] {
            assert!(output.text.contains(part), "{part} is missing in\n{}", output.text);
        }
        assert_eq!(output.next.unwrap(), "tributary ask \"…\" --explain");
    }

    #[test]
    fn jobs_and_open_runs_are_listed_ended_ones_are_not() {
        let status = json!({"jobs": [{"task": "t1", "step": 3, "steps": 9, "tokens_per_s": 10, "finished": false}]});
        let runs =
            json!([{"key": "r1", "name": "a", "state": "training"}, {"key": "r2", "name": "b", "state": "done"}]);
        let output = processes(&status, &runs);
        assert_eq!(output.ids, ["t1", "r1"]);
        assert!(output.text.contains("3/9") && output.text.contains("own training a"), "{}", output.text);
        let idle = processes(&json!({"jobs": [], "idle_reason": "no peers"}), &json!([]));
        assert_eq!(idle.notes, ["no peers"]);
    }
}
