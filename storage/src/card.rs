//! A datanet's card: title, description, tags and languages as an automerge document that several people edit.
//!
//! Invariant: whether a change is taken depends only on the change and the changes it builds on, never on what else a
//! peer has seen, so peers with the same changes have the same card, in whatever order they came. (A hand that uses one
//! sequence number twice has its first one taken, and a document at its byte limit takes no more.) Automerge has no
//! write authentication: the caller checks the signed envelope and names its author, and [`CardDocument::apply`]
//! refuses a change that another author's hand made.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use automerge::transaction::CommitOptions;
use automerge::{ActorId, AutoCommit, Change, ChangeHash, TextEncoding};
use autosurgeon::{Hydrate, Reconcile, Text, hydrate, reconcile};
use serde::{Deserialize, Serialize};
use tributary_protocol::id::{AccountId, NodeId};

mod bounds;

/// Bytes of one change: what fits one signed envelope.
pub const MAX_CHANGE_BYTES: usize = 64 * 1024;

/// Bytes of all changes of a card (design.md section 6).
pub const MAX_DOCUMENT_BYTES: usize = 8 * 1024 * 1024;

/// Operations in one change: one for each character that a rewritten description loses or gains, and some for the rest.
pub const MAX_CHANGE_OPERATIONS: u64 = 36 * 1024;

/// Bytes of a title: one line on a page.
pub const MAX_TITLE_BYTES: usize = 200;

/// Bytes of a description: a few pages of text.
pub const MAX_DESCRIPTION_BYTES: usize = 16 * 1024;

/// Tags, and languages, that one change may leave behind.
pub const MAX_LABELS: usize = 64;

/// Bytes of a tag or of a language's code (BCP 47 asks for at least 35).
pub const MAX_LABEL_BYTES: usize = 64;

/// The first bytes of a saved card.
const MAGIC: &[u8; 8] = b"TRIBCRD1";

/// What people read about a datanet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// One line.
    pub title: String,
    /// As long as it needs to be; edits by several people at once are merged.
    pub description: String,
    /// Words to find it by.
    pub tags: BTreeSet<String>,
    /// BCP 47 codes of the records' languages.
    pub languages: BTreeSet<String>,
}

/// Whose hand a change is: the account signs, the node keeps two machines of one account apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writer {
    /// The author.
    pub account: AccountId,
    /// The author's machine.
    pub node: NodeId,
}

impl Writer {
    fn actor(&self) -> ActorId {
        ActorId::from([self.account.0, self.node.0].concat())
    }
}

/// The name of a change: automerge's SHA-256 over its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangeId(pub [u8; 32]);

impl fmt::Debug for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChangeId({})", hex::encode(&self.0[..5]))
    }
}

impl From<ChangeHash> for ChangeId {
    fn from(hash: ChangeHash) -> Self {
        Self(hash.0)
    }
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It is new and in effect.
    New,
    /// It was here already.
    Known,
}

/// Why a card or a change was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    /// A text, a list, a change or the whole document is larger than it may be.
    #[error("{what} has {found}, more than {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its size.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// Bytes that are no change or no saved card.
    #[error("not a card change: {0}")]
    Malformed(String),
    /// The change was made by another hand than the envelope's author.
    #[error("the change was not made by its author {author}")]
    WrongAuthor {
        /// Who signed the envelope.
        author: AccountId,
    },
    /// The change builds on others that are not here yet; fetch them first.
    #[error("the change builds on {} others that are missing", missing.len())]
    Missing {
        /// What to fetch.
        missing: Vec<ChangeId>,
    },
    /// The change would leave no readable card.
    #[error("the change breaks the card: {0}")]
    Breaks(String),
}

/// The document's own shape. Sets are maps, since two people who add the same tag at once mean one tag.
#[derive(Debug, Clone, Reconcile, Hydrate)]
struct Fields {
    title: String,
    description: Text,
    tags: BTreeMap<String, bool>,
    languages: BTreeMap<String, bool>,
}

impl Fields {
    fn card(&self) -> Card {
        let set = |map: &BTreeMap<String, bool>| map.keys().cloned().collect();
        Card {
            title: self.title.clone(),
            description: self.description.as_str().to_owned(),
            tags: set(&self.tags),
            languages: set(&self.languages),
        }
    }

    fn update(&mut self, card: Card) {
        let map = |set: BTreeSet<String>| set.into_iter().map(|label| (label, true)).collect();
        self.title = card.title;
        if self.description.as_str() != card.description {
            self.description.update(card.description);
        }
        self.tags = map(card.tags);
        self.languages = map(card.languages);
    }
}

/// A card with its history.
#[derive(Debug, Clone)]
pub struct CardDocument {
    document: AutoCommit,
    /// Bytes of all changes after the first.
    bytes: usize,
}

impl Default for CardDocument {
    fn default() -> Self {
        Self::new()
    }
}

impl CardDocument {
    /// An empty card. Every card begins with the same change, so that cards begun on two machines can be merged.
    #[must_use]
    pub fn new() -> Self {
        // Autosurgeon counts places in a text in bytes.
        let document = AutoCommit::new_with_encoding(TextEncoding::Utf8CodeUnit);
        let mut document = document.with_actor(ActorId::from([0_u8; 32]));
        let empty = Fields {
            title: String::new(),
            description: Text::with_value(""),
            tags: BTreeMap::new(),
            languages: BTreeMap::new(),
        };
        reconcile(&mut document, &empty).expect("invariant: an empty document takes any fields");
        document.commit_with(CommitOptions::default().with_time(0));
        Self { document, bytes: 0 }
    }

    /// The card as it stands.
    ///
    /// # Errors
    /// [`CardError::Breaks`] when the document holds no card, which no applied change can bring about.
    pub fn card(&self) -> Result<Card, CardError> {
        Ok(fields(&self.document)?.card())
    }

    /// Lets `edit` change the card; returns the change's bytes for a signed envelope, or `None` when nothing changed.
    ///
    /// # Errors
    /// [`CardError::TooLarge`]; the card is then as before.
    pub fn edit(&mut self, writer: &Writer, edit: impl FnOnce(&mut Card)) -> Result<Option<Vec<u8>>, CardError> {
        let mut fields = fields(&self.document)?;
        let before = fields.card();
        let mut card = before.clone();
        edit(&mut card);
        if card == before {
            return Ok(None);
        }
        check_card(&card)?;
        fields.update(card);
        let mut draft = self.document.clone().with_actor(writer.actor());
        reconcile(&mut draft, &fields).map_err(|error| CardError::Breaks(error.to_string()))?;
        draft.commit_with(CommitOptions::default().with_time(0));
        let Some(change) = draft.get_last_local_change() else { return Ok(None) };
        let bytes = change.raw_bytes().to_vec();
        self.check_change(&bytes)?;
        bounds::check_operations(&bytes, MAX_CHANGE_OPERATIONS)?;
        self.bytes += bytes.len();
        self.document = draft;
        Ok(Some(bytes))
    }

    /// Takes a change that came in an envelope of `author`, whose signature the caller has checked.
    ///
    /// # Errors
    /// When the change is too large, no change, not its author's, ahead of what is here, or leaves no card within the
    /// bounds; the card is then as before.
    pub fn apply(&mut self, author: &AccountId, bytes: &[u8]) -> Result<Applied, CardError> {
        self.take(Some(author), bytes)
    }

    /// The changes after `heads`, in an order in which they can be applied. Heads that are not here count for nothing.
    #[must_use]
    pub fn changes_since(&self, heads: &[ChangeId]) -> Vec<Vec<u8>> {
        let mut document = self.document.clone();
        let known = |id: &ChangeId| document.get_change_by_hash(&ChangeHash(id.0)).map(|_| ChangeHash(id.0));
        let mut heads: Vec<ChangeHash> = heads.iter().filter_map(known).collect();
        if heads.is_empty() {
            heads = Self::new().document.get_heads();
        }
        document.get_changes(&heads).iter().map(|change| change.raw_bytes().to_vec()).collect()
    }

    /// The latest changes, on which the next one builds, in order.
    #[must_use]
    pub fn heads(&self) -> Vec<ChangeId> {
        let mut heads: Vec<ChangeId> = self.document.clone().get_heads().into_iter().map(Into::into).collect();
        heads.sort_unstable();
        heads
    }

    /// The card with its history as bytes, to be kept on this machine.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for change in self.changes_since(&[]) {
            let len = u32::try_from(change.len()).expect("invariant: a change has at most MAX_CHANGE_BYTES");
            bytes.extend(len.to_le_bytes());
            bytes.extend(change);
        }
        bytes
    }

    /// A card that this machine saved. Authors are not checked again; what comes from elsewhere goes through
    /// [`CardDocument::apply`].
    ///
    /// # Errors
    /// When the bytes are no saved card or larger than a card may be.
    pub fn load(bytes: &[u8]) -> Result<Self, CardError> {
        let cut = || CardError::Malformed("the saved card is cut short".to_owned());
        let too_large = bytes.len() > 2 * MAX_DOCUMENT_BYTES;
        let mut rest = bytes.strip_prefix(MAGIC).filter(|_| !too_large).ok_or_else(cut)?;
        let mut card = Self::new();
        while !rest.is_empty() {
            let (len, after) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
            let (change, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or_else(cut)?;
            card.take(None, change)?;
            rest = after;
        }
        Ok(card)
    }

    fn take(&mut self, author: Option<&AccountId>, bytes: &[u8]) -> Result<Applied, CardError> {
        self.check_change(bytes)?;
        bounds::check_operations(bytes, MAX_CHANGE_OPERATIONS)?;
        // Automerge is foreign code over foreign bytes: a panic in it is one more way of saying that they are broken.
        let checked = catch_unwind(AssertUnwindSafe(|| self.check_effect(author, bytes)));
        let gave_up = |_| Err(CardError::Malformed("the decoder gave up".to_owned()));
        let Some(document) = checked.unwrap_or_else(gave_up)? else { return Ok(Applied::Known) };
        self.document = document;
        self.bytes += bytes.len();
        Ok(Applied::New)
    }

    fn check_change(&self, bytes: &[u8]) -> Result<(), CardError> {
        within("a change in bytes", bytes.len(), MAX_CHANGE_BYTES)?;
        within("the card's history in bytes", self.bytes.saturating_add(bytes.len()), MAX_DOCUMENT_BYTES)
    }

    /// The document with the change, when that is new and leaves a card within the bounds on top of exactly what it
    /// builds on.
    fn check_effect(&self, author: Option<&AccountId>, bytes: &[u8]) -> Result<Option<AutoCommit>, CardError> {
        let malformed = |error: &dyn fmt::Display| CardError::Malformed(error.to_string());
        let change = Change::from_bytes(bytes.to_vec()).map_err(|error| malformed(&error))?;
        // The library leaves the checksum, the first bytes of the hash, to its callers.
        if bytes.get(4..8) != change.hash().0.get(..4) {
            return Err(CardError::Malformed("its checksum is wrong".to_owned()));
        }
        if let Some(author) = author
            && !change.actor_id().to_bytes().starts_with(&author.0)
        {
            return Err(CardError::WrongAuthor { author: *author });
        }
        let mut document = self.document.clone();
        if document.get_change_by_hash(&change.hash()).is_some() {
            return Ok(None);
        }
        let absent = |hash: &&ChangeHash| document.get_change_by_hash(hash).is_none();
        let missing: Vec<ChangeId> = change.deps().iter().filter(absent).map(|hash| (*hash).into()).collect();
        if !missing.is_empty() {
            return Err(CardError::Missing { missing });
        }
        if change.deps().is_empty() {
            return Err(CardError::Malformed("it does not build on the empty card".to_owned()));
        }
        let mut before = document.fork_at(change.deps()).map_err(|error| malformed(&error))?;
        before.apply_changes([change.clone()]).map_err(|error| malformed(&error))?;
        check_card(&fields(&before)?.card())?;
        document.apply_changes([change]).map_err(|error| malformed(&error))?;
        Ok(Some(document))
    }
}

fn fields(document: &AutoCommit) -> Result<Fields, CardError> {
    hydrate(document).map_err(|error| CardError::Breaks(error.to_string()))
}

fn check_card(card: &Card) -> Result<(), CardError> {
    within("the title in bytes", card.title.len(), MAX_TITLE_BYTES)?;
    within("the description in bytes", card.description.len(), MAX_DESCRIPTION_BYTES)?;
    for (what, labels) in [("the tags", &card.tags), ("the languages", &card.languages)] {
        within(what, labels.len(), MAX_LABELS)?;
        for label in labels {
            within("a tag or language in bytes", label.len(), MAX_LABEL_BYTES)?;
        }
    }
    Ok(())
}

fn within(what: &'static str, found: usize, limit: usize) -> Result<(), CardError> {
    if found <= limit {
        return Ok(());
    }
    Err(CardError::TooLarge { what, found: found as u64, limit: limit as u64 })
}

#[cfg(test)]
mod tests;
