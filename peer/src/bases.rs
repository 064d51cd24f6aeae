//! The base models this node has: where their folders are, what is known of each, and how large one may be.
//!
//! Invariant: a base with a record was loaded once by the engine and found sound, from exactly the files that its id
//! names; what a record says of it is a property of these files, so it never becomes stale.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};
use tributary_compute::device::Classes;
use tributary_protocol::id::Hash;
use tributary_protocol::limits::{NAME_MAX_BYTES, REQUEST_MAX_BYTES};
use tributary_protocol::wire;
use tributary_storage::base;
use tributary_storage::journal::{Batch, Journal, JournalError};

/// The journal's index of bases by id.
const BASES: &str = "bases";
/// Bases kept at most; each takes megabytes to gigabytes of disk.
pub(crate) const RECORDS_MAX: usize = 1_024;
/// How large a base this node takes unless its user says otherwise: one of a few billion parameters in four bits, or
/// of two billion in sixteen.
const BASE_LIMIT_BYTES: u64 = 4_000_000_000;
/// What bases and served adapters take together unless the user says otherwise: some bases of a few billion parameters in
/// four bits.
const DISK_LIMIT_BYTES: u64 = 20_000_000_000;
/// The name of the base that comes with the program.
pub const BUILTIN: &str = "builtin";

/// The origin of a base that was fetched because a task or a release named it.
pub const FROM_PEER: &str = "peer";
/// How the origin of a base from a hub begins.
pub const FROM_HUB: &str = "hub:";

// What may travel is what the engine reads.
const _: () = assert!(base::BASE_MAX_BYTES == tributary_compute::model::MAX_BASE_BYTES);

/// Where a base came from, as whoever pulled it says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Origin {
    /// What people call it.
    pub name: String,
    /// `hub:owner/name`, `folder`, `gguf`, `peer` or `builtin`.
    pub source: String,
    /// The branch, tag or commit that was asked for.
    #[serde(default)]
    pub revision: Option<String>,
    /// The commit that it stood for.
    #[serde(default)]
    pub commit: Option<String>,
    /// What the model's card says.
    #[serde(default)]
    pub licence: Option<String>,
}

impl Origin {
    /// Whether this is to stand in the place of `known`, of the same files: whoever pulls a base names it anew, but a
    /// hub's name and commit do not give way to a folder's, and the built-in base stays what it is.
    #[must_use]
    pub fn says_more_than(&self, known: &Self) -> bool {
        let is_hub = |origin: &Self| origin.source.starts_with(FROM_HUB);
        self.source != FROM_PEER && known.source != BUILTIN && (is_hub(self) || !is_hub(known))
    }

    /// Whether every text is short and printable: it comes from a model's card and goes to terminals.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        let texts = [Some(&self.name), Some(&self.source), self.revision.as_ref(), self.commit.as_ref()];
        let fine = |text: &String| text.len() <= NAME_MAX_BYTES && !text.chars().any(char::is_control);
        !self.name.is_empty() && texts.into_iter().flatten().chain(self.licence.as_ref()).all(fine)
    }
}

/// What the engine found when it loaded a base.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Facts {
    /// `llama`, `mistral`, `qwen2` or `qwen3`.
    pub family: String,
    /// Numbers in its tensors.
    pub parameters: u64,
    /// How most of them are stored.
    pub stored: String,
    /// Whether its products are computed by quantised kernels.
    pub quantised: bool,
    /// Positions of its context.
    pub context: u64,
    /// Rows of its vocabulary.
    pub vocab: u64,
    /// Whether it can hold conversations.
    pub chat: bool,
}

/// One base.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct BaseRecord {
    /// Its id: the hash of its manifest.
    pub id: Hash,
    /// Where it came from.
    #[serde(flatten)]
    pub origin: Origin,
    /// What it is.
    #[serde(flatten)]
    pub facts: Facts,
    /// All its files together.
    pub bytes: u64,
    /// When it was added, in milliseconds since 1970.
    pub added_ms: u64,
}

impl BaseRecord {
    /// Whether it stays until its user removes it: what was fetched for a task or a release makes room for others.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.origin.source != FROM_PEER
    }
}

/// What bases may take of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLimits {
    /// The largest base, in bytes.
    pub base_bytes: u64,
    /// All bases and served adapters together, in bytes.
    pub disk_bytes: u64,
}

impl Default for DiskLimits {
    fn default() -> Self {
        Self { base_bytes: BASE_LIMIT_BYTES, disk_bytes: DISK_LIMIT_BYTES }
    }
}

type Turn = Arc<tokio::sync::Mutex<()>>;

/// The bases of a node.
pub struct Bases {
    journal: Arc<Journal>,
    root: PathBuf,
    limits: DiskLimits,
    classes: Classes,
    /// One turn per base, so that two jobs do not fetch or load the same one twice.
    turns: Mutex<BTreeMap<Hash, Weak<tokio::sync::Mutex<()>>>>,
    /// The built-in base's id, once it is in the store.
    pub(crate) builtin: tokio::sync::OnceCell<Hash>,
}

impl Bases {
    /// The bases whose folders lie under `root`, which nobody else uses, on a machine that computes in `classes`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(journal: Arc<Journal>, root: &Path, limits: DiskLimits, classes: Classes) -> std::io::Result<Self> {
        // The engine is another process and may start elsewhere.
        let root = std::path::absolute(root)?;
        std::fs::create_dir_all(&root)?;
        base::clear_partial(&root);
        Ok(Self {
            journal,
            root,
            limits: DiskLimits { base_bytes: limits.base_bytes.min(base::BASE_MAX_BYTES), ..limits },
            classes,
            turns: Mutex::default(),
            builtin: tokio::sync::OnceCell::new(),
        })
    }

    /// The journal the records are in.
    #[must_use]
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Where the folders are.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How large a base may be here, in bytes.
    #[must_use]
    pub fn limit_bytes(&self) -> u64 {
        self.limits.base_bytes
    }

    /// What bases may take here.
    #[must_use]
    pub fn limits(&self) -> DiskLimits {
        self.limits
    }

    /// What is known of a base.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn record(&self, id: &Hash) -> Result<Option<BaseRecord>, JournalError> {
        let found = self.journal.index_get(BASES, &id.0)?;
        Ok(found.and_then(|bytes| wire::decode(&bytes, REQUEST_MAX_BYTES).ok()))
    }

    /// All bases, in order of their ids.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn all(&self) -> Result<Vec<BaseRecord>, JournalError> {
        let found = self.journal.index_scan(BASES, &[], RECORDS_MAX)?;
        Ok(found.into_iter().filter_map(|(_, bytes)| wire::decode(&bytes, REQUEST_MAX_BYTES).ok()).collect())
    }

    /// Whether no more bases can be kept.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn is_full(&self) -> Result<bool, JournalError> {
        Ok(self.journal.index_scan(BASES, &[], RECORDS_MAX)?.len() == RECORDS_MAX)
    }

    /// Keeps what is known of a base.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn keep(&self, record: &BaseRecord) -> Result<(), JournalError> {
        self.journal.index_put(BASES, &record.id.0, &wire::encode(record))
    }

    /// Forgets a base.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn forget(&self, id: &Hash) -> Result<(), JournalError> {
        self.journal.commit(&Batch::new().remove(BASES, id.0)).map(|_| ())
    }

    /// The determinism class of what this machine computes with a base.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn class(&self, id: &Hash) -> Result<String, JournalError> {
        let quantised = self.record(id)?.is_some_and(|record| record.facts.quantised);
        Ok(if quantised { self.classes.quantised.clone() } else { self.classes.dense.clone() })
    }

    /// All classes this machine computes in, as its peers are told.
    #[must_use]
    pub fn classes(&self) -> Vec<String> {
        told(&self.classes)
    }

    /// The turn of everybody who works on the files of a base.
    #[must_use]
    pub fn turn(&self, id: Hash) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(&id).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Turn::default();
        turns.insert(id, Arc::downgrade(&turn));
        turn
    }
}

/// Classes one by one, as peers are told.
fn told(classes: &Classes) -> Vec<String> {
    vec![classes.dense.clone(), classes.quantised.clone()]
}

#[cfg(test)]
mod tests {
    use tributary_compute::device;

    use super::*;

    fn classes() -> Classes {
        Classes { dense: device::class(), quantised: device::quantised_class() }
    }

    fn record(id: u8, quantised: bool) -> BaseRecord {
        let facts = Facts {
            family: "qwen2".into(),
            parameters: 7,
            stored: "Q8_0".into(),
            quantised,
            context: 64,
            vocab: 300,
            chat: true,
        };
        let origin = Origin { name: "small".into(), source: "folder".into(), ..Origin::default() };
        BaseRecord { id: Hash([id; 32]), origin, facts, bytes: 9, added_ms: 1 }
    }

    #[test]
    fn records_outlive_the_process_and_half_made_folders_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let (path, root) = (folder.path().join("journal"), folder.path().join("models"));
        let largest = DiskLimits { base_bytes: u64::MAX, ..DiskLimits::default() };
        {
            let bases = Bases::open(Arc::new(Journal::open(&path).unwrap()), &root, largest, classes()).unwrap();
            assert_eq!(bases.limit_bytes(), base::BASE_MAX_BYTES);
            bases.keep(&record(1, false)).unwrap();
            bases.keep(&record(2, true)).unwrap();
            std::fs::create_dir_all(root.join("ab.partial")).unwrap();
        }
        let bases =
            Bases::open(Arc::new(Journal::open(&path).unwrap()), &root, DiskLimits::default(), classes()).unwrap();
        assert!(!root.join("ab.partial").exists());
        assert_eq!(bases.all().unwrap(), [record(1, false), record(2, true)]);
        assert_eq!(bases.class(&Hash([1; 32])).unwrap(), device::class());
        assert_eq!(bases.class(&Hash([2; 32])).unwrap(), device::quantised_class());
        bases.forget(&Hash([1; 32])).unwrap();
        assert_eq!(bases.record(&Hash([1; 32])).unwrap(), None);
    }

    #[test]
    fn peers_are_told_of_both_kinds_of_kernels() {
        use tributary_protocol::message::computes_in;
        let told = told(&classes());
        assert!(told.iter().all(|class| class.len() <= NAME_MAX_BYTES));
        assert!(computes_in(&told, &device::class()) && computes_in(&told, &device::quantised_class()));
        assert!(!computes_in(&told, "cpu"));
    }

    #[test]
    fn a_hubs_name_and_commit_stay() {
        let from = |source: &str| Origin { name: "x".into(), source: source.into(), ..Origin::default() };
        let [hub, folder, peer] = ["hub:a/b", "folder", FROM_PEER].map(from);
        assert!(hub.says_more_than(&folder) && hub.says_more_than(&peer) && hub.says_more_than(&hub));
        assert!(folder.says_more_than(&peer) && folder.says_more_than(&folder));
        assert!(!folder.says_more_than(&hub) && !peer.says_more_than(&folder));
        assert!(from(BUILTIN).says_more_than(&peer) && !folder.says_more_than(&from(BUILTIN)));
    }

    #[test]
    fn what_a_card_says_is_short_and_printable() {
        let origin = |name: &str| Origin { name: name.into(), ..Origin::default() };
        assert!(origin("Qwen/Qwen2-0.5B").is_well_formed());
        assert!(!origin("").is_well_formed());
        assert!(!origin("\u{1b}[2J").is_well_formed());
        assert!(!origin(&"x".repeat(200)).is_well_formed());
    }
}
