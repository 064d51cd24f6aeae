//! What the demo's contributors know: the almanac, or the user's own records, divided among them.
//!
//! Invariant: the records go into files and from there through the same import as a user's; questions are never
//! among the records.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tributary_almanac::{Country, Owner};
use tributary_compute::train::Recipe;
use tributary_storage::ingest::{self, IngestError, IngestLimits, Ingested, RawRecord, Refusal};

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
    /// What became of the lines of the user's own file.
    pub(super) own: Option<OwnData>,
}

/// What became of the lines of a user's own file.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct OwnData {
    /// Records that could be read.
    usable: usize,
    /// Records that the contributors add.
    used: usize,
    /// Records kept back to ask about.
    held_out: usize,
    /// Records that repeat an earlier one.
    duplicates: usize,
    /// Lines that give no record.
    refused: usize,
    /// The first of them, with number and reason.
    refusals: Vec<String>,
    /// Why reading ended before the end, if it did.
    stopped: Option<String>,
}

/// Questions asked of the almanac.
const QUESTIONS: usize = 40;
/// Held-out records asked of a user's own file.
const OWN_QUESTIONS: usize = 8;
/// Records of a user's own file that take part: the demo shows the way, not a full training.
const OWN_RECORDS: usize = 1_500;
/// Refused lines that are shown one by one.
const REFUSALS_SHOWN: usize = 10;
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
            own: None,
        })
    }

    fn own(path: &Path, folder: &Path, contributors: usize) -> Result<Self, DemoError> {
        let mut found = ingest::read_path(path, &IngestLimits::default()).map_err(unusable)?;
        let usable = found.records.len();
        if usable < contributors + 1 {
            let reason = format!("{} has {usable} records; at least {} are needed", path.display(), contributors + 1);
            return Err(DemoError::Usage(reason));
        }
        let mut records = evenly(std::mem::take(&mut found.records), OWN_RECORDS + OWN_QUESTIONS);
        let held_out = OWN_QUESTIONS.min(records.len() - contributors);
        let questions = records.split_off(records.len() - held_out).iter().map(own_question).collect();
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
        let own = Some(OwnData::new(&found, usable, records.len(), held_out));
        Ok(Self { title: name, licence: "LicenseRef-user".into(), files, questions, recipe, is_almanac: false, own })
    }
}

impl OwnData {
    fn new(found: &Ingested, usable: usize, used: usize, held_out: usize) -> Self {
        Self {
            usable,
            used,
            held_out,
            duplicates: found.duplicates,
            refused: found.refused_total,
            refusals: found.refused.iter().take(REFUSALS_SHOWN).map(refusal_line).collect(),
            stopped: found.stopped.as_ref().map(ToString::to_string),
        }
    }

    /// What a person should know about it before the demo begins.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.refusals.iter().map(|refusal| format!("  refused {refusal}")).collect();
        let unnamed = self.refused - self.refusals.len();
        if unnamed > 0 {
            lines.push(format!("  refused {unnamed} more lines"));
        }
        lines.extend(self.stopped.clone().map(|reason| format!("  {reason}")));
        let Self { usable, used, held_out, duplicates, .. } = self;
        lines.push(format!("  of {usable} records {used} are shared, {held_out} are kept back as questions"));
        if *duplicates > 0 {
            lines.push(format!("  {duplicates} more repeat an earlier record"));
        }
        lines
    }
}

fn refusal_line(refusal: &Refusal) -> String {
    let name = refusal.file.file_name().unwrap_or_default().to_string_lossy();
    format!("{name}:{}: {}", refusal.line, refusal.reason)
}

fn unusable(error: IngestError) -> DemoError {
    let mut reason = error.to_string();
    if let IngestError::NothingUsable { refused, .. } | IngestError::NoReadableFiles { refused, .. } = &error {
        for refusal in refused.iter().take(REFUSALS_SHOWN) {
            reason.push_str(&format!("\n  {}", refusal_line(refusal)));
        }
    }
    DemoError::Usage(reason)
}

/// At most `most` of `records`, spread evenly over all of them, in their order.
fn evenly(records: Vec<RawRecord>, most: usize) -> Vec<RawRecord> {
    let all = records.len();
    if all <= most {
        return records;
    }
    let taken = |index: usize| (index + 1) * most / all > index * most / all;
    records.into_iter().enumerate().filter(|(index, _)| taken(*index)).map(|(_, record)| record).collect()
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
    let messages = record.messages.as_deref().and_then(|messages| serde_json::from_str::<Value>(messages).ok());
    if let Some(messages) = messages {
        json!({"messages": messages})
    } else if record.prompt.is_empty() {
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
