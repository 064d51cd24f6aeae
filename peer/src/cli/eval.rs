//! `tributary eval`: the published figures, measured again on this machine.
//!
//! Invariant: each part is measured by a process of its own that holds nothing else, one after another, and the table is
//! made of the medians of all rounds.

mod attribution;
mod foreign;
mod report;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tributary_compute::bench::table::{Row, rows};
use tributary_compute::bench::{BenchError, Material, Part, Plan, Sample, Shape, SmallBase, load_average};

use super::failure::{FAILED, Failure};
use super::output::{Context, Output};

/// Rounds of one evaluation at most: an hour and more.
const MAX_ROUNDS: u32 = 20;

#[derive(Debug, Subcommand)]
pub(crate) enum EvalCommand {
    /// Speed of serving and training on a random Llama of about 100 million parameters, and on the demonstration's base.
    Serving(ServingArgs),
    /// Whether attribution is right: contributors are really left out, and every method is judged by what really changed.
    Attribution(attribution::AttributionArgs),
    /// What a GPU computes beside the processor, and how fast both are on a small random Llama.
    Device(super::device::DeviceArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ServingArgs {
    /// How often everything is measured; the middle figures count.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_ROUNDS)))]
    rounds: u32,
    /// Where the model is made, once; 1.9 GB.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Make the model and print its folder.
    #[arg(long, hide = true, conflicts_with_all = ["part", "table"])]
    prepare: bool,
    /// Measure one part in this process and print its samples.
    #[arg(long, hide = true, value_name = "NAME", conflicts_with = "table")]
    part: Option<String>,
    /// Print the table of samples that were measured before.
    #[arg(long, hide = true, value_name = "FILE")]
    table: Option<PathBuf>,
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        Self::new(FAILED, error, "the model's folder can be removed: it is made again")
    }
}

/// Runs an evaluation.
pub(super) fn run(context: &Context, command: EvalCommand) -> Result<Output, Failure> {
    context.no_preview("eval")?;
    let args = match command {
        EvalCommand::Serving(args) => args,
        EvalCommand::Attribution(args) => return attribution::run(context, &args),
        EvalCommand::Device(args) => return super::device::run(&args),
    };
    if let Some(file) = &args.table {
        return Ok(table(&read_samples(file)?));
    }
    let cache = args.cache.unwrap_or_else(|| default_cache("bench-models"));
    context.say(&format!("the model is in {}, or made there now", cache.display()));
    let material = Material::prepare(&cache, &Shape::SPEED, small_base())?;
    if args.prepare {
        let folder = material.folder().display().to_string();
        return Ok(Output::new(json!({"folder": folder}), vec![folder.clone()], format!("{folder}\n")));
    }
    if let Some(name) = &args.part {
        let part = Part::from_name(name).ok_or_else(|| {
            let names = Part::ALL.map(Part::name).join(", ");
            Failure::usage(format!("there is no part {name:?}"), &format!("parts are {names}"))
        })?;
        let samples = json!(part.measure(&material, &Plan::default())?);
        let text = format!("{samples:#}\n");
        return Ok(Output::new(samples, Vec::new(), text));
    }
    let mut samples = Vec::new();
    for round in 1..=args.rounds {
        for part in Part::ALL {
            context.say(&format!("round {round} of {}: {}{}", args.rounds, part.name(), load()));
            samples.extend(measure(&cache, part)?);
        }
    }
    Ok(table(&samples).note("peers are measured beside these by: cargo xtask bench serving"))
}

/// The demonstration's base, as an example of a small trained model.
const fn small_base() -> SmallBase<'static> {
    let files = tributary_almanac::base();
    SmallBase { config_json: files.config, tokenizer_json: files.tokenizer, safetensors: files.safetensors }
}

/// A folder in the user's cache.
fn default_cache(name: &str) -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("tributary").join(name)
}

/// What else runs on the machine, for those who read the figures.
fn load() -> String {
    load_average().map_or_else(String::new, |load| format!(" (load {load:.2})"))
}

/// Measures a part in a process of its own.
fn measure(cache: &Path, part: Part) -> Result<Vec<Sample>, Failure> {
    let failed = |what: String| Failure::new(FAILED, format!("measuring {}: {what}", part.name()), "");
    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let mut command = Command::new(program);
    command.args(["eval", "serving", "--json", "--part", &part.name(), "--cache"]).arg(cache);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))
}

fn read_samples(file: &Path) -> Result<Vec<Sample>, Failure> {
    let failed = |error: String| Failure::usage(format!("{}: {error}", file.display()), "give a file of samples");
    let text = std::fs::read_to_string(file).map_err(|error| failed(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
}

/// The table, for programs and for people.
fn table(samples: &[Sample]) -> Output {
    let rows = rows(samples);
    let document = Value::from_iter(rows.iter().map(|row| json!(row)));
    let text = rows.iter().map(row_text).collect();
    let names = rows.iter().map(|row| row.name.to_owned()).collect();
    Output::new(document, names, text)
}

/// Three digits that matter.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A row in one line, and a second one where it is compared; both fit a terminal of 80 columns.
fn row_text(row: &Row) -> String {
    let interval = |[low, high]: [f64; 2]| format!("[{low:.2}, {high:.2}]");
    let beside = row.interval.map_or_else(|| row.unit.to_owned(), interval);
    let ours = row.ours.map_or_else(|| columns("", "not measured"), |ours| columns(&figure(ours), &beside));
    let verdict = match row.met {
        Some(true) => "met",
        Some(false) => "missed",
        None => "",
    };
    let target = row.target.as_deref().map_or_else(String::new, |target| format!("target {target}"));
    let first = format!("{:<34}{ours}{target:<16}{verdict}", row.name);
    let Some(peer) = &row.peer else { return format!("{}\n", first.trim_end()) };
    let theirs = row.peer_value.map_or_else(String::new, |value| columns(&figure(value), row.unit));
    let ratio = row.ratio().map_or_else(String::new, |ratio| format!("{ratio:.2}x"));
    let second = format!("  {peer:<32}{theirs}{ratio}");
    format!("{}\n{}\n", first.trim_end(), second.trim_end())
}

/// A number, and its unit or interval beside it.
fn columns(number: &str, beside: &str) -> String {
    format!("{number:>7} {beside:<15}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(measure: &str, who: &str, value: f64) -> Sample {
        Sample { measure: measure.into(), who: who.into(), value: Some(value), missing: None }
    }

    #[test]
    fn the_table_has_the_published_fields() {
        let samples = [sample("decode/f32/base", "tributary", 30.0), sample("decode/f32/base", "mistral.rs 1", 20.0)];
        let output = table(&samples);
        let rows = output.document.as_array().unwrap();
        for row in rows {
            let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
            assert_eq!(keys, ["name", "unit", "ours", "peer", "peer_value", "target", "met"]);
        }
        let row = rows.iter().find(|row| row["peer"] == "mistral.rs 1").unwrap();
        assert_eq!((row["ours"].as_f64(), row["peer_value"].as_f64()), (Some(30.0), Some(20.0)));
        assert_eq!(row["met"], true);
        assert!(output.text.contains("1.50x") && output.text.contains("not measured"), "{}", output.text);
    }

    #[test]
    fn a_row_with_an_interval_fits_a_terminal() {
        let row = Row {
            name: "differing: misallocated, totals",
            unit: "",
            ours: Some(-0.71),
            interval: Some([-0.94, -0.14]),
            peer: None,
            peer_value: None,
            target: Some("<= 0.05".into()),
            met: Some(false),
        };
        let text = row_text(&row);
        assert!(text.contains(" -0.710 [-0.94, -0.14] target <= 0.05  missed"), "{text}");
        assert!(text.trim_end().len() <= 80, "{text}");
    }

    #[test]
    fn figures_keep_what_matters() {
        assert_eq!([123.4, 12.34, 1.234, 0.1234].map(figure), ["123", "12.3", "1.23", "0.123"]);
    }
}
