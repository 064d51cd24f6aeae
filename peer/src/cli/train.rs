//! `tributary train`: training runs on peers, from the offer to the released model.

mod curve;
mod screen;
mod stage;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::time::Instant;
use tributary_compute::train::Recipe;
use tributary_protocol::id::Amount;

use self::stage::Stage;
use self::watch::Watched;
use super::failure::Failure;
use super::output::{Context, Output};
use super::pick::{BASE, DATANET, RUN};
use super::table::Table;
use super::{amount, spend, text};
use crate::bases::BUILTIN;

/// How long `train start` listens for what workers say: an auction and what follows it.
const FIRST_ANSWER: Duration = Duration::from_secs(8);
/// Evaluations of a run whose recipe does not say when.
const EVALUATIONS: u64 = 10;
/// How often it looks.
const POLL: Duration = Duration::from_millis(300);

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
        /// When each training must be there, in minutes from now.
        #[arg(long, value_name = "MINUTES", default_value_t = 60)]
        deadline_min: u64,
    },
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// The datanet: its id, the beginning of it, or its name; not needed when there is only one.
    #[arg(long, value_name = "DATANET")]
    data: Option<String>,
    /// The most to pay for all trainings of the run, fees included, in OPEN.
    #[arg(long, value_name = "OPEN", value_parser = amount::parse)]
    budget: Amount,
    /// What the model is called; the datanet's name by default.
    #[arg(long)]
    name: Option<String>,
    /// The base: builtin, one that was pulled (its id, the beginning of it, or its name), or a folder or GGUF file.
    #[arg(long, default_value = "builtin")]
    base: String,
    /// Optimiser steps.
    #[arg(long)]
    steps: Option<u32>,
    /// A JSON file with fields of the recipe: rank, alpha, rslora, dropout, targets, steps, batch, accumulate,
    /// recompute, max_len, lr, warmup, clip, weight_decay, seed, checkpoint_every, held_out, evaluate_every, patience.
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// The part of the records that is not trained on but evaluated, 0 to 0.5: a tenth of the steps lies between two
    /// evaluations unless the recipe says otherwise.
    #[arg(long, value_name = "PART")]
    held_out: Option<f64>,
    /// End early after so many evaluations without a lower held-out loss; needs --held-out.
    #[arg(long, value_name = "EVALUATIONS")]
    patience: Option<u32>,
    /// The fee of one answer of the model, in OPEN.
    #[arg(long, value_name = "OPEN", value_parser = amount::parse)]
    answer_fee: Option<Amount>,
    /// Segments of each training that another peer executes again.
    #[arg(long, value_name = "SEGMENTS", default_value_t = 2)]
    check: u16,
    /// When each training must be there, in minutes.
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    deadline_min: u64,
    /// Train no leave-out adapters: cheaper, but the model cannot say whose records made an answer and is not released.
    #[arg(long)]
    no_attribution: bool,
}

pub(super) async fn run(context: &Context, command: TrainCommand) -> Result<Output, Failure> {
    match command {
        TrainCommand::Start(args) => start(context, &args).await,
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
                Watched::Done(run) => show(&run).next("tributary ask \"…\" --explain"),
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

/// The recipe's fields from the file, over the defaults.
fn recipe(args: &StartArgs) -> Result<Value, Failure> {
    let hint = "see tributary train start --help for the recipe's fields";
    let failed = |error: String| Failure::usage(error, hint);
    let mut recipe = serde_json::to_value(Recipe::default()).map_err(|error| failed(error.to_string()))?;
    let Some(path) = &args.recipe else { return Ok(recipe) };
    let here = |error: String| failed(format!("{}: {error}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| here(error.to_string()))?;
    let given: Value = serde_json::from_slice(&bytes).map_err(|error| here(error.to_string()))?;
    let (Some(fields), Value::Object(given)) = (recipe.as_object_mut(), given) else {
        return Err(here("this is no JSON object".into()));
    };
    for (name, value) in given {
        if !fields.contains_key(&name) {
            return Err(here(format!("a recipe has no field {}", text::line(&name))));
        }
        fields.insert(name, value);
    }
    Ok(recipe)
}

/// The options about evaluation, over the recipe.
fn evaluate(args: &StartArgs, recipe: &mut Value) {
    if let Some(part) = args.held_out {
        recipe["held_out"] = json!(part);
    }
    if let Some(patience) = args.patience {
        recipe["patience"] = json!(patience);
    }
    let is_evaluated = recipe["held_out"].as_f64().is_some_and(|part| part > 0.0);
    if is_evaluated && text::number(&recipe["evaluate_every"]) == 0 {
        let steps = args.steps.map_or_else(|| text::number(&recipe["steps"]), u64::from);
        recipe["evaluate_every"] = json!((steps / EVALUATIONS).max(1));
    }
}

/// A base of the node, else a path as it is meant from here and not from where the node was started.
async fn base(context: &Context, given: &str) -> Result<String, Failure> {
    if given == BUILTIN {
        return Ok(given.to_owned());
    }
    if !std::path::Path::new(given).exists() {
        let known = context.client.get("/api/bases").await?;
        return Ok(text::field(&BASE.find(&known, given)?["id"]));
    }
    let path = std::path::absolute(given).map_err(|error| Failure::usage(error, "give builtin or a folder"))?;
    path.to_str().map(str::to_owned).ok_or_else(|| Failure::usage("the folder's name is not UTF-8", "rename it"))
}

async fn start(context: &Context, args: &StartArgs) -> Result<Output, Failure> {
    let known = context.client.get("/api/datanets").await?;
    let datanet = DATANET.find_or_only(&known, args.data.as_deref(), "--data")?;
    let name = args.name.clone().unwrap_or_else(|| datanet["name"].as_str().unwrap_or("model").to_owned());
    let mut recipe = recipe(args)?;
    evaluate(args, &mut recipe);
    let steps = args.steps.map_or_else(|| text::number(&recipe["steps"]), u64::from);
    let body = json!({
        "name": name,
        "base": base(context, &args.base).await?,
        "datanet": datanet["id"],
        "recipe": recipe,
        "steps": args.steps,
        "budget": args.budget,
        "deadline_s": args.deadline_min.saturating_mul(60),
        "segments_checked": args.check,
        "answer_fee": args.answer_fee,
        "attribution": !args.no_attribution,
    });
    let lines = preview_lines(args, &name, datanet, steps);
    if let Some(end) = spend::preview(context, body.clone(), &lines, "Start?")? {
        return Ok(end);
    }
    let started = context.client.post("/api/runs", &body).await?;
    let key = text::field(&started["key"]);
    let next = format!("tributary train watch {}", text::short(&started["key"]));
    let shown = format!("{key}\n");
    let mut output = Output::new(started, vec![key.clone()], shown).note("✓ the training is offered to the network");
    if !context.json && !context.quiet {
        output.notes.extend(first_answer(context, &key).await?);
    }
    Ok(output.next(next))
}

/// What workers say to the first offer, when none of them bids.
async fn first_answer(context: &Context, key: &str) -> Result<Option<String>, Failure> {
    let deadline = Instant::now() + FIRST_ANSWER;
    loop {
        let run = context.client.get(&format!("/api/runs/{key}")).await?;
        let bids = text::rows(&run["main"]["bids"]).first().map_or(0, text::number);
        let reason = run["reason"].as_str().map(|reason| format!("! {}", text::line(reason)));
        let waits = run["main"].is_null() || (run["main"]["phase"] == "auction" && bids == 0);
        if reason.is_some() || !waits || Instant::now() >= deadline {
            return Ok(reason);
        }
        tokio::time::sleep(POLL).await;
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

fn preview_lines(args: &StartArgs, name: &str, datanet: &Value, steps: u64) -> Vec<String> {
    let contributors = u64::try_from(text::rows(&datanet["contributors"]).len()).unwrap_or(u64::MAX);
    let records = text::counted(text::number(&datanet["records"]), "record");
    let trainings = match (args.no_attribution, contributors) {
        (true, _) => "one training; no attribution, so it is not released".to_owned(),
        (false, 1) => "one training; without its only contributor there is the base alone".to_owned(),
        (false, _) => {
            format!("one training, and {} for attribution", text::counted(contributors, "leave-out training"))
        }
    };
    vec![
        format!(
            "train {} on {records} of {} in {}",
            text::line(name),
            text::counted(contributors, "contributor"),
            text::field(&datanet["name"]),
        ),
        format!("{} each: {trainings}", text::counted(steps, "step")),
        format!("at most {} OPEN, fees included; what is not used stays in the wallet", amount::exact(args.budget)),
    ]
}

fn list(known: Value) -> Output {
    let mut table = Table::new(&["RUN", "NAME", "STATE", "STEP", "NOW"]);
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
    let without =
        text::rows(&run["leave_out"]).iter().map(|task| (task, format!("no {}", text::short(&task["account"]))));
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
    output.notes.extend(unchecked(run));
    output
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
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        start: StartArgs,
    }

    fn args(given: &[&str]) -> StartArgs {
        Only::try_parse_from([&["test", "--budget", "2.5"], given].concat()).unwrap().start
    }

    #[test]
    fn the_budget_is_exact_and_needed() {
        assert_eq!(args(&[]).budget, Amount(2_500_000_000_000_000_000));
        assert!(Only::try_parse_from(["test"]).is_err());
        assert!(Only::try_parse_from(["test", "--budget", "2,5"]).is_err());
    }

    #[test]
    fn a_recipe_file_changes_only_what_it_names() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("recipe.json");
        std::fs::write(&file, r#"{"rank": 4}"#).unwrap();
        let mut args = args(&[]);
        args.recipe = Some(file.clone());
        let made = recipe(&args).unwrap();
        assert_eq!(made["rank"], 4);
        assert_eq!(made["batch"], Recipe::default().batch);
        std::fs::write(&file, r#"{"ranks": 4}"#).unwrap();
        assert!(recipe(&args).unwrap_err().message.contains("ranks"));
        std::fs::write(&file, "[]").unwrap();
        assert!(recipe(&args).is_err());
    }

    #[test]
    fn a_run_that_nobody_checked_says_so() {
        let run = json!({"key": "ab", "state": "done", "adapter": "cd", "release": {}, "unchecked": 2});
        assert!(show(&run).notes.iter().any(|note| note.contains("2 trainings unchecked")));
        let run = json!({"key": "ab", "state": "done", "adapter": "cd", "release": {}, "unchecked": 0});
        assert!(show(&run).notes.is_empty());
    }

    #[test]
    fn the_only_contributor_is_not_left_out() {
        let datanet = json!({"name": "rivers", "records": 12, "contributors": [1]});
        let lines = preview_lines(&args(&[]), "rivers", &datanet, 300).join("\n");
        assert!(lines.contains("the base alone") && !lines.contains("leave-out"), "{lines}");
    }

    #[test]
    fn the_preview_says_what_it_may_cost_at_most() {
        let datanet = json!({"name": "rivers", "records": 1204, "contributors": [1, 2]});
        let lines = preview_lines(&args(&[]), "rivers", &datanet, 300).join("\n");
        for part in ["1,204 records of 2 contributors", "2 leave-out trainings", "at most 2.5 OPEN"] {
            assert!(lines.contains(part), "{part} is missing in\n{lines}");
        }
    }
}
