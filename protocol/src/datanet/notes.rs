//! The notes of a datanet: taking them, and what a notary has still to attest.

use super::{Appended, Datanet, DatanetError};
use crate::envelope::Signed;
use crate::id::{AccountId, Hash};
use crate::limits::{NOTARIES_MAX, NOTE_LOGS_MAX, NOTES_BATCH_MAX_BYTES};
use crate::note::{Note, NoteLog, Opening, Says, Seen};
use crate::wire;

impl Datanet {
    /// Whether `account` attests here.
    #[must_use]
    pub fn is_notary(&self, account: &AccountId) -> bool {
        self.genesis.body.notaries.contains(account)
    }

    /// Of how many notaries the word is needed: more than half.
    #[must_use]
    pub fn quorum(&self) -> usize {
        self.genesis.body.notaries.len() / 2 + 1
    }

    /// Checks and appends one note.
    ///
    /// # Errors
    /// Says why it is refused; a refused note changes nothing.
    pub fn append_note(&mut self, note: Signed<Note>) -> Result<Appended, DatanetError> {
        let body = &note.body;
        if body.datanet != self.id {
            return Err(DatanetError::OtherDatanet);
        }
        match body.says {
            Says::Attestation(_) if !self.is_notary(&note.account) => {
                return Err(DatanetError::NotNotary(note.account));
            }
            Says::Attestation(_) => {}
            Says::Commitment(_) => self.check_member(note.account)?,
        }
        let known = self.notes.get(&note.account).map_or(&[][..], NoteLog::notes);
        let expected = crate::note::length_of(known);
        if body.sequence > expected {
            return Err(DatanetError::Gap { expected, got: body.sequence });
        }
        let id = note.id(self.network);
        let there = usize::try_from(body.sequence).ok().and_then(|place| known.get(place));
        if there.is_some_and(|(known, _)| *known == id) {
            return Ok(Appended::Known);
        }
        if !self.has_room_for_notes_of(&note.account) {
            return Err(DatanetError::Full);
        }
        note.verify(self.network)?;
        let newest = known.last().map(|(id, _)| *id).unwrap_or_default();
        if there.is_some() || body.previous != newest {
            return Err(DatanetError::Fork { contributor: note.account, sequence: body.sequence });
        }
        let empty = NoteLog::default();
        if let Some(fault) = self.notes.get(&note.account).unwrap_or(&empty).fault(&note.account, body) {
            return Err(DatanetError::Note(fault));
        }
        self.notes.entry(note.account).or_default().push(id, note);
        Ok(Appended::New)
    }

    /// Commitments of strangers never take the room of the notaries.
    fn has_room_for_notes_of(&self, account: &AccountId) -> bool {
        let others = || self.notes.keys().filter(|other| !self.is_notary(other)).count();
        self.is_notary(account) || self.notes.contains_key(account) || others() < NOTE_LOGS_MAX - NOTARIES_MAX
    }

    /// How many notes of `account` are known, and the id of the newest.
    #[must_use]
    pub fn note_position(&self, account: &AccountId) -> (u64, Hash) {
        self.notes.get(account).map(NoteLog::position).unwrap_or_default()
    }

    /// The notes of `account`.
    #[must_use]
    pub fn notes_of(&self, account: &AccountId) -> Option<&NoteLog> {
        self.notes.get(account)
    }

    /// Notes of `account` from place `from`: as many as fit one message.
    #[must_use]
    pub fn notes_from(&self, account: &AccountId, from: u64, limit: usize) -> Vec<Signed<Note>> {
        let log = self.notes.get(account).map_or(&[][..], NoteLog::notes);
        let mut room = NOTES_BATCH_MAX_BYTES;
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let fitting = log.iter().skip(from).take(limit).map_while(|(_, note)| {
            room = room.checked_sub(wire::encode(note).len())?;
            Some(note.clone())
        });
        fitting.collect()
    }

    /// What `notary` knows, has not attested yet, and may at this time.
    #[must_use]
    pub fn unattested(&self, notary: &AccountId, now_ms: u64) -> Option<Seen> {
        let empty = NoteLog::default();
        let own = self.notes.get(notary).unwrap_or(&empty);
        let head = self.head();
        let logs = head.logs.into_iter().filter(|log| own.is_log_due(log, now_ms)).collect();
        // Its own notes stand in their order without anybody's word; attestations of others need none either, or two
        // notaries would attest one another's for ever.
        let others = self.notes.iter().filter(|(account, _)| *account != notary);
        let notes = others
            .filter_map(|(account, log)| log.up_to_commitment(*account))
            .filter(|log| own.is_note_due(log, now_ms))
            .collect();
        let seen = Seen { logs, notes };
        (seen.named() > 0).then_some(seen)
    }

    /// The opening of `account`'s commitment to records with this root, if it made one with this salt.
    #[must_use]
    pub fn opening(&self, account: &AccountId, records_root: &Hash, salt: Hash) -> Option<Opening> {
        let wanted = Says::Commitment(Opening::commitment(&self.id, account, records_root, &salt));
        let place = self.notes.get(account)?.notes().iter().position(|(_, note)| note.body.says == wanted)?;
        Some(Opening { note: u64::try_from(place).ok()?, salt })
    }
}
