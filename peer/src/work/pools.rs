//! Contributors who are left out together since they have few records: where a run wants more leave-out trainings than there
//! are to be, those beyond the largest are pooled, and what each pool changes is divided inside by gradients, as a cluster's is.
//!
//! Invariant: the pools follow from the version's records and who is left out together already, so that whoever has a release
//! and its version finds the same ones.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use tributary_protocol::datanet::Dated;
use tributary_protocol::id::AccountId;
use tributary_protocol::limits::LEFT_OUT_MAX;
use tributary_storage::admission::Admitted;

use super::{JobError, Workshop};

/// Contributors, those with the most records, who are left out alone or with who teaches the same (design.md, section 8).
pub const OWN_ROWS_MAX: usize = 200;

/// Leave-out trainings for so many contributors, where nobody teaches the same.
#[must_use]
pub const fn trainings(contributors: usize) -> usize {
    let others = contributors.saturating_sub(OWN_ROWS_MAX);
    contributors - others + others.div_ceil(LEFT_OUT_MAX)
}

/// The pools of contributors who are numbered and have so many records each: those beyond [`OWN_ROWS_MAX`] with the most records,
/// of equals those with the lower number, of whom a training `is_wanted` and who are in no cluster. [`LEFT_OUT_MAX`] neighbours in that order
/// are a pool; one who remains is in none. Members and pools are ascending.
pub(super) fn pools(records: &[(u32, usize)], clusters: &[Vec<u32>], is_wanted: impl Fn(u32) -> bool) -> Vec<Vec<u32>> {
    let mut order = records.to_vec();
    order.sort_unstable_by_key(|(number, records)| (Reverse(*records), *number));
    let others = order.into_iter().skip(OWN_ROWS_MAX).map(|(number, _)| number);
    let is_open = |number: &u32| is_wanted(*number) && !clusters.iter().flatten().any(|member| member == number);
    let open: Vec<u32> = others.filter(is_open).collect();
    let mut pools: Vec<Vec<u32>> =
        open.chunks(LEFT_OUT_MAX).filter(|members| members.len() > 1).map(<[u32]>::to_vec).collect();
    pools.iter_mut().for_each(|members| members.sort_unstable());
    pools.sort_unstable();
    pools
}

/// How many records each of these is credited for, by their places.
fn counted(accounts: &[AccountId], admitted: &[Admitted]) -> Vec<(u32, usize)> {
    let mut own: BTreeMap<AccountId, usize> = BTreeMap::new();
    admitted.iter().for_each(|one| *own.entry(one.account).or_default() += 1);
    (0..).zip(accounts).map(|(number, account)| (number, own.get(account).copied().unwrap_or(0))).collect()
}

impl Workshop {
    /// The pools of these contributors of a version, beside the `clusters` of those who teach the same; by their places.
    ///
    /// # Errors
    /// When a shard is not here.
    pub async fn pools(
        &self,
        accounts: &[AccountId],
        entries: &[Dated],
        clusters: &[Vec<u32>],
        is_wanted: impl Fn(u32) -> bool,
    ) -> Result<Vec<Vec<u32>>, JobError> {
        if accounts.len() <= OWN_ROWS_MAX {
            return Ok(Vec::new());
        }
        Ok(pools(&counted(accounts, &self.admission(entries).await?.admitted), clusters, is_wanted))
    }
}

#[cfg(test)]
mod tests {
    use tributary_storage::shard::Record;

    use super::*;

    #[test]
    fn records_are_counted_for_whom_they_are_credited_to() {
        let accounts = [1, 2, 3].map(|byte| AccountId([byte; 32]));
        let admitted = |(place, account): (usize, &AccountId)| {
            let record = Record::new(format!("q{place}"), "a".into(), *account, "CC0-1.0".into());
            Admitted { record, account: *account, place, claimed_after: place }
        };
        let all: Vec<Admitted> =
            [&accounts[2], &accounts[0], &accounts[2]].into_iter().enumerate().map(admitted).collect();
        assert_eq!(counted(&accounts, &all), [(0, 1), (1, 0), (2, 2)]);
        assert_eq!(counted(&accounts[1..], &all), [(0, 0), (1, 2)]);
    }

    /// Contributors of whom the one with number `n` has `n + 1` records.
    fn rising(count: u32) -> Vec<(u32, usize)> {
        (0..count).map(|number| (number, number as usize + 1)).collect()
    }

    #[test]
    fn those_beyond_the_largest_two_hundred_are_pooled_by_threes_of_about_equally_many_records() {
        assert!(pools(&rising(200), &[], |_| true).is_empty());
        assert!(pools(&rising(201), &[], |_| true).is_empty(), "one alone is left out alone");
        assert_eq!(pools(&rising(202), &[], |_| true), [vec![0, 1]]);
        let all = pools(&rising(256), &[], |_| true);
        assert_eq!((all.len(), all.iter().flatten().count()), (19, 56));
        // Numbers 55 to 0 have fewer and fewer records.
        assert_eq!((&all[0], &all[1], &all[18]), (&vec![0, 1], &vec![2, 3, 4], &vec![53, 54, 55]));
        let mut turned = rising(256);
        turned.reverse();
        turned.swap(3, 90);
        assert_eq!(pools(&turned, &[], |_| true), all);
        let alike: Vec<(u32, usize)> = (0..203).map(|number| (number, 7)).collect();
        assert_eq!(
            pools(&alike, &[], |_| true),
            [vec![200, 201, 202]],
            "of equals the lower numbers are left out alone"
        );
    }

    #[test]
    fn who_is_in_a_cluster_or_is_estimated_is_in_no_pool() {
        let clusters = [vec![1, 4, 100], vec![2, 3]];
        assert_eq!(pools(&rising(208), &clusters, |_| true), [vec![5, 6, 7]], "the last one is left out alone");
        assert_eq!(pools(&rising(208), &clusters, |number| number != 7), [vec![0, 5, 6]]);
        assert!(pools(&rising(208), &[], |number| number >= 8).is_empty());
    }

    #[test]
    fn pools_are_counted_as_they_are_made() {
        for count in [1, 199, 200, 201, 203, 256] {
            let others = pools(&rising(count), &[], |_| true);
            let made = count as usize - others.iter().flatten().count() + others.len();
            assert_eq!(trainings(count as usize), made, "{count}");
        }
        assert_eq!([256, 201, 8].map(trainings), [219, 201, 8]);
    }
}
