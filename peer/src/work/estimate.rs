//! Leave-out adapters of contributors for whom none is trained, and whether a release's are what its records give.
//!
//! Invariant: the records by which one estimates are drawn by the adapter's hash, so that everybody who has adapter, trained
//! leave-out adapters and the version estimates by the same ones.

use std::collections::BTreeMap;

use tributary_protocol::attribution::Quality;
use tributary_protocol::datanet::Dated;
use tributary_protocol::id::{AccountId, Hash, NodeId};
use tributary_protocol::message::Release;
use tributary_storage::admission::Admitted;
use tributary_storage::shard::Record;

use super::doubts::TEXTS_MAX_BYTES;
use super::{JobError, Workshop};
use crate::engine::{Ask, Done, EstimateAsk, ExampleFrame, Reply};

/// Records by which one estimates, in all: some minutes for a small base.
const RECORDS_MAX: usize = 2_000;
/// Of one contributor, at least and at most.
const RECORDS_OF_ONE: (usize, usize) = (8, 64);

/// A contributor of a run, with the adapter trained without them if one was.
pub type Without = (AccountId, Option<Hash>);

/// What a release's own files and records give, beside what it says.
pub struct Verified {
    /// How far its estimated leave-out adapters are from what is estimated here, in millionths of what they move; none where
    /// nothing is estimated.
    pub estimates_millionths: Option<u64>,
    /// The quality as it is measured here.
    pub quality: Option<Quality>,
}

impl Workshop {
    /// The leave-out adapters of all `contributors` of `adapter`, in their order: those that were not trained are estimated and
    /// kept.
    ///
    /// # Errors
    /// When a shard is not here, or the engine can't.
    pub async fn estimate(
        &self,
        base: Hash,
        adapter: Hash,
        contributors: &[Without],
        entries: &[Dated],
    ) -> Result<Vec<Hash>, JobError> {
        let wanted = numbered(contributors).filter(|(_, trained)| trained.is_none()).collect();
        let (mut found, _) = self.estimated((base, adapter), contributors, entries, wanted, &[]).await?;
        let one = |(number, trained): (u32, Option<Hash>)| trained.or_else(|| found.remove(&number));
        let all: Option<Vec<Hash>> = numbered(contributors).map(one).collect();
        Ok(all.ok_or("the engine estimated too few")?)
    }

    /// Holds a release against its own files and records: its index against its adapters, its estimates and its quality against
    /// what is computed here.
    ///
    /// # Errors
    /// [`JobError::OtherIndex`] when the index is false; else when something is not here or the engine can't.
    pub async fn verify_release(&self, release: &Release, providers: &[NodeId]) -> Result<Verified, JobError> {
        self.load_release(release, providers).await?;
        let entries = self.version_of(release).await?;
        let trained = |estimated: bool, blob: Hash| (!estimated).then_some(blob);
        let contributors: Vec<Without> =
            release.contributors.iter().map(|one| (one.account, trained(one.estimated, one.leave_out))).collect();
        let theirs = (0..).zip(&release.contributors).filter(|(_, one)| one.estimated);
        let wanted: Vec<_> = theirs.map(|(number, one)| (number, Some(one.leave_out))).collect();
        let (base, adapter) = (release.base, release.adapter);
        let estimates_millionths = match wanted.is_empty() {
            true => None,
            false => Some(self.estimated((base, adapter), &contributors, &entries, wanted, providers).await?.1),
        };
        let records = self.drawn(release.index, &entries).await?;
        let trained: Vec<(u32, Hash)> =
            numbered(&contributors).filter_map(|(number, blob)| Some((number, blob?))).collect();
        let quality = self.measure_quality(base, adapter, &trained, records).await?;
        Ok(Verified { estimates_millionths, quality })
    }

    /// Has the engine estimate what is `wanted`: the blobs of what it made, and how far it is from what it was to be held against.
    async fn estimated(
        &self,
        (base, adapter): (Hash, Hash),
        contributors: &[Without],
        entries: &[Dated],
        wanted: Vec<(u32, Option<Hash>)>,
        providers: &[NodeId],
    ) -> Result<(BTreeMap<u32, Hash>, u64), JobError> {
        self.hold_base(base, providers).await?;
        let (records, counts) = sampled(self.admission(entries).await?.admitted, adapter, contributors);
        let trained: Vec<(u32, Hash)> =
            numbered(contributors).filter_map(|(number, blob)| Some((number, blob?))).collect();
        let job = Hash::of(&[b"estimate".as_slice(), &adapter.0].concat());
        let blobs = trained.iter().map(|(_, blob)| *blob).chain(wanted.iter().filter_map(|(_, blob)| *blob));
        let blobs: Vec<Hash> = std::iter::once(adapter).chain(blobs).collect();
        let estimate = EstimateAsk { base, adapter, trained, counts, records, wanted };
        self.handing_over(job, &blobs, providers, async {
            let mut replies = self.begin(job, &Ask::Estimate { job, estimate }).await?;
            let mut made = BTreeMap::new();
            while let Some(reply) = replies.recv().await {
                match reply {
                    Reply::Estimated { contributor, bytes, .. } => {
                        made.insert(contributor, self.keep(bytes).await?);
                    }
                    Reply::Done { outcome: Done::Estimated { worst_millionths }, .. } => {
                        return Ok((made, worst_millionths));
                    }
                    Reply::Failed { reason, .. } => return Err(reason.into()),
                    Reply::Late { after_s, .. } => return Err(JobError::Late(std::time::Duration::from_secs(after_s))),
                    _ => {}
                }
            }
            Err("the engine ended while it estimated".into())
        })
        .await
    }
}

fn numbered(contributors: &[Without]) -> impl Iterator<Item = (u32, Option<Hash>)> + '_ {
    (0..).zip(contributors).map(|(number, (_, trained))| (number, *trained))
}

/// The records by which one estimates, and how many each contributor has in all.
fn sampled(admitted: Vec<Admitted>, adapter: Hash, contributors: &[Without]) -> (Vec<ExampleFrame>, Vec<(u32, u32)>) {
    let numbers: BTreeMap<AccountId, u32> = contributors.iter().map(|(account, _)| *account).zip(0..).collect();
    let mut own: BTreeMap<u32, BTreeMap<Hash, Record>> = BTreeMap::new();
    for Admitted { record, account, .. } in admitted {
        let Some(number) = numbers.get(&account) else { continue };
        let draw = Hash::of(&[adapter.0, record.id.0].concat());
        own.entry(*number).or_default().insert(draw, record);
    }
    let (least, most) = RECORDS_OF_ONE;
    let each = (RECORDS_MAX / numbers.len().max(1)).clamp(least, most);
    let bytes_each = TEXTS_MAX_BYTES / numbers.len().max(1);
    let (mut records, mut counts) = (Vec::new(), Vec::new());
    for (contributor, own) in own {
        counts.push((contributor, u32::try_from(own.len()).unwrap_or(u32::MAX)));
        let mut bytes = 0;
        let fits = |record: &Record| {
            bytes += record.prompt.len() + record.completion.len() + record.messages.as_ref().map_or(0, String::len);
            bytes <= bytes_each
        };
        let frame = |Record { prompt, completion, messages, .. }: Record| ExampleFrame {
            prompt,
            completion,
            messages,
            contributor,
            left_out: false,
        };
        records.extend(own.into_values().take(each).take_while(fits).map(frame));
    }
    (records, counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_records_of_each_contributor_are_drawn_by_the_adapter_and_all_are_counted() {
        let contributors: Vec<Without> =
            (1..=2).map(|number| (AccountId([number; 32]), Some(Hash::default()).filter(|_| number == 1))).collect();
        let admitted = |count: usize| {
            let of = |place: usize| {
                let account = AccountId([if place < 3 { 2 } else { 1 }; 32]);
                let record = Record::new(format!("q{place}"), "a".into(), account, "CC0-1.0".into());
                Admitted { record, account, place }
            };
            (0..count).map(of).collect::<Vec<_>>()
        };
        let (records, counts) = sampled(admitted(503), Hash([1; 32]), &contributors);
        assert_eq!(counts, [(0, 500), (1, 3)]);
        let own = |number: u32| records.iter().filter(|one| one.contributor == number).count();
        assert_eq!((own(0), own(1)), (RECORDS_OF_ONE.1, 3));
        assert_eq!(sampled(admitted(503), Hash([1; 32]), &contributors).0, records);
        assert_ne!(sampled(admitted(503), Hash([2; 32]), &contributors).0, records);
        let stranger = vec![(AccountId([9; 32]), None)];
        assert_eq!(sampled(admitted(5), Hash([1; 32]), &stranger).0, []);
    }
}
