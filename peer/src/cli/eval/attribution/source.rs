//! The datasets that are studied: the demonstration's almanac, made here, and public ones from their own files.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use tributary_almanac::Country;
use tributary_compute::study::dataset::{Dataset, Item, Size};

use crate::cli::failure::Failure;

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

#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// What contributors have.
    #[arg(long, value_enum, default_value = "almanac")]
    dataset: Source,
    /// The dataset's file of records; the almanac needs none.
    #[arg(long, value_name = "FILE", requires = "test")]
    train: Option<PathBuf>,
    /// The dataset's file of held-out questions.
    #[arg(long, value_name = "FILE", requires = "train")]
    test: Option<PathBuf>,
}

impl SourceArgs {
    pub(super) fn dataset(&self) -> Result<Dataset, Failure> {
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
