//! How far a training run is, from what the node says of its tasks.

use serde_json::Value;

use crate::cli::text;

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stage {
    /// What is being trained.
    pub(super) label: &'static str,
    /// Steps done, of all the tasks of this stage.
    pub(super) done: u64,
    /// Steps to do; zero when they are not known yet.
    pub(super) all: u64,
    /// What goes on now.
    pub(super) message: String,
    /// How the run ended.
    pub(super) end: Option<End>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Done,
    Failed,
    Stopped,
}

/// Steps of a task that are done.
pub(super) fn steps_done(task: &Value) -> u64 {
    let source = if task["result"].is_null() { &task["progress"]["step"] } else { &task["result"]["steps"] };
    text::number(source)
}

fn steps_all(task: &Value) -> u64 {
    text::number(&task["progress"]["steps"]).max(text::number(&task["result"]["steps"]))
}

/// Steps of the adapter that a training gave, which leave-out trainings are compared with.
pub(super) fn steps_kept(task: &Value) -> u64 {
    if task["result"].is_null() { steps_all(task) } else { text::number(&task["result"]["kept_step"]) }
}

impl Stage {
    pub(super) fn of(run: &Value) -> Self {
        let (main, leave_out) = (&run["main"], text::rows(&run["leave_out"]));
        let stage = |label, message, end| Self { label, done: 0, all: 0, message, end };
        match run["state"].as_str() {
            Some("done") => stage("run", done_message(run), Some(End::Done)),
            Some("stopped") => stage("run", "stopped by its requester".into(), Some(End::Stopped)),
            Some("failed") => stage("run", format!("failed: {}", text::field(&run["reason"])), Some(End::Failed)),
            Some("releasing") => stage("index", "the attribution index is built".into(), None),
            Some("clustering") => stage("attribution", "looking for contributors who teach the same".into(), None),
            Some("attributing") => Self::attributing(leave_out, steps_kept(main)),
            _ => {
                Self { label: "training", done: steps_done(main), all: steps_all(main), message: now(main), end: None }
            }
        }
    }

    /// The leave-out trainings together; each has as many steps as the released adapter.
    fn attributing(tasks: &[Value], steps_each: u64) -> Self {
        let ready = tasks.iter().filter(|task| task["phase"] == "done").count();
        let current = tasks.iter().find(|task| !task["progress"].is_null() && task["result"].is_null());
        let current = current.or_else(|| tasks.iter().find(|task| task["phase"] != "done"));
        let what = current.map_or_else(|| "all are done".into(), now);
        Self {
            label: "attribution",
            done: tasks.iter().map(steps_done).sum(),
            all: tasks.iter().map(|task| steps_all(task).max(steps_each)).sum(),
            message: format!("{ready} of {} done · {what}", tasks.len()),
            end: None,
        }
    }

    /// `120/300`, or `-` when nothing is known.
    pub(super) fn steps_text(&self) -> String {
        if self.all == 0 { "-".into() } else { format!("{}/{}", self.done, self.all) }
    }

    /// One line about it.
    pub(super) fn line(&self) -> String {
        match self.all {
            0 => format!("{}: {}", self.label, self.message),
            _ => format!("{} {}: {}", self.label, self.steps_text(), self.message),
        }
    }
}

fn done_message(run: &Value) -> String {
    let released = &run["release"]["name"];
    let end = match run["adapter"].as_str() {
        Some(_) if run["release"].is_null() => "trained, not released".into(),
        _ if released.is_string() && *released != run["name"] => {
            format!("this adapter exists already as {}", text::field(released))
        }
        _ if text::number(&run["unchecked"]) > 0 => "released, unchecked".into(),
        _ => "released".to_owned(),
    };
    match ended_early(&run["main"]) {
        Some(early) => format!("{end}; {early}"),
        None => end,
    }
}

/// That a training ended before its last step, by its recipe's patience.
pub(super) fn ended_early(task: &Value) -> Option<String> {
    let (done, offered) = (text::number(&task["result"]["steps"]), text::number(&task["steps"]));
    let is_early = !task["result"].is_null() && done < offered;
    is_early.then(|| format!("ended early at step {} of {}", text::grouped(done), text::grouped(offered)))
}

/// What happens to a task now.
fn now(task: &Value) -> String {
    let worker = text::short(&task["worker"]["account"]);
    match task["phase"].as_str() {
        Some("auction") => {
            let bids = text::rows(&task["bids"]);
            if let Some(reason) = task["reason"].as_str() {
                return format!("no bid yet: {}", text::line(reason));
            }
            format!("workers bid ({})", text::counted(bids.first().map_or(0, text::number), "bid"))
        }
        Some("leased") if task["progress"].is_null() => format!("worker {worker} fetches the data"),
        Some("leased") => format!(
            "loss {} · {} tokens/s · worker {worker}",
            text::nats(&task["progress"]["loss_micro_nats"]),
            text::grouped(text::number(&task["progress"]["tokens_per_s"])),
        ),
        Some("checking") => "another peer executes segments again".into(),
        Some("settling") => "the receipt is signed".into(),
        Some("done") => "done".into(),
        Some("failed") => format!("failed: {}", text::field(&task["reason"])),
        _ => "the task is about to be offered".into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn task(phase: &str, step: u64) -> Value {
        let progress = json!({"step": step, "steps": 300, "loss_micro_nats": 1_234_567, "tokens_per_s": 4300});
        json!({"phase": phase, "bids": [2, 0], "worker": {"account": "aabbccddeeff"}, "progress": progress})
    }

    #[test]
    fn a_training_tells_step_loss_and_speed() {
        let stage = Stage::of(&json!({"state": "training", "main": task("leased", 120)}));
        assert_eq!(stage.line(), "training 120/300: loss 1.234 · 4,300 tokens/s · worker aabbccddee");
        assert_eq!(stage.end, None);
    }

    #[test]
    fn every_phase_before_and_after_has_words() {
        assert!(Stage::of(&json!({"state": "training", "main": null})).line().contains("about to be offered"));
        for phase in ["auction", "checking", "settling"] {
            assert!(!Stage::of(&json!({"state": "training", "main": task(phase, 0)})).message.is_empty());
        }
        let auction = json!({"phase": "auction", "bids": [2, 0]});
        assert_eq!(Stage::of(&json!({"state": "training", "main": auction})).message, "workers bid (2 bids)");
    }

    #[test]
    fn leave_out_trainings_count_together() {
        let run = json!({
            "state": "attributing", "main": task("done", 300),
            "leave_out": [{"phase": "done", "result": {"steps": 300}}, task("leased", 100), {"phase": "auction"}],
        });
        let stage = Stage::of(&run);
        assert_eq!((stage.done, stage.all), (400, 900));
        assert!(stage.message.starts_with("1 of 3 done · loss"), "{}", stage.message);
    }

    #[test]
    fn ends_are_ends() {
        let failed = Stage::of(&json!({"state": "failed", "reason": "no worker bid"}));
        assert_eq!((failed.end, failed.line()), (Some(End::Failed), "run: failed: no worker bid".into()));
        assert_eq!(Stage::of(&json!({"state": "done"})).end, Some(End::Done));
        assert_eq!(Stage::of(&json!({"state": "stopped"})).end, Some(End::Stopped));
    }

    #[test]
    fn an_early_end_and_an_adapter_that_exists_are_said() {
        let run = |steps: u64, name: &str| {
            json!({
                "state": "done", "name": "mine", "adapter": "ab", "release": {"name": name},
                "main": {"steps": 300, "result": {"steps": steps}},
            })
        };
        assert_eq!(Stage::of(&run(300, "mine")).message, "released");
        assert_eq!(Stage::of(&run(60, "mine")).message, "released; ended early at step 60 of 300");
        assert_eq!(Stage::of(&run(300, "other")).message, "this adapter exists already as other");
        assert_eq!(ended_early(&json!({"steps": 300, "progress": {"step": 60}})), None);
    }

    #[test]
    fn an_auction_without_bids_says_what_workers_said() {
        let auction = json!({"phase": "auction", "bids": [0, 0], "reason": "1 worker heard the offer: 1 is busy"});
        let stage = Stage::of(&json!({"state": "training", "main": auction}));
        assert_eq!(stage.message, "no bid yet: 1 worker heard the offer: 1 is busy");
    }
}
