//! Notes in a node: committing to records, attesting what it sees, and fetching notes that are missing.
//!
//! Invariant: what a node attests is durable here before it says so, and each thing is attested once. A note is made only
//! from what this node knows by itself and its own clock, never on anybody's demand.

use super::{Event, Fact, Node, Out};
use crate::datanet::Appended;
use crate::envelope::Signed;
use crate::id::{DatanetId, Hash, NodeId};
use crate::limits::LOG_BATCH_MAX;
use crate::message::{LogWanted, Message};
use crate::note::{Note, NoteLog, Opening, Says};

impl Node {
    /// What opens this node's commitment to records with this root, if it made one.
    #[must_use]
    pub fn opening(&self, datanet: &DatanetId, records_root: &Hash) -> Option<Opening> {
        self.datanets.get(datanet)?.opening(&self.account, records_root, self.salt(datanet, records_root))
    }

    /// The same after a restart, so that nothing but the records has to be kept until they are shown.
    fn salt(&self, datanet: &DatanetId, records_root: &Hash) -> Hash {
        self.derived("commitment", &[datanet.0, records_root.0].concat())
    }

    pub(super) fn commit(&mut self, now_ms: u64, datanet: DatanetId, records_root: Hash, out: &mut Out) {
        if self.opening(&datanet, &records_root).is_some() {
            return;
        }
        let salt = self.salt(&datanet, &records_root);
        let commitment = Opening::commitment(&datanet, &self.account, &records_root, &salt);
        self.say(now_ms, datanet, Says::Commitment(commitment), out);
    }

    /// As a notary, attests what is new.
    pub(super) fn attest(&mut self, now_ms: u64, out: &mut Out) {
        let notarised = self.datanets.iter().filter(|datanet| datanet.is_notary(&self.account));
        let unattested =
            notarised.filter_map(|datanet| Some((datanet.id(), datanet.unattested(&self.account, now_ms)?)));
        for (id, seen) in unattested.collect::<Vec<_>>() {
            self.say(now_ms, id, Says::Attestation(seen), out);
        }
    }

    fn say(&mut self, now_ms: u64, id: DatanetId, says: Says, out: &mut Out) {
        let Some(datanet) = self.datanets.get(&id) else { return };
        let (sequence, previous) = datanet.note_position(&self.account);
        let newest_ms = datanet.notes_of(&self.account).map_or(0, NoteLog::newest_ms);
        let at_ms = now_ms.max(newest_ms.saturating_add(1));
        let body = Note { datanet: id, sequence, previous, at_ms, says };
        let note = Signed::new(self.config.network, &self.config.account_key, body);
        if self.take_note(None, note, out) {
            self.announce_head(now_ms, id, out);
        }
    }

    /// Appends a checked note; says whether it was new.
    fn take_note(&mut self, from: Option<NodeId>, note: Signed<Note>, out: &mut Out) -> bool {
        let Some(datanet) = self.datanets.get_mut(&note.body.datanet) else { return false };
        let id = datanet.id();
        match datanet.append_note(note.clone()) {
            Ok(Appended::New) => {
                let head = datanet.head();
                out.fact(Fact::Noted(Box::new(note)));
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

    pub(super) fn notes_wanted(&mut self, now_ms: u64, from: NodeId, wanted: LogWanted, out: &mut Out) {
        let Some(datanet) = self.datanets.get(&wanted.datanet) else { return };
        let notes = datanet.notes_from(&wanted.contributor, wanted.from, LOG_BATCH_MAX);
        if !notes.is_empty() {
            self.send(now_ms, from, &Message::Notes(notes), out);
        }
    }

    pub(super) fn notes(&mut self, from: NodeId, notes: Vec<Signed<Note>>, out: &mut Out) {
        for note in notes {
            self.take_note(Some(from), note, out);
        }
    }
}
