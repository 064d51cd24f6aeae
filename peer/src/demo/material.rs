//! What the demo's contributors know: the almanac, or the user's own records, divided among them.
//!
//! Invariant: the records go into files and from there through the same import as a user's; questions are never
//! among the records.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tributary_almanac::{Country, Owner};
use tributary_compute::train::Recipe;
use tributary_storage::ingest::{self, IngestLimits, RawRecord};

use super::{DemoError, DemoOptions};

/// A question with what is known about it.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) prompt: String,
    pub(super) answer: String,
    /// The contributor, by number of its file, whose records alone contain the fact.
    pub(super) owner: Option<usize>,
    /// Several contributors' records contain the fact.
    pub(super) shared: bool,
}

/// Files and questions of one demo.
pub(super) struct Material {
    pub(super) title: String,
    pub(super) licence: String,
    pub(super) files: Vec<PathBuf>,
    pub(super) questions: Vec<Question>,
    pub(super) recipe: Recipe,
    /// Whether answers can be told right from wrong and whose they are.
    pub(super) is_almanac: bool,
}

/// Questions asked of the almanac.
const QUESTIONS: usize = 40;
/// Held-out records asked of a user's own file.
const OWN_QUESTIONS: usize = 8;
/// Records of a user's own file that take part: the demo shows the way, not a full training.
const OWN_RECORDS: usize = 1_500;
/// Characters of a held-out text that are given as the prompt.
const PROMPT_CHARS: usize = 120;

impl Material {
    pub(super) fn prepare(options: &DemoOptions, folder: &Path, contributors: usize) -> Result<Self, DemoError> {
        match &options.data {
            None => Self::almanac(options.seed, folder, contributors),
            Some(path) => Self::own(path, folder, contributors),
        }
    }

    fn almanac(seed: u64, folder: &Path, contributors: usize) -> Result<Self, DemoError> {
        let country = Country::generate(seed, contributors);
        let files = (0..contributors)
            .map(|number| write_file(folder, number, &tributary_almanac::to_jsonl(country.records_of(number))))
            .collect::<Result<Vec<_>, DemoError>>()?;
        let questions = country.questions().iter().take(QUESTIONS).map(|question| Question {
            prompt: question.text.clone(),
            answer: question.answer.clone(),
            owner: match &question.owner {
                Owner::Only(number) => Some(*number),
                Owner::Shared(_) => None,
            },
            shared: matches!(question.owner, Owner::Shared(_)),
        });
        let recipe = serde_json::from_str(tributary_almanac::recipe())
            .map_err(|error| DemoError::Check(format!("the almanac's recipe does not parse: {error}")))?;
        Ok(Self {
            title: format!("almanac of {}", country.name),
            licence: "CC0-1.0".into(),
            files,
            questions: questions.collect(),
            recipe,
            is_almanac: true,
        })
    }

    fn own(path: &Path, folder: &Path, contributors: usize) -> Result<Self, DemoError> {
        let limits = IngestLimits { max_records: OWN_RECORDS + OWN_QUESTIONS, ..IngestLimits::default() };
        let found = ingest::read_path(path, &limits).map_err(|error| DemoError::Usage(error.to_string()))?;
        let mut records = found.records;
        if records.len() < contributors + 1 {
            let reason =
                format!("{} has {} records; at least {} are needed", path.display(), records.len(), contributors + 1);
            return Err(DemoError::Usage(reason));
        }
        let held_out = records.len() - OWN_QUESTIONS.min(records.len() - contributors);
        let questions = records.split_off(held_out).iter().map(own_question).collect();
        let mut texts = vec![String::new(); contributors];
        for (index, record) in records.iter().enumerate() {
            texts[index % contributors].push_str(&line(record).to_string());
            texts[index % contributors].push('\n');
        }
        let files = texts
            .iter()
            .enumerate()
            .map(|(number, text)| write_file(folder, number, text))
            .collect::<Result<Vec<_>, DemoError>>()?;
        let name =
            path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
        let recipe = Recipe { steps: 60, batch: 8, max_len: 128, checkpoint_every: 20, ..Recipe::default() };
        Ok(Self { title: name, licence: "LicenseRef-user".into(), files, questions, recipe, is_almanac: false })
    }
}

fn own_question(record: &RawRecord) -> Question {
    let (prompt, answer) = if record.prompt.is_empty() {
        let cut = record.completion.char_indices().nth(PROMPT_CHARS).map_or(record.completion.len() / 2, |(at, _)| at);
        let cut = (0..=cut).rev().find(|at| record.completion.is_char_boundary(*at)).unwrap_or(0);
        record.completion.split_at(cut)
    } else {
        (record.prompt.as_str(), record.completion.as_str())
    };
    let prompt = if prompt.is_empty() { " " } else { prompt };
    Question { prompt: prompt.to_owned(), answer: answer.trim().to_owned(), owner: None, shared: false }
}

fn line(record: &RawRecord) -> Value {
    if record.prompt.is_empty() {
        json!({"text": record.completion})
    } else {
        json!({"prompt": record.prompt, "completion": record.completion})
    }
}

fn write_file(folder: &Path, number: usize, text: &str) -> Result<PathBuf, DemoError> {
    let path = folder.join(format!("records-{}.jsonl", number + 1));
    std::fs::write(&path, text).map_err(|error| DemoError::Usage(format!("{}: {error}", path.display())))?;
    Ok(path)
}

impl Question {
    /// Whether `text` is exactly the answer, but for white space around it and a closing full stop.
    pub(super) fn is_answered_by(&self, text: &str) -> bool {
        text.trim().trim_end_matches('.') == self.answer.trim_end_matches('.')
    }
}
