//! Lanes: the requests of one adapter, in order of arrival, and the turns that lanes take.
//!
//! Invariant: deficit round-robin, twice. A lane's turn to begin costs the blocks that its request reserves, its turn to
//! read costs prompt tokens; a lane saves what it could not spend while it has work, and nothing when it has none.

use std::collections::{BTreeMap, VecDeque};

use tributary_protocol::id::Hash;

use super::RequestId;

/// Blocks a lane may begin with in each round: an ordinary request.
const BEGIN_QUANTUM: usize = 16;
/// Prompt tokens a lane may read in each round: products of fewer rows waste the weights that they stream.
const READ_QUANTUM: usize = 64;

/// The base's lane or an adapter's.
pub(super) type Lane = Option<Hash>;

#[derive(Debug, Clone, Default)]
struct Line {
    waiting: VecDeque<RequestId>,
    begin_credit: usize,
    /// Running, some of them still reading their prompts.
    reading: VecDeque<RequestId>,
    read_credit: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Lanes {
    lines: BTreeMap<Lane, Line>,
    /// Lanes with waiting requests, the one whose turn it is first.
    begin_ring: VecDeque<Lane>,
    /// Whether the first lane of `begin_ring` has got the credit of its turn.
    granted: bool,
    /// Lanes with prompts to read, likewise.
    read_ring: VecDeque<Lane>,
    waiting: usize,
}

impl Lanes {
    pub(super) const fn new() -> Self {
        Self {
            lines: BTreeMap::new(),
            begin_ring: VecDeque::new(),
            granted: false,
            read_ring: VecDeque::new(),
            waiting: 0,
        }
    }

    /// Requests that wait in all lanes.
    pub(super) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether requests wait in that lane.
    pub(super) fn waits(&self, lane: Lane) -> bool {
        self.lines.get(&lane).is_some_and(|line| !line.waiting.is_empty())
    }

    /// The requests that wait in a lane.
    pub(super) fn waiting_in(&self, lane: Lane) -> Vec<RequestId> {
        self.lines.get(&lane).map_or_else(Vec::new, |line| line.waiting.iter().copied().collect())
    }

    pub(super) fn wait(&mut self, lane: Lane, id: RequestId) {
        let line = self.lines.entry(lane).or_default();
        if line.waiting.is_empty() {
            self.begin_ring.push_back(lane);
        }
        line.waiting.push_back(id);
        self.waiting += 1;
    }

    /// The request that begins next, if it can; it stays next until it has begun.
    pub(super) fn next_to_begin(
        &mut self,
        open: impl Fn(&Lane) -> bool,
        cost: impl Fn(&RequestId) -> usize,
    ) -> Option<RequestId> {
        if !self.begin_ring.iter().any(&open) {
            return None;
        }
        loop {
            let lane = *self.begin_ring.front()?;
            let line = self.lines.get_mut(&lane)?;
            let id = *line.waiting.front()?;
            if open(&lane) {
                if !self.granted {
                    line.begin_credit += BEGIN_QUANTUM;
                    self.granted = true;
                }
                if line.begin_credit >= cost(&id) {
                    return Some(id);
                }
            }
            self.begin_ring.rotate_left(1);
            self.granted = false;
        }
    }

    /// The request that `next_to_begin` named has begun.
    pub(super) fn begin(&mut self, lane: Lane, id: RequestId, cost: usize) {
        let Some(line) = self.lines.get_mut(&lane) else { return };
        line.begin_credit = line.begin_credit.saturating_sub(cost);
        line.waiting.retain(|waiting| *waiting != id);
        self.waiting -= 1;
        if line.reading.is_empty() {
            self.read_ring.push_back(lane);
        }
        line.reading.push_back(id);
        self.tidy(lane);
    }

    /// A request is over.
    pub(super) fn leave(&mut self, lane: Lane, id: RequestId) {
        let Some(line) = self.lines.get_mut(&lane) else { return };
        let before = line.waiting.len();
        line.waiting.retain(|waiting| *waiting != id);
        self.waiting -= before - line.waiting.len();
        line.reading.retain(|reading| *reading != id);
        self.tidy(lane);
    }

    /// Divides `room` tokens among prompts; `unread` gives what a prompt still has.
    pub(super) fn share_prompt_tokens(
        &mut self,
        mut room: usize,
        unread: impl Fn(&RequestId) -> usize,
    ) -> Vec<(RequestId, usize)> {
        let mut shares: Vec<(RequestId, usize)> = Vec::new();
        let mut given: BTreeMap<RequestId, usize> = BTreeMap::new();
        while room > 0 {
            let Some(lane) = self.read_ring.front().copied() else { break };
            let Some(line) = self.lines.get_mut(&lane) else { break };
            if line.read_credit == 0 {
                line.read_credit = READ_QUANTUM;
            }
            while room > 0 && line.read_credit > 0 {
                let Some(id) = line.reading.front().copied() else { break };
                let given = given.entry(id).or_default();
                let tokens = (unread(&id) - *given).min(line.read_credit).min(room);
                *given += tokens;
                line.read_credit -= tokens;
                room -= tokens;
                if *given == unread(&id) {
                    line.reading.pop_front();
                }
                match shares.iter_mut().find(|(known, _)| *known == id) {
                    Some((_, share)) => *share += tokens,
                    None => shares.push((id, tokens)),
                }
            }
            if line.reading.is_empty() {
                self.tidy(lane);
            } else if line.read_credit == 0 {
                self.read_ring.rotate_left(1);
            }
        }
        shares.retain(|(_, tokens)| *tokens > 0);
        shares
    }

    /// Takes a lane out of the rings that it has no work for, and away when it has none at all.
    fn tidy(&mut self, lane: Lane) {
        let Some(line) = self.lines.get_mut(&lane) else { return };
        if line.waiting.is_empty() {
            line.begin_credit = 0;
            self.granted &= self.begin_ring.front() != Some(&lane);
            self.begin_ring.retain(|other| *other != lane);
        }
        if line.reading.is_empty() {
            line.read_credit = 0;
            self.read_ring.retain(|other| *other != lane);
        }
        if line.waiting.is_empty() && line.reading.is_empty() {
            self.lines.remove(&lane);
        }
    }
}
