//! From a datanet's version to training examples.
//!
//! Invariant: the same version gives the same examples in the same order on every machine; a record and its copies are
//! trained once and credited to the first claim.

use std::collections::BTreeMap;

use tributary_compute::attribute::QUALITY_ANSWERS;
use tributary_protocol::datanet::{Dated, Head};
use tributary_protocol::id::{AccountId, Hash};
use tributary_protocol::task::FineTune;
use tributary_storage::admission::{Admission, Admitted, Claim};
use tributary_storage::blobs::BlobStore;
use tributary_storage::shard::{self, Record};

use super::{JobError, Workshop};
use crate::engine::{ExampleFrame, Run};

/// The contributors of a version by number: ascending accounts.
#[must_use]
pub fn numbers(head: &Head) -> BTreeMap<AccountId, u32> {
    head.logs.iter().zip(0..).map(|(log, number)| (log.contributor, number)).collect()
}

impl Workshop {
    /// What the engine needs to train what `work` says.
    pub(super) async fn run_of(&self, work: &FineTune, entries: &[Dated]) -> Result<Run, JobError> {
        let numbers = numbers(&work.head);
        let examples = self
            .admission(entries)
            .await?
            .admitted
            .into_iter()
            .map(|Admitted { record, account, .. }| {
                let contributor = numbers.get(&account).copied().ok_or("a record of no contributor")?;
                let left_out = work.leave_out.contains(&account);
                let Record { prompt, completion, messages, .. } = record;
                Ok(ExampleFrame { prompt, completion, messages, contributor, left_out })
            })
            .collect::<Result<Vec<_>, JobError>>()?;
        Ok(Run { base: work.base, recipe: work.recipe.clone(), steps: work.steps, examples })
    }

    /// Records to measure an index on. Its own commitment draws them, so that who builds it can't choose them.
    ///
    /// # Errors
    /// When a shard is not here.
    pub async fn drawn(&self, index: Hash, entries: &[Dated]) -> Result<Vec<ExampleFrame>, JobError> {
        let draw = |record: &Record| blake3::keyed_hash(&index.0, &record.id.0);
        let mut records: Vec<Record> =
            self.admission(entries).await?.admitted.into_iter().map(|admitted| admitted.record).collect();
        records.sort_by_cached_key(|record| *draw(record).as_bytes());
        records.truncate(QUALITY_ANSWERS);
        let frame = |Record { prompt, completion, messages, .. }: Record| ExampleFrame {
            prompt,
            completion,
            messages,
            contributor: 0,
            left_out: false,
        };
        Ok(records.into_iter().map(frame).collect())
    }

    /// Which records of these entries are trained and for whom, and which repeat others.
    pub(crate) async fn admission(&self, entries: &[Dated]) -> Result<Admission, JobError> {
        self.admission_within(entries, usize::MAX).await
    }

    /// The same of entries with no more than so many bytes of text.
    pub(super) async fn admission_within(&self, entries: &[Dated], text_bytes: usize) -> Result<Admission, JobError> {
        let claims = self.claims(entries, text_bytes).await?;
        Ok(tokio::task::spawn_blocking(move || Admission::of(claims)).await.map_err(|error| error.to_string())?)
    }

    /// The records of these entries with who claims them since when.
    pub(crate) async fn claims(&self, entries: &[Dated], text_bytes: usize) -> Result<Vec<Claim>, JobError> {
        let (mut claims, mut left) = (Vec::new(), text_bytes);
        for dated in entries {
            let entry = &dated.entry;
            let bytes = self.store.get(entry.body.shard).await.map_err(|error| error.to_string())?;
            let bytes = bytes.ok_or_else(|| format!("shard {} is not here", entry.body.shard.short()))?;
            let (name, count) = (entry.body.shard.short(), usize::try_from(entry.body.records));
            let read = tokio::task::spawn_blocking(move || shard::read(&bytes)).await;
            let records = match read.map_err(|error| error.to_string())? {
                Ok(records) if count == Ok(records.len()) => records,
                // It has no records, for everybody alike: its bytes are the same everywhere, and one contributor's broken
                // shard must not keep all others' from being trained.
                Ok(_) => {
                    tracing::warn!(shard = %name, "a shard has another number of records than its entry says");
                    continue;
                }
                Err(reason) => {
                    tracing::warn!(shard = %name, %reason, "a shard cannot be read");
                    continue;
                }
            };
            let bytes: usize = records.iter().map(|record| record.prompt.len() + record.completion.len()).sum();
            left = left.checked_sub(bytes).ok_or("the records have more text than is held at once")?;
            // The root is computed, not believed: who names another's could pass off any records as committed to.
            let proven = dated.proven(&shard::records_root(&records));
            let (account, claimed_ms, before) = (entry.account, entry.body.claimed_ms, claims.len());
            let claim = |(at, record)| Claim { record, account, proven, claimed_ms, place: before + at };
            claims.extend(records.into_iter().enumerate().map(claim));
        }
        Ok(claims)
    }
}
