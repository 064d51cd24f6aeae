//! Cards in a node: spreading heads and the changes that are missing.
//!
//! Invariant: a change counts, is shown and is passed on only once the driver found that it leaves a readable card on
//! top of those before it, and once it is durable. Changes are asked for, a batch at a time, from a peer whose head
//! shows more; whoever holds a card can so give all of it to one that comes later.

use std::collections::BTreeMap;

use super::datanets::ask_due;
use super::io::CardFinding;
use super::{Event, Fact, Node, Out, Output};
use crate::card::{CardChange, CardError, CardHead, CardLogs};
use crate::datanet::{Appended, Genesis};
use crate::envelope::{NetworkId, Signed};
use crate::id::{AccountId, DatanetId, NodeId};
use crate::limits::{ANNOUNCE_MS, CARDS_MAX_BYTES};
use crate::message::Message;

#[derive(Default)]
pub(super) struct Cards {
    /// One for each datanet known.
    known: BTreeMap<DatanetId, CardLogs>,
    /// What those cards take that this node may not edit.
    kept_bytes: usize,
    /// Each peer by itself: one that boasts of changes it never sends does not keep us from the others.
    asked_ms: BTreeMap<(DatanetId, NodeId), u64>,
    same_head_heard_ms: BTreeMap<DatanetId, u64>,
}

impl Cards {
    pub(super) fn apply_genesis(&mut self, network: NetworkId, genesis: &Signed<Genesis>) {
        let id = DatanetId(genesis.id(network).0);
        self.known.entry(id).or_insert_with(|| CardLogs::begin(network, genesis));
    }

    pub(super) fn apply_change(&mut self, own: AccountId, entry: Signed<CardChange>) {
        let Some(logs) = self.known.get_mut(&entry.body.datanet) else { return };
        let before = logs.cost();
        // Checked before it became a fact; a second time is a no-op.
        let _ = logs.append(entry);
        if !logs.is_editor(&own) {
            self.kept_bytes += logs.cost() - before;
        }
    }

    pub(super) fn get(&self, id: &DatanetId) -> Option<&CardLogs> {
        self.known.get(id)
    }

    /// The card, when more of it may be taken: a node's own are kept always.
    fn with_room(&self, id: &DatanetId, own: &AccountId) -> Option<&CardLogs> {
        self.known.get(id).filter(|logs| self.kept_bytes < CARDS_MAX_BYTES || logs.is_editor(own))
    }
}

impl Node {
    /// Signs and takes a change that this node's driver made.
    pub(super) fn edit_card(&mut self, now_ms: u64, datanet: DatanetId, change: Vec<u8>, out: &mut Out) {
        let Some(logs) = self.cards.get(&datanet) else { return };
        let (sequence, previous) = logs.next_place(&self.account);
        let body = CardChange { datanet, sequence, previous, change };
        let entry = Signed::new(self.config.network, &self.config.account_key, body);
        if logs.check(&entry) == Ok(Appended::New) {
            self.record(Fact::CardChanged(Box::new(entry)), out);
            out.event(Event::CardChanged(datanet));
            self.announce_card(now_ms, datanet, out);
        }
    }

    /// Announces the cards that nobody else announced lately, like the heads of datanets.
    pub(super) fn announce_cards(&mut self, now_ms: u64, out: &mut Out) {
        let heard = &self.cards.same_head_heard_ms;
        let quiet = |id: &DatanetId| heard.get(id).is_none_or(|heard| now_ms.saturating_sub(*heard) >= ANNOUNCE_MS);
        let written = self.cards.known.iter().filter(|(_, logs)| !logs.changes().is_empty());
        let ids: Vec<DatanetId> = written.map(|(id, _)| *id).filter(quiet).collect();
        for id in ids {
            self.announce_card(now_ms, id, out);
        }
    }

    fn announce_card(&mut self, now_ms: u64, id: DatanetId, out: &mut Out) {
        if let Some(logs) = self.cards.get(&id) {
            let head = logs.head();
            self.publish(now_ms, Message::CardHead(head), out);
        }
    }

    /// Compares a peer's head with ours and asks for what we lack. A datanet that is not known here comes with its
    /// own head first.
    pub(super) fn card_head(&mut self, now_ms: u64, from: NodeId, head: &CardHead, out: &mut Out) {
        let id = head.datanet;
        let Some(logs) = self.cards.with_room(&id, &self.account) else { return };
        let own = logs.head();
        if own == *head {
            self.cards.same_head_heard_ms.insert(id, now_ms);
        } else if logs.lacks_some_of(head) && ask_due(&mut self.cards.asked_ms, (id, from), now_ms) {
            self.send(now_ms, from, &Message::CardWanted(own), out);
        }
    }

    pub(super) fn card_wanted(&mut self, now_ms: u64, from: NodeId, head: &CardHead, out: &mut Out) {
        let Some(logs) = self.cards.get(&head.datanet) else { return };
        let changes = logs.after(head);
        if !changes.is_empty() {
            self.send(now_ms, from, &Message::CardChanges(changes), out);
        }
    }

    /// Has the driver check those changes of a batch that are new and in order.
    pub(super) fn card_changes(&mut self, from: NodeId, changes: Vec<Signed<CardChange>>, out: &mut Out) {
        let Some(datanet) = changes.first().map(|entry| entry.body.datanet) else { return };
        let Some(logs) = self.cards.with_room(&datanet, &self.account) else { return };
        let screened = logs.screen(changes);
        if !screened.fit.is_empty() {
            out.push(Output::CheckCard { from, datanet, changes: screened.fit });
        }
        match screened.refused {
            // Answers overtake each other; a fork is its editor's doing and not the sender's.
            None | Some(CardError::Gap { .. }) => {}
            Some(CardError::Fork { editor, .. }) => out.event(Event::ForkFound { datanet, contributor: editor }),
            Some(error) => self.blame(Some(from), error.to_string(), out),
        }
    }

    /// Takes the changes that the driver found good, and asks the sender whether there are more.
    pub(super) fn card_checked(
        &mut self,
        now_ms: u64,
        from: NodeId,
        datanet: DatanetId,
        checked: Vec<(Signed<CardChange>, CardFinding)>,
        out: &mut Out,
    ) {
        let mut taken = false;
        for (entry, finding) in checked {
            match finding {
                CardFinding::Good => taken |= self.take_change(entry, out),
                CardFinding::Early => {}
                CardFinding::Broken(reason) => {
                    self.blame(Some(from), format!("sent a change that is none of a card: {reason}"), out);
                }
            }
        }
        let logs = self.cards.with_room(&datanet, &self.account).filter(|_| taken);
        if let Some(head) = logs.map(CardLogs::head) {
            out.event(Event::CardChanged(datanet));
            self.send(now_ms, from, &Message::CardWanted(head), out);
        }
    }

    /// Another answer may have brought the same change while this one was checked.
    fn take_change(&mut self, entry: Signed<CardChange>, out: &mut Out) -> bool {
        let logs = self.cards.get(&entry.body.datanet);
        let is_new = logs.is_some_and(|logs| logs.check(&entry) == Ok(Appended::New));
        if is_new {
            self.record(Fact::CardChanged(Box::new(entry)), out);
        }
        is_new
    }
}
