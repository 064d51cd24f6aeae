//! `tributary eval attribution`: contributors really left out, and every method judged by what really changed.
//!
//! Invariant: a study that is interrupted and called again in the same way trains only what its journal lacks, and gives the same
//! figures; files of a report appear whole.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tributary_almanac::Country;
use tributary_compute::model::Base;
use tributary_compute::study::dataset::{Dataset, Item, Size};
use tributary_compute::study::deal::{Setting, deal};
use tributary_compute::study::table::{Finding, rows};
use tributary_compute::study::{Case, Journal, Laboratory, Method, Plan, Scores, StudyError, Truth, all, judge};

use super::super::failure::{FAILED, Failure};
use super::super::output::{Context, Output};
use super::{default_cache, load, report, row_text, small_base};

/// Records and questions of a dataset from files.
const SIZE: Size = Size { records: 384, queries: 64 };
/// Seed of the country that is studied.
const COUNTRY: u64 = 1;
/// Contributors among whom the almanac is written before it is dealt anew: as many as it is made for.
const WRITERS: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Source {
    /// The demonstration's invented country, made here.
    Almanac,
    /// Grade-school mathematics, from openai/grade-school-math.
    Gsm8k,
    /// Bank customers' questions, from PolyAI-LDN/task-specific-datasets.
    Banking77,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Deal {
    /// Records dealt at random.
    Alike,
    /// Contributors that differ in size, knowledge and honesty.
    Differing,
    /// One after the other.
    Both,
}

#[derive(Debug, Args)]
pub(crate) struct AttributionArgs {
    /// What contributors have.
    #[arg(long, value_enum, default_value = "almanac")]
    dataset: Source,
    /// The dataset's file of records; the almanac needs none.
    #[arg(long, value_name = "FILE", requires = "test")]
    train: Option<PathBuf>,
    /// The dataset's file of held-out questions.
    #[arg(long, value_name = "FILE", requires = "train")]
    test: Option<PathBuf>,
    /// How records come to contributors.
    #[arg(long, value_enum, default_value = "both")]
    setting: Deal,
    /// Contributors among whom the records are dealt.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(8..=128))]
    contributors: u16,
    /// Deployed runs, each with a deal of its own.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=20))]
    seeds: u64,
    /// One seed and few subsets: minutes in place of hours, with wide intervals.
    #[arg(long, conflicts_with = "seeds")]
    quick: bool,
    /// Trainings at once, each on a thread of its own.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: Option<u16>,
    /// Where finished trainings are kept, so that an interrupted study goes on.
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// Write the report there: a page with plots, and all figures as Parquet and JSON.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
}

impl From<StudyError> for Failure {
    fn from(error: StudyError) -> Self {
        Self::new(FAILED, error, "what was trained is kept: the same command goes on from there")
    }
}

/// Studies.
pub(super) fn run(context: &Context, args: &AttributionArgs) -> Result<Output, Failure> {
    let dataset = args.dataset()?;
    let files = small_base();
    let base =
        Base::from_bytes(files.config_json, files.tokenizer_json, files.safetensors).map_err(StudyError::from)?;
    let folder = args.journal.clone().unwrap_or_else(|| default_cache("study"));
    context.say(&format!("trainings are kept in {}", folder.display()));
    let journal = Journal::open(&folder)?;
    let mut findings = Vec::new();
    let seeds = if args.quick { 1 } else { args.seeds };
    for setting in args.settings() {
        for seed in 1..=seeds {
            let dealt = deal(&dataset, *setting, args.contributors.into(), seed)?;
            let laboratory = Laboratory::new(&base, &Method::study(), &dealt, Some(journal.clone()), args.workers())?;
            let plan = if args.quick { Plan::quick(seed) } else { Plan::full(seed) };
            let what = format!("{}, seed {seed}", dealt.name);
            let named = |method: &str, measure: &str| Finding {
                dataset: dataset.name.clone(),
                setting: setting.name().into(),
                seed,
                method: method.into(),
                measure: measure.into(),
                ..Finding::default()
            };
            findings.extend(study(context, &laboratory, &plan, &what, &named)?);
        }
    }
    if let Some(folder) = &args.report {
        report::write(folder, &findings).map_err(|error| {
            Failure::new(FAILED, format!("{}: {error}", folder.display()), "give another folder with --report")
        })?;
        context.say(&format!("the report is {}", folder.join(report::PAGE).display()));
    }
    Ok(table(&findings))
}

/// One deployed run: its truth, then every method.
fn study(
    context: &Context,
    laboratory: &Laboratory,
    plan: &Plan,
    what: &str,
    named: &dyn Fn(&str, &str) -> Finding,
) -> Result<Vec<Finding>, Failure> {
    let contributors = laboratory.dealt().contributors;
    context.say(&format!("{what}: {contributors} contributors, {} trainings{}", plan.trainings(contributors), load()));
    let tell = |done: usize, of: usize| {
        if done.is_multiple_of(10) || done == of {
            context.say(&format!("  {done} of {of}{}", load()));
        }
    };
    let truth = Truth::measure(laboratory, plan, &tell)?;
    let case = Case::prepare(laboratory, plan.seed, &|_, _| {})?;
    let mut findings = Vec::new();
    let mut judged = |name: &str, trainings: usize, seconds: f64, scores: &Scores| -> Result<(), Failure> {
        for (measure, figure) in judge(&truth, scores)? {
            findings.push(Finding { trainings, seconds, figure, ..named(name, measure) });
        }
        Ok(())
    };
    for method in all() {
        let start = Instant::now();
        let scores = method.scores(&case)?;
        judged(method.name(), method.trainings(contributors), start.elapsed().as_secs_f64(), &scores)?;
    }
    judged("the true run itself", contributors, 0.0, &Scores::of_contributors(truth.without.clone()))?;
    Ok(findings)
}

impl AttributionArgs {
    const fn settings(&self) -> &'static [Setting] {
        match self.setting {
            Deal::Alike => &[Setting::Alike],
            Deal::Differing => &[Setting::Differing],
            Deal::Both => &[Setting::Alike, Setting::Differing],
        }
    }

    fn workers(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get).min(64);
        self.workers.map_or_else(all, usize::from)
    }

    fn dataset(&self) -> Result<Dataset, Failure> {
        let (Some(train), Some(test)) = (&self.train, &self.test) else {
            return match self.dataset {
                Source::Almanac => Ok(almanac()),
                Source::Gsm8k | Source::Banking77 => Err(Failure::usage(
                    "this dataset is not part of the program",
                    "download its two files and name them with --train and --test",
                )),
            };
        };
        let (train, test) = (read(train)?, read(test)?);
        match self.dataset {
            Source::Gsm8k => Ok(Dataset::gsm8k(&train, &test, SIZE)?),
            Source::Banking77 => Ok(Dataset::banking77(&train, &test, SIZE)?),
            Source::Almanac => Err(Failure::usage("the almanac is made here", "leave --train and --test out")),
        }
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()), "give a file of text");
    std::fs::read_to_string(path).map_err(failed)
}

/// The country's records and questions; a record is about the fact whose subject and answer it names.
fn almanac() -> Dataset {
    let country = Country::generate(COUNTRY, WRITERS);
    let topic = |text: &str| {
        let is_about = |fact: &tributary_almanac::Fact| text.contains(&fact.subject) && text.contains(&fact.answer);
        country.facts.iter().position(is_about).and_then(|fact| u32::try_from(fact).ok())
    };
    let records = (0..country.contributors()).flat_map(|writer| country.records_of(writer)).map(|record| Item {
        topic: topic(&format!("{}{}", record.prompt, record.completion)),
        prompt: record.prompt.clone(),
        completion: record.completion.clone(),
    });
    let queries = country.questions().iter().map(|question| Item {
        prompt: question.text.clone(),
        completion: format!(" {}", question.answer),
        topic: u32::try_from(question.fact).ok(),
    });
    Dataset { name: "almanac".into(), records: records.collect(), queries: queries.take(SIZE.queries).collect() }
}

fn table(findings: &[Finding]) -> Output {
    let rows = rows(findings);
    let document = Value::from_iter(rows.iter().map(|row| json!(row)));
    let text = rows.iter().map(row_text).collect();
    let names = rows.iter().map(|row| row.name.to_owned()).collect();
    Output::new(document, names, text)
}

#[cfg(test)]
mod tests {
    use super::almanac;

    #[test]
    fn every_question_has_records_and_noise_has_no_topic() {
        let dataset = almanac();
        for query in &dataset.queries {
            let count = dataset.records.iter().filter(|record| record.topic == query.topic).count();
            assert!(count >= 2, "{} {count}", query.prompt);
        }
        assert!(dataset.records.iter().any(|record| record.topic.is_none()));
    }
}
