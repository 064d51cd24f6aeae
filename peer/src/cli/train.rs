//! `tributary train`: training runs on peers, from the offer to the released model.

mod curve;
mod screen;
mod stage;
mod start;
mod watch;

use clap::Subcommand;
use serde_json::{Value, json};

use self::stage::{End, Stage};
use self::start::StartArgs;
use self::watch::Watched;
use super::failure::Failure;
use super::output::{Context, Output};
use super::pick::RUN;
use super::table::Table;
use super::{spend, text};

#[derive(Debug, Subcommand)]
pub(crate) enum TrainCommand {
    /// Have an adapter trained on a datanet by other peers, and release it.
    Start(Box<StartArgs>),
    /// List this node's training runs.
    Ls,
    /// Show one with all its tasks.
    Show {
        /// Its key, the beginning of it, or its name.
        run: String,
    },
    /// Follow one until it ends, with its loss curve where there is a terminal; q leaves, and the run goes on.
    Watch {
        /// Its key, the beginning of it, or its name; not needed when there is only one.
        run: Option<String>,
    },
    /// Stop one: what is not trained yet is not paid for, what a worker has committed is. Its worker keeps how far it is.
    #[command(alias = "cancel")]
    Stop {
        /// Its key, the beginning of it, or its name.
        run: String,
    },
    /// Go on with one that was stopped or failed: what it has is kept, and a worker that kept its state goes on from there.
    Resume {
        /// Its key, the beginning of it, or its name.
        run: String,
        /// When each training must be there, in minutes from now, up to a week.
        #[arg(long, value_name = "MINUTES", default_value_t = 60)]
        deadline_min: u64,
    },
}

pub(super) async fn run(context: &Context, command: TrainCommand) -> Result<Output, Failure> {
    match command {
        TrainCommand::Start(args) => start::start(context, &args).await,
        TrainCommand::Ls => Ok(list(context.client.get("/api/runs").await?)),
        TrainCommand::Show { run } => {
            let known = context.client.get("/api/runs").await?;
            let key = text::field(&RUN.find(&known, &run)?["key"]);
            Ok(show(&context.client.get(&format!("/api/runs/{key}")).await?))
        }
        TrainCommand::Watch { run } => {
            let known = context.client.get("/api/runs").await?;
            let key = text::field(&RUN.find_or_only(&known, run.as_deref(), "its key")?["key"]);
            Ok(match watch::until_end(context, &key).await? {
                Watched::Done(run) => show(&run),
                Watched::Left(run) => {
                    let next = format!("tributary train watch {}", text::short(&run["key"]));
                    show(&run).note("the run goes on").next(next)
                }
            })
        }
        TrainCommand::Stop { run } => stop(context, &run).await,
        TrainCommand::Resume { run, deadline_min } => resume(context, &run, deadline_min).await,
    }
}

async fn stop(context: &Context, run: &str) -> Result<Output, Failure> {
    let known = context.client.get("/api/runs").await?;
    let key = text::field(&RUN.find(&known, run)?["key"]);
    let body = json!({"stop": key});
    let lines = ["stop the run; what is not trained yet is not paid for".to_owned()];
    if let Some(end) = spend::preview(context, body, &lines, "Stop?")? {
        return Ok(end);
    }
    let stopped = context.client.post(&format!("/api/runs/{key}/stop"), &json!({})).await?;
    Ok(show(&stopped)
        .note("✓ the run is stopped; a result that was committed before is paid, and the worker keeps how far it is")
        .next(format!("tributary train resume {}", text::short(&stopped["key"]))))
}

async fn resume(context: &Context, run: &str, deadline_min: u64) -> Result<Output, Failure> {
    let known = context.client.get("/api/runs").await?;
    let key = text::field(&RUN.find(&known, run)?["key"]);
    let body = json!({"deadline_s": deadline_min.saturating_mul(60)});
    let lines = ["go on with the run, for what is left of its budget".to_owned()];
    if let Some(end) = spend::preview(context, body.clone(), &lines, "Go on?")? {
        return Ok(end);
    }
    let resumed = context.client.post(&format!("/api/runs/{key}/resume"), &body).await?;
    let next = format!("tributary train watch {}", text::short(&resumed["key"]));
    Ok(show(&resumed).note("✓ the run goes on").next(next))
}

fn list(known: Value) -> Output {
    let mut table = Table::wrapping(&["RUN", "NAME", "STATE", "STEP", "NOW"]);
    for row in text::rows(&known) {
        let stage = Stage::of(row);
        table.row([
            text::short(&row["key"]),
            text::field(&row["name"]),
            text::field(&row["state"]),
            stage.steps_text(),
            stage.message,
        ]);
    }
    let next = text::rows(&known).last().map(|row| {
        let verb = if Stage::of(row).end.is_some() { "show" } else { "watch" };
        format!("tributary train {verb} {}", text::short(&row["key"]))
    });
    let output = Output::new(known.clone(), text::ids(&known, "key"), table.render());
    match next {
        Some(next) => output.next(next),
        None => output.note("no training was started here").next("tributary train start --budget OPEN"),
    }
}

fn show(run: &Value) -> Output {
    let stage = Stage::of(run);
    let mut fields = vec![
        ("run", text::field(&run["key"])),
        ("name", text::field(&run["name"])),
        ("state", format!("{} · {}", text::field(&run["state"]), stage.message)),
        ("datanet head", text::field(&run["head"])),
        ("adapter", run["adapter"].as_str().map_or_else(|| "not there yet".into(), text::line)),
    ];
    for (label, name) in [("metrics", "metrics"), ("curve", "svg"), ("", "png")] {
        fields.extend(run["files"][name].as_str().map(|path| (label, text::line(path))));
    }
    let mut shown = text::fields(&fields);
    let mut table = Table::new(&["TASK", "TRAINS", "PHASE", "WORKER", "STEPS", "LOSS", "CHECK", "RECEIPT"]);
    let with_all = (!run["main"].is_null()).then_some((&run["main"], "all".to_owned()));
    let without = text::rows(&run["leave_out"]).iter().map(|task| (task, format!("no {}", briefly(&task["without"]))));
    for (task, trains) in with_all.into_iter().chain(without) {
        table.row(task_row(task, trains));
    }
    let table = table.render();
    if !table.is_empty() {
        shown.push('\n');
        shown.push_str(&table);
    }
    let mut output = Output::new(run.clone(), vec![text::field(&run["key"])], shown);
    output.notes.extend(run["reason"].as_str().map(|reason| format!("! {}", text::line(reason))));
    output
        .notes
        .extend(stage::ended_early(&run["main"]).map(|early| format!("{early}: the held-out loss got no better")));
    output.notes.extend(kept(run));
    output.notes.extend(text::rows(&run["clusters"]).iter().map(|members| {
        format!(
            "{} teach the same: they are left out together, and what that changes is divided among them",
            names(members)
        )
    }));
    output.notes.extend(pooled(run));
    output.notes.extend(unchecked(run));
    match next(run, stage.end) {
        Some(next) => output.next(next),
        None => output,
    }
}

/// What most want next of a run in this state.
fn next(run: &Value, end: Option<End>) -> Option<String> {
    let key = text::short(&run["key"]);
    match end {
        // Without a release there is nothing to ask.
        Some(End::Done) if run["release"].is_null() => None,
        Some(End::Done) => {
            Some(format!("tributary ask \"…\" --model \"{}\" --explain", text::field(&run["release"]["name"])))
        }
        Some(End::Stopped | End::Failed) => Some(format!("tributary train resume {key}")),
        None => Some(format!("tributary train watch {key}")),
    }
}

/// Accounts for a narrow column: where there are several, their beginnings.
fn briefly(accounts: &Value) -> String {
    match text::rows(accounts) {
        [only] => text::short(only),
        several => {
            several.iter().map(|one| text::short(one).chars().take(5).collect()).collect::<Vec<String>>().join("+")
        }
    }
}

/// Accounts, shortened.
fn names(accounts: &Value) -> String {
    text::rows(accounts).iter().map(text::short).collect::<Vec<_>>().join(" and ")
}

/// Who is left out together for having few records: too many to name.
fn pooled(run: &Value) -> Option<String> {
    let pools = text::rows(&run["pools"]);
    let members: usize = pools.iter().map(|members| text::rows(members).len()).sum();
    (members > 0).then(|| {
        format!(
            "{members} contributors with few records are left out in {}, and what that changes is divided among them",
            text::counted(pools.len() as u64, "pool")
        )
    })
}

/// Where the best evaluation lies before the last step, whose adapter it is.
fn kept(run: &Value) -> Option<String> {
    let (kept, done) = (stage::steps_kept(&run["main"]), stage::steps_done(&run["main"]));
    let is_earlier = !run["main"]["result"].is_null() && kept < done;
    is_earlier.then(|| {
        let (kept, done) = (text::grouped(kept), text::grouped(done));
        format!("the adapter is that of step {kept} of {done}, where what was held out was told best")
    })
}

/// Trainings that nobody executed again are said so: who uses the model must know.
fn unchecked(run: &Value) -> Option<String> {
    let count = text::number(&run["unchecked"]);
    let trainings = text::counted(count, "training");
    (count > 0).then(|| format!("! {trainings} unchecked: no verifier could execute segments of it again"))
}

fn task_row(task: &Value, trains: String) -> [String; 8] {
    let result = if task["result"].is_null() { &task["progress"] } else { &task["result"] };
    let steps = if result.is_null() { "-".into() } else { text::grouped(stage::steps_done(task)) };
    let loss = if result.is_null() { "-".into() } else { text::nats(&result["loss_micro_nats"]) };
    let check = task["verdict"]["outcome"].as_str().map_or_else(|| "-".into(), text::line);
    [
        text::short(&task["task"]),
        trains,
        text::field(&task["phase"]),
        text::short(&task["worker"]["account"]),
        steps,
        loss,
        check,
        text::short(&task["receipt"]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_was_best_before_its_end_says_so() {
        let run = |kept: u64| json!({"key": "ab", "main": {"result": {"steps": 60, "kept_step": kept}}});
        assert!(show(&run(40)).notes.iter().any(|note| note.contains("step 40 of 60")));
        assert!(show(&run(60)).notes.is_empty());
    }

    #[test]
    fn a_run_that_nobody_checked_says_so() {
        let run = json!({"key": "ab", "state": "done", "adapter": "cd", "release": {}, "unchecked": 2});
        assert!(show(&run).notes.iter().any(|note| note.contains("2 trainings unchecked")));
        let run = json!({"key": "ab", "state": "done", "adapter": "cd", "release": {}, "unchecked": 0});
        assert!(show(&run).notes.is_empty());
    }
}
