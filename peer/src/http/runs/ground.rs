//! What a run that begins now is trained on, and whom it leaves out.
//!
//! Invariant: what counts is what is trained, and never what somebody says of his own entries: neither copies nor entries whose
//! shards nobody gives win a place, keep others from being trained, or are paid for.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tributary_protocol::datanet::{Head, LogHead};
use tributary_protocol::id::{AccountId, DatanetId};
use tributary_protocol::node::Node;
use tributary_storage::admission::Admitted;

use crate::http::{ApiError, ApiState, datanets};
use crate::runs::leave_outs;

/// How long shards that are on their way are waited for.
const SHARDS_PATIENCE: Duration = Duration::from_secs(20);
const SHARDS_INTERVAL: Duration = Duration::from_millis(250);

/// The version that a run is trained on.
pub(super) struct Ground {
    /// Of contributors who have records that are trained, as far as their shards are here.
    pub(super) head: Head,
    /// Records that are trained or held out.
    pub(super) records: usize,
    /// Entries whose shards, or one before them in their logs, are not here.
    pub(super) missing: u64,
    /// Records by contributor.
    own: BTreeMap<AccountId, usize>,
}

impl Ground {
    /// Of a datanet as it is known here now, once its shards are here or were waited for.
    pub(super) async fn of(api: &ApiState, id: DatanetId) -> Result<Self, ApiError> {
        let known = move |node: &Node| {
            let datanet = node.datanet(&id)?;
            Some((length(&datanet.head().logs), datanet.head_held(|shard| node.holds(shard))))
        };
        let deadline = Instant::now() + SHARDS_PATIENCE;
        let (head, missing) = loop {
            let (all, head) = api.handle.view(known).await?.ok_or_else(|| datanets::unknown(&id))?;
            if all == 0 {
                let hint = "add some with tributary data add FILE --to ID";
                return Err(ApiError::usage("the datanet has no records yet", hint));
            }
            let missing = all.saturating_sub(length(&head.logs));
            if missing == 0 || Instant::now() >= deadline {
                break (head, missing);
            }
            tokio::time::sleep(SHARDS_INTERVAL).await;
        };
        let version = head.clone();
        let entries = api.handle.view(move |node| node.datanet(&id)?.version(&version)).await?;
        let entries = entries.filter(|entries| !entries.is_empty()).ok_or_else(datanets::incomplete)?;
        let admitted = api.workshop.admission(&entries).await.map_err(ApiError::internal)?.admitted;
        if admitted.is_empty() {
            let hint = "tributary data show tells what was added; a shard that can't be read has no records";
            return Err(ApiError::usage("none of the datanet's records can be trained", hint));
        }
        Ok(Self::trained_on(head, &admitted, missing))
    }

    fn trained_on(mut head: Head, admitted: &[Admitted], missing: u64) -> Self {
        let mut own: BTreeMap<AccountId, usize> = BTreeMap::new();
        for one in admitted {
            *own.entry(one.account).or_default() += 1;
        }
        head.logs.retain(|log| own.contains_key(&log.contributor));
        Self { head, records: admitted.len(), missing, own }
    }

    /// How many contributors are left out by a training.
    pub(super) fn leave_outs(&self, wanted: Option<u16>) -> usize {
        leave_outs(self.own.len(), wanted)
    }

    /// They, by account: those with the most records, of equals those with the lower account.
    pub(super) fn largest(&self, wanted: Option<u16>) -> Vec<AccountId> {
        let mut order: Vec<AccountId> = self.own.keys().copied().collect();
        order.sort_by_key(|account| Reverse(self.own.get(account)));
        order.truncate(self.leave_outs(wanted));
        order.sort_unstable();
        order
    }
}

/// Entries of some logs.
fn length(logs: &[LogHead]) -> u64 {
    logs.iter().map(|log| log.length).sum()
}

#[cfg(test)]
mod tests {
    use tributary_protocol::id::Hash;
    use tributary_storage::shard::Record;

    use super::*;

    #[test]
    fn who_has_the_most_trained_records_is_left_out_whatever_was_added() {
        let accounts = [1, 2, 3].map(|byte| AccountId([byte; 32]));
        // The first has added most, all of it copies.
        let log = |(contributor, length)| LogHead { contributor, length, newest: Hash::default() };
        let logs = accounts.into_iter().zip([900, 1, 2]).map(log).collect();
        let head = Head { datanet: DatanetId([0; 32]), logs, notes: Vec::new() };
        let admitted = |account, place: usize| {
            let record = Record::new(format!("q{place}"), "a".into(), account, "CC0-1.0".into());
            Admitted { record, account, place, claimed_after: place }
        };
        let all = [admitted(accounts[1], 0), admitted(accounts[2], 1), admitted(accounts[2], 2)];
        let ground = Ground::trained_on(head, &all, 0);
        let named: Vec<AccountId> = ground.head.logs.iter().map(|log| log.contributor).collect();
        assert_eq!((named.as_slice(), ground.records), (&accounts[1..], 3));
        assert_eq!(ground.largest(Some(1)), [accounts[2]]);
        assert_eq!((ground.largest(None).as_slice(), ground.leave_outs(None)), (&accounts[1..], 2));
    }
}
