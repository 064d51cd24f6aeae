//! Datanets: an immutable genesis, one append-only signed log per contributor, and heads that name exact versions.
//!
//! Invariant: a log only grows, each entry names the hash of the one before it, and two nodes that hold the
//! same entries compute the same head. A contributor who signs two entries for one place is kept at the first.

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::envelope::{EnvelopeError, NetworkId, Signed, Statement};
use crate::id::{AccountId, ChainAddress, DatanetId, Hash};
use crate::limits::{
    CONTRIBUTORS_MAX, HEAD_CONTRIBUTORS_MAX, LICENCE_MAX_BYTES, LOG_ENTRIES_MAX, NAME_MAX_BYTES, NOTARIES_MAX,
    NOTE_LOGS_MAX, SHARD_MAX_BYTES, SHARD_RECORDS_MAX,
};
use crate::merkle;
use crate::note::{NoteLog, Opening};

mod notes;
mod version;

pub use self::version::{Date, Dated};

/// Who may contribute.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Anybody.
    Open,
    /// Only the owners and these accounts.
    Members(Vec<AccountId>),
}

/// What a record looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schema {
    /// Running text.
    Text,
    /// A prompt and its completion.
    PromptCompletion,
}

/// The beginning of a datanet; its signed digest is the datanet's id.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Genesis {
    /// What people call it.
    pub name: String,
    /// Who may change its card and membership.
    pub owners: Vec<AccountId>,
    /// The licence of its records, as an SPDX expression.
    pub licence: String,
    /// Who may contribute.
    pub policy: Policy,
    /// What a record looks like.
    pub schema: Schema,
    /// Whose attestations prove which claim was first ([`note`](crate::note)); without any, claims are taken at their word.
    pub notaries: Vec<AccountId>,
    /// When it was made, in milliseconds since 1970, so that one owner can use a name twice.
    pub created_ms: u64,
}

impl Statement for Genesis {
    const KIND: u16 = 2;
}

/// One entry of a contributor's log: a shard of records.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Contribution {
    /// The datanet.
    pub datanet: DatanetId,
    /// The place in the contributor's log, from zero.
    pub sequence: u64,
    /// The id of the entry before it; zero for the first.
    pub previous: Hash,
    /// The shard's content hash.
    pub shard: Hash,
    /// The shard's size in bytes.
    pub bytes: u64,
    /// Records in it.
    pub records: u32,
    /// The Merkle root over the ids of its records.
    pub records_root: Hash,
    /// Where earnings of these records go.
    pub payout: ChainAddress,
    /// When the contributor claims to have added it, in milliseconds since 1970; decides who is credited for
    /// a record that two contributed, where no notary saw either.
    pub claimed_ms: u64,
    /// What shows that its contributor had committed to these records before.
    pub opening: Option<Opening>,
}

impl Statement for Contribution {
    const KIND: u16 = 3;
}

/// The newest entry of one contributor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
pub struct LogHead {
    /// Whose log.
    pub contributor: AccountId,
    /// How many entries.
    pub length: u64,
    /// The id of the newest.
    pub newest: Hash,
}

impl LogHead {
    /// Whether heads are ordered by account, not repeated, not empty and not more than `most`.
    #[must_use]
    pub fn are_well_formed(heads: &[Self], most: usize) -> bool {
        heads.len() <= most
            && heads.iter().all(|log| log.length > 0 && log.length <= LOG_ENTRIES_MAX)
            && heads.windows(2).all(|pair| pair[0].contributor < pair[1].contributor)
    }
}

/// A version of a datanet: the head of every log, ordered by contributor.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Head {
    /// The datanet.
    pub datanet: DatanetId,
    /// The heads of the contributors' logs.
    pub logs: Vec<LogHead>,
    /// The heads of the logs of notes, which say who of several is credited.
    pub notes: Vec<LogHead>,
}

impl Head {
    /// The head's identity: Merkle roots over the logs' heads under the datanet's id.
    #[must_use]
    pub fn id(&self) -> Hash {
        let bytes = [self.datanet.0, root_of(&self.logs).0, root_of(&self.notes).0].concat();
        Hash(blake3::derive_key("tributary datanet head v2", &bytes))
    }

    /// Whether the logs are ordered, not repeated, not empty and not too many.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        LogHead::are_well_formed(&self.logs, HEAD_CONTRIBUTORS_MAX)
            && LogHead::are_well_formed(&self.notes, NOTE_LOGS_MAX)
    }
}

fn root_of(logs: &[LogHead]) -> Hash {
    let leaf = |log| Hash(blake3::derive_key("tributary log head v1", &crate::wire::encode(log)));
    merkle::root(&logs.iter().map(leaf).collect::<Vec<Hash>>())
}

/// Why a genesis or an entry is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatanetError {
    /// The signature or its signer is wrong.
    #[error(transparent)]
    Signature(#[from] EnvelopeError),
    /// A name or licence is empty or too long, or there is no owner.
    #[error("the genesis is malformed: {0}")]
    Genesis(&'static str),
    /// It was signed by somebody who is no owner.
    #[error("the genesis is not signed by an owner")]
    NotOwner,
    /// It belongs to another datanet.
    #[error("the entry belongs to another datanet")]
    OtherDatanet,
    /// The policy does not allow this contributor.
    #[error("account {0} may not contribute here")]
    NotMember(AccountId),
    /// Entries before it are missing.
    #[error("entry {got} of the log came before entry {expected}")]
    Gap {
        /// The next place to fill.
        expected: u64,
        /// The place of the entry.
        got: u64,
    },
    /// The contributor signed another entry for the same place.
    #[error("account {contributor} signed two entries for place {sequence}")]
    Fork {
        /// Who did.
        contributor: AccountId,
        /// For which place.
        sequence: u64,
    },
    /// Sizes are zero or beyond the limits.
    #[error("the entry's sizes are out of bounds")]
    Size,
    /// Somebody attests who is no notary here.
    #[error("account {0} is no notary here")]
    NotNotary(AccountId),
    /// A note says nothing new, or goes back in time.
    #[error("the note is malformed: {0}")]
    Note(&'static str),
    /// More contributors or entries than a datanet may have.
    #[error("the datanet is full")]
    Full,
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It is new and now the newest.
    New,
    /// It was there already.
    Known,
}

/// A datanet as far as this node knows it.
#[derive(Debug, Clone)]
pub struct Datanet {
    network: NetworkId,
    id: DatanetId,
    genesis: Signed<Genesis>,
    logs: BTreeMap<AccountId, Vec<(Hash, Signed<Contribution>)>>,
    notes: BTreeMap<AccountId, NoteLog>,
}

impl Datanet {
    /// Begins a datanet from its genesis.
    ///
    /// # Errors
    /// When the genesis is malformed or not signed by an owner.
    pub fn begin(network: NetworkId, genesis: Signed<Genesis>) -> Result<Self, DatanetError> {
        let body = &genesis.body;
        if body.name.is_empty() || body.name.len() > NAME_MAX_BYTES {
            return Err(DatanetError::Genesis("a name has 1 to 128 bytes"));
        }
        if body.licence.is_empty() || body.licence.len() > LICENCE_MAX_BYTES {
            return Err(DatanetError::Genesis("a licence has 1 to 128 bytes"));
        }
        if body.owners.len() > HEAD_CONTRIBUTORS_MAX {
            return Err(DatanetError::Genesis("too many owners"));
        }
        if matches!(&body.policy, Policy::Members(members) if members.len() > HEAD_CONTRIBUTORS_MAX) {
            return Err(DatanetError::Genesis("too many members"));
        }
        let distinct: BTreeSet<&AccountId> = body.notaries.iter().collect();
        if body.notaries.len() > NOTARIES_MAX || distinct.len() < body.notaries.len() {
            return Err(DatanetError::Genesis("too many notaries, or one named twice"));
        }
        if !body.owners.contains(&genesis.account) {
            return Err(DatanetError::NotOwner);
        }
        genesis.verify(network)?;
        let id = DatanetId(genesis.id(network).0);
        Ok(Self { network, id, genesis, logs: BTreeMap::new(), notes: BTreeMap::new() })
    }

    /// The datanet's id.
    #[must_use]
    pub fn id(&self) -> DatanetId {
        self.id
    }

    /// The genesis.
    #[must_use]
    pub fn genesis(&self) -> &Signed<Genesis> {
        &self.genesis
    }

    /// Checks and appends one entry.
    ///
    /// # Errors
    /// Says why it is refused; a refused entry changes nothing.
    pub fn append(&mut self, entry: Signed<Contribution>) -> Result<Appended, DatanetError> {
        let body = &entry.body;
        if body.datanet != self.id {
            return Err(DatanetError::OtherDatanet);
        }
        if body.bytes == 0 || body.bytes > SHARD_MAX_BYTES || body.records == 0 || body.records > SHARD_RECORDS_MAX {
            return Err(DatanetError::Size);
        }
        self.check_member(entry.account)?;
        if self.logs.len() >= CONTRIBUTORS_MAX && !self.logs.contains_key(&entry.account) {
            return Err(DatanetError::Full);
        }
        let id = entry.id(self.network);
        let log = self.logs.get(&entry.account).map_or(&[][..], Vec::as_slice);
        let expected = u64::try_from(log.len()).unwrap_or(u64::MAX);
        if expected >= LOG_ENTRIES_MAX {
            return Err(DatanetError::Full);
        }
        if body.sequence > expected {
            return Err(DatanetError::Gap { expected, got: body.sequence });
        }
        if let Some((known, _)) = usize::try_from(body.sequence).ok().and_then(|place| log.get(place)) {
            return self.repeated(&entry, id, *known);
        }
        let previous = log.last().map(|(id, _)| *id).unwrap_or_default();
        entry.verify(self.network)?;
        if body.previous != previous {
            return Err(DatanetError::Fork { contributor: entry.account, sequence: body.sequence });
        }
        self.logs.entry(entry.account).or_default().push((id, entry));
        Ok(Appended::New)
    }

    fn repeated(&self, entry: &Signed<Contribution>, id: Hash, known: Hash) -> Result<Appended, DatanetError> {
        if id == known {
            return Ok(Appended::Known);
        }
        entry.verify(self.network)?;
        Err(DatanetError::Fork { contributor: entry.account, sequence: entry.body.sequence })
    }

    fn check_member(&self, account: AccountId) -> Result<(), DatanetError> {
        if self.may_contribute(&account) { Ok(()) } else { Err(DatanetError::NotMember(account)) }
    }

    /// Whether the policy lets `account` contribute.
    #[must_use]
    pub fn may_contribute(&self, account: &AccountId) -> bool {
        let genesis = &self.genesis.body;
        match &genesis.policy {
            Policy::Open => true,
            Policy::Members(members) => members.contains(account) || genesis.owners.contains(account),
        }
    }

    /// How many entries of `contributor` are known, and the id of the newest.
    #[must_use]
    pub fn log_position(&self, contributor: &AccountId) -> (u64, Hash) {
        let log = self.logs.get(contributor).map_or(&[][..], Vec::as_slice);
        (u64::try_from(log.len()).unwrap_or(u64::MAX), log.last().map(|(id, _)| *id).unwrap_or_default())
    }

    /// Entries of `contributor` from place `from`, at most `limit`.
    #[must_use]
    pub fn entries(&self, contributor: &AccountId, from: u64, limit: usize) -> Vec<Signed<Contribution>> {
        let log = self.logs.get(contributor).map_or(&[][..], Vec::as_slice);
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        log.iter().skip(from).take(limit).map(|(_, entry)| entry.clone()).collect()
    }

    /// All entries known, by contributor and place.
    pub fn all_entries(&self) -> impl Iterator<Item = &Signed<Contribution>> {
        self.logs.values().flatten().map(|(_, entry)| entry)
    }
}
