//! Evidence: where an answer repeats records word for word, found in span indexes of a datanet's shards.
//!
//! An index is made when a shard is first asked for and stays in the node's folder; it can be deleted at any time. Once
//! opened it stays mapped, since what a search reads of it is then found without asking the system again. Who claimed a
//! record first is named where several shards have the same words.
//!
//! Invariant: what is shown was compared with the record's own text; nothing here pays anybody.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use tributary_protocol::datanet::Dated;
use tributary_protocol::id::{AccountId, Hash};
use tributary_protocol::span::{MAX_WORDS, Span, words};
use tributary_storage::blobs::{BlobStore, IrohBlobs};
use tributary_storage::shard::{self, Record};
use tributary_storage::spans::{SpanIndex, SpanText, SpansError, build, spans_in};

/// Words of one index: half a gigabyte of memory while it is made, and nearly as much of the disk.
const INDEX_WORDS: u64 = 1 << 25;
/// What all indexes together may take of the disk: those of a billion words. The ones made longest ago make room.
const INDEXES_BYTES: u64 = 16 << 30;
/// Indexes that stay open: a process has some ten thousands of mappings (65,530 on Linux).
const OPEN_INDEXES: usize = 4_096;
/// Characters of a record that are shown on each side of its words.
const CONTEXT_CHARS: usize = 80;

/// A part of an answer that stands in a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quotation {
    /// Its bytes in the answer.
    pub bytes: Range<usize>,
    /// What is repeated, as the answer has it.
    pub text: String,
    /// How many words it has.
    pub words: u64,
    /// By how much it is improbable from the words' frequencies alone, in millionths of a bit.
    pub micro_bits: u64,
    /// The record.
    pub record: Hash,
    /// The shard that it is in.
    pub shard: Hash,
    /// Who claimed it first.
    pub contributor: AccountId,
    /// What stands before it in the record.
    pub before: String,
    /// And after it.
    pub after: String,
}

/// What was looked for, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// The quotations, the most improbable first.
    pub quotations: Vec<Quotation>,
    /// Words of the answer.
    pub answer_words: usize,
    /// Words of all records that were looked through.
    pub record_words: u64,
    /// Their shards.
    pub shards: usize,
    /// Shards that could not be looked through: not here, damaged, or with too many words.
    pub skipped: usize,
}

/// Why there is no evidence, or none of one shard.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// A shard is not in the store, or the store or the shard is damaged.
    #[error("shard {shard}: {why}")]
    Shard {
        /// Which.
        shard: Hash,
        /// What is wrong.
        why: String,
    },
    /// An index can't be made.
    #[error(transparent)]
    Index(#[from] SpansError),
    /// The search broke off.
    #[error("the search broke off: {0}")]
    Broken(String),
}

/// The indexes of a node.
#[derive(Debug)]
pub struct Evidence {
    folder: PathBuf,
    /// One search at a time makes indexes and reads shards: both take memory by the size of a shard.
    open: tokio::sync::Mutex<Open>,
}

/// The indexes that are open, by their shards, and how their files looked then.
type Open = BTreeMap<Hash, (Arc<SpanIndex>, Look)>;

/// A file's length and when it was written: whether it is still the one that was opened.
type Look = (u64, SystemTime);

fn look(path: &Path) -> Option<Look> {
    let about = std::fs::metadata(path).ok()?;
    Some((about.len(), about.modified().ok()?))
}

/// A shard's index and who contributed it.
struct Place {
    index: Arc<SpanIndex>,
    shard: Hash,
    contributor: AccountId,
}

impl Evidence {
    /// Indexes in `folder`, which is made when the first one is.
    #[must_use]
    pub fn at(folder: PathBuf) -> Self {
        Self { folder, open: tokio::sync::Mutex::new(Open::new()) }
    }

    /// Where `answer` repeats records of `entries` word for word. The search goes on when nobody waits for it any more, so
    /// that no index is made twice at once.
    ///
    /// # Errors
    /// When the search breaks off; a shard that can't be looked through is counted and left out.
    pub async fn quotations(
        self: &Arc<Self>,
        store: &IrohBlobs,
        entries: Vec<Dated>,
        answer: String,
    ) -> Result<Found, EvidenceError> {
        let (evidence, store) = (Arc::clone(self), store.clone());
        let search = tokio::spawn(async move {
            let mut open = evidence.open.lock().await;
            evidence.search(&mut open, &store, entries, answer).await
        });
        search.await.map_err(|error| EvidenceError::Broken(error.to_string()))?
    }

    async fn search(
        &self,
        open: &mut Open,
        store: &IrohBlobs,
        mut entries: Vec<Dated>,
        answer: String,
    ) -> Result<Found, EvidenceError> {
        self.close_changed(open);
        // A quotation is shown as whose it is by the entries' own words for their records: it pays nobody.
        entries.sort_by_key(|dated| {
            let (entry, proven) = (&dated.entry, dated.proven(&dated.entry.body.records_root));
            (proven.is_none(), proven, entry.body.claimed_ms, entry.account, entry.body.sequence)
        });
        let (mut places, mut skipped) = (Vec::new(), 0);
        for Dated { entry, .. } in entries {
            let shard = entry.body.shard;
            match self.index(open, store, shard).await {
                Ok(index) => places.push(Place { index, shard, contributor: entry.account }),
                Err(error) => {
                    tracing::debug!(%error, "a shard is not looked through");
                    skipped += 1;
                }
            }
        }
        let (places, mut spans, answer) = blocking(move || {
            let indexes: Vec<&SpanIndex> = places.iter().map(|place| &*place.index).collect();
            let wanted: Vec<u32> = words(&answer).take(MAX_WORDS).map(|(_, word)| word).collect();
            let spans = spans_in(&indexes, &wanted);
            (places, spans, answer)
        })
        .await?;
        let parts: Vec<Range<usize>> = words(&answer).take(MAX_WORDS).map(|(bytes, _)| bytes).collect();
        let mut quotations = Vec::new();
        // A shard is read once for all of its quotations.
        spans.sort_by_key(|(_, number)| *number);
        for group in spans.chunk_by(|one, other| one.1 == other.1) {
            let Some(place) = group.first().and_then(|(_, number)| places.get(*number)) else { continue };
            let records = records(store, place.shard).await?;
            quotations.extend(group.iter().filter_map(|(span, _)| quotation(&answer, &parts, *span, place, &records)));
        }
        quotations.sort_by_key(|found| (std::cmp::Reverse(found.micro_bits), found.bytes.start));
        let record_words = places.iter().map(|place| place.index.roots().entries - place.index.roots().records).sum();
        Ok(Found { quotations, answer_words: parts.len(), record_words, shards: places.len(), skipped })
    }

    /// The index of a shard, made anew where it is missing or damaged.
    async fn index(&self, open: &mut Open, store: &IrohBlobs, shard: Hash) -> Result<Arc<SpanIndex>, EvidenceError> {
        if let Some((index, _)) = open.get(&shard) {
            return Ok(Arc::clone(index));
        }
        let path = self.path(&shard);
        let index = match SpanIndex::open(&shard, &path) {
            Ok(index) => index,
            Err(_) => {
                let records = records(store, shard).await?;
                let folder = self.folder.clone();
                let made = blocking(move || make(shard, &records, &folder, &path)).await??;
                self.close_changed(open);
                made
            }
        };
        if open.len() >= OPEN_INDEXES {
            open.clear();
        }
        let index = Arc::new(index);
        if let Some(look) = look(&self.path(&shard)) {
            open.insert(shard, (Arc::clone(&index), look));
        }
        Ok(index)
    }

    fn path(&self, shard: &Hash) -> PathBuf {
        self.folder.join(format!("{shard}.spans"))
    }

    /// Closes indexes whose files are gone, so that the disk gets their room back, or changed, which a node does not do.
    fn close_changed(&self, open: &mut Open) {
        open.retain(|shard, (_, then)| look(&self.path(shard)) == Some(*then));
    }
}

fn make(shard: Hash, records: &[Record], folder: &Path, path: &Path) -> Result<SpanIndex, SpansError> {
    let io = |source| SpansError::Io { path: path.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(io)?;
    build(shard, records, INDEX_WORDS, path)?;
    make_room(folder, path).map_err(io)?;
    SpanIndex::open(&shard, path)
}

/// Removes the oldest indexes but `newest` until all fit their bound; one that is mapped stays readable.
fn make_room(folder: &Path, newest: &Path) -> std::io::Result<()> {
    let mut kept = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let (path, about) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
        kept.push((about.modified()?, about.len(), path));
    }
    kept.sort();
    let mut bytes: u64 = kept.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, freed, path) in kept.iter().filter(|(_, _, path)| path != newest) {
        if bytes <= INDEXES_BYTES {
            break;
        }
        std::fs::remove_file(path)?;
        bytes -= freed;
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, EvidenceError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| EvidenceError::Broken(error.to_string()))
}

async fn records(store: &IrohBlobs, shard: Hash) -> Result<Vec<Record>, EvidenceError> {
    let damaged = |why: String| EvidenceError::Shard { shard, why };
    let bytes = store.get(shard).await.map_err(|error| damaged(error.to_string()))?;
    let bytes = bytes.ok_or_else(|| damaged("it is not here yet".into()))?;
    blocking(move || shard::read(&bytes)).await?.map_err(|error| damaged(error.to_string()))
}

/// The span as the record has it; nothing where words only share their number.
fn quotation(answer: &str, parts: &[Range<usize>], span: Span, place: &Place, records: &[Record]) -> Option<Quotation> {
    let (number, start, id) = place.index.record(span.at)?;
    let record = records.get(usize::try_from(number).ok()?).filter(|record| record.id == id)?;
    let text = record.text();
    let (begin, length) = (usize::try_from(span.begin).ok()?, usize::try_from(span.words).ok()?);
    let own = parts.get(begin..begin.checked_add(length)?)?;
    let offset = usize::try_from(span.at.checked_sub(start)?).ok()?;
    let theirs: Vec<Range<usize>> = words(&text).skip(offset).take(length).map(|(bytes, _)| bytes).collect();
    let is_same = own.len() == theirs.len()
        && own.iter().zip(&theirs).all(|(own, theirs)| answer[own.clone()] == text[theirs.clone()]);
    let (bytes, there) = (own.first()?.start..own.last()?.end, theirs.first()?.start..theirs.last()?.end);
    is_same.then(|| Quotation {
        text: answer[bytes.clone()].to_owned(),
        bytes,
        words: span.words,
        micro_bits: span.micro_bits,
        record: id,
        shard: place.shard,
        contributor: place.contributor,
        before: last(&text[..there.start]),
        after: text[there.end..].chars().take(CONTEXT_CHARS).collect(),
    })
}

fn last(text: &str) -> String {
    let begin = text.char_indices().rev().nth(CONTEXT_CHARS - 1).map_or(0, |(at, _)| at);
    text[begin..].to_owned()
}
