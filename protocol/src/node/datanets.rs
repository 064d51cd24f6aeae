//! Datanets in a node: spreading genesis and heads, fetching missing log entries and shards.
//!
//! Invariant: a log entry is durable before it is announced; a shard counts as held only once its bytes were
//! checked against its hash by the store.

use std::collections::{BTreeMap, BTreeSet};

use super::io::NewShard;
use super::{Event, Fact, Node, Out, Output};
use crate::datanet::{Appended, Contribution, Datanet, DatanetError, Genesis, Head, LogHead};
use crate::envelope::{NetworkId, Signed};
use crate::id::{AccountId, DatanetId, Hash, NodeId};
use crate::limits::{
    ACCOUNT_PART, ADDRESSES_MAX, ANNOUNCE_MS, DATANETS_MAX, FETCH_RETRY_MS, LOG_BATCH_MAX, REPEATS_PER_TICK, RETRY_MS,
};
use crate::message::{LogWanted, Message};
use crate::note::Note;

/// A shard that an entry names and that is not here yet.
struct Missing {
    bytes: u64,
    contributor: AccountId,
    asked_ms: u64,
    tries: u64,
}

/// Asks of a peer that are not repeated for [`RETRY_MS`]; beyond this many the oldest are forgotten.
const ASKS_MAX: usize = 4096;

#[derive(Default)]
pub(super) struct Datanets {
    known: BTreeMap<DatanetId, Datanet>,
    held: BTreeSet<Hash>,
    missing: BTreeMap<Hash, Missing>,
    asked_genesis_ms: BTreeMap<DatanetId, u64>,
    asked_log_ms: BTreeMap<(DatanetId, AccountId), u64>,
    asked_notes_ms: BTreeMap<(DatanetId, AccountId), u64>,
    same_head_heard_ms: BTreeMap<DatanetId, u64>,
}

/// Whether an ask of `subject` is due, and notes it; `asked` stays small.
pub(super) fn ask_due<K: Ord + Copy>(asked: &mut BTreeMap<K, u64>, subject: K, now_ms: u64) -> bool {
    if asked.get(&subject).is_some_and(|asked| now_ms.saturating_sub(*asked) < RETRY_MS) {
        return false;
    }
    if asked.len() >= ASKS_MAX {
        asked.retain(|_, asked| now_ms.saturating_sub(*asked) < RETRY_MS);
    }
    if asked.len() < ASKS_MAX {
        asked.insert(subject, now_ms);
    }
    true
}

impl Datanets {
    pub(super) fn apply_genesis(&mut self, network: NetworkId, genesis: Signed<Genesis>) {
        if let Ok(datanet) = Datanet::begin(network, genesis) {
            self.known.entry(datanet.id()).or_insert(datanet);
        }
    }

    pub(super) fn apply_entry(&mut self, entry: Signed<Contribution>) {
        self.await_shard(&entry);
        if let Some(datanet) = self.known.get_mut(&entry.body.datanet) {
            // Checked before it became a fact; a second time is a no-op.
            let _ = datanet.append(entry);
        }
    }

    pub(super) fn apply_note(&mut self, note: Signed<Note>) {
        if let Some(datanet) = self.known.get_mut(&note.body.datanet) {
            // Checked before it became a fact; a second time is a no-op.
            let _ = datanet.append_note(note);
        }
    }

    fn await_shard(&mut self, entry: &Signed<Contribution>) {
        let shard = entry.body.shard;
        if !self.held.contains(&shard) {
            let missing = Missing { bytes: entry.body.bytes, contributor: entry.account, asked_ms: 0, tries: 0 };
            self.missing.entry(shard).or_insert(missing);
        }
    }

    pub(super) fn apply_held(&mut self, blob: Hash) {
        self.held.insert(blob);
        self.missing.remove(&blob);
    }

    pub(super) fn get(&self, id: &DatanetId) -> Option<&Datanet> {
        self.known.get(id)
    }

    pub(super) fn get_mut(&mut self, id: &DatanetId) -> Option<&mut Datanet> {
        self.known.get_mut(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Datanet> {
        self.known.values()
    }

    pub(super) fn is_held(&self, blob: &Hash) -> bool {
        self.held.contains(blob)
    }

    /// Whether every entry and shard of `head` is here.
    pub(super) fn has_all(&self, head: &Head) -> bool {
        let Some(entries) = self.known.get(&head.datanet).and_then(|datanet| datanet.version(head)) else {
            return false;
        };
        entries.iter().all(|dated| self.held.contains(&dated.entry.body.shard))
    }
}

impl Node {
    pub(super) fn create_datanet(&mut self, genesis: Genesis, out: &mut Out) {
        let genesis = Signed::new(self.config.network, &self.config.account_key, genesis);
        self.take_genesis(genesis, out);
    }

    fn take_genesis(&mut self, genesis: Signed<Genesis>, out: &mut Out) {
        let id = DatanetId(genesis.id(self.config.network).0);
        let of_account =
            || self.datanets.known.values().filter(|known| known.genesis().account == genesis.account).count();
        let room = self.datanets.known.len() < DATANETS_MAX && of_account() < DATANETS_MAX / ACCOUNT_PART;
        let own = genesis.account == self.account;
        if !(room || own) || self.datanets.known.contains_key(&id) {
            return;
        }
        if Datanet::begin(self.config.network, genesis.clone()).is_ok() {
            self.record(Fact::Genesis(Box::new(genesis)), out);
            out.event(Event::DatanetKnown(id));
        }
    }

    pub(super) fn contribute(&mut self, now_ms: u64, shard: NewShard, out: &mut Out) {
        let Some(datanet) = self.datanets.get(&shard.datanet) else { return };
        if datanet.all_entries().any(|entry| entry.account == self.account && entry.body.shard == shard.shard) {
            return;
        }
        let (sequence, previous) = datanet.log_position(&self.account);
        let opening = self.opening(&shard.datanet, &shard.records_root);
        let body = Contribution {
            datanet: shard.datanet,
            sequence,
            previous,
            shard: shard.shard,
            bytes: shard.bytes,
            records: shard.records,
            records_root: shard.records_root,
            payout: self.config.chain_address,
            claimed_ms: now_ms,
            opening,
        };
        let entry = Signed::new(self.config.network, &self.config.account_key, body);
        self.record(Fact::ShardHeld(shard.shard), out);
        if self.take_entry(None, entry, out) {
            self.announce_head(now_ms, shard.datanet, out);
        }
    }

    /// Appends a checked entry; says whether it was new.
    fn take_entry(&mut self, from: Option<NodeId>, entry: Signed<Contribution>, out: &mut Out) -> bool {
        let Some(datanet) = self.datanets.known.get_mut(&entry.body.datanet) else { return false };
        let id = datanet.id();
        match datanet.append(entry.clone()) {
            Ok(Appended::New) => {
                let head = datanet.head();
                self.datanets.await_shard(&entry);
                out.fact(Fact::Contribution(Box::new(entry)));
                out.event(Event::HeadMoved(head));
                true
            }
            Ok(Appended::Known) => false,
            Err(error) => {
                self.not_appended(from, id, &error, out);
                false
            }
        }
    }

    /// What follows of an entry or note that a log did not take.
    pub(super) fn not_appended(
        &mut self,
        from: Option<NodeId>,
        datanet: DatanetId,
        error: &DatanetError,
        out: &mut Out,
    ) {
        match error {
            DatanetError::Gap { .. } | DatanetError::Full => {}
            DatanetError::Fork { contributor, .. } => {
                out.event(Event::ForkFound { datanet, contributor: *contributor });
            }
            error => self.blame(from, error.to_string(), out),
        }
    }

    /// Announces heads that nobody else announced lately (the suppression of Trickle, RFC 6206, section 4.2),
    /// so that a datanet costs the whole network one message an interval, not one for each peer.
    pub(super) fn announce_datanets(&mut self, now_ms: u64, out: &mut Out) {
        let heard = &self.datanets.same_head_heard_ms;
        let quiet = |id: &DatanetId| heard.get(id).is_none_or(|heard| now_ms.saturating_sub(*heard) >= ANNOUNCE_MS);
        let ids: Vec<DatanetId> = self.datanets.known.keys().copied().filter(quiet).collect();
        for id in ids {
            self.announce_head(now_ms, id, out);
        }
    }

    pub(super) fn announce_head(&mut self, now_ms: u64, id: DatanetId, out: &mut Out) {
        if let Some(datanet) = self.datanets.get(&id) {
            let head = datanet.head();
            self.publish(now_ms, Message::Head(head), out);
        }
    }

    pub(super) fn genesis(&mut self, from: NodeId, genesis: Signed<Genesis>, out: &mut Out) {
        match Datanet::begin(self.config.network, genesis.clone()) {
            Ok(_) => self.take_genesis(genesis, out),
            Err(error) => self.blame(Some(from), error.to_string(), out),
        }
    }

    pub(super) fn genesis_wanted(&mut self, now_ms: u64, from: NodeId, id: DatanetId, out: &mut Out) {
        if let Some(datanet) = self.datanets.get(&id) {
            let genesis = Box::new(datanet.genesis().clone());
            self.send(now_ms, from, &Message::Genesis(genesis), out);
        }
    }

    /// Compares a peer's head with ours and asks for what we lack.
    pub(super) fn head(&mut self, now_ms: u64, from: NodeId, head: &Head, out: &mut Out) {
        let Some(datanet) = self.datanets.get(&head.datanet) else {
            if ask_due(&mut self.datanets.asked_genesis_ms, head.datanet, now_ms) {
                self.send(now_ms, from, &Message::GenesisWanted(head.datanet), out);
            }
            return;
        };
        if datanet.head() == *head {
            self.datanets.same_head_heard_ms.insert(head.datanet, now_ms);
            return;
        }
        let id = head.datanet;
        let lacking = |logs: &[LogHead], known: &dyn Fn(&AccountId) -> u64| -> Vec<LogWanted> {
            let lacking = logs.iter().filter(|log| known(&log.contributor) < log.length);
            lacking
                .map(|log| LogWanted { datanet: id, contributor: log.contributor, from: known(&log.contributor) })
                .collect()
        };
        let wanted = lacking(&head.logs, &|contributor| datanet.log_position(contributor).0);
        let notes = lacking(&head.notes, &|account| datanet.note_position(account).0);
        for request in wanted {
            if ask_due(&mut self.datanets.asked_log_ms, (id, request.contributor), now_ms) {
                self.send(now_ms, from, &Message::LogWanted(request), out);
            }
        }
        for request in notes {
            if ask_due(&mut self.datanets.asked_notes_ms, (id, request.contributor), now_ms) {
                self.send(now_ms, from, &Message::NotesWanted(request), out);
            }
        }
    }

    pub(super) fn log_wanted(&mut self, now_ms: u64, from: NodeId, wanted: LogWanted, out: &mut Out) {
        let Some(datanet) = self.datanets.get(&wanted.datanet) else { return };
        let entries = datanet.entries(&wanted.contributor, wanted.from, LOG_BATCH_MAX);
        if !entries.is_empty() {
            self.send(now_ms, from, &Message::LogEntries(entries), out);
        }
    }

    pub(super) fn log_entries(&mut self, from: NodeId, entries: Vec<Signed<Contribution>>, out: &mut Out) {
        for entry in entries {
            self.take_entry(Some(from), entry, out);
        }
    }

    /// Asks for shards that are not here yet: every node keeps the datanets it knows, so that three copies
    /// exist in a small network without a plan.
    pub(super) fn datanets_tick(&mut self, now_ms: u64, out: &mut Out) {
        let due: Vec<(Hash, u64, AccountId, u64)> = self
            .datanets
            .missing
            .iter_mut()
            .filter(|(_, missing)| now_ms.saturating_sub(missing.asked_ms) >= FETCH_RETRY_MS)
            .take(REPEATS_PER_TICK)
            .map(|(blob, missing)| {
                missing.asked_ms = now_ms;
                missing.tries += 1;
                (*blob, missing.bytes, missing.contributor, missing.tries)
            })
            .collect();
        for (blob, bytes, contributor, tries) in due {
            let providers = self.providers(now_ms, &blob, &contributor, tries);
            out.push(Output::Fetch { blob, bytes, providers });
        }
    }

    /// The contributor's node first, then others who are heard, in an order that differs by node and try so
    /// that no peer carries all the load and none that lacks the shard is asked again and again.
    fn providers(&self, now_ms: u64, blob: &Hash, contributor: &AccountId, tries: u64) -> Vec<NodeId> {
        let owner = self.peers.node_of(contributor).filter(|node| *node != self.id);
        let mut others = self.peers.fresh(now_ms, |_| true);
        let mut subject = blob.0.to_vec();
        subject.extend_from_slice(&tries.to_le_bytes());
        let draw = self.derived("provider", &subject).0;
        let start = usize::from(u16::from_le_bytes([draw[0], draw[1]])) % others.len().max(1);
        others.rotate_left(start);
        owner.into_iter().chain(others.into_iter().filter(|node| Some(*node) != owner)).take(ADDRESSES_MAX).collect()
    }

    pub(super) fn datanets_fetched(&mut self, blob: Hash, out: &mut Out) {
        if self.datanets.missing.contains_key(&blob) {
            self.record(Fact::ShardHeld(blob), out);
        }
    }
}
