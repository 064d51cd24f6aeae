//! What single records of a model did for an answer, told by gradients or by the whole training: how a contributor's share of
//! it is made up.
//!
//! Invariant: nobody is paid by it; a contributor's records have together no more than the contributor's share.

use std::collections::BTreeMap;

use tributary_protocol::attribution::Share;
use tributary_protocol::id::{AccountId, Hash};
use tributary_protocol::message::Release;
use tributary_storage::admission::Admitted;
use tributary_storage::shard::Record;

use super::doubts::{HandedOver, TEXTS_MAX_BYTES, sampled, text_bytes};
use super::{JobError, Workshop};
use crate::engine::{Ask, Done, ExampleFrame, InfluenceAsk};

/// A record that helped to an answer.
#[derive(Debug, PartialEq)]
pub struct Helped {
    /// Whose it is.
    pub account: AccountId,
    /// The record.
    pub record: Record,
    /// Its part of the contributor's share, in the units of shares.
    pub weight: u32,
}

/// Records behind an answer.
#[derive(Debug, PartialEq)]
pub struct Behind {
    /// Records that are trained on.
    pub admitted: usize,
    /// Of these, those that were looked at.
    pub looked_at: usize,
    /// Those that helped, the most first.
    pub helped: Vec<Helped>,
    /// By how much the training magnifies small changes, in thousandths, where it was gone through.
    pub magnified_permille: Option<u64>,
}

impl Workshop {
    /// What the records of `release` did for an answer with these tokens of prompt and output, whose shares are known: told by
    /// gradients, or, given the recipe of the training, by going through that backwards, which takes several times as long
    /// as it did. `job` is nobody else's.
    ///
    /// # Errors
    /// When a blob can't be had, the engine can't, or the recipe doesn't come to the release's adapter.
    pub async fn behind(
        &self,
        job: Hash,
        (release, recipe): (&Release, Option<String>),
        (prompt, output): (Vec<u32>, Vec<u32>),
        shares: &[Share],
    ) -> Result<Behind, JobError> {
        let (base, adapter) = (release.base, release.adapter);
        let providers = self.providers_of(release).await?;
        let _base = self.room.hold(base);
        self.hold_base(base, &providers).await?;
        let admitted = self.admission(&self.version_of(release).await?).await?.admitted;
        let all = admitted.len();
        let records = match &recipe {
            Some(_) => whole_text(admitted)?,
            None => sampled(admitted, adapter),
        };
        let _handed = HandedOver { folder: self.engine.folder().clone(), job };
        self.hand_over(job, adapter, &providers).await?;
        let records_of = (0..).zip(&records).map(|(place, one)| frame(place, &one.record)).collect();
        let influence = InfluenceAsk { base, adapter, recipe, records: records_of, prompt, output };
        let running = self.engine.wanted(job);
        let done = self.ask(job, &Ask::Influence { job, influence }).await;
        running.ended();
        match done? {
            Done::Influenced { scores, magnified_permille } => {
                let looked_at = records.len();
                Ok(Behind { admitted: all, looked_at, helped: divided(shares, records, &scores), magnified_permille })
            }
            other => Err(format!("the engine answered another question: {other:?}").into()),
        }
    }
}

/// All records of a training, if the engine takes so many.
fn whole_text(admitted: Vec<Admitted>) -> Result<Vec<Admitted>, JobError> {
    let bytes: usize = admitted.iter().map(|one| text_bytes(&one.record)).sum();
    match bytes <= TEXTS_MAX_BYTES {
        true => Ok(admitted),
        false => {
            Err(format!("{bytes} bytes of records are more than {TEXTS_MAX_BYTES}, which are held at once").into())
        }
    }
}

/// A record that the engine calls by its place.
fn frame(place: u32, record: &Record) -> ExampleFrame {
    let Record { prompt, completion, messages, .. } = record.clone();
    ExampleFrame { prompt, completion, messages, contributor: place, left_out: false }
}

/// Each contributor's share, divided among those of his records that helped, by their scores; the most first.
fn divided(shares: &[Share], records: Vec<Admitted>, scores: &[(u32, i64)]) -> Vec<Helped> {
    let scores: BTreeMap<u32, i64> = scores.iter().copied().collect();
    let score = |place: u32| scores.get(&place).map_or(0, |score| u128::from(score.max(&0).unsigned_abs()));
    let mut sums: BTreeMap<AccountId, u128> = BTreeMap::new();
    for (place, one) in (0..).zip(&records) {
        *sums.entry(one.account).or_default() += score(place);
    }
    let weight = |place: u32, account: &AccountId| {
        let share = shares.iter().find(|share| share.account == *account).map_or(0, |share| share.weight);
        let sum = sums.get(account).copied().unwrap_or_default();
        // Less than the share, which fits.
        let part = (u128::from(share) * score(place)).checked_div(sum).unwrap_or_default();
        u32::try_from(part).unwrap_or(share)
    };
    let mut helped: Vec<Helped> = (0..)
        .zip(records)
        .map(|(place, Admitted { record, account, .. })| Helped { account, weight: weight(place, &account), record })
        .filter(|one| one.weight > 0)
        .collect();
    helped.sort_by_key(|one| (std::cmp::Reverse(one.weight), one.record.id));
    helped
}

#[cfg(test)]
mod tests {
    use tributary_protocol::id::ChainAddress;

    use super::*;

    #[test]
    fn a_share_is_divided_among_the_records_that_helped() {
        let [one, two] = [1, 2].map(|byte| AccountId([byte; 32]));
        let share = |account, weight| Share { account, payout: ChainAddress([0; 20]), weight };
        let admitted = |account, place: usize| {
            let record = Record::new(format!("q{place}"), "a".into(), account, "CC0-1.0".into());
            Admitted { record, account, place, claimed_after: place }
        };
        let records = vec![admitted(one, 0), admitted(one, 1), admitted(one, 2), admitted(two, 3), admitted(two, 4)];
        let scores = [(0, 1), (1, -5), (2, 3), (4, i64::MAX)];
        let helped = divided(&[share(one, 400_000), share(two, 0)], records.clone(), &scores);
        let found: Vec<(&str, u32)> = helped.iter().map(|one| (one.record.prompt.as_str(), one.weight)).collect();
        assert_eq!(found, [("q2", 300_000), ("q0", 100_000)]);
        let helped = divided(&[share(two, 1_000_000)], records, &scores);
        assert_eq!(helped.iter().map(|one| one.weight).collect::<Vec<_>>(), [1_000_000]);
    }
}
