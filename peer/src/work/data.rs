//! From a datanet's version to training examples.
//!
//! Invariant: the same version gives the same examples in the same order on every machine; a record that
//! several contributed is credited once, to the earliest claim.

use std::collections::BTreeMap;

use tributary_protocol::datanet::{Contribution, Head};
use tributary_protocol::envelope::Signed;
use tributary_protocol::id::{AccountId, Hash};
use tributary_protocol::task::FineTune;
use tributary_storage::blobs::BlobStore;
use tributary_storage::shard;

use super::{JobError, Workshop};
use crate::engine::{ExampleFrame, Run};

/// The contributors of a version by number: ascending accounts.
#[must_use]
pub fn numbers(head: &Head) -> BTreeMap<AccountId, u32> {
    head.logs.iter().zip(0..).map(|(log, number)| (log.contributor, number)).collect()
}

struct Claim {
    prompt: String,
    completion: String,
    messages: Option<String>,
    by: (u64, AccountId),
    place: usize,
}

impl Workshop {
    /// What the engine needs to train what `work` says.
    pub(super) async fn run_of(&self, work: &FineTune, entries: &[Signed<Contribution>]) -> Result<Run, JobError> {
        let numbers = numbers(&work.head);
        let claims = self.claims(entries).await?;
        let mut ordered: Vec<Claim> = claims.into_values().collect();
        ordered.sort_by_key(|claim| claim.place);
        let examples = ordered
            .into_iter()
            .map(|claim| {
                let (_, account) = claim.by;
                let contributor = numbers.get(&account).copied().ok_or("a record of no contributor")?;
                let left_out = work.leave_out == Some(account);
                let Claim { prompt, completion, messages, .. } = claim;
                Ok(ExampleFrame { prompt, completion, messages, contributor, left_out })
            })
            .collect::<Result<Vec<_>, JobError>>()?;
        Ok(Run { base: work.base, recipe: work.recipe.clone(), steps: work.steps, examples })
    }

    /// The records of the version by id, each with its earliest claim and its first place.
    async fn claims(&self, entries: &[Signed<Contribution>]) -> Result<BTreeMap<Hash, Claim>, JobError> {
        let mut claims: BTreeMap<Hash, Claim> = BTreeMap::new();
        let mut place = 0;
        for entry in entries {
            let bytes = self.store.get(entry.body.shard).await.map_err(|error| error.to_string())?;
            let bytes = bytes.ok_or_else(|| format!("shard {} is not here", entry.body.shard.short()))?;
            let records = tokio::task::spawn_blocking(move || shard::read(&bytes))
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| format!("shard {}: {error}", entry.body.shard.short()))?;
            let by = (entry.body.claimed_ms, entry.account);
            for record in records {
                place += 1;
                let claim = claims.entry(record.id).or_insert_with(|| Claim {
                    prompt: record.prompt,
                    completion: record.completion,
                    messages: record.messages,
                    by,
                    place,
                });
                claim.by = claim.by.min(by);
            }
        }
        Ok(claims)
    }
}
