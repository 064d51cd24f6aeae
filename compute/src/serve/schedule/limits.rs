//! What the scheduler may take, and what it refuses at the door.
//!
//! Invariant: a request that was let in can run once everything else has ended, so none waits forever for its size.

use super::{Arrival, RequestId, blocks_for};

/// Bounds of a scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of one step: a step of prompts holds up the tokens of all others for as long as it takes.
    pub step_tokens: usize,
    /// Sequences that run at once; at most half of `step_tokens`, so that all decode in every step and prompts go on.
    pub running: usize,
    /// Requests that wait.
    pub queued: usize,
    /// Prompt tokens of requests that wait: bounds the queue's memory.
    pub queued_tokens: usize,
    /// KV blocks of 32 positions.
    pub kv_blocks: usize,
    /// Bytes of adapters in memory.
    pub adapter_bytes: u64,
    /// Adapters being loaded at once.
    pub loads: usize,
    /// Longest sequence that the model takes.
    pub positions: usize,
}

impl Limits {
    /// Limits for one machine's processor: memory as given, the rest from what one step can compute without a wait
    /// that a reader would notice.
    #[must_use]
    pub const fn for_memory(kv_blocks: usize, adapter_bytes: u64, positions: usize) -> Self {
        Self {
            step_tokens: 256,
            running: 64,
            queued: 10_000,
            queued_tokens: 16 << 20,
            kv_blocks,
            adapter_bytes,
            loads: 4,
            positions,
        }
    }

    pub(super) fn admits(&self, arrival: &Arrival, waiting: usize, waiting_tokens: usize) -> Result<(), Refused> {
        let tokens = arrival.prompt.len();
        if arrival.prompt.is_empty() || tokens > self.positions {
            return Err(Refused::Prompt { tokens, positions: self.positions });
        }
        let blocks = blocks_for(tokens, arrival.max_tokens);
        if blocks > self.kv_blocks {
            return Err(Refused::Memory { blocks, capacity: self.kv_blocks });
        }
        if let Some(adapter) = arrival.adapter.filter(|adapter| adapter.bytes > self.adapter_bytes) {
            return Err(Refused::Adapter { bytes: adapter.bytes, budget: self.adapter_bytes });
        }
        if waiting >= self.queued {
            return Err(Refused::QueueFull { waiting });
        }
        if waiting_tokens.saturating_add(tokens) > self.queued_tokens {
            return Err(Refused::QueueTokens { tokens: waiting_tokens });
        }
        Ok(())
    }
}

/// Why a request isn't taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Try again later: the queue is full.
    #[error("{waiting} requests wait already")]
    QueueFull {
        /// Requests that wait.
        waiting: usize,
    },
    /// Try again later: the prompts that wait are too long together.
    #[error("prompts of {tokens} tokens wait already")]
    QueueTokens {
        /// Their tokens.
        tokens: usize,
    },
    /// The prompt is empty or longer than the model's context.
    #[error("a prompt of {tokens} tokens in a context of {positions}")]
    Prompt {
        /// Its tokens.
        tokens: usize,
        /// The longest sequence.
        positions: usize,
    },
    /// Prompt and longest answer never fit the memory for keys and values.
    #[error("{blocks} blocks of keys and values, {capacity} exist")]
    Memory {
        /// Blocks needed.
        blocks: usize,
        /// Blocks there are.
        capacity: usize,
    },
    /// The adapter never fits the memory for adapters.
    #[error("an adapter of {bytes} bytes, {budget} are allowed")]
    Adapter {
        /// Its size.
        bytes: u64,
        /// The budget.
        budget: u64,
    },
    /// The number was given before.
    #[error("request {} is known already", .0.0)]
    Known(RequestId),
}
