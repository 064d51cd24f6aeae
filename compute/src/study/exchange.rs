//! A study's run for other programs: base and adapters as Hugging Face and PEFT write them, records and questions as tokens.
//!
//! Invariant: the list of a run is written last and names everything else by one identity, so that a folder that has it is whole,
//! and scores that name it are of these weights, records and questions.

mod scores;

use std::ops::Range;
use std::path::Path;

use serde::Serialize;

pub use scores::{Cost, Foreign, ScoresError};

use super::attributor::Case;
use super::economy::by_size;
use super::{Figure, StudyError};
use crate::attribute::Index;
use crate::lora::{Adapter, AdapterFiles};
use crate::loss::{Target, mean_losses};
use crate::model::WeightType;

/// The list's file.
pub const RUN: &str = "run.json";
/// What readers must understand to read a list.
const FORMAT: &str = "tributary-attribution-run-1";
const BASE: &str = "base";
const ADAPTER: &str = "adapter";

/// What stands in the list.
#[derive(Serialize)]
struct Run<'a> {
    format: &'static str,
    /// Hash of everything else here, the base and the adapter.
    identity: String,
    contributors: usize,
    /// Questions that are paid for; those after them stand behind the trigger.
    paid: usize,
    /// Points of the run, for methods that follow it; none is averaged, as the deployed adapter may be.
    checkpoints: Vec<Checkpoint>,
    records: Vec<Scored<'a>>,
    questions: Vec<Scored<'a>>,
}

#[derive(Serialize)]
struct Checkpoint {
    folder: String,
    /// Learning rate of the step before.
    lr: f64,
}

/// Tokens, which of them are predicted, and how badly the deployed adapter does that.
#[derive(Serialize)]
struct Scored<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    contributor: Option<u32>,
    tokens: &'a [u32],
    scored: Vec<[usize; 2]>,
    /// Mean over the predicted tokens, in nats.
    loss: f32,
}

impl<'a> Scored<'a> {
    fn of(target: &'a Target, loss: f32, contributor: Option<u32>) -> Self {
        let ends = |range: &Range<usize>| [range.start, range.end];
        Self { contributor, tokens: &target.tokens, scored: target.scored.iter().map(ends).collect(), loss }
    }
}

impl Case<'_> {
    /// What scores of this run must name.
    ///
    /// # Errors
    /// When the model can't run.
    pub fn identity(&self) -> Result<String, StudyError> {
        Ok(self.run()?.identity)
    }

    /// How many records and questions scores are of.
    #[must_use]
    pub const fn shape(&self) -> (usize, usize) {
        (self.records.len(), self.laboratory.queries.len())
    }

    /// Writes the run into a folder.
    ///
    /// # Errors
    /// When the model can't run or the disk refuses.
    pub fn export(&self, folder: &Path) -> Result<(), StudyError> {
        let run = self.run()?;
        std::fs::create_dir_all(folder)?;
        // A folder that is written anew is not whole until its list is there again.
        match std::fs::remove_file(folder.join(RUN)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let base = &self.laboratory.base;
        let weights = base.model().merged(None)?.to_safetensors(base.config(), WeightType::F32)?;
        let tokenizer = format!("{}\n", base.tokenizer().to_json()?);
        let shape = base.config().to_json();
        let files =
            [("config.json", &*shape), ("tokenizer.json", tokenizer.as_bytes()), ("model.safetensors", &weights)];
        put(&folder.join(BASE), &files)?;
        put_adapter(folder, ADAPTER, &self.deployed)?;
        for (checkpoint, snapshot) in run.checkpoints.iter().zip(self.snapshots()?) {
            put_adapter(folder, &checkpoint.folder, &snapshot.adapter)?;
        }
        let partial = folder.join(format!("{RUN}.partial"));
        std::fs::write(&partial, json(&run)?)?;
        Ok(std::fs::rename(partial, folder.join(RUN))?)
    }

    fn run(&self) -> Result<Run<'_>, StudyError> {
        let laboratory = self.laboratory;
        let dealt = laboratory.dealt();
        let model = laboratory.base.model();
        let of = |targets: &[Target]| mean_losses(model, &self.deployed, targets);
        let contributors = dealt.examples.iter().map(|example| Some(example.contributor));
        let records = self.records.iter().zip(of(&self.records)?).zip(contributors);
        let questions = laboratory.queries.iter().zip(of(&laboratory.queries)?);
        let checkpoint = |(at, lr): (usize, f64)| Checkpoint { folder: format!("checkpoints/{at}"), lr };
        let mut run = Run {
            format: FORMAT,
            identity: String::new(),
            contributors: dealt.contributors,
            paid: dealt.queries.len(),
            checkpoints: self.snapshots()?.iter().map(|snapshot| snapshot.lr).enumerate().map(checkpoint).collect(),
            records: records.map(|((target, loss), contributor)| Scored::of(target, loss, contributor)).collect(),
            questions: questions.map(|(target, loss)| Scored::of(target, loss, None)).collect(),
        };
        let mut hasher = blake3::Hasher::new_derive_key("tributary 2026 a run of a study for other programs");
        hasher.update(laboratory.base.hash().as_bytes()).update(self.deployed.hash()?.as_bytes());
        run.identity = hasher.update(&json(&run)?).finalize().to_hex().to_string();
        Ok(run)
    }

    /// What ours costs beside the seconds of its scores, as figures of measures: the trainings without each contributor, in
    /// seconds of one core, and the index that is kept.
    ///
    /// # Errors
    /// When a training is not in the journal and fails.
    pub fn index_cost(&self, trainings: usize) -> Result<[(&'static str, Figure); 2], StudyError> {
        let trained = by_size(self.laboratory).into_iter().take(trainings);
        let wanted: Vec<_> = trained.map(|one| self.laboratory.without(self.seed, &[one])).collect();
        let outcomes = self.laboratory.train(&wanted, &|_, _| {})?;
        let index = Index::build(&self.deployed, &self.leave_out)?.to_bytes();
        let cost = Cost {
            build_seconds: outcomes.iter().map(|outcome| f64::from(outcome.seconds)).sum(),
            query_seconds: 0.0,
            bytes_per_contributor: index.len() as f64 / self.leave_out.len().max(1) as f64,
        };
        let [build, _, kept] = cost.figures();
        Ok([build, kept])
    }
}

fn json(run: &Run<'_>) -> Result<Vec<u8>, StudyError> {
    serde_json::to_vec(run).map_err(|error| StudyError::Plan(error.to_string()))
}

fn put_adapter(folder: &Path, name: &str, adapter: &Adapter) -> Result<(), StudyError> {
    let AdapterFiles { config_json, safetensors } = adapter.to_files()?;
    let files = [("adapter_config.json", &*config_json), ("adapter_model.safetensors", &safetensors)];
    put(&folder.join(name), &files)
}

fn put(folder: &Path, files: &[(&str, &[u8])]) -> Result<(), StudyError> {
    std::fs::create_dir_all(folder)?;
    for (file, bytes) in files {
        std::fs::write(folder.join(file), bytes)?;
    }
    Ok(())
}
