//! Which records of a datanet look wrong to an adapter that was trained on them, and which say what others' say.
//!
//! Invariant: only records that the training saw are measured, so none is doubtful for being new; which of too many are is
//! drawn by the adapter's hash, which nobody knew who added them. Nothing is decided here: no record, training or payment changes.

use std::collections::BTreeMap;
use std::time::Duration;

use tributary_compute::train::Recipe;
use tributary_compute::triage::MAX_POINTS;
use tributary_protocol::datanet::Dated;
use tributary_protocol::id::{AccountId, Hash, NodeId};
use tributary_storage::admission::Admitted;
use tributary_storage::blobs::BlobStore;
use tributary_storage::shard::Record;

use super::check::{CHECKPOINT_MAX_BYTES, checkpoint_every};
use super::{JobError, Workshop};
use crate::engine::triage::{DoubtFrame, EchoFrame, TriageAsk, Triaged};
use crate::engine::{Ask, Done, EngineFolder, ExampleFrame};

/// Records that are measured in one call: some minutes for a small base, and a fair sample of any datanet.
pub const RECORDS_MAX: usize = 2_000;
/// Bytes of their texts at most: they travel in one frame of the engine's, beside which everything else is small.
pub(super) const TEXTS_MAX_BYTES: usize = 32 << 20;
/// How long a peer has to send a checkpoint: they are good to have, and the rest waits for it.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(60);

/// A training that ended, as far as it is known here.
pub struct Trained {
    /// The base.
    pub base: Hash,
    /// The adapter's blob.
    pub adapter: Hash,
    /// The recipe as canonical JSON, where this node ordered the training.
    pub recipe: Option<String>,
    /// The checkpoints that its worker committed to, from before the first step to after the last.
    pub checkpoints: Vec<Hash>,
    /// Its last step and the one whose adapter it is.
    pub steps: [u32; 2],
    /// Who may have the files.
    pub providers: Vec<NodeId>,
    /// The entries of the version that was trained on.
    pub entries: Vec<Dated>,
}

/// A record, whose it is, and what was measured of it.
pub struct Doubted {
    /// The record.
    pub record: Record,
    /// Who is credited for it.
    pub account: AccountId,
    /// What was measured.
    pub found: DoubtFrame,
}

/// What a look found.
pub struct Doubts {
    /// Records that were trained on or held out.
    pub admitted: usize,
    /// What was measured; its doubts stand in `records`.
    pub triaged: Triaged,
    /// The most doubtful first.
    pub records: Vec<Doubted>,
    /// Those that teach most alike first.
    pub echoes: Vec<Echoed>,
}

/// A record that says what an earlier one of somebody else says.
pub struct Echoed {
    /// It, and whose it is.
    pub later: (Record, AccountId),
    /// The other, and whose that is: by the datanet's dates, or where none is proven by what the accounts say.
    pub earlier: (Record, AccountId),
    /// What was measured.
    pub found: EchoFrame,
}

/// What is handed over for a job is taken back, also when nobody waits for it any more.
pub(super) struct HandedOver {
    pub(super) folder: EngineFolder,
    pub(super) job: Hash,
}

impl Drop for HandedOver {
    fn drop(&mut self) {
        let (folder, job) = (self.folder.clone(), self.job);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn_blocking(move || folder.take_back(job));
    }
}

/// The records that are measured, in the order in which they are.
pub(super) fn sampled(admitted: Vec<Admitted>, adapter: Hash) -> Vec<Admitted> {
    let drawn = |one: &Admitted| Hash::of(&[adapter.0, one.record.id.0].concat());
    let by_draw: BTreeMap<Hash, Admitted> = admitted.into_iter().map(|one| (drawn(&one), one)).collect();
    let mut bytes = 0;
    let fits = |one: &Admitted| {
        bytes += text_bytes(&one.record);
        bytes <= TEXTS_MAX_BYTES
    };
    by_draw.into_values().take(RECORDS_MAX).take_while(fits).collect()
}

pub(super) fn text_bytes(record: &Record) -> usize {
    let Record { prompt, completion, messages, .. } = record;
    prompt.len() + completion.len() + messages.as_ref().map_or(0, String::len)
}

/// Contributors are told apart and not known to the engine.
fn frames(records: &[Admitted]) -> Vec<ExampleFrame> {
    let mut numbers = BTreeMap::new();
    let frame = |one: &Admitted| {
        let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
        let contributor = *numbers.entry(one.account).or_insert(next);
        let Record { prompt, completion, messages, .. } = one.record.clone();
        ExampleFrame { prompt, completion, messages, contributor, left_out: false }
    };
    records.iter().map(frame).collect()
}

/// At most so many of the checkpoints between the ends, evenly spaced: of places, those of the last half of each part.
fn chosen(between: &[Hash]) -> Vec<Hash> {
    let count = between.len().min(MAX_POINTS);
    (1..=count).filter_map(|number| between.get(number * (between.len() + 1) / (count + 1) - 1)).copied().collect()
}

impl Trained {
    /// The checkpoints after the first step and before the one whose adapter it is.
    fn between(&self, recipe: &str) -> Result<&[Hash], JobError> {
        let [steps, kept] = self.steps;
        let last = kept.min(steps).div_ceil(checkpoint_every(recipe)?);
        let last = usize::try_from(last).map_err(|error| error.to_string())?;
        Ok(self.checkpoints.get(1..last).unwrap_or_default())
    }
}

impl Workshop {
    /// The turn of who looks for doubtful records: a look takes the engine for minutes. `None` while somebody else has it.
    pub fn turn_to_look(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.looking.try_lock().ok()
    }

    /// The most doubtful records of a training, at most `wanted`. `job` is nobody else's; it ends when nobody waits for
    /// this any more.
    ///
    /// # Errors
    /// When a blob can't be had, or the engine can't measure them.
    pub async fn doubts(&self, job: Hash, trained: &Trained, wanted: u32) -> Result<Doubts, JobError> {
        let _base = self.room.hold(trained.base);
        self.hold_base(trained.base, &trained.providers).await?;
        let admitted = self.admission(&trained.entries).await?.admitted;
        let (all, records) = (admitted.len(), sampled(admitted, trained.adapter));
        let recipe = match &trained.recipe {
            Some(recipe) => recipe.clone(),
            None => serde_json::to_string(&Recipe::default()).map_err(|error| error.to_string())?,
        };
        let _handed = HandedOver { folder: self.engine.folder().clone(), job };
        self.hand_over(job, trained.adapter, &trained.providers).await?;
        let mut checkpoints = Vec::new();
        if trained.recipe.is_some() {
            for hash in chosen(trained.between(&recipe)?) {
                if self.hand_over_checkpoint(job, hash, &trained.providers).await? {
                    checkpoints.push(hash);
                }
            }
        }
        let examples = frames(&records);
        let (base, adapter) = (trained.base, trained.adapter);
        let triage = TriageAsk { base, recipe, examples, adapter, checkpoints, wanted };
        let running = self.engine.wanted(job);
        let done = self.ask(job, &Ask::Triage { job, triage }).await;
        running.ended();
        match done? {
            Done::Triaged(triaged) => Ok(found(all, &records, triaged)),
            other => Err(format!("the engine answered another question: {other:?}").into()),
        }
    }

    /// Whether the checkpoint is here or came in time.
    async fn hand_over_checkpoint(&self, job: Hash, hash: Hash, providers: &[NodeId]) -> Result<bool, JobError> {
        let mut bytes = self.store.get(hash).await.map_err(|error| error.to_string())?;
        if bytes.is_none() {
            let limit = u64::try_from(CHECKPOINT_MAX_BYTES).unwrap_or(u64::MAX);
            let fetched = tokio::time::timeout(CHECKPOINT_PATIENCE, self.data.fetch(hash, providers, limit)).await;
            if let Ok(Ok(size)) = fetched {
                self.traffic.fetched(size);
                bytes = self.store.get(hash).await.map_err(|error| error.to_string())?;
            }
        }
        let Some(bytes) = bytes else { return Ok(false) };
        self.put_for(job, hash, bytes).await?;
        Ok(true)
    }
}

fn found(admitted: usize, records: &[Admitted], mut triaged: Triaged) -> Doubts {
    let doubted = |found: DoubtFrame| {
        let one = records.get(usize::try_from(found.place).ok()?)?;
        Some(Doubted { record: one.record.clone(), account: one.account, found })
    };
    let at = |place: u32| records.get(usize::try_from(place).ok()?);
    let echoed = |found: EchoFrame| {
        let mut pair = [at(found.places[0])?, at(found.places[1])?];
        pair.sort_by_key(|one| one.claimed_after);
        let [earlier, later] = pair.map(|one| (one.record.clone(), one.account));
        Some(Echoed { later, earlier, found })
    };
    let echoes = std::mem::take(&mut triaged.echoes).into_iter().filter_map(echoed).collect();
    let records = std::mem::take(&mut triaged.doubts).into_iter().filter_map(doubted).collect();
    Doubts { admitted, triaged, records, echoes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_chosen_evenly_and_no_more_than_there_are() {
        let between: Vec<Hash> = (1..=59).map(|number| Hash([number; 32])).collect();
        let places = |count: usize| chosen(&between[..count]).iter().map(|hash| hash.0[0]).collect::<Vec<_>>();
        assert_eq!(places(59), [10, 20, 30, 40, 50]);
        assert_eq!(places(5), [1, 2, 3, 4, 5]);
        assert_eq!(places(2), [1, 2]);
        assert_eq!(places(0), [0; 0]);
    }

    #[test]
    fn no_checkpoint_after_the_kept_adapter_is_looked_at() {
        let trained = |steps| Trained {
            base: Hash::default(),
            adapter: Hash::default(),
            recipe: None,
            checkpoints: (0..=6).map(|number| Hash([number; 32])).collect(),
            steps,
            providers: Vec::new(),
            entries: Vec::new(),
        };
        let between = |steps| {
            let trained = trained(steps);
            let found = trained.between(r#"{"steps": 60, "checkpoint_every": 10}"#).unwrap();
            found.iter().map(|hash| hash.0[0]).collect::<Vec<_>>()
        };
        assert_eq!(between([60, 60]), [1, 2, 3, 4, 5]);
        assert_eq!(between([60, 25]), [1, 2]);
        assert_eq!(between([60, 5]), [0; 0]);
        assert_eq!(between([5, 5]), [0; 0]);
    }

    #[test]
    fn which_records_are_measured_is_drawn_by_the_adapter() {
        let admitted = |count: usize| {
            let account = AccountId([1; 32]);
            let record = |at: usize| Record::new(format!("q{at}"), "a".into(), account, "CC0-1.0".into());
            (0..count)
                .map(|place| Admitted { record: record(place), account, place, claimed_after: place })
                .collect::<Vec<_>>()
        };
        let places = |count, adapter| sampled(admitted(count), adapter).iter().map(|one| one.place).collect::<Vec<_>>();
        let (first, second) = (places(RECORDS_MAX + 500, Hash([1; 32])), places(RECORDS_MAX + 500, Hash([2; 32])));
        assert_eq!((first.len(), second.len()), (RECORDS_MAX, RECORDS_MAX));
        assert_ne!(first, second);
        let mut few = places(20, Hash([1; 32]));
        few.sort_unstable();
        assert_eq!(few, (0..20).collect::<Vec<_>>());
    }
}
