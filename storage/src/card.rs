//! A datanet's card: title, description, tags and languages as an automerge document that several people edit.
//!
//! Invariant: whether a change is taken depends only on the change and the changes it builds on, never on what else a
//! peer has seen, so peers with the same changes have the same card, in whatever order they came, as long as each
//! author's own come in their order. (A hand that uses one sequence number twice has its first one taken.) Automerge has
//! no write authentication: the caller checks the signature and the right to write and names the author, and
//! [`CardDocument::apply`] refuses a change that another author's hand made.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use automerge::transaction::CommitOptions;
use automerge::{ActorId, AutoCommit, Change, ChangeHash, TextEncoding};
use autosurgeon::{Hydrate, Reconcile, Text, hydrate, reconcile};
use serde::{Deserialize, Serialize};
use tributary_protocol::id::{AccountId, NodeId};
use tributary_protocol::limits;

mod bounds;

/// Bytes of one change.
pub const MAX_CHANGE_BYTES: usize = limits::CARD_CHANGE_MAX_BYTES;

/// Bytes of all changes of a card.
pub const MAX_DOCUMENT_BYTES: usize = limits::CARD_MAX_BYTES;

/// Operations in one change: one for each character that a rewritten description loses or gains, and some for the rest.
pub const MAX_CHANGE_OPERATIONS: u64 = 36 * 1024;

/// Operations in all changes of a card, divided equally among those who may edit it, but each may rewrite everything
/// once: run-length encoded, a few bytes hold thousands, and every one stays in memory.
pub const MAX_DOCUMENT_OPERATIONS: u64 = 1024 * 1024;

/// Bytes of a title: one line on a page.
pub const MAX_TITLE_BYTES: usize = 200;

/// Bytes of a description: a few pages of text.
pub const MAX_DESCRIPTION_BYTES: usize = 16 * 1024;

/// Tags, and languages, that one change may leave behind.
pub const MAX_LABELS: usize = 64;

/// Bytes of a tag or of a language's code (BCP 47 asks for at least 35).
pub const MAX_LABEL_BYTES: usize = 64;

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
    /// Operations of each author.
    operations: BTreeMap<AccountId, u64>,
    /// Operations that one author may make.
    share: u64,
}

impl CardDocument {
    /// An empty card that so many accounts may edit. Every card begins with the same change, so that cards begun on two
    /// machines can be merged.
    #[must_use]
    pub fn new(editors: usize) -> Self {
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
        let editors = u64::try_from(editors.max(1)).unwrap_or(u64::MAX);
        let share = (MAX_DOCUMENT_OPERATIONS / editors).max(MAX_CHANGE_OPERATIONS);
        Self { document, bytes: 0, operations: BTreeMap::new(), share }
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
        self.check_share(&writer.account, &change)?;
        self.accept(&writer.account, &change, draft);
        Ok(Some(bytes))
    }

    /// Takes a change that came in an envelope of `author`, whose signature the caller has checked.
    ///
    /// # Errors
    /// When the change is too large, no change, not its author's, ahead of what is here, or leaves no card within the
    /// bounds; the card is then as before.
    pub fn apply(&mut self, author: &AccountId, bytes: &[u8]) -> Result<Applied, CardError> {
        self.check_change(bytes)?;
        // Automerge is foreign code over foreign bytes: a panic in it is one more way of saying that they are broken.
        let checked = catch_unwind(AssertUnwindSafe(|| {
            let change = parse(bytes)?;
            Ok(self.check_effect(author, &change)?.map(|document| (change, document)))
        }));
        let gave_up = |_| Err(CardError::Malformed("the decoder gave up".to_owned()));
        let Some((change, document)) = checked.unwrap_or_else(gave_up)? else { return Ok(Applied::Known) };
        self.accept(author, &change, document);
        Ok(Applied::New)
    }

    /// The latest changes, on which the next one builds, in order.
    #[must_use]
    pub fn heads(&self) -> Vec<ChangeId> {
        let mut heads: Vec<ChangeId> = self.document.clone().get_heads().into_iter().map(Into::into).collect();
        heads.sort_unstable();
        heads
    }

    /// Takes changes that were checked before, each after those it builds on; also those that are here already.
    ///
    /// # Errors
    /// When one of them is no change after all; the card is then as before.
    pub fn extend<'changes>(
        &mut self,
        checked: impl IntoIterator<Item = (&'changes AccountId, &'changes [u8])>,
    ) -> Result<(), CardError> {
        let mut document = self.document.clone();
        let (mut bytes, mut operations, mut changes) = (self.bytes, self.operations.clone(), Vec::new());
        for (author, raw) in checked {
            let change = parse(raw)?;
            if document.get_change_by_hash(&change.hash()).is_none() {
                bytes += raw.len();
                *operations.entry(*author).or_default() += count(&change);
                changes.push(change);
            }
        }
        document.apply_changes(changes).map_err(malformed)?;
        (self.document, self.bytes, self.operations) = (document, bytes, operations);
        Ok(())
    }

    fn check_change(&self, bytes: &[u8]) -> Result<(), CardError> {
        within("a change in bytes", bytes.len(), MAX_CHANGE_BYTES)?;
        within("the card's history in bytes", self.bytes.saturating_add(bytes.len()), MAX_DOCUMENT_BYTES)?;
        bounds::check_operations(bytes, MAX_CHANGE_OPERATIONS)
    }

    /// Whether the author has room for so many more operations; depends on the author's own changes only.
    fn check_share(&self, author: &AccountId, change: &Change) -> Result<(), CardError> {
        let used = self.operations.get(author).copied().unwrap_or(0);
        let found = used.saturating_add(count(change));
        if found <= self.share {
            return Ok(());
        }
        Err(CardError::TooLarge { what: "the author's history in operations", found, limit: self.share })
    }

    fn accept(&mut self, author: &AccountId, change: &Change, document: AutoCommit) {
        self.bytes += change.raw_bytes().len();
        *self.operations.entry(*author).or_default() += count(change);
        self.document = document;
    }

    /// The document with the change, when that leaves a card within the bounds on top of exactly what it builds on;
    /// `None` when it is here already.
    fn check_effect(&self, author: &AccountId, change: &Change) -> Result<Option<AutoCommit>, CardError> {
        if !change.actor_id().to_bytes().starts_with(&author.0) {
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
        self.check_share(author, change)?;
        // Most changes build on everything there is; going back to what another one knew takes much longer.
        let is_latest = BTreeSet::from_iter(change.deps()) == BTreeSet::from_iter(&document.get_heads());
        if !is_latest {
            let mut before = document.fork_at(change.deps()).map_err(malformed)?;
            before.apply_changes([change.clone()]).map_err(malformed)?;
            check_card(&fields(&before)?.card())?;
        }
        document.apply_changes([change.clone()]).map_err(malformed)?;
        if is_latest {
            check_card(&fields(&document)?.card())?;
        }
        Ok(Some(document))
    }
}

fn malformed(error: impl fmt::Display) -> CardError {
    CardError::Malformed(error.to_string())
}

fn count(change: &Change) -> u64 {
    change.len() as u64
}

fn parse(bytes: &[u8]) -> Result<Change, CardError> {
    let change = Change::from_bytes(bytes.to_vec()).map_err(malformed)?;
    // The library leaves the checksum, the first bytes of the hash, to its callers.
    if bytes.get(4..8) != change.hash().0.get(..4) {
        return Err(CardError::Malformed("its checksum is wrong".to_owned()));
    }
    Ok(change)
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
