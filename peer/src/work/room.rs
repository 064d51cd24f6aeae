//! Room on the disk: bases and served adapters together have a bound, and what was used longest ago makes room.
//!
//! Invariant: nothing is removed that a job works with, that was used within the last hour, that this node's user pulled
//! or released, or that a kept adapter stands on; and nothing at all where that would not be enough.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use tributary_protocol::id::Hash;
use tributary_protocol::node::Input;
use tributary_storage::blobs::BlobStore;

use super::bases::machine;
use super::{BaseFault, JobError, Workshop};
use crate::lock::locked;
use crate::runtime::now_ms;

/// What was used so lately is in use, in milliseconds: whoever asked once asks again soon.
const IN_USE_MS: u64 = 3_600_000;
/// An index holds one byte for each of an adapter's numbers and contributor, the adapters four.
const INDEX_PART: u64 = 4;

/// The bound, and when what was used.
pub(super) struct Room {
    limit_bytes: u64,
    used_ms: Mutex<BTreeMap<Hash, u64>>,
    /// How many jobs work with each base.
    busy: Arc<Mutex<BTreeMap<Hash, usize>>>,
    /// One makes room at a time.
    turn: tokio::sync::Mutex<()>,
}

/// A job works with a base as long as this lives.
pub(super) struct Busy {
    base: Hash,
    all: Arc<Mutex<BTreeMap<Hash, usize>>>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut all = locked(&self.all);
        let left = all.get(&self.base).copied().unwrap_or(1) - 1;
        if left == 0 {
            all.remove(&self.base);
        } else {
            all.insert(self.base, left);
        }
    }
}

impl Room {
    pub(super) fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, used_ms: Mutex::default(), busy: Arc::default(), turn: tokio::sync::Mutex::default() }
    }

    /// Notes that a base or an adapter is used now.
    pub(super) fn touch(&self, id: Hash) {
        locked(&self.used_ms).insert(id, now_ms());
    }

    /// Keeps a base from being removed.
    pub(super) fn hold(&self, base: Hash) -> Busy {
        self.touch(base);
        *locked(&self.busy).entry(base).or_default() += 1;
        Busy { base, all: Arc::clone(&self.busy) }
    }

    /// When it was used last; what was not since this process began is the oldest.
    fn used_ms(&self, id: &Hash) -> u64 {
        locked(&self.used_ms).get(id).copied().unwrap_or(0)
    }
}

/// Something that takes room.
#[derive(Debug, Clone)]
struct Kept {
    id: Hash,
    bytes: u64,
    used_ms: u64,
    /// Whether it may be removed at all.
    is_free: bool,
    /// The base of an adapter; a base has none.
    base: Option<Hash>,
}

/// What is to be removed so that `needed` more bytes fit, used longest ago first; what is taken when they can't.
fn plan(kept: &[Kept], needed: u64, limit: u64) -> Result<Vec<Kept>, u64> {
    let taken: u64 = kept.iter().map(|one| one.bytes).sum();
    let mut left = taken;
    let mut removed: BTreeMap<Hash, Kept> = BTreeMap::new();
    let mut order = Vec::new();
    // A base was used when an adapter on it was, and comes after it.
    let age = |one: &Kept| {
        let on_it = kept.iter().filter(|other| other.base == Some(one.id)).map(|other| other.used_ms);
        on_it.chain([one.used_ms]).max()
    };
    let mut free: Vec<&Kept> = kept.iter().filter(|one| one.is_free).collect();
    free.sort_by_key(|one| (age(one), one.base.is_none(), one.id));
    for one in free {
        if left.saturating_add(needed) <= limit {
            break;
        }
        let stands = kept.iter().any(|other| other.base == Some(one.id) && !removed.contains_key(&other.id));
        if !stands {
            left -= one.bytes;
            removed.insert(one.id, one.clone());
            order.push(one.clone());
        }
    }
    if left.saturating_add(needed) <= limit { Ok(order) } else { Err(taken) }
}

impl Workshop {
    /// Sees that so many more bytes of bases or adapters fit, by removing what was used longest ago.
    ///
    /// # Errors
    /// When too little may be removed; then nothing was.
    pub(super) async fn make_room(&self, needed: u64) -> Result<(), BaseFault> {
        let _mine = self.room.turn.lock().await;
        let limit = self.room.limit_bytes;
        let kept = self.kept().await.map_err(machine)?;
        let victims = plan(&kept, needed, limit).map_err(|taken| BaseFault::NoRoom { bytes: needed, taken, limit })?;
        for victim in victims {
            let id = victim.id;
            tracing::info!(id = %id.short(), bytes = victim.bytes, "removed to make room");
            match victim.base {
                Some(_) => self.remove_adapter(id).await.map_err(machine)?,
                None => self.remove_base(id).await.map(|_| ())?,
            }
        }
        Ok(())
    }

    /// Sees that an adapter of these blobs fits with its index.
    ///
    /// # Errors
    /// As [`Workshop::make_room`].
    pub(super) async fn make_room_for_adapter(&self, adapter: Hash, leave_out: &[Hash]) -> Result<(), JobError> {
        if self.engine.folder().adapter(adapter).is_dir() {
            return Ok(());
        }
        let mut bytes = 0_u64;
        for (blob, part) in std::iter::once((adapter, 1)).chain(leave_out.iter().map(|blob| (*blob, INDEX_PART))) {
            let size = self.store.size(blob).await.map_err(|error| error.to_string())?;
            bytes = bytes.saturating_add(size.unwrap_or(0) / part);
        }
        Ok(self.make_room(bytes).await.map_err(|fault| fault.to_string())?)
    }

    /// Takes an adapter out of service and off the disk.
    async fn remove_adapter(&self, adapter: Hash) -> Result<(), JobError> {
        self.node.input(Input::Dropped(adapter)).await.map_err(|error| error.to_string())?;
        let path = self.engine.folder().adapter(adapter);
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(path)).await;
        Ok(removed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?)
    }

    /// All that takes room here, as it is used now.
    async fn kept(&self) -> Result<Vec<Kept>, JobError> {
        let look = |node: &tributary_protocol::node::Node| {
            let own = node.account();
            let all =
                node.releases().map(|release| (release.body.adapter, (release.body.base, release.account == own)));
            all.collect::<BTreeMap<_, _>>()
        };
        let releases = self.node.view(look).await.map_err(|error| error.to_string())?;
        let folder = self.engine.folder().clone();
        let sizes = tokio::task::spawn_blocking(move || sizes(&folder.adapters())).await;
        let sizes = sizes.map_err(|error| error.to_string())?;
        let busy: BTreeSet<Hash> = locked(&self.room.busy).keys().copied().collect();
        let now = now_ms();
        let is_idle = |used_ms: u64| now.saturating_sub(used_ms) >= IN_USE_MS;
        let mut kept = Vec::new();
        for (id, bytes) in sizes {
            let used_ms = self.room.used_ms(&id);
            let (base, is_own) = releases.get(&id).copied().unwrap_or_default();
            kept.push(Kept { id, bytes, used_ms, is_free: !is_own && is_idle(used_ms), base: Some(base) });
        }
        for record in self.bases.all().map_err(|error| error.to_string())? {
            let used_ms = self.room.used_ms(&record.id);
            // Somebody may be about to use it whose files are still on the way.
            let is_still = self.bases.turn(record.id).try_lock().is_ok();
            let is_free = !record.is_pinned() && is_idle(used_ms) && is_still && !busy.contains(&record.id);
            kept.push(Kept { id: record.id, bytes: record.bytes, used_ms, is_free, base: None });
        }
        Ok(kept)
    }

    /// Bytes of each adapter that the engine keeps.
    #[must_use]
    pub fn adapter_sizes(&self) -> BTreeMap<Hash, u64> {
        sizes(&self.engine.folder().adapters()).into_iter().collect()
    }
}

/// The folders named by hashes below `root`, with the bytes of their files.
fn sizes(root: &Path) -> Vec<(Hash, u64)> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let size = |path: &Path| {
        let files = std::fs::read_dir(path).into_iter().flatten().flatten();
        files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
    };
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, size(&entry.path())))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(id: u8, bytes: u64, used_ms: u64, base: Option<u8>) -> Kept {
        Kept { id: Hash([id; 32]), bytes, used_ms, is_free: true, base: base.map(|base| Hash([base; 32])) }
    }

    fn removed(kept: &[Kept], needed: u64, limit: u64) -> Result<Vec<u8>, u64> {
        plan(kept, needed, limit).map(|removed| removed.iter().map(|one| one.id.0[0]).collect())
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_no_more_than_needed() {
        let all = [kept(1, 40, 30, None), kept(2, 30, 10, None), kept(3, 20, 20, None)];
        assert_eq!(removed(&all, 10, 100), Ok(vec![]));
        assert_eq!(removed(&all, 11, 100), Ok(vec![2]));
        assert_eq!(removed(&all, 45, 100), Ok(vec![2, 3]));
        assert_eq!(removed(&all, 101, 100), Err(90));
    }

    #[test]
    fn what_is_pinned_or_in_use_stays_and_then_nothing_goes() {
        let mut all = [kept(1, 40, 30, None), kept(2, 30, 10, None)];
        all[1].is_free = false;
        assert_eq!(removed(&all, 60, 100), Ok(vec![1]));
        assert_eq!(removed(&all, 71, 100), Err(70));
    }

    #[test]
    fn a_base_goes_only_after_all_adapters_on_it() {
        let mut all = [kept(9, 80, 0, None), kept(1, 5, 10, Some(9)), kept(2, 5, 20, Some(9)), kept(3, 5, 5, Some(8))];
        assert_eq!(removed(&all, 10, 100), Ok(vec![3]));
        assert_eq!(removed(&all, 50, 100), Ok(vec![3, 1, 2, 9]));
        all[1].is_free = false;
        assert_eq!(removed(&all, 50, 100), Err(95));
    }

    #[test]
    fn a_base_is_busy_as_long_as_a_job_holds_it() {
        let room = Room::new(1);
        let base = Hash([1; 32]);
        let (one, other) = (room.hold(base), room.hold(base));
        drop(one);
        assert!(locked(&room.busy).contains_key(&base));
        drop(other);
        assert!(locked(&room.busy).is_empty() && room.used_ms(&base) > 0);
    }
}
