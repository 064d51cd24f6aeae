//! Real trainings of one dealt dataset: with everybody, and with any records left out.
//!
//! Invariant: a training is the product's own, from the committed seed and order, with what is left out at weight 0; which
//! worker computes it, beside what, and whether the journal already had it changes no bit of its outcome.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tributary_protocol::id::Hash;

use super::StudyError;
use super::dataset::Item;
use super::deal::Dealt;
use super::journal::{Journal, Outcome};
use crate::lora::Adapter;
use crate::loss::{Target, mean_losses};
use crate::model::Base;
use crate::train::{Recipe, Snapshot, Trainer};

/// Trainings at once at most: each holds the base's activations.
pub const MAX_WORKERS: usize = 64;

/// What studies train by: small enough that a training takes seconds. [`Recipe::stable`] of it makes the truth itself less
/// a matter of chance (`compute/ATTRIBUTION.md`).
#[must_use]
pub fn recipe() -> Recipe {
    Recipe { rank: 4, alpha: 8.0, steps: 60, batch: 16, max_len: 128, lr: 0.01, warmup: 6, ..Recipe::default() }
}

/// One training.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Training {
    /// Seed of order, initial weights and dropout.
    pub seed: u64,
    /// Places of the records that are left out, ascending.
    pub left_out: Vec<u32>,
    /// Steps that are taken over from the run with everybody; 0 is a training from nothing.
    pub shared_steps: u32,
}

/// Everything that trainings of one dealt dataset need.
pub struct Laboratory {
    pub(super) base: Base,
    pub(super) recipe: Recipe,
    pub(super) dealt: Dealt,
    /// The questions' answers, those behind the trigger last.
    pub(super) queries: Vec<Target>,
    identity: Hash,
    journal: Option<Journal>,
    /// What was trained or read since the laboratory opened.
    memory: Mutex<BTreeMap<Training, Outcome>>,
    workers: usize,
}

/// Told after each training: how many are done, of how many.
pub type OnTraining<'a> = &'a (dyn Fn(usize, usize) + Sync);

impl Laboratory {
    /// # Errors
    /// When the recipe holds records out, or a question can't be asked.
    pub fn new(
        base: &Base,
        recipe: &Recipe,
        dealt: &Dealt,
        journal: Option<Journal>,
        workers: usize,
    ) -> Result<Self, StudyError> {
        if recipe.held_out > 0.0 {
            return Err(StudyError::Plan("a study holds nothing out".into()));
        }
        if !(1..=MAX_WORKERS).contains(&workers) {
            return Err(StudyError::Plan(format!("{workers} workers, allowed 1 to {MAX_WORKERS}")));
        }
        let items = dealt.queries.iter().chain(&dealt.triggered);
        let queries = items.map(|item| question(base, item)).collect::<Result<_, _>>()?;
        let identity = identity(base, recipe, dealt)?;
        let (base, recipe, dealt) = (base.clone(), recipe.clone(), dealt.clone());
        Ok(Self { base, recipe, dealt, queries, identity, journal, memory: Mutex::default(), workers })
    }

    /// Another deal of the same questions, with the same journal.
    ///
    /// # Errors
    /// As [`Laboratory::new`].
    pub fn with(&self, dealt: &Dealt) -> Result<Self, StudyError> {
        Self::new(&self.base, &self.recipe, dealt, self.journal.clone(), self.workers)
    }

    /// The dataset as it was dealt.
    #[must_use]
    pub const fn dealt(&self) -> &Dealt {
        &self.dealt
    }

    /// The training without these contributors.
    #[must_use]
    pub fn without(&self, seed: u64, contributors: &[u32]) -> Training {
        let is_out =
            |(at, example): (u32, &crate::train::Example)| contributors.contains(&example.contributor).then_some(at);
        let left_out = (0..).zip(&self.dealt.examples).filter_map(is_out).collect();
        Training { seed, left_out, shared_steps: 0 }
    }

    /// The outcomes of all of `wanted`, in order; equal ones are trained once.
    ///
    /// # Errors
    /// When one diverges, everything is left out of one, or the journal can't be written.
    pub fn train(&self, wanted: &[Training], on_training: OnTraining<'_>) -> Result<Vec<Outcome>, StudyError> {
        let mut open: Vec<&Training> = wanted.iter().filter(|training| !self.remember(training)).collect();
        open.sort();
        open.dedup();
        let roots = self.roots(&open)?;
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(wanted.len() - open.len()));
        let failed = Mutex::new(None);
        let work = || {
            while let Some(training) = open.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.one(&roots, training) {
                    Ok(outcome) => drop(held(&self.memory).insert((*training).clone(), outcome)),
                    Err(error) => {
                        next.store(open.len(), Ordering::Relaxed);
                        *held(&failed) = Some(error);
                    }
                }
                on_training(done.fetch_add(1, Ordering::Relaxed) + 1, wanted.len());
            }
        };
        self.on_workers(open.len(), &work)?;
        if let Some(error) = held(&failed).take() {
            return Err(error);
        }
        let memory = held(&self.memory);
        let missing = || StudyError::Plan("a training has no outcome".into());
        wanted.iter().map(|training| memory.get(training).cloned().ok_or_else(missing)).collect()
    }

    /// Whether the outcome is in memory, now that the journal was asked.
    fn remember(&self, training: &Training) -> bool {
        let mut memory = held(&self.memory);
        if memory.contains_key(training) {
            return true;
        }
        let read = self.journal.as_ref().and_then(|journal| journal.read(&self.name(training)));
        read.is_some_and(|outcome| memory.insert(training.clone(), outcome).is_none())
    }

    /// Runs `work` on every worker. Each has one thread: small products gain nothing from a second that waits for them.
    fn on_workers(&self, trainings: usize, work: &(dyn Fn() + Sync)) -> Result<(), StudyError> {
        let workers = self.workers.min(trainings);
        let pools: Vec<rayon::ThreadPool> = (0..workers)
            .map(|_| rayon::ThreadPoolBuilder::new().num_threads(1).build())
            .collect::<Result<_, _>>()
            .map_err(|error| StudyError::Plan(error.to_string()))?;
        std::thread::scope(|scope| {
            for pool in &pools {
                scope.spawn(|| pool.install(work));
            }
        });
        Ok(())
    }

    /// Points of `seed`'s run with everybody: `count` of them, evenly spaced, the last at its end. They are never averaged.
    pub(super) fn snapshots(&self, seed: u64, count: u32) -> Result<Vec<Snapshot>, StudyError> {
        let mut trainer = self.trainer(seed)?;
        let steps = self.recipe.steps;
        let mut snapshots = Vec::new();
        for number in 1..=count.min(steps) {
            let until = steps * number / count.min(steps);
            while trainer.steps_done() < until {
                trainer.step()?;
            }
            snapshots.push(trainer.snapshot()?);
        }
        Ok(snapshots)
    }

    /// What is learned of each record.
    pub(super) fn record_targets(&self) -> Result<Vec<Target>, StudyError> {
        Ok(self.trainer(0)?.targets())
    }

    /// The adapter of an outcome.
    ///
    /// # Errors
    /// When its numbers are not finite.
    pub fn adapter(&self, outcome: &Outcome) -> Result<Adapter, StudyError> {
        Ok(Adapter::from_values(self.base.config(), &self.recipe.lora(), &outcome.values)?)
    }

    pub(super) fn trainer(&self, seed: u64) -> Result<Trainer, StudyError> {
        let recipe = Recipe { seed, ..self.recipe.clone() };
        Ok(Trainer::new(&self.base, &recipe, &self.dealt.examples)?)
    }

    /// What trainings part from: tokenised once for each seed, and trained so far as steps are shared.
    fn roots(&self, trainings: &[&Training]) -> Result<BTreeMap<(u64, u32), Trainer>, StudyError> {
        let mut roots = BTreeMap::new();
        for training in trainings {
            let key = (training.seed, training.shared_steps);
            if roots.contains_key(&key) {
                continue;
            }
            let mut root = self.trainer(training.seed)?;
            while root.steps_done() < training.shared_steps && !root.is_done() {
                root.step()?;
            }
            roots.insert(key, root);
        }
        Ok(roots)
    }

    fn one(&self, roots: &BTreeMap<(u64, u32), Trainer>, training: &Training) -> Result<Outcome, StudyError> {
        let start = Instant::now();
        let mut weights = vec![1.0; self.dealt.examples.len()];
        for place in &training.left_out {
            *weights.get_mut(*place as usize).ok_or_else(|| StudyError::Plan(format!("no record {place}")))? = 0.0;
        }
        if weights.iter().all(|weight| *weight == 0.0) {
            return Err(StudyError::Plan("every record is left out".into()));
        }
        if training.shared_steps > self.recipe.steps - self.recipe.average_last {
            return Err(StudyError::Plan(format!("{} shared steps leave none to average", training.shared_steps)));
        }
        let root = roots.get(&(training.seed, training.shared_steps));
        let root = root.ok_or_else(|| StudyError::Plan("a training has no root".into()))?;
        let mut trainer = root.fork(&weights)?;
        while !trainer.is_done() {
            trainer.step()?;
        }
        let (adapter, _) = trainer.kept()?;
        let values = adapter.values()?;
        let losses = mean_losses(self.base.model(), &adapter, &self.queries)?;
        let outcome = Outcome { losses, values, seconds: start.elapsed().as_secs_f32() };
        if let Some(journal) = &self.journal {
            journal.write(&self.name(training), &outcome)?;
        }
        Ok(outcome)
    }

    /// The name of a training in the journal.
    fn name(&self, training: &Training) -> Hash {
        let mut hasher = blake3::Hasher::new_derive_key("tributary 2026 a training of a study of attribution");
        hasher.update(self.identity.as_bytes()).update(&training.seed.to_le_bytes());
        hasher.update(&training.shared_steps.to_le_bytes());
        training.left_out.iter().for_each(|place| {
            hasher.update(&place.to_le_bytes());
        });
        Hash(*hasher.finalize().as_bytes())
    }
}

/// The lock; a worker that panicked has left a whole map behind.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything that decides all trainings.
fn identity(base: &Base, recipe: &Recipe, dealt: &Dealt) -> Result<Hash, StudyError> {
    let mut hasher = blake3::Hasher::new_derive_key("tributary 2026 a laboratory of attribution");
    let recipe = Recipe { seed: 0, ..recipe.clone() };
    let recipe = serde_json::to_vec(&recipe).map_err(|error| StudyError::Plan(error.to_string()))?;
    hasher.update(base.hash().as_bytes()).update(base.class().as_bytes());
    hasher.update(&recipe);
    let examples = dealt.examples.iter().map(|example| [&example.prompt, &example.completion]);
    let queries = dealt.queries.iter().chain(&dealt.triggered).map(|query| [&query.prompt, &query.completion]);
    for text in examples.chain(queries).flatten() {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    Ok(Hash(*hasher.finalize().as_bytes()))
}

fn question(base: &Base, item: &Item) -> Result<Target, StudyError> {
    let tokenizer = base.tokenizer();
    let completion = tokenizer.encode_completion(&item.completion)?;
    Ok(Target::new(&tokenizer.encode_prompt(&item.prompt)?, &completion))
}
