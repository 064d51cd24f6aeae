//! Datanets in a node: spreading genesis and heads, fetching missing log entries and shards.
//!
//! Invariant: a log entry is durable before it is announced; a shard counts as held only once its bytes were
//! checked against its hash by the store.

use std::collections::{BTreeMap, BTreeSet};

use super::io::NewShard;
use super::{Event, Fact, Node, Out, Output, PeerView};
use crate::datanet::{Appended, Contribution, Datanet, DatanetError, Genesis, Head};
use crate::envelope::{NetworkId, Signed};
use crate::id::{DatanetId, Hash, NodeId};
use crate::limits::{DATANETS_MAX, FETCH_RETRY_MS, LOG_BATCH_MAX, LOG_ENTRIES_MAX};
use crate::message::{LogWanted, Message};

#[derive(Default)]
pub(super) struct Datanets {
    known: BTreeMap<DatanetId, Datanet>,
    held: BTreeSet<Hash>,
    asked_ms: BTreeMap<Hash, u64>,
}

impl Datanets {
    pub(super) fn apply_genesis(&mut self, network: NetworkId, genesis: Signed<Genesis>) {
        if let Ok(datanet) = Datanet::begin(network, genesis) {
            self.known.entry(datanet.id()).or_insert(datanet);
        }
    }

    pub(super) fn apply_entry(&mut self, entry: Signed<Contribution>) {
        if let Some(datanet) = self.known.get_mut(&entry.body.datanet) {
            // Checked before it became a fact; a second time is a no-op.
            let _ = datanet.append(entry);
        }
    }

    pub(super) fn apply_held(&mut self, blob: Hash) {
        self.held.insert(blob);
        self.asked_ms.remove(&blob);
    }

    pub(super) fn get(&self, id: &DatanetId) -> Option<&Datanet> {
        self.known.get(id)
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
        entries.iter().all(|entry| self.held.contains(&entry.body.shard))
    }
}

impl Node {
    pub(super) fn create_datanet(&mut self, genesis: Genesis, out: &mut Out) {
        let genesis = Signed::new(self.config.network, &self.config.account_key, genesis);
        self.take_genesis(genesis, out);
    }

    fn take_genesis(&mut self, genesis: Signed<Genesis>, out: &mut Out) {
        let id = DatanetId(genesis.id(self.config.network).0);
        if self.datanets.known.contains_key(&id) || self.datanets.known.len() >= DATANETS_MAX {
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
                out.fact(Fact::Contribution(Box::new(entry)));
                out.event(Event::HeadMoved(head));
                true
            }
            Ok(Appended::Known) | Err(DatanetError::Gap { .. } | DatanetError::Full) => false,
            Err(DatanetError::Fork { contributor, .. }) => {
                out.event(Event::ForkFound { datanet: id, contributor });
                false
            }
            Err(error) => {
                self.blame(from, error.to_string(), out);
                false
            }
        }
    }

    pub(super) fn announce_datanets(&mut self, now_ms: u64, out: &mut Out) {
        let ids: Vec<DatanetId> = self.datanets.known.keys().copied().collect();
        for id in ids {
            self.announce_head(now_ms, id, out);
        }
    }

    fn announce_head(&mut self, now_ms: u64, id: DatanetId, out: &mut Out) {
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
            self.send(now_ms, from, &Message::GenesisWanted(head.datanet), out);
            return;
        };
        let wanted: Vec<LogWanted> = head
            .logs
            .iter()
            .filter_map(|log| {
                let (length, _) = datanet.log_position(&log.contributor);
                let missing = length < log.length && log.length <= LOG_ENTRIES_MAX;
                missing.then_some(LogWanted { datanet: head.datanet, contributor: log.contributor, from: length })
            })
            .collect();
        for request in wanted {
            self.send(now_ms, from, &Message::LogWanted(request), out);
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
        let missing: Vec<(Hash, u64, crate::id::AccountId)> = self
            .datanets
            .iter()
            .flat_map(Datanet::all_entries)
            .filter(|entry| !self.datanets.held.contains(&entry.body.shard))
            .map(|entry| (entry.body.shard, entry.body.bytes, entry.account))
            .collect();
        for (blob, bytes, contributor) in missing {
            let asked = self.datanets.asked_ms.get(&blob).copied().unwrap_or(0);
            if now_ms.saturating_sub(asked) >= FETCH_RETRY_MS {
                let providers = self.providers(now_ms, &contributor);
                self.datanets.asked_ms.insert(blob, now_ms);
                out.push(Output::Fetch { blob, bytes, providers });
            }
        }
    }

    /// The contributor's node first, then everybody else who is heard.
    fn providers(&self, now_ms: u64, contributor: &crate::id::AccountId) -> Vec<NodeId> {
        let owner = self.peers.node_of(contributor);
        let others = self.peers.iter().filter(|(peer, view)| Some(**peer) != owner && PeerView::is_fresh(view, now_ms));
        owner.into_iter().chain(others.map(|(peer, _)| *peer)).take(crate::limits::ADDRESSES_MAX).collect()
    }

    pub(super) fn datanets_fetched(&mut self, blob: Hash, out: &mut Out) {
        let wanted = self.datanets.iter().flat_map(Datanet::all_entries).any(|entry| entry.body.shard == blob);
        if wanted && !self.datanets.is_held(&blob) {
            self.record(Fact::ShardHeld(blob), out);
        }
    }
}
