//! Notes: who committed to what, and who saw what when. Beside its records every account has a log of notes in a datanet.
//!
//! ```text
//!  contributor        note: commitment (a hash)          records, with the opening of that hash
//!  ───────────────────────●───────────────────────────────────────●──────────────────────────►
//!  notary's log     ────────────■ attestation: seen so far ───────────■ attestation ──────────►
//! ```
//!
//! A contributor's own word for when it had a record is worth nothing against another's. So a datanet's genesis names
//! notaries. Each signs, as soon as it hears of them, which entries and commitments it has seen: the length and the newest
//! id of every log that grew. An entry's date is the time by which a majority of the notaries had seen it, or a commitment
//! to exactly its records. A dated claim goes before every undated one, the earlier date before the later; words decide only
//! between undated ones and those that the notaries saw at once.
//!
//! What that withstands. Nobody can date a claim earlier than a notary of the majority saw it, so fewer than a majority of
//! lying notaries backdate nothing. A notary's log is hash-linked and its times strictly rise: once others hold its word on
//! a commitment, even a sole notary can put nothing before it, unless it signs two logs, which is noticed and in which the
//! first is kept. Who waits for the attestation of a commitment before it shows records therefore keeps them; who
//! publishes at once can be outrun on the way to the notaries. Copying another's commitment gains nothing: it names its
//! account, and opens only to the records that it was made of.
//!
//! Invariant: a log of notes only grows, its times strictly rise, each attestation names only what its notary has not
//! named before, and whether a note fits depends on the genesis and its own log alone.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::datanet::LogHead;
use crate::envelope::{Signed, Statement};
use crate::id::{AccountId, DatanetId, Hash};
use crate::limits::{
    ATTESTATIONS_MAX, ATTESTED_AT_ONCE, ATTESTED_AT_ONE_PACE, ATTESTED_MAX, ATTESTED_OF_ONE_MAX, ATTESTED_PAUSE_MS,
    COMMITMENTS_MAX, HEAD_CONTRIBUTORS_MAX, NOTE_LOGS_MAX,
};

/// One entry of an account's log of notes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Note {
    /// The datanet.
    pub datanet: DatanetId,
    /// The place in the account's log of notes, from zero.
    pub sequence: u64,
    /// The id of the note before it; zero for the first.
    pub previous: Hash,
    /// When its signer says it was made, in milliseconds since 1970; later than the note before it.
    pub at_ms: u64,
    /// What it says.
    pub says: Says,
}

impl Statement for Note {
    const KIND: u16 = 15;
}

/// What a note says.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Says {
    /// "I have the records that this opens to" ([`Opening::commitment`]).
    Commitment(Hash),
    /// "I have seen these".
    Attestation(Seen),
}

/// Logs that grew since their notary's attestation before, each with how far it is seen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode, Serialize, Deserialize)]
pub struct Seen {
    /// Contributors' logs, ordered by account.
    pub logs: Vec<LogHead>,
    /// Logs of notes with new commitments, ordered by account.
    pub notes: Vec<LogHead>,
}

impl Seen {
    fn is_well_formed(&self) -> bool {
        LogHead::are_well_formed(&self.logs, HEAD_CONTRIBUTORS_MAX)
            && LogHead::are_well_formed(&self.notes, NOTE_LOGS_MAX)
            && self.named() > 0
    }

    /// How many logs it names.
    #[must_use]
    pub fn named(&self) -> usize {
        self.logs.len() + self.notes.len()
    }
}

/// What shows, when records are published, that their contributor had committed to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Opening {
    /// The place of the commitment in the contributor's log of notes.
    pub note: u64,
    /// Known to the contributor alone until now, so that nobody could try records against the commitment.
    pub salt: Hash,
}

impl Opening {
    /// What `account` commits to in `datanet`, for records with this Merkle root over their ids.
    #[must_use]
    pub fn commitment(datanet: &DatanetId, account: &AccountId, records_root: &Hash, salt: &Hash) -> Hash {
        let bytes = [datanet.0, account.0, records_root.0, salt.0].concat();
        Hash(blake3::derive_key("tributary commitment to records v1", &bytes))
    }
}

/// The notes of one account.
#[derive(Debug, Clone, Default)]
pub struct NoteLog {
    notes: Vec<(Hash, Signed<Note>)>,
    seen_logs: BTreeMap<AccountId, Sighted>,
    seen_notes: BTreeMap<AccountId, Sighted>,
    named: usize,
}

/// What this account has attested of one log.
#[derive(Debug, Clone, Copy, Default)]
struct Sighted {
    length: u64,
    /// How often it named it.
    times: u32,
    /// When it did so last.
    at_ms: u64,
}

impl Sighted {
    /// Whether it may be named again: at once for half of what a notary has for one log, then after pauses that double, so that a log
    /// which never stops growing takes years to use up its part, and nothing of what is there for others. While it waits, who
    /// copies its newest entries may be dated first: an honest contributor does not come there.
    fn is_due(&self, now_ms: u64) -> bool {
        let Some(paced) = self.times.checked_sub(ATTESTED_AT_ONCE) else { return true };
        let pause_ms = ATTESTED_PAUSE_MS.checked_shl(paced / ATTESTED_AT_ONE_PACE).unwrap_or(u64::MAX);
        // The distance, since a clock that was once ahead must not make it wait for years.
        self.times < ATTESTED_OF_ONE_MAX && now_ms.abs_diff(self.at_ms) >= pause_ms
    }
}

impl NoteLog {
    /// All notes with their ids.
    #[must_use]
    pub fn notes(&self) -> &[(Hash, Signed<Note>)] {
        &self.notes
    }

    /// How many there are, and the id of the newest.
    #[must_use]
    pub fn position(&self) -> (u64, Hash) {
        (length_of(&self.notes), self.notes.last().map(|(id, _)| *id).unwrap_or_default())
    }

    /// The time of the newest; zero without any.
    #[must_use]
    pub fn newest_ms(&self) -> u64 {
        self.notes.last().map_or(0, |(_, note)| note.body.at_ms)
    }

    /// How far this account has seen a contributor's log.
    #[must_use]
    pub fn seen_log(&self, contributor: &AccountId) -> u64 {
        self.seen_logs.get(contributor).map_or(0, |sighted| sighted.length)
    }

    /// How far this account has seen another's log of notes.
    #[must_use]
    pub fn seen_note(&self, account: &AccountId) -> u64 {
        self.seen_notes.get(account).map_or(0, |sighted| sighted.length)
    }

    /// Whether a contributor's log of this length is to be attested now.
    pub(crate) fn is_log_due(&self, log: &LogHead, now_ms: u64) -> bool {
        is_due(&self.seen_logs, log, now_ms)
    }

    /// The same of a log of notes.
    pub(crate) fn is_note_due(&self, log: &LogHead, now_ms: u64) -> bool {
        is_due(&self.seen_notes, log, now_ms)
    }

    /// The log up to its newest commitment, if it has any.
    #[must_use]
    pub fn up_to_commitment(&self, account: AccountId) -> Option<LogHead> {
        let is_commitment = |(_, note): &(Hash, Signed<Note>)| matches!(note.body.says, Says::Commitment(_));
        let place = self.notes.iter().rposition(is_commitment)?;
        let (newest, length) = (self.notes.get(place)?.0, u64::try_from(place + 1).ok()?);
        Some(LogHead { contributor: account, length, newest })
    }

    /// Why `note` can't be the next of `account`.
    pub(crate) fn fault(&self, account: &AccountId, note: &Note) -> Option<&'static str> {
        if note.at_ms <= self.newest_ms() {
            return Some("its time is not later than that of the note before it");
        }
        match &note.says {
            Says::Commitment(_) => (note.sequence >= COMMITMENTS_MAX).then_some("too many commitments"),
            Says::Attestation(seen) if seen.notes.iter().any(|log| log.contributor == *account) => {
                Some("a notary's own notes are in their order without its word")
            }
            Says::Attestation(seen) => self.fault_of(note.sequence, seen),
        }
    }

    fn fault_of(&self, sequence: u64, seen: &Seen) -> Option<&'static str> {
        if !seen.is_well_formed() {
            return Some("an attestation names one log or more, each once and in order");
        }
        let is_new = seen.logs.iter().all(|log| log.length > self.seen_log(&log.contributor))
            && seen.notes.iter().all(|log| log.length > self.seen_note(&log.contributor));
        if !is_new {
            return Some("an attestation names what was attested before");
        }
        let is_full = sequence >= ATTESTATIONS_MAX || self.named.saturating_add(seen.named()) > ATTESTED_MAX;
        is_full.then_some("too many attestations")
    }

    /// Appends a note that was checked.
    pub(crate) fn push(&mut self, id: Hash, note: Signed<Note>) {
        if let Says::Attestation(seen) = &note.body.says {
            self.named += seen.named();
            sight(&mut self.seen_logs, &seen.logs, note.body.at_ms);
            sight(&mut self.seen_notes, &seen.notes, note.body.at_ms);
        }
        self.notes.push((id, note));
    }
}

fn is_due(sighted: &BTreeMap<AccountId, Sighted>, log: &LogHead, now_ms: u64) -> bool {
    sighted.get(&log.contributor).is_none_or(|sighted| log.length > sighted.length && sighted.is_due(now_ms))
}

fn sight(sighted: &mut BTreeMap<AccountId, Sighted>, logs: &[LogHead], at_ms: u64) {
    for log in logs {
        let one = sighted.entry(log.contributor).or_default();
        *one = Sighted { length: log.length, times: one.times.saturating_add(1), at_ms };
    }
}

/// How many entries a log has.
pub(crate) fn length_of<T>(log: &[T]) -> u64 {
    u64::try_from(log.len()).unwrap_or(u64::MAX)
}
