//! `tributary eval attribution`: contributors really left out, and every method judged by what really changed.
//!
//! Invariant: a study that is interrupted and called again in the same way trains only what its journal lacks, and gives the same
//! figures; files of a report appear whole, and hold what is known after each part.

mod parts;
mod source;

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tributary_compute::bench::table::Row;
use tributary_compute::model::Base;
use tributary_compute::study::deal::Setting;
use tributary_compute::study::table::{Finding, rows};
use tributary_compute::study::{Journal, StudyError};

pub(super) use self::parts::Study;
use self::source::SourceArgs;
use super::super::failure::{FAILED, Failure};
use super::super::output::{Context, Output};
use super::foreign::{self, Others};
use super::{default_cache, report, row_text, small_base};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Deal {
    /// Records dealt at random.
    Alike,
    /// Contributors that differ in size, knowledge and honesty.
    Differing,
    /// One after the other.
    Both,
}

/// What is studied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Every method beside the truth.
    Methods,
    /// Two who teach the same in their own words.
    Twins,
    /// Whether records that say what others' say are found.
    Echoes,
    /// What cheats gain.
    Attacks,
    /// What fewer trainings lose.
    Economy,
    /// How much of the truth is a matter of the training's seed, by the plain recipe and the stable one.
    Recipes,
    /// What attributing one answer costs where 200 contribute, on a random Llama of about 100 million parameters; takes 1.5 GB of memory.
    Cost,
}

#[derive(Debug, Args)]
pub(crate) struct AttributionArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// How records come to contributors.
    #[arg(long, value_enum, default_value = "both")]
    setting: Deal,
    /// What is studied; everything unless given, and can be given several times.
    #[arg(long = "part", value_enum, value_name = "PART")]
    parts: Vec<Part>,
    /// Contributors among whom the records are dealt.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(8..=128))]
    contributors: u16,
    /// Deployed runs, each with a deal of its own; 3, or 1 where it is quick.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=20))]
    seeds: Option<u64>,
    /// One seed, few subsets and one unseen seed: a seventh of the trainings, with wide intervals.
    #[arg(long)]
    quick: bool,
    /// Leave out one contributor at a time and nothing else: a third of the trainings or less, and no figures of subsets and of records.
    #[arg(long)]
    singly: bool,
    /// Trainings at once, each on a thread of its own.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: Option<u16>,
    /// Where finished trainings are kept, so that an interrupted study goes on.
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// Write the report there: a page with plots, and all figures as Parquet and JSON.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Only write each deployed run there, for other programs to score: base, adapter, records and questions.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["report", "scores"])]
    export: Option<PathBuf>,
    /// Judge other programs' scores beside ours: safetensors files for runs that were exported.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    scores: Vec<PathBuf>,
}

impl From<StudyError> for Failure {
    fn from(error: StudyError) -> Self {
        Self::new(FAILED, error, "what was trained is kept: the same command goes on from there")
    }
}

/// Studies.
pub(super) fn run(context: &Context, args: &AttributionArgs) -> Result<Output, Failure> {
    let files = small_base();
    let base =
        Base::from_bytes(files.config_json, files.tokenizer_json, files.safetensors).map_err(StudyError::from)?;
    let folder = args.journal.clone().unwrap_or_else(|| default_cache("study"));
    context.say(&format!("trainings are kept in {}", folder.display()));
    let mut study = Study {
        context,
        dataset: args.source.dataset()?,
        base,
        journal: Journal::open(&folder)?,
        contributors: args.contributors.into(),
        quick: args.quick,
        singly: args.singly,
        workers: args.workers(),
        findings: Vec::new(),
        others: Others::read(&args.scores)?,
    };
    if let Some(folder) = &args.export {
        return foreign::export(&study, args.settings(Part::Methods), args.seeds(), folder);
    }
    for seed in args.seeds() {
        for part in [Part::Methods, Part::Economy, Part::Twins, Part::Echoes, Part::Attacks, Part::Recipes, Part::Cost]
        {
            if !args.parts.is_empty() && !args.parts.contains(&part) {
                continue;
            }
            for setting in args.settings(part) {
                match part {
                    Part::Methods => study.methods(*setting, seed)?,
                    Part::Economy => study.economy(*setting, seed)?,
                    Part::Twins => study.twins(seed)?,
                    Part::Echoes => study.echoes(*setting, seed)?,
                    Part::Attacks => study.attacks(*setting, seed)?,
                    Part::Recipes => study.recipes(*setting, seed)?,
                    Part::Cost if seed == *args.seeds().start() => study.cost(seed)?,
                    Part::Cost => {}
                }
                write(args, &study)?;
            }
        }
    }
    study.others.are_all_judged()?;
    if let Some(folder) = &args.report {
        context.say(&format!("the report is {}", folder.join(report::PAGE).display()));
    }
    Ok(table(&study.findings))
}

fn write(args: &AttributionArgs, study: &Study<'_>) -> Result<(), Failure> {
    let Some(folder) = &args.report else { return Ok(()) };
    report::write(folder, &study.findings, study.others.missing()).map_err(|error| {
        Failure::new(FAILED, format!("{}: {error}", folder.display()), "give another folder with --report")
    })
}

impl AttributionArgs {
    fn seeds(&self) -> RangeInclusive<u64> {
        1..=self.seeds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    /// How the records are dealt for a part: cheats are compared with equals, and twins have a deal of their own.
    const fn settings(&self, part: Part) -> &'static [Setting] {
        match (part, self.setting) {
            (Part::Twins, _) => &[Setting::Twins],
            (Part::Attacks | Part::Cost, _) | (_, Deal::Alike) => &[Setting::Alike],
            (_, Deal::Differing) => &[Setting::Differing],
            (_, Deal::Both) => &[Setting::Alike, Setting::Differing],
        }
    }

    fn workers(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get).min(64);
        self.workers.map_or_else(all, usize::from)
    }
}

fn table(findings: &[Finding]) -> Output {
    let rows = rows(findings);
    let document = Value::from_iter(rows.iter().map(|row| json!(row)));
    let is_measured = |row: &&Row| row.ours.is_some() || row.peer_value.is_some();
    let text = rows.iter().filter(is_measured).map(row_text).collect();
    let names = rows.iter().map(|row| row.name.to_owned()).collect();
    match rows.len() - rows.iter().filter(is_measured).count() {
        0 => Output::new(document, names, text),
        open => Output::new(document, names, text)
            .note(format!("{open} rows are of parts or settings that were not asked for")),
    }
}
