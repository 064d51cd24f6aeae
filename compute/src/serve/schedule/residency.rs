//! Which adapters are in memory: the account behind the registry, without their numbers.
//!
//! Invariant: bytes of resident and loading adapters never exceed the budget, and an adapter that a running sequence uses
//! stays. Adapters that are wanted come in the order in which they were wanted; the first of them gets room within a
//! bounded number of steps, if need be by letting no more requests of others begin, so a busy adapter starves nobody.

use std::collections::{BTreeMap, VecDeque};

use tributary_protocol::id::Hash;

/// Steps the first wanted adapter waits for others to go by themselves before they are made to: long enough that
/// answers under way don't make two adapters evict each other all the time.
const PATIENCE_STEPS: u64 = 32;
/// Uses after which all counts are halved, so that yesterday's favourite can be evicted today.
const AGING_USES: u64 = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Loading,
    Resident,
    /// Resident, but no request begins with it any more, so that it can go.
    Leaving,
}

#[derive(Debug, Clone)]
struct Entry {
    bytes: u64,
    state: State,
    /// Running sequences that use it.
    users: usize,
    /// How often a request began with it, halved now and then.
    uses: u64,
    touched: u64,
}

#[derive(Debug, Clone)]
struct Wanted {
    adapter: Hash,
    bytes: u64,
    /// The step at which it became the first; only then its patience begins.
    first_since: Option<u64>,
}

/// What residency decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Read this adapter into memory, then say `loaded` or `load_failed`.
    Load(Hash),
    /// Drop this adapter from memory.
    Evict(Hash),
}

/// The account.
#[derive(Debug, Clone)]
pub(super) struct Residency {
    budget: u64,
    most_loads: usize,
    used: u64,
    loading: usize,
    entries: BTreeMap<Hash, Entry>,
    wanted: VecDeque<Wanted>,
    steps: u64,
    clock: u64,
}

impl Residency {
    pub(super) const fn new(budget: u64, most_loads: usize) -> Self {
        Self {
            budget,
            most_loads,
            used: 0,
            loading: 0,
            entries: BTreeMap::new(),
            wanted: VecDeque::new(),
            steps: 0,
            clock: 0,
        }
    }

    /// Whether a request may begin with this adapter now.
    pub(super) fn is_open(&self, adapter: &Hash) -> bool {
        self.entries.get(adapter).is_some_and(|entry| entry.state == State::Resident)
    }

    /// Bytes of adapters in memory or on their way.
    pub(super) const fn used(&self) -> u64 {
        self.used
    }

    /// Asks for an adapter that a request waits for.
    pub(super) fn want(&mut self, adapter: Hash, bytes: u64) {
        let coming = self.entries.get(&adapter).is_some_and(|entry| entry.state != State::Leaving);
        if !coming && !self.wanted.iter().any(|wanted| wanted.adapter == adapter) {
            self.wanted.push_back(Wanted { adapter, bytes, first_since: None });
        }
    }

    /// Nobody waits for it any more.
    pub(super) fn unwant(&mut self, adapter: &Hash) {
        self.wanted.retain(|wanted| wanted.adapter != *adapter);
    }

    /// A sequence begins to use a resident adapter.
    pub(super) fn pin(&mut self, adapter: &Hash) {
        self.clock += 1;
        if let Some(entry) = self.entries.get_mut(adapter) {
            entry.users += 1;
            entry.uses += 1;
            entry.touched = self.clock;
        }
        if self.clock.is_multiple_of(AGING_USES) {
            self.entries.values_mut().for_each(|entry| entry.uses /= 2);
        }
    }

    /// A sequence that used it ended.
    pub(super) fn unpin(&mut self, adapter: &Hash) {
        if let Some(entry) = self.entries.get_mut(adapter) {
            entry.users = entry.users.saturating_sub(1);
        }
    }

    /// A load that was ordered is done. Whether it was awaited.
    pub(super) fn loaded(&mut self, adapter: &Hash) -> bool {
        match self.entries.get_mut(adapter) {
            Some(entry) if entry.state == State::Loading => {
                entry.state = State::Resident;
                self.loading -= 1;
                true
            }
            _ => false,
        }
    }

    /// A load that was ordered failed. Whether it was awaited.
    pub(super) fn load_failed(&mut self, adapter: &Hash) -> bool {
        match self.entries.get(adapter) {
            Some(entry) if entry.state == State::Loading => {
                self.loading -= 1;
                self.used -= entry.bytes;
                self.entries.remove(adapter);
                true
            }
            _ => false,
        }
    }

    /// Decides one step's loads and evictions; `idle` says that nothing runs, so no step may come by waiting, and `waits`
    /// whether requests wait for an adapter.
    pub(super) fn decide(&mut self, idle: bool, waits: impl Fn(&Hash) -> bool) -> Vec<Order> {
        self.steps += 1;
        let mut orders = Vec::new();
        while let Some(first) = self.wanted.front_mut() {
            let since = *first.first_since.get_or_insert(self.steps);
            let (adapter, bytes) = (first.adapter, first.bytes);
            let impatient = idle || self.steps - since >= PATIENCE_STEPS;
            if let Some(entry) = self.entries.get_mut(&adapter) {
                // It was leaving when it was wanted and nobody needed its room: it stays.
                if entry.state == State::Leaving {
                    entry.state = State::Resident;
                }
                self.wanted.pop_front();
                continue;
            }
            if self.loading >= self.most_loads || !self.make_room(bytes, impatient, &waits, &mut orders) {
                break;
            }
            self.wanted.pop_front();
            self.loading += 1;
            self.used += bytes;
            self.clock += 1;
            let entry = Entry { bytes, state: State::Loading, users: 0, uses: 1, touched: self.clock };
            self.entries.insert(adapter, entry);
            orders.push(Order::Load(adapter));
            self.reopen();
        }
        if self.wanted.is_empty() {
            self.reopen();
        }
        orders
    }

    /// Those that were to go for somebody who has found room may stay.
    fn reopen(&mut self) {
        for entry in self.entries.values_mut().filter(|entry| entry.state == State::Leaving) {
            entry.state = State::Resident;
        }
    }

    /// Evicts until `bytes` fit. Evicts nothing when that isn't enough; then, if `impatient`, others begin to leave.
    fn make_room(
        &mut self,
        bytes: u64,
        impatient: bool,
        waits: &impl Fn(&Hash) -> bool,
        orders: &mut Vec<Order>,
    ) -> bool {
        let free = self.budget - self.used;
        let mut victims: Vec<(bool, bool, u64, u64, Hash)> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.state != State::Loading)
            .map(|(hash, entry)| {
                let stays = entry.state != State::Leaving;
                (stays, entry.users > 0 || waits(hash), entry.uses, entry.touched, *hash)
            })
            .collect();
        victims.sort_unstable();
        let (mut gained, mut going) = (0, Vec::new());
        for (stays, needed, _, _, hash) in &victims {
            let entry = &self.entries[hash];
            if free + gained >= bytes {
                break;
            }
            if entry.users == 0 && (!needed || !stays || impatient) {
                gained += entry.bytes;
                going.push(*hash);
            }
        }
        if free + gained >= bytes {
            for hash in going {
                let bytes = self.entries.remove(&hash).map_or(0, |entry| entry.bytes);
                self.used -= bytes;
                orders.push(Order::Evict(hash));
                if waits(&hash) {
                    self.want(hash, bytes);
                }
            }
            return true;
        }
        if impatient {
            self.ask_to_leave(bytes - free, &victims);
        }
        false
    }

    /// Lets as many adapters leave as it takes to free `bytes`, those that are already leaving first.
    fn ask_to_leave(&mut self, bytes: u64, ranked: &[(bool, bool, u64, u64, Hash)]) {
        let mut gained = 0;
        for (.., hash) in ranked {
            if gained >= bytes {
                return;
            }
            if let Some(entry) = self.entries.get_mut(hash) {
                entry.state = State::Leaving;
                gained += entry.bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Hash, Order, PATIENCE_STEPS, Residency};

    fn hash(byte: u8) -> Hash {
        Hash([byte; 32])
    }

    #[test]
    fn the_least_used_goes_and_those_in_use_stay() {
        let mut residency = Residency::new(30, 4);
        for byte in 1..=3 {
            residency.want(hash(byte), 10);
        }
        let orders = residency.decide(false, |_| true);
        assert_eq!(orders, [Order::Load(hash(1)), Order::Load(hash(2)), Order::Load(hash(3))]);
        for byte in 1..=3 {
            assert!(residency.loaded(&hash(byte)) && !residency.loaded(&hash(byte)));
            residency.pin(&hash(byte));
        }
        residency.pin(&hash(2));
        for byte in [1, 2, 2] {
            residency.unpin(&hash(byte));
        }
        residency.want(hash(4), 10);
        assert_eq!(residency.decide(false, |_| false), [Order::Evict(hash(1)), Order::Load(hash(4))]);
        assert_eq!(residency.used(), 30);
        assert!(residency.load_failed(&hash(4)));
        assert_eq!(residency.used(), 20);
    }

    #[test]
    fn a_busy_adapter_has_to_leave_in_the_end() {
        let mut residency = Residency::new(10, 1);
        residency.want(hash(1), 10);
        residency.decide(false, |_| true);
        residency.loaded(&hash(1));
        residency.pin(&hash(1));
        residency.want(hash(2), 10);
        for _ in 0..PATIENCE_STEPS {
            assert_eq!(residency.decide(false, |_| true), []);
            assert!(residency.is_open(&hash(1)));
        }
        assert_eq!(residency.decide(false, |_| true), []);
        assert!(!residency.is_open(&hash(1)), "no request begins with it any more");
        residency.unpin(&hash(1));
        assert_eq!(residency.decide(false, |_| true), [Order::Evict(hash(1)), Order::Load(hash(2))]);
    }

    #[test]
    fn who_was_to_leave_for_nobody_stays() {
        let mut residency = Residency::new(10, 1);
        residency.want(hash(1), 10);
        residency.decide(false, |_| true);
        residency.loaded(&hash(1));
        residency.pin(&hash(1));
        residency.want(hash(2), 10);
        for _ in 0..=PATIENCE_STEPS {
            residency.decide(false, |_| true);
        }
        assert!(!residency.is_open(&hash(1)));
        residency.unwant(&hash(2));
        residency.decide(false, |_| true);
        assert!(residency.is_open(&hash(1)));
    }
}
