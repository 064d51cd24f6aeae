//! One request inside the scheduler.
//!
//! Invariant: `fed` tokens are in its cache; `shared` are its published blocks, in order from the first, and `reserved`
//! the blocks that it holds or may still take alone.

use tributary_protocol::id::Hash;

use super::blocks::{BlockId, BlockKey, block_keys, child, root};
use super::{AdapterSize, Arrival, blocks_for};
use crate::kv::BLOCK_POSITIONS;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Waiting,
    Running,
}

#[derive(Debug, Clone)]
pub(super) struct Sequence {
    adapter: Option<AdapterSize>,
    pub(super) phase: Phase,
    /// Prompt and picked tokens.
    pub(super) tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub(super) prompt: usize,
    max_tokens: usize,
    whole_prompt: bool,
    /// Tokens that are in the cache.
    pub(super) fed: usize,
    /// Tokens of the step that is being computed.
    pub(super) planned: usize,
    pub(super) shared: Vec<BlockId>,
    pub(super) reserved: usize,
    /// False once a block of its own stands between the published ones and the end: a chain has no holes.
    pub(super) publishes: bool,
    /// Keys of the full blocks so far known: of the prompt, computed once, and of what was added.
    keys: Option<Vec<BlockKey>>,
    /// Full blocks that were looked at.
    sealed: usize,
}

impl Sequence {
    pub(super) fn new(arrival: Arrival) -> Self {
        Self {
            adapter: arrival.adapter,
            phase: Phase::Waiting,
            prompt: arrival.prompt.len(),
            tokens: arrival.prompt,
            max_tokens: arrival.max_tokens,
            whole_prompt: arrival.whole_prompt,
            fed: 0,
            planned: 0,
            shared: Vec::new(),
            reserved: 0,
            publishes: true,
            keys: None,
            sealed: 0,
        }
    }

    pub(super) fn lane(&self) -> Option<Hash> {
        self.adapter.map(|adapter| adapter.hash)
    }

    /// Blocks of prompt and longest answer.
    pub(super) fn blocks(&self) -> usize {
        blocks_for(self.prompt, self.max_tokens)
    }

    /// Keys of the blocks that another sequence may have computed: all full ones before the last prompt token, whose
    /// hidden state the first pick needs.
    pub(super) fn shareable(&mut self) -> &[BlockKey] {
        let adapter = self.lane();
        let keys = self.keys.get_or_insert_with(|| block_keys(adapter, &self.tokens));
        match self.whole_prompt {
            true => &[],
            false => &keys[..(self.prompt - 1) / BLOCK_POSITIONS],
        }
    }

    pub(super) fn begin(&mut self, reserved: usize, prefix: &[BlockId]) {
        self.phase = Phase::Running;
        self.reserved = reserved;
        self.shared = prefix.to_vec();
        self.fed = prefix.len() * BLOCK_POSITIONS;
        self.sealed = prefix.len();
    }

    /// Prompt tokens to read.
    pub(super) fn unread(&self) -> usize {
        self.prompt.saturating_sub(self.fed)
    }

    /// Whether it has a picked token to feed.
    pub(super) fn decodes(&self) -> bool {
        self.fed >= self.prompt && self.fed < self.tokens.len()
    }

    /// The next full block that nobody has looked at, and its key.
    pub(super) fn next_full_block(&mut self) -> Option<(usize, BlockKey)> {
        let index = self.sealed;
        let end = (index + 1) * BLOCK_POSITIONS;
        if end > self.fed {
            return None;
        }
        self.sealed += 1;
        let adapter = self.lane();
        let keys = self.keys.get_or_insert_default();
        if keys.len() <= index {
            let parent = keys.last().copied().unwrap_or_else(|| root(adapter));
            keys.push(child(&parent, &self.tokens[index * BLOCK_POSITIONS..end]));
        }
        Some((index, keys[index]))
    }
}
