//! `tributary train start`: what is wanted, checked before anybody is asked for money.
//!
//! Invariant: what the node would refuse is refused before the preview, in a dry run too.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tributary_compute::train::Recipe;
use tributary_protocol::id::Amount;

use crate::bases::BUILTIN;
use crate::cli::failure::{Failure, UNREACHABLE};
use crate::cli::output::{Context, Output};
use crate::cli::pick::{BASE, DATANET};
use crate::cli::{amount, spend, text};
use crate::runs::LEAVE_OUTS_TOLD_BY;

/// How long `train start` listens for what workers say: an auction and what follows it.
const FIRST_ANSWER: Duration = Duration::from_secs(8);
/// How often it looks.
const POLL: Duration = Duration::from_millis(300);
/// How long reading a datanet's records may take, and waiting for those on their way.
const READING_PATIENCE: Duration = Duration::from_secs(900);
/// Segments of a training that are checked unless its user says otherwise.
const SEGMENTS_CHECKED: u16 = 2;
const RECIPE_HINT: &str = "see tributary train start --help for the recipe's fields";

/// Recipes to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// The quickest that learns well.
    Plain,
    /// Who is paid depends less on chance: batches four times as large, half the learning rate, the weights of the last quarter of
    /// the steps averaged; takes four times as long.
    Stable,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// The datanet: its id, the beginning of it, or its name; not needed when there is only one.
    #[arg(long, value_name = "DATANET")]
    data: Option<String>,
    /// The most to pay for all trainings of the run, fees included, in OPEN.
    #[arg(long, value_name = "OPEN", value_parser = amount::parse)]
    budget: Amount,
    /// What the model is called; as its datanet by default, with a number where that is taken.
    #[arg(long)]
    name: Option<String>,
    /// The base: builtin, one that was pulled (its id, the beginning of it, or its name), or a folder or GGUF file.
    #[arg(long, default_value = "builtin")]
    base: String,
    /// Optimiser steps.
    #[arg(long)]
    steps: Option<u32>,
    /// A JSON file with fields of the recipe: rank, alpha, rslora, dropout, targets, steps, batch, accumulate,
    /// recompute, max_len, lr, warmup, clip, weight_decay, seed, checkpoint_every, held_out, evaluate_every, patience,
    /// average_last.
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// The recipe to begin with, where the file says nothing else.
    #[arg(long, value_enum, default_value = "plain")]
    preset: Preset,
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
    /// Segments of each training that another peer executes again; 2 unless given, and given it needs such a peer.
    #[arg(long, value_name = "SEGMENTS")]
    check: Option<u16>,
    /// When each training must be there, in minutes, up to a week.
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    deadline_min: u64,
    /// Leave-out trainings: as many, for the contributors with the most records. What the others' would give is estimated from the
    /// gradients of their records, which is cheaper and less exact. Half of the contributors unless given, and eight at least; four at
    /// the least, or *all*. Of more than 200, those with the fewest records are left out by threes.
    #[arg(long, value_name = "COUNT|all", conflicts_with = "no_attribution", value_parser = leave_outs)]
    leave_outs: Option<u16>,
    /// Train no leave-out adapters: cheaper, but the model cannot say whose records made an answer and is not released.
    #[arg(long)]
    no_attribution: bool,
}

/// The recipe's fields that are given: those of the file, and the options over them.
fn fields(args: &StartArgs) -> Result<Map<String, Value>, Failure> {
    let mut fields = match &args.recipe {
        Some(path) => of_file(path)?,
        None => Map::new(),
    };
    let options = [
        ("steps", args.steps.map(Value::from)),
        ("held_out", args.held_out.map(Value::from)),
        ("patience", args.patience.map(Value::from)),
    ];
    fields.extend(options.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    if args.preset == Preset::Stable {
        let stable = Recipe::of_fields(&fields).map_err(|error| Failure::usage(error, RECIPE_HINT))?.stable();
        let values: [(&str, Value); 3] =
            [("batch", stable.batch.into()), ("average_last", stable.average_last.into()), ("lr", stable.lr.into())];
        for (name, value) in values {
            fields.entry(name).or_insert(value);
        }
    }
    Ok(fields)
}

fn of_file(path: &std::path::Path) -> Result<Map<String, Value>, Failure> {
    let failed = |error: String| Failure::usage(format!("{}: {error}", path.display()), RECIPE_HINT);
    let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    match serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))? {
        Value::Object(given) => Ok(given),
        _ => Err(failed("this is no JSON object".into())),
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

/// Names of models, bases and runs that are not done.
async fn taken_names(context: &Context) -> Result<BTreeSet<String>, Failure> {
    let mut taken = BTreeSet::new();
    for list in ["/api/releases", "/api/bases", "/api/runs"] {
        let known = context.client.get(list).await?;
        let is_done = |row: &Value| matches!(row["state"].as_str(), Some("done" | "failed" | "stopped"));
        taken.extend(text::rows(&known).iter().filter(|row| !is_done(row)).map(|row| text::field(&row["name"])));
    }
    Ok(taken)
}

/// What a model is called whose user gave no name: as its datanet, with a number behind where that is taken.
fn free_name(plain: &str, taken: &BTreeSet<String>) -> String {
    let numbered = (2..=taken.len() + 1).map(|number| format!("{plain}-{number}"));
    let mut free = std::iter::once(plain.to_owned()).chain(numbered).filter(|name| !taken.contains(name));
    free.next().unwrap_or_default()
}

/// Has a run begun; what stands in its way is said before the preview.
pub(super) async fn start(context: &Context, args: &StartArgs) -> Result<Output, Failure> {
    let known = context.client.get("/api/datanets").await?;
    let datanet = DATANET.find_or_only(&known, args.data.as_deref(), "--data")?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => free_name(datanet["name"].as_str().unwrap_or("model"), &taken_names(context).await?),
    };
    let fields = fields(args)?;
    let recipe = Recipe::of_fields(&fields).map_err(|error| Failure::usage(error, RECIPE_HINT))?;
    let body = json!({
        "name": name,
        "base": base(context, &args.base).await?,
        "datanet": datanet["id"],
        "recipe": fields,
        "budget": args.budget,
        "deadline_s": args.deadline_min.saturating_mul(60),
        "segments_checked": args.check.unwrap_or(SEGMENTS_CHECKED),
        "answer_fee": args.answer_fee,
        "attribution": !args.no_attribution,
        "leave_outs": args.leave_outs,
    });
    let mut trial = body.clone();
    trial["dry_run"] = json!(true);
    // All records are read and compared, and once more when it begins.
    let tried = context.client.post_within("/api/runs", &trial, READING_PATIENCE).await?;
    enough(args.leave_outs.filter(|_| !args.no_attribution), text::number(&tried["contributors"]))?;
    let mut lines = preview_lines(args, &name, (datanet, &tried), &recipe);
    lines.extend(unchecked(args.check, text::number(&tried["verifiers"]))?);
    if let Some(end) = spend::preview(context, body.clone(), &lines, "Start?")? {
        return Ok(end);
    }
    let started = context.client.post_within("/api/runs", &body, READING_PATIENCE).await?;
    let key = text::field(&started["key"]);
    let next = format!("tributary train watch {}", text::short(&started["key"]));
    let shown = format!("{key}\n");
    let mut output = Output::new(started, vec![key.clone()], shown).note("✓ the training is offered to the network");
    if !context.json && !context.quiet {
        output.notes.extend(first_answer(context, &key).await?);
    }
    Ok(output.next(next))
}

/// What follows from nobody being there to check a training: who asked for a check would pay for none.
fn unchecked(check: Option<u16>, verifiers: u64) -> Result<Option<String>, Failure> {
    match check {
        _ if verifiers > 0 => Ok(None),
        Some(0) => Ok(None),
        None => Ok(Some("! no other peer is known that could check it: the model will be told unchecked".into())),
        Some(_) => Err(Failure::new(
            UNREACHABLE,
            "no other peer is known that could check the training",
            "join a network with verifiers (tributary net join), or start without --check",
        )),
    }
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

/// What a preset makes of the recipe.
fn preset(args: &StartArgs, recipe: &Recipe) -> String {
    match args.preset {
        Preset::Stable => format!(
            " (stable: batches of {} in place of {}, the last {} averaged)",
            recipe.batch,
            Recipe::default().batch,
            text::counted(recipe.average_last.into(), "step"),
        ),
        Preset::Plain => String::new(),
    }
}

/// Whether so many leave-out trainings tell how far estimates of the others reach.
/// How many leave-out trainings are wanted.
fn leave_outs(wanted: &str) -> Result<u16, String> {
    match wanted {
        "all" => Ok(u16::MAX),
        _ => wanted.parse().ok().filter(|count| *count > 0).ok_or_else(|| "a number from 1 on, or all".into()),
    }
}

fn enough(wanted: Option<u16>, contributors: u64) -> Result<(), Failure> {
    let least = LEAVE_OUTS_TOLD_BY.min(contributors);
    match wanted.map(u64::from) {
        Some(wanted) if wanted < least => Err(Failure::usage(
            format!("--leave-outs {wanted} is too few to estimate the others by: at least {least} here"),
            "give more, or leave it out",
        )),
        _ => Ok(()),
    }
}

/// What would be trained, of a datanet and of what the node says of a run on it.
fn preview_lines(args: &StartArgs, name: &str, (datanet, tried): (&Value, &Value), recipe: &Recipe) -> Vec<String> {
    let contributors = text::number(&tried["contributors"]);
    let [trained, all] = [&tried["records"], &datanet["records"]].map(text::number);
    let records = text::counted(trained, "record");
    let trainings = match (args.no_attribution, contributors) {
        (true, _) => "one training; no attribution, so it is not released".to_owned(),
        (false, 1) => "one training; without its only contributor there is the base alone".to_owned(),
        (false, _) => {
            let [left_out, many] = ["leave_outs", "leave_out_trainings"].map(|name| text::number(&tried[name]));
            let pooled = (many < left_out).then(|| "who has few records with up to two others".to_owned());
            let estimated = contributors.saturating_sub(left_out);
            let estimated = (estimated > 0)
                .then(|| format!("{} estimated from gradients", text::counted(estimated, "contributor")));
            let others: Vec<String> = pooled.into_iter().chain(estimated).collect();
            let others = if others.is_empty() { String::new() } else { format!(" ({})", others.join(", ")) };
            format!("one training, and {} for attribution{others}", text::counted(many, "leave-out training"))
        }
    };
    let others = match (all.saturating_sub(trained), text::number(&tried["missing"])) {
        (0, _) => None,
        (others, 0) => {
            Some(format!("  {} there are copies (tributary data repeats, claims)", text::counted(others, "record")))
        }
        (others, missing) => Some(format!(
            "! {} there are not among them: copies, and those of {} not here or behind such",
            text::counted(others, "record"),
            text::counted(missing, "shard"),
        )),
    };
    let trained = format!(
        "train {} on {records} of {} in {}",
        text::line(name),
        text::counted(contributors, "contributor"),
        text::field(&datanet["name"]),
    );
    let lines = [
        format!("{} each{}: {trainings}", text::counted(recipe.steps.into(), "step"), preset(args, recipe)),
        format!("at most {} OPEN, fees included; what is not used stays in the wallet", amount::exact(args.budget)),
    ];
    std::iter::once(trained).chain(others).chain(lines).collect()
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

    #[test]
    fn a_model_without_a_name_takes_its_datanet_s_or_the_first_number_that_is_free() {
        let taken = ["letters", "letters-2", "other"].map(str::to_owned).into();
        assert_eq!(free_name("letters", &taken), "letters-3");
        assert_eq!(free_name("rivers", &taken), "rivers");
        assert_eq!(free_name("letters", &["letters".to_owned()].into()), "letters-2");
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
        let made = Recipe::of_fields(&fields(&args).unwrap()).unwrap();
        assert_eq!(made, Recipe { rank: 4, ..Recipe::default() });
        std::fs::write(&file, "[]").unwrap();
        assert!(fields(&args).is_err());
    }

    #[test]
    fn options_stand_over_the_file_and_defaults_suit_them() {
        let made = Recipe::of_fields(&fields(&args(&["--steps", "20", "--held-out", "0.2"])).unwrap()).unwrap();
        assert_eq!((made.steps, made.warmup, made.evaluate_every), (20, 2, 2));
        let alone = Recipe::of_fields(&fields(&args(&["--patience", "2"])).unwrap()).unwrap_err().to_string();
        assert!(alone.contains("held_out"), "{alone}");
    }

    #[test]
    fn the_stable_preset_fills_what_is_not_said() {
        let made = Recipe::of_fields(&fields(&args(&["--steps", "40", "--preset", "stable"])).unwrap()).unwrap();
        assert_eq!((made.steps, made.batch, made.average_last), (40, 4 * Recipe::default().batch, 10));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("recipe.json");
        std::fs::write(&file, r#"{"batch": 4}"#).unwrap();
        let own = args(&["--recipe", file.to_str().unwrap(), "--preset", "stable"]);
        let made = Recipe::of_fields(&fields(&own).unwrap()).unwrap();
        assert_eq!((made.batch, made.average_last), (4, made.steps / 4));
    }

    #[test]
    fn a_check_that_nobody_can_make_is_refused_before_it_is_paid() {
        assert_eq!(unchecked(Some(3), 1).unwrap(), None);
        assert_eq!(unchecked(Some(0), 0).unwrap(), None);
        assert!(unchecked(None, 0).unwrap().unwrap().contains("unchecked"));
        assert_eq!(unchecked(Some(3), 0).unwrap_err().code, UNREACHABLE);
    }

    #[test]
    fn the_only_contributor_is_not_left_out() {
        let (datanet, tried) = (json!({"name": "rivers", "records": 12}), json!({"records": 12, "contributors": 1}));
        let lines = preview_lines(&args(&[]), "rivers", (&datanet, &tried), &Recipe::default()).join("\n");
        assert!(lines.contains("the base alone") && !lines.contains("leave-out"), "{lines}");
    }

    #[test]
    fn the_preview_says_what_it_may_cost_at_most() {
        let datanet = json!({"name": "rivers", "records": 1214});
        let mut tried =
            json!({"records": 1204, "contributors": 5, "leave_outs": 5, "leave_out_trainings": 5, "missing": 0});
        let shown =
            |tried: &Value| preview_lines(&args(&[]), "rivers", (&datanet, tried), &Recipe::default()).join("\n");
        for part in [
            "1,204 records of 5 contributors",
            "10 records there are copies",
            "5 leave-out trainings for",
            "at most 2.5 OPEN",
        ] {
            assert!(shown(&tried).contains(part), "{part} is missing in\n{}", shown(&tried));
        }
        (tried["leave_outs"], tried["leave_out_trainings"], tried["missing"]) = (json!(4), json!(4), json!(1));
        let four = shown(&tried);
        assert!(
            four.contains("4 leave-out trainings for attribution (1 contributor estimated from gradients)"),
            "{four}"
        );
        assert!(four.contains("those of 1 shard not here"), "{four}");
        let many = json!({"records": 1204, "contributors": 256, "leave_outs": 206, "leave_out_trainings": 202});
        let pooled =
            "202 leave-out trainings for attribution (who has few records with up to two others, 50 contributors";
        assert!(shown(&many).contains(pooled), "{}", shown(&many));
    }

    #[test]
    fn too_few_leave_out_trainings_are_refused_before_anything_is_paid() {
        assert!(enough(None, 9).is_ok() && enough(Some(4), 9).is_ok() && enough(Some(3), 3).is_ok());
        for (wanted, contributors) in [(1, 9), (3, 9), (1, 2)] {
            assert!(enough(Some(wanted), contributors).is_err(), "{wanted} of {contributors}");
        }
    }
}
