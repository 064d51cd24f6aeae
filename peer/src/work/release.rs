//! Who teaches the same, leave-out adapters of contributors for whom none is trained, and whether a release's are what its records
//! give.
//!
//! Invariant: the records by which one tells are drawn by the adapter's hash, so that everybody who has adapter, trained
//! leave-out adapters and the version tells by the same ones.

use std::collections::BTreeMap;
use std::time::Duration;

use tributary_protocol::attribution::Quality;
use tributary_protocol::datanet::Dated;
use tributary_protocol::id::{AccountId, Hash, NodeId};
use tributary_protocol::message::{Contributor, Release};
use tributary_storage::admission::Admitted;
use tributary_storage::shard::Record;

use super::doubts::{HandedOver, TEXTS_MAX_BYTES, text_bytes};
use super::{JobError, Workshop, trained};
use crate::engine::{Ask, ClusterAsk, Done, EstimateAsk, ExampleFrame, Reply};

/// Records by which one estimates and compares contributors, in all: some minutes for a small base.
const RECORDS_MAX: usize = 2_000;
/// How long a look at who teaches the same may take: a large base on a small machine would take days.
pub const CLUSTERS_TIME: Duration = Duration::from_secs(15 * 60);
/// Of one contributor, at least and at most.
const RECORDS_OF_ONE: (usize, usize) = (8, 64);

/// What a release's own files and records give, beside what it says.
pub struct Verified {
    /// Whom the release would name as left out together since they teach the same: the clusters that have a member without whom
    /// an adapter was trained.
    pub clusters: Vec<Vec<u32>>,
    /// Whom it would name since they have few records, beside those of its clusters that are found here too.
    pub pools: Vec<Vec<u32>>,
    /// How far its estimated leave-out adapters are from what is estimated here, in millionths of what they move; none where
    /// nothing is estimated.
    pub estimates_millionths: Option<u64>,
    /// The quality as it is measured here.
    pub quality: Option<Quality>,
}

impl Workshop {
    /// The contributors of `adapter`, with the leave-out adapters that nobody trained: these are estimated, or the parts of what
    /// leaving a cluster out changed, and kept.
    ///
    /// # Errors
    /// When a shard is not here, or the engine can't.
    pub async fn estimate(
        &self,
        (base, adapter): (Hash, Hash),
        mut contributors: Vec<Contributor>,
        entries: &[Dated],
    ) -> Result<Vec<Contributor>, JobError> {
        let wanted = made(&contributors).map(|(number, _)| (number, None)).collect::<Vec<_>>();
        if wanted.is_empty() {
            return Ok(contributors);
        }
        let (mut found, _) = self.estimates((base, adapter), &contributors, entries, wanted, &[]).await?;
        for (number, one) in (0..).zip(&mut contributors).filter(|(_, one)| is_made(one)) {
            one.leave_out = found.remove(&number).ok_or("the engine estimated too few")?;
        }
        Ok(contributors)
    }

    /// Which of these contributors teach the same, by their records and what `adapter` makes of them: by their places, ascending.
    ///
    /// # Errors
    /// When a shard is not here, the engine can't, or it takes longer than [`CLUSTERS_TIME`].
    pub async fn clusters(
        &self,
        (base, adapter): (Hash, Hash),
        accounts: &[AccountId],
        entries: &[Dated],
        providers: &[NodeId],
    ) -> Result<Vec<Vec<u32>>, JobError> {
        if accounts.len() < 2 {
            return Ok(Vec::new());
        }
        self.hold_base(base, providers).await?;
        let (records, _) = sampled(self.admission(entries).await?.admitted, adapter, accounts);
        let job = Hash::of(&[b"cluster".as_slice(), &adapter.0].concat());
        let ask = Ask::Cluster { job, cluster: ClusterAsk { base, adapter, records } };
        let _handed = HandedOver { folder: self.engine.folder().clone(), job };
        self.hand_over(job, adapter, providers).await?;
        let running = self.engine.wanted(job);
        let done = tokio::time::timeout(CLUSTERS_TIME, self.ask(job, &ask)).await;
        let done = done.map_err(|_| JobError::Late(CLUSTERS_TIME))?;
        running.ended();
        match done? {
            Done::Clustered(clusters) => Ok(clusters),
            other => Err(format!("the engine answered another question: {other:?}").into()),
        }
    }

    /// Holds a release against its own files and records: its index against its adapters, its estimates and its quality against
    /// what is computed here.
    ///
    /// # Errors
    /// [`JobError::OtherIndex`] when the index is false; else when something is not here or the engine can't.
    pub async fn verify_release(&self, release: &Release, providers: &[NodeId]) -> Result<Verified, JobError> {
        self.load_release(release, providers).await?;
        // Who trained or serves it need not have what a cluster's adapters were made of; its builder has.
        let providers: &[NodeId] = &[&[release.node], providers].concat();
        let entries = self.version_of(release).await?;
        let (base, adapter, contributors) = (release.base, release.adapter, &release.contributors);
        let accounts: Vec<AccountId> = contributors.iter().map(|one| one.account).collect();
        let mut clusters = self.clusters((base, adapter), &accounts, &entries, providers).await?;
        let is_trained = |number: &u32| contributors.get(*number as usize).is_some_and(|one| !one.estimated);
        clusters.retain(|members| members.iter().any(is_trained));
        let agreed = agreed(release.clusters(), &clusters);
        let pools = self.pools(&accounts, &entries, &agreed, |number| is_trained(&number)).await?;
        let wanted: Vec<_> = made(contributors).map(|(number, one)| (number, Some(one.leave_out))).collect();
        let estimates_millionths = match wanted.is_empty() {
            true => None,
            false => Some(self.estimates((base, adapter), contributors, &entries, wanted, providers).await?.1),
        };
        let records = self.drawn(release.index, &entries).await?;
        let quality = self.measure_quality(base, adapter, contributors, records).await?;
        Ok(Verified { clusters, pools, estimates_millionths, quality })
    }

    /// Has the engine estimate what is `wanted`: the blobs of what it made, and how far it is from what it was to be held against.
    async fn estimates(
        &self,
        (base, adapter): (Hash, Hash),
        contributors: &[Contributor],
        entries: &[Dated],
        wanted: Vec<(u32, Option<Hash>)>,
        providers: &[NodeId],
    ) -> Result<(BTreeMap<u32, Hash>, u64), JobError> {
        self.hold_base(base, providers).await?;
        let accounts: Vec<AccountId> = contributors.iter().map(|one| one.account).collect();
        let (records, counts) = sampled(self.admission(entries).await?.admitted, adapter, &accounts);
        let trained = trained(contributors);
        let job = Hash::of(&[b"estimate".as_slice(), &adapter.0].concat());
        let blobs = trained.iter().filter_map(|(_, blob)| *blob).chain(wanted.iter().filter_map(|(_, blob)| *blob));
        let blobs: Vec<Hash> = std::iter::once(adapter).chain(blobs).collect();
        let estimate = EstimateAsk { base, adapter, trained, counts, records, wanted };
        self.handing_over(job, &blobs, providers, async {
            let mut replies = self.begin(job, &Ask::Estimate { job, estimate }).await?;
            let mut blobs = BTreeMap::new();
            while let Some(reply) = replies.recv().await {
                match reply {
                    Reply::Estimated { contributor, bytes, .. } => {
                        blobs.insert(contributor, self.keep(bytes).await?);
                    }
                    Reply::Done { outcome: Done::Estimated { worst_millionths }, .. } => {
                        return Ok((blobs, worst_millionths));
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

/// The clusters of a release that are found here too. A look at who teaches the same may have been given up by its builder, and
/// whoever was in no cluster then was pooled.
fn agreed(mut theirs: Vec<Vec<u32>>, own: &[Vec<u32>]) -> Vec<Vec<u32>> {
    theirs.retain(|members| own.contains(members));
    theirs
}

/// Whether a contributor's leave-out adapter is made from gradients.
const fn is_made(one: &Contributor) -> bool {
    one.estimated || one.together.is_some()
}

fn made(contributors: &[Contributor]) -> impl Iterator<Item = (u32, &Contributor)> {
    (0..).zip(contributors).filter(|(_, one)| is_made(one))
}

/// The records by which one estimates and tells who teaches the same, and how many each contributor has in all.
fn sampled(admitted: Vec<Admitted>, adapter: Hash, accounts: &[AccountId]) -> (Vec<ExampleFrame>, Vec<(u32, u32)>) {
    let numbers: BTreeMap<AccountId, u32> = accounts.iter().copied().zip(0..).collect();
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
        let mut bytes = 0;
        let fits = |record: &Record| {
            let own = text_bytes(record);
            let fits = bytes + own <= bytes_each;
            bytes += if fits { own } else { 0 };
            fits
        };
        let frame = |Record { prompt, completion, messages, .. }: Record| ExampleFrame {
            prompt,
            completion,
            messages,
            contributor,
            left_out: false,
        };
        let (all, drawn, before) = (own.len(), own.len().min(each), records.len());
        records.extend(own.into_values().take(each).filter(fits).map(frame));
        // Those that are too long are nothing, and the others don't stand for them: who adds such would be paid for it.
        let count = all * (records.len() - before) / drawn.max(1);
        counts.push((contributor, u32::try_from(count).unwrap_or(u32::MAX)));
    }
    (records, counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::pools::pools;

    #[test]
    fn a_verifier_finds_the_pools_of_who_found_the_same_clusters_and_of_who_found_none() {
        let records: Vec<(u32, usize)> = (0..210).map(|number| (number, 7)).collect();
        let own = [vec![5, 202], vec![201, 204]];
        for clusters in [own.to_vec(), own[..1].to_vec(), Vec::new()] {
            let made = pools(&records, &clusters, |_| true);
            assert!(!made.is_empty());
            let theirs = [made.clone(), clusters].concat();
            assert_eq!(pools(&records, &agreed(theirs, &own), |_| true), made);
        }
    }

    #[test]
    fn some_records_of_each_contributor_are_drawn_by_the_adapter_and_all_are_counted() {
        let contributors = [1, 2].map(|number| AccountId([number; 32]));
        let admitted = |count: usize| {
            let of = |place: usize| {
                let account = AccountId([if place < 3 { 2 } else { 1 }; 32]);
                let record = Record::new(format!("q{place}"), "a".into(), account, "CC0-1.0".into());
                Admitted { record, account, place, claimed_after: place }
            };
            (0..count).map(of).collect::<Vec<_>>()
        };
        let (records, counts) = sampled(admitted(503), Hash([1; 32]), &contributors);
        assert_eq!(counts, [(0, 500), (1, 3)]);
        let own = |number: u32| records.iter().filter(|one| one.contributor == number).count();
        assert_eq!((own(0), own(1)), (RECORDS_OF_ONE.1, 3));
        assert_eq!(sampled(admitted(503), Hash([1; 32]), &contributors).0, records);
        assert_ne!(sampled(admitted(503), Hash([2; 32]), &contributors).0, records);
        // One short record among long ones stands for itself.
        let long = Record::new("q".repeat(TEXTS_MAX_BYTES / 2 + 1), "a".into(), contributors[0], "CC0-1.0".into());
        let mut mixed = admitted(4);
        mixed.extend((4..8).map(|place| Admitted {
            record: long.clone(),
            account: contributors[0],
            place,
            claimed_after: place,
        }));
        mixed.iter_mut().skip(4).for_each(|one| one.record.id.0 = *blake3::hash(&one.place.to_le_bytes()).as_bytes());
        let (records, counts) = sampled(mixed, Hash([1; 32]), &contributors);
        assert_eq!((counts.as_slice(), records.len()), ([(0, 1), (1, 3)].as_slice(), 4));
        let stranger = [AccountId([9; 32])];
        assert_eq!(sampled(admitted(5), Hash([1; 32]), &stranger).0, []);
    }
}
