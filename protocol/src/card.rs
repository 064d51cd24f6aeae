//! The changes of a datanet's card: one append-only signed log per editor, beside the logs of records.
//!
//! Invariant: who may write, how large a change is and how much one editor may write in all depend only on the genesis
//! and on that editor's own log, never on what came first, so nodes with the same logs took the same changes. What a
//! change says is opaque here: the driver checks it on top of the ones before it, and only then it is appended.

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::datanet::{Appended, Genesis, LogHead, Policy};
use crate::envelope::{EnvelopeError, NetworkId, Signed, Statement};
use crate::id::{AccountId, DatanetId, Hash};
use crate::limits::{
    CARD_BATCH_MAX_BYTES, CARD_CHANGE_COST_BYTES, CARD_CHANGE_MAX_BYTES, CARD_EDITORS_MAX, CARD_MAX_BYTES,
};

/// One entry of an editor's log: a change of the card.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct CardChange {
    /// The datanet.
    pub datanet: DatanetId,
    /// The place in the editor's log, from zero.
    pub sequence: u64,
    /// The id of the entry before it; zero for the first.
    pub previous: Hash,
    /// The change, as the document's own format has it.
    pub change: Vec<u8>,
}

impl Statement for CardChange {
    const KIND: u16 = 13;
}

impl CardChange {
    /// What it takes of its editor's share.
    fn cost(&self) -> usize {
        self.change.len().saturating_add(CARD_CHANGE_COST_BYTES)
    }
}

/// How far a node knows a card: the head of every editor's log, ordered by editor.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct CardHead {
    /// The datanet.
    pub datanet: DatanetId,
    /// The logs' heads.
    pub logs: Vec<LogHead>,
}

impl CardHead {
    /// Whether the logs are ordered, not repeated, not empty and not too many.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        LogHead::are_well_formed(&self.logs, CARD_EDITORS_MAX)
    }

    fn length(&self, editor: &AccountId) -> u64 {
        let place = self.logs.binary_search_by(|log| log.contributor.cmp(editor));
        place.ok().and_then(|place| self.logs.get(place)).map_or(0, |log| log.length)
    }
}

/// Why a change is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    /// The signature or its signer is wrong.
    #[error(transparent)]
    Signature(#[from] EnvelopeError),
    /// It belongs to another datanet.
    #[error("the change belongs to another datanet's card")]
    OtherDatanet,
    /// The datanet's policy does not let this account edit the card.
    #[error("account {0} may not edit this card")]
    NotEditor(AccountId),
    /// It is empty or larger than a change may be.
    #[error("a change of the card has 1 to {CARD_CHANGE_MAX_BYTES} bytes, not {0}")]
    Size(usize),
    /// The editor has written as much as one editor of this card may.
    #[error("account {editor} has used its {share} bytes of this card")]
    Full {
        /// Who.
        editor: AccountId,
        /// How much each editor may write.
        share: usize,
    },
    /// Changes before it are missing.
    #[error("change {got} of the log came before change {expected}")]
    Gap {
        /// The next place to fill.
        expected: u64,
        /// The place of the change.
        got: u64,
    },
    /// The editor signed another change for the same place.
    #[error("account {editor} signed two changes for place {sequence}")]
    Fork {
        /// Who did.
        editor: AccountId,
        /// For which place.
        sequence: u64,
    },
}

/// What is left of a batch after everything that this module can judge was judged.
#[derive(Debug, Default)]
pub struct Screened {
    /// New changes in an order in which they can be appended.
    pub fit: Vec<Signed<CardChange>>,
    /// Why the first of the others is refused; a batch is read no further than to one that its sender must not have
    /// passed on.
    pub refused: Option<CardError>,
}

/// Where a log ends.
#[derive(Debug, Clone, Default)]
struct Position {
    ids: Vec<Hash>,
    cost: usize,
}

/// The logs of one card as far as this node knows them.
#[derive(Debug, Clone)]
pub struct CardLogs {
    network: NetworkId,
    datanet: DatanetId,
    editors: BTreeSet<AccountId>,
    positions: BTreeMap<AccountId, Position>,
    /// As they were appended, so that each comes after those it builds on.
    changes: Vec<Signed<CardChange>>,
    cost: usize,
}

impl CardLogs {
    /// An empty card of the datanet with this genesis.
    #[must_use]
    pub fn begin(network: NetworkId, genesis: &Signed<Genesis>) -> Self {
        let datanet = DatanetId(genesis.id(network).0);
        let editors = editors(&genesis.body);
        Self { network, datanet, editors, positions: BTreeMap::new(), changes: Vec::new(), cost: 0 }
    }

    /// Whether `account` may edit the card.
    #[must_use]
    pub fn is_editor(&self, account: &AccountId) -> bool {
        self.editors.contains(account)
    }

    /// How many may edit it.
    #[must_use]
    pub fn editor_count(&self) -> usize {
        self.editors.len()
    }

    /// What one editor may write in all, in bytes.
    #[must_use]
    pub fn share(&self) -> usize {
        CARD_MAX_BYTES / self.editors.len().max(1)
    }

    /// What the changes take in memory, in bytes.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// All changes, each after those it builds on.
    #[must_use]
    pub fn changes(&self) -> &[Signed<CardChange>] {
        &self.changes
    }

    /// How far the card is known here.
    #[must_use]
    pub fn head(&self) -> CardHead {
        let logs = self.positions.iter().filter_map(|(editor, position)| {
            let newest = *position.ids.last()?;
            Some(LogHead { contributor: *editor, length: length_of(position), newest })
        });
        CardHead { datanet: self.datanet, logs: logs.collect() }
    }

    /// Whether somebody with `head` has changes that are not here.
    #[must_use]
    pub fn lacks_some_of(&self, head: &CardHead) -> bool {
        let known = |editor| self.positions.get(editor).map_or(0, length_of);
        head.logs.iter().any(|log| self.is_editor(&log.contributor) && known(&log.contributor) < log.length)
    }

    /// The next changes for somebody who is as far as `head`: as many as fit one message.
    #[must_use]
    pub fn after(&self, head: &CardHead) -> Vec<Signed<CardChange>> {
        let mut room = CARD_BATCH_MAX_BYTES;
        let lacking = self.changes.iter().filter(|entry| entry.body.sequence >= head.length(&entry.account));
        let fitting = lacking.map_while(|entry| {
            room = room.checked_sub(entry.body.cost())?;
            Some(entry.clone())
        });
        fitting.collect()
    }

    /// Where the next change of `editor` goes: its place and the id of the one before it.
    #[must_use]
    pub fn next_place(&self, editor: &AccountId) -> (u64, Hash) {
        let position = self.positions.get(editor);
        let newest = position.and_then(|position| position.ids.last().copied()).unwrap_or_default();
        (position.map_or(0, length_of), newest)
    }

    /// Judges what a peer sent: leaves out what is known, checks right, sizes, order and signature of the rest.
    #[must_use]
    pub fn screen(&self, batch: Vec<Signed<CardChange>>) -> Screened {
        let mut screened = Screened::default();
        let mut ahead: BTreeMap<AccountId, Position> = BTreeMap::new();
        for entry in batch {
            let known = self.positions.get(&entry.account);
            let position = ahead.get(&entry.account).or(known);
            match self.judge(position, &entry) {
                Ok((Appended::Known, _)) => {}
                Ok((Appended::New, id)) => {
                    let position = ahead.entry(entry.account).or_insert_with(|| known.cloned().unwrap_or_default());
                    position.cost += entry.body.cost();
                    position.ids.push(id);
                    screened.fit.push(entry);
                }
                // What other editors wrote may still be good.
                Err(error @ (CardError::Fork { .. } | CardError::Gap { .. })) => {
                    screened.refused.get_or_insert(error);
                }
                Err(error) => {
                    screened.refused = Some(error);
                    break;
                }
            }
        }
        screened
    }

    /// Whether an own change may follow.
    ///
    /// # Errors
    /// Says why not.
    pub fn check(&self, entry: &Signed<CardChange>) -> Result<Appended, CardError> {
        self.place(self.positions.get(&entry.account), entry).map(|(appended, _)| appended)
    }

    /// Appends a change that was screened and that the driver found good.
    ///
    /// # Errors
    /// Says why its place is not the next; a refused change changes nothing.
    pub fn append(&mut self, entry: Signed<CardChange>) -> Result<Appended, CardError> {
        let (appended, id) = self.place(self.positions.get(&entry.account), &entry)?;
        if appended == Appended::New {
            let cost = entry.body.cost();
            let position = self.positions.entry(entry.account).or_default();
            position.ids.push(id);
            position.cost += cost;
            self.cost += cost;
            self.changes.push(entry);
        }
        Ok(appended)
    }

    /// Judges what a peer sent; nobody is said to have signed two changes for one place before his signature holds.
    fn judge(&self, position: Option<&Position>, entry: &Signed<CardChange>) -> Result<(Appended, Hash), CardError> {
        let placed = self.place(position, entry);
        if matches!(placed, Ok((Appended::New, _)) | Err(CardError::Fork { .. })) {
            entry.verify(self.network)?;
        }
        placed
    }

    fn place(&self, position: Option<&Position>, entry: &Signed<CardChange>) -> Result<(Appended, Hash), CardError> {
        let body = &entry.body;
        if body.datanet != self.datanet {
            return Err(CardError::OtherDatanet);
        }
        if !self.is_editor(&entry.account) {
            return Err(CardError::NotEditor(entry.account));
        }
        if body.change.is_empty() || body.change.len() > CARD_CHANGE_MAX_BYTES {
            return Err(CardError::Size(body.change.len()));
        }
        let ids = position.map_or(&[][..], |position| &position.ids);
        let expected = u64::try_from(ids.len()).unwrap_or(u64::MAX);
        if body.sequence > expected {
            return Err(CardError::Gap { expected, got: body.sequence });
        }
        let id = entry.id(self.network);
        let fork = CardError::Fork { editor: entry.account, sequence: body.sequence };
        if let Some(known) = usize::try_from(body.sequence).ok().and_then(|place| ids.get(place)) {
            return if *known == id { Ok((Appended::Known, id)) } else { Err(fork) };
        }
        if body.previous != ids.last().copied().unwrap_or_default() {
            return Err(fork);
        }
        let share = self.share();
        if position.map_or(0, |position| position.cost).saturating_add(body.cost()) > share {
            return Err(CardError::Full { editor: entry.account, share });
        }
        Ok((Appended::New, id))
    }
}

fn length_of(position: &Position) -> u64 {
    u64::try_from(position.ids.len()).unwrap_or(u64::MAX)
}

/// The owners, and the members where the policy names them: where everybody may contribute, not everybody may write
/// what the datanet is called. Of more than [`CARD_EDITORS_MAX`], the first.
fn editors(genesis: &Genesis) -> BTreeSet<AccountId> {
    let members = match &genesis.policy {
        Policy::Open => &[][..],
        Policy::Members(members) => members,
    };
    let mut editors = BTreeSet::new();
    for account in genesis.owners.iter().chain(members) {
        if editors.len() < CARD_EDITORS_MAX {
            editors.insert(*account);
        }
    }
    editors
}

#[cfg(test)]
mod tests;
