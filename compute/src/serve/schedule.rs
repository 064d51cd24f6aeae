//! Who computes what in the next step: admission, fairness, memory and adapters, without clock, threads or tensors.
//!
//! A driver lets requests arrive, asks for a plan, performs it, tells what came of it, and asks again. Sequences that
//! run decode one token in every step; what is left of the step's token budget goes to prompts in chunks. Lanes, one
//! for each adapter and one for the base, take turns by deficit round-robin (Shreedhar and Varghese, SIGCOMM '95), both
//! for beginning and for reading prompts.
//!
//! Invariant: equal calls give equal plans. Blocks are reserved for a request's longest answer before it begins, so a
//! running sequence never lacks memory and is never put back; nothing exceeds its limit; who waits has a bounded number
//! of steps before it, whatever others send, and a request leaves exactly once, by `end`, `cancel` or `load_failed`.

mod blocks;
mod lanes;
mod limits;
mod residency;
mod sequence;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use tributary_protocol::id::Hash;

pub use blocks::BlockId;
pub use limits::{Limits, Refused};
pub use residency::Order;

use crate::kv::BLOCK_POSITIONS;
use blocks::Ledger;
use lanes::Lanes;
use residency::Residency;
use sequence::{Phase, Sequence};

/// Names a request; the driver gives each a new number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// An adapter as the scheduler knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdapterSize {
    /// Its name.
    pub hash: Hash,
    /// Bytes it takes in memory.
    pub bytes: u64,
}

/// A request as the scheduler knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Its name.
    pub id: RequestId,
    /// The adapter that answers, or the base.
    pub adapter: Option<AdapterSize>,
    /// The prompt; not empty.
    pub prompt: Vec<u32>,
    /// The longest answer in tokens; 0 when only the prompt's hidden states are wanted.
    pub max_tokens: usize,
    /// Whether hidden states of prompt tokens are wanted, so that blocks of others don't help.
    pub whole_prompt: bool,
}

/// A request that begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Which.
    pub id: RequestId,
    /// Published blocks that hold the beginning of its prompt.
    pub prefix: Vec<BlockId>,
}

/// What a sequence feeds in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Which.
    pub id: RequestId,
    /// Number of tokens, from the first that is not yet in its cache.
    pub tokens: usize,
}

/// One step's work, to be done in the order of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Published blocks whose memory goes back.
    pub dropped: Vec<BlockId>,
    /// Requests that begin.
    pub admitted: Vec<Admitted>,
    /// What the registry is to load and evict; loads take their time, the step doesn't wait for them.
    pub orders: Vec<Order>,
    /// What the model computes.
    pub feeds: Vec<Planned>,
}

/// A full block that others may use from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publication {
    /// Its name.
    pub block: BlockId,
    /// Which block of the sequence it is.
    pub index: usize,
}

/// How much of everything is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Requests that wait.
    pub waiting: usize,
    /// Sequences that run.
    pub running: usize,
    /// KV blocks reserved or published.
    pub kv_blocks: usize,
    /// Bytes of adapters in memory or on their way.
    pub adapter_bytes: u64,
}

/// The scheduler.
#[derive(Debug, Clone)]
pub struct Scheduler {
    limits: Limits,
    ledger: Ledger,
    residency: Residency,
    sequences: BTreeMap<RequestId, Sequence>,
    lanes: Lanes,
    /// Prompt tokens of requests that wait.
    waiting_tokens: usize,
}

impl Scheduler {
    /// A scheduler with nothing to do.
    #[must_use]
    pub fn new(mut limits: Limits) -> Self {
        limits.running = limits.running.min(limits.step_tokens / 2);
        Self {
            ledger: Ledger::new(limits.kv_blocks),
            residency: Residency::new(limits.adapter_bytes, limits.loads),
            sequences: BTreeMap::new(),
            lanes: Lanes::new(),
            waiting_tokens: 0,
            limits,
        }
    }

    /// What is in use.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            waiting: self.lanes.waiting(),
            running: self.sequences.len() - self.lanes.waiting(),
            kv_blocks: self.ledger.used(),
            adapter_bytes: self.residency.used(),
        }
    }

    /// Takes a request into the queue.
    ///
    /// # Errors
    /// [`Refused`], and nothing changed.
    pub fn arrive(&mut self, mut arrival: Arrival) -> Result<(), Refused> {
        arrival.max_tokens = arrival.max_tokens.min(self.limits.positions.saturating_sub(arrival.prompt.len()));
        self.limits.admits(&arrival, self.lanes.waiting(), self.waiting_tokens)?;
        if self.sequences.contains_key(&arrival.id) {
            return Err(Refused::Known(arrival.id));
        }
        let adapter = arrival.adapter;
        let lane = adapter.map(|adapter| adapter.hash);
        self.waiting_tokens += arrival.prompt.len();
        self.lanes.wait(lane, arrival.id);
        self.sequences.insert(arrival.id, Sequence::new(arrival));
        if let Some(adapter) = adapter {
            self.residency.want(adapter.hash, adapter.bytes);
        }
        Ok(())
    }

    /// What to do next. Without feeds there is nothing to compute until something arrives or is loaded.
    pub fn plan(&mut self) -> Plan {
        let mut plan = Plan::default();
        self.admit(&mut plan);
        let idle = self.sequences.len() == self.lanes.waiting();
        let lanes = &self.lanes;
        plan.orders = self.residency.decide(idle, |adapter| lanes.waits(Some(*adapter)));
        self.feed(&mut plan);
        plan
    }

    /// A sequence's planned tokens are in its cache, and `next` is what it feeds from now on, if a token was picked.
    /// Gives the blocks that have become full and may be shared.
    pub fn advance(&mut self, id: RequestId, next: Option<u32>) -> Vec<Publication> {
        let Some(sequence) = self.sequences.get_mut(&id) else { return Vec::new() };
        sequence.fed += std::mem::take(&mut sequence.planned);
        let mut publications = Vec::new();
        while let Some((index, key)) = sequence.next_full_block() {
            // A block that another sequence published meanwhile stays this one's own.
            if sequence.publishes
                && let Some(block) = self.ledger.publish(key)
            {
                sequence.reserved -= 1;
                sequence.shared.push(block);
                publications.push(Publication { block, index });
            } else {
                sequence.publishes = false;
            }
        }
        sequence.tokens.extend(next);
        publications
    }

    /// A request is over, however it ended. Whether it was known.
    pub fn end(&mut self, id: RequestId) -> bool {
        let Some(sequence) = self.sequences.remove(&id) else { return false };
        let lane = sequence.lane();
        self.lanes.leave(lane, id);
        match sequence.phase {
            Phase::Waiting => {
                self.waiting_tokens -= sequence.prompt;
                if let Some(adapter) = lane
                    && !self.lanes.waits(lane)
                {
                    self.residency.unwant(&adapter);
                }
            }
            Phase::Running => {
                self.ledger.release(sequence.reserved, &sequence.shared);
                if let Some(adapter) = &lane {
                    self.residency.unpin(adapter);
                }
            }
        }
        true
    }

    /// An adapter that a plan ordered is in memory.
    pub fn loaded(&mut self, adapter: &Hash) {
        self.residency.loaded(adapter);
    }

    /// An adapter that a plan ordered can't be had: gives the requests that waited for it and are over now.
    pub fn load_failed(&mut self, adapter: &Hash) -> Vec<RequestId> {
        if !self.residency.load_failed(adapter) {
            return Vec::new();
        }
        let failed = self.lanes.waiting_in(Some(*adapter));
        for id in &failed {
            self.end(*id);
        }
        failed
    }

    /// Lets requests begin, lane by lane, while sequences and memory are left.
    fn admit(&mut self, plan: &mut Plan) {
        while self.sequences.len() - self.lanes.waiting() < self.limits.running {
            let residency = &self.residency;
            let sequences = &self.sequences;
            let open = |lane: &Option<Hash>| lane.is_none_or(|adapter| residency.is_open(&adapter));
            let cost = |id: &RequestId| sequences.get(id).map_or(1, Sequence::blocks);
            let Some(id) = self.lanes.next_to_begin(open, cost) else { return };
            let Some(sequence) = self.sequences.get_mut(&id) else { return };
            let prefix = self.ledger.known(sequence.shareable());
            let needed = sequence.blocks() - prefix.len();
            // The lane whose turn it is keeps it: a large request isn't overtaken forever by small ones.
            let Some(dropped) = self.ledger.reserve(needed, &prefix) else { return };
            sequence.begin(needed, &prefix);
            self.waiting_tokens -= sequence.prompt;
            if let Some(adapter) = sequence.lane() {
                self.residency.pin(&adapter);
            }
            self.lanes.begin(sequence.lane(), id, sequence.blocks());
            plan.dropped.extend(dropped);
            plan.admitted.push(Admitted { id, prefix });
        }
    }

    /// Divides the step's tokens: one for each that decodes, the rest in turns for prompts.
    fn feed(&mut self, plan: &mut Plan) {
        let mut room = self.limits.step_tokens;
        for (id, sequence) in &mut self.sequences {
            if sequence.phase == Phase::Running && sequence.decodes() && room > 0 {
                sequence.planned = 1;
                room -= 1;
                plan.feeds.push(Planned { id: *id, tokens: 1 });
            }
        }
        let sequences = &self.sequences;
        let unread = |id: &RequestId| sequences.get(id).map_or(0, Sequence::unread);
        let chunks = self.lanes.share_prompt_tokens(room, unread);
        for (id, tokens) in chunks {
            if let Some(sequence) = self.sequences.get_mut(&id) {
                sequence.planned = tokens;
                plan.feeds.push(Planned { id, tokens });
            }
        }
    }
}

/// Blocks of a prompt and its longest answer, whose last token is never fed.
const fn blocks_for(prompt: usize, max_tokens: usize) -> usize {
    (prompt + max_tokens.saturating_sub(1)).div_ceil(BLOCK_POSITIONS)
}
