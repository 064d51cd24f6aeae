//! The account of KV blocks: which are reserved, which are shared, which may be dropped.
//!
//! Invariant: reserved blocks and published blocks together never exceed the capacity; a published block that a sequence
//! uses is never dropped; blocks that nobody uses are dropped least recently used first, the end of a chain before its
//! beginning, since a beginning is of use without its end.

use std::collections::{BTreeMap, BTreeSet};

use tributary_protocol::id::Hash;

use crate::kv::BLOCK_POSITIONS;

/// Names a published block for whoever keeps its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u64);

/// Names the contents of a block: its tokens, all tokens before them, and the adapter that read them.
pub(super) type BlockKey = [u8; 32];

/// Separates these hashes from all others.
const CONTEXT: &str = "tributary 2026-11 kv block";

/// The keys of all full blocks of `tokens`.
pub(super) fn block_keys(adapter: Option<Hash>, tokens: &[u32]) -> Vec<BlockKey> {
    let mut parent = root(adapter);
    let next = |block: &[u32]| {
        parent = child(&parent, block);
        parent
    };
    tokens.chunks_exact(BLOCK_POSITIONS).map(next).collect()
}

/// What the chain of an adapter begins with.
pub(super) fn root(adapter: Option<Hash>) -> BlockKey {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(&[u8::from(adapter.is_some())]);
    hasher.update(adapter.unwrap_or(Hash([0; 32])).as_bytes());
    *hasher.finalize().as_bytes()
}

/// The key of the block of `tokens` after `parent`.
pub(super) fn child(parent: &BlockKey, tokens: &[u32]) -> BlockKey {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(parent);
    for token in tokens {
        hasher.update(&token.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

#[derive(Debug, Clone)]
struct Published {
    key: BlockKey,
    users: usize,
    /// Stands in `idle` under this number while nobody uses it.
    touched: u64,
}

/// The account.
#[derive(Debug, Clone)]
pub(super) struct Ledger {
    capacity: usize,
    reserved: usize,
    published: BTreeMap<BlockId, Published>,
    by_key: BTreeMap<BlockKey, BlockId>,
    idle: BTreeSet<(u64, BlockId)>,
    next: u64,
}

impl Ledger {
    pub(super) const fn new(capacity: usize) -> Self {
        Self {
            capacity,
            reserved: 0,
            published: BTreeMap::new(),
            by_key: BTreeMap::new(),
            idle: BTreeSet::new(),
            next: 0,
        }
    }

    /// Blocks that hold memory or may come to.
    pub(super) fn used(&self) -> usize {
        self.reserved + self.published.len()
    }

    /// The longest beginning of `keys` that is published.
    pub(super) fn known(&self, keys: &[BlockKey]) -> Vec<BlockId> {
        keys.iter().map_while(|key| self.by_key.get(key).copied()).collect()
    }

    /// Reserves `count` blocks beside using `shared`. Gives the blocks dropped for it, or `None`, and then nothing
    /// changed, when they don't fit beside what is in use.
    pub(super) fn reserve(&mut self, count: usize, shared: &[BlockId]) -> Option<Vec<BlockId>> {
        let waking = shared.iter().filter(|id| self.published.get(id).is_some_and(|block| block.users == 0)).count();
        let droppable = self.idle.len() - waking;
        if self.used() - droppable + count > self.capacity {
            return None;
        }
        for id in shared {
            let Some(block) = self.published.get_mut(id) else { continue };
            if block.users == 0 {
                self.idle.remove(&(block.touched, *id));
            }
            block.users += 1;
        }
        let mut dropped = Vec::new();
        while self.used() + count > self.capacity {
            let Some((_, id)) = self.idle.pop_first() else { break };
            if let Some(block) = self.published.remove(&id) {
                self.by_key.remove(&block.key);
            }
            dropped.push(id);
        }
        self.reserved += count;
        Some(dropped)
    }

    /// Turns one reserved block of a sequence into a published one that it uses, unless the same is published already.
    pub(super) fn publish(&mut self, key: BlockKey) -> Option<BlockId> {
        if self.reserved == 0 || self.by_key.contains_key(&key) {
            return None;
        }
        let id = BlockId(self.tick());
        self.reserved -= 1;
        self.by_key.insert(key, id);
        self.published.insert(id, Published { key, users: 1, touched: 0 });
        Some(id)
    }

    /// Ends a sequence's reservation of `count` blocks and its use of `shared`, which are in order of position.
    pub(super) fn release(&mut self, count: usize, shared: &[BlockId]) {
        self.reserved = self.reserved.saturating_sub(count);
        for id in shared.iter().rev() {
            let tick = self.tick();
            let Some(block) = self.published.get_mut(id) else { continue };
            block.users = block.users.saturating_sub(1);
            if block.users == 0 {
                block.touched = tick;
                self.idle.insert((tick, *id));
            }
        }
    }

    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::{Hash, Ledger, block_keys};

    #[test]
    fn keys_differ_by_adapter_tokens_and_place() {
        let tokens: Vec<u32> = (0..96).collect();
        let base = block_keys(None, &tokens);
        assert_eq!(base.len(), 3);
        assert_ne!(base, block_keys(Some(Hash([0; 32])), &tokens));
        let mut other = tokens.clone();
        other[40] += 1;
        let other = block_keys(None, &other);
        assert_eq!(base[0], other[0]);
        assert!(base[1] != other[1] && base[2] != other[2]);
        assert_eq!(block_keys(None, &tokens[..95]), base[..2]);
    }

    #[test]
    fn blocks_in_use_stay_and_the_end_of_the_oldest_chain_goes_first() {
        let mut ledger = Ledger::new(6);
        let keys = block_keys(None, &(0..96).collect::<Vec<_>>());
        assert_eq!(ledger.reserve(4, &[]), Some(vec![]));
        let ids: Vec<_> = keys.iter().map(|key| ledger.publish(*key).unwrap()).collect();
        assert_eq!(ledger.publish(keys[0]), None, "known already");
        assert_eq!(ledger.known(&keys), ids);
        assert_eq!(ledger.reserve(3, &[]), None, "four are in use");
        ledger.release(1, &ids);
        assert_eq!(ledger.used(), 3);
        assert_eq!(ledger.reserve(3, &ids[..1]), Some(vec![]));
        assert_eq!(ledger.reserve(1, &[]), Some(vec![ids[2]]));
        assert_eq!(ledger.known(&keys), ids[..2]);
        assert_eq!(ledger.reserve(2, &[]), None);
        ledger.release(3, &ids[..1]);
        assert_eq!(ledger.reserve(5, &[]), Some(vec![ids[1], ids[0]]));
        assert_eq!((ledger.used(), ledger.published.len()), (6, 0));
    }
}
