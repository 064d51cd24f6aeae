//! An index's file: header, text, order, inverse, the records' starts and ids, the nodes of the four trees, and the
//! vocabulary: each word once with the place of the first suffix that begins with it. That is not committed: it follows
//! from the text and only spares a search the first half of its steps, which are reads far from each other.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::{Advice, Mmap};
use tributary_protocol::id::Hash;
use tributary_protocol::merkle::{node_count, siblings};
use tributary_protocol::span::{PAGE_ENTRIES, Page, SpanRoots, page_count};
use tributary_protocol::wire;

use super::{MAX_ENTRIES, SpansError};

/// What the file begins with.
const MAGIC: [u8; 8] = *b"tribspn2";
/// Bytes of the roots as `wire` writes them: five hashes and two counts.
const ROOTS_BYTES: usize = 5 * 32 + 2 * 8;
/// Bytes before the text: the count of the vocabulary's words comes last.
const HEADER_BYTES: usize = MAGIC.len() + ROOTS_BYTES + 8;
/// Bytes of a list's entry.
const ENTRY: u64 = 4;
/// Bytes of a hash.
const HASH: u64 = 32;

pub(super) fn header(roots: &SpanRoots, vocabulary: u64) -> Vec<u8> {
    [&MAGIC[..], &wire::encode(roots), &vocabulary.to_le_bytes()].concat()
}

/// The lists of entries that are committed in pages, in the file's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    Text,
    Order,
    Inverse,
}

/// An index, mapped into memory.
#[derive(Debug)]
pub struct SpanIndex {
    map: Mmap,
    roots: SpanRoots,
    /// Words of the vocabulary.
    vocabulary: u64,
}

impl SpanIndex {
    /// Opens the index of `shard`. The file is the node's own: nothing here is checked against the shard.
    ///
    /// # Errors
    /// When there is no such file, or it is not a whole index of that shard.
    pub fn open(shard: &Hash, path: &Path) -> Result<Self, SpansError> {
        let file = File::open(path).map_err(|error| SpansError::io(path, error))?;
        #[expect(unsafe_code, reason = "the file is the node's own, is written under another name and never changed")]
        // SAFETY: nobody changes or cuts the file while it is mapped; a new one takes its name by a rename.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| SpansError::io(path, error))?;
        // A search reads places far from each other: the system need not read what lies around them.
        map.advise(Advice::Random).map_err(|error| SpansError::io(path, error))?;
        let malformed = |why| SpansError::Malformed { path: PathBuf::from(path), why };
        let head = map.get(..HEADER_BYTES).ok_or_else(|| malformed("it is shorter than its header"))?;
        let (magic, roots) = head.split_at(MAGIC.len());
        let (roots, vocabulary) = roots.split_at(ROOTS_BYTES);
        if *magic != MAGIC {
            return Err(malformed("it begins otherwise"));
        }
        let roots: SpanRoots = wire::decode(roots, ROOTS_BYTES).map_err(|_| malformed("its header is damaged"))?;
        if roots.shard != *shard {
            return Err(SpansError::OtherShard { found: roots.shard, wanted: *shard });
        }
        if roots.entries > MAX_ENTRIES || roots.records == 0 || roots.records > roots.entries {
            return Err(malformed("its header counts more than an index holds"));
        }
        let vocabulary = vocabulary.try_into().map_or(0, u64::from_le_bytes);
        if vocabulary > roots.entries {
            return Err(malformed("its header counts more words than entries"));
        }
        let index = Self { map, roots, vocabulary };
        if index.word(vocabulary) == index.map.len() as u64 { Ok(index) } else { Err(malformed("its length is wrong")) }
    }

    /// What is committed.
    #[must_use]
    pub const fn roots(&self) -> &SpanRoots {
        &self.roots
    }

    /// Leaves of the trees: of text, order, inverse, starts.
    const fn leaves(&self, tree: usize) -> u64 {
        if tree < 3 { page_count(self.roots.entries) } else { self.roots.records }
    }

    /// Where node `number` of a tree lies.
    fn node(&self, tree: usize, number: u64) -> u64 {
        let before: u64 = (0..tree).map(|tree| node_count(self.leaves(tree))).sum();
        self.ids() + HASH * (self.roots.records + before + number)
    }

    /// Where word `number` of the vocabulary lies.
    fn word(&self, number: u64) -> u64 {
        self.node(4, 0) + 2 * ENTRY * number
    }

    /// The place of the first suffix that begins with word `number` of the vocabulary or a later one.
    fn first(&self, number: u64) -> u64 {
        if number < self.vocabulary { u64::from(self.number(self.word(number) + ENTRY)) } else { self.roots.entries }
    }

    /// The places of the suffixes that begin with `word`; where there is none, the empty range at which they would be.
    pub(super) fn range(&self, word: u32) -> Range<u64> {
        let words = self.word(0);
        let at = |number: u64| self.number(words + 2 * ENTRY * number);
        let (mut low, mut high) = (0, self.vocabulary);
        while low < high {
            let middle = u64::midpoint(low, high);
            if at(middle) < word { low = middle + 1 } else { high = middle }
        }
        let is_there = low < self.vocabulary && at(low) == word;
        self.first(low)..self.first(low + u64::from(is_there))
    }

    const fn starts(&self) -> u64 {
        HEADER_BYTES as u64 + 3 * ENTRY * self.roots.entries
    }

    const fn ids(&self) -> u64 {
        self.starts() + ENTRY * self.roots.records
    }

    fn bytes<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        let at = usize::try_from(at).ok()?;
        self.map.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn number(&self, at: u64) -> u32 {
        // The length was compared with the counts, and callers stay below them; a position that doesn't reads as zero.
        self.bytes(at).map_or(0, u32::from_le_bytes)
    }

    /// Entry `at` of a list.
    pub(super) fn entry(&self, list: List, at: u64) -> u32 {
        if at >= self.roots.entries {
            return 0;
        }
        self.number(HEADER_BYTES as u64 + ENTRY * (list as u64 * self.roots.entries + at))
    }

    /// The record at a position of the text: its number, where it begins, its id.
    #[must_use]
    pub fn record(&self, at: u64) -> Option<(u64, u64, Hash)> {
        let start = |number: u64| u64::from(self.number(self.starts() + ENTRY * number));
        let (mut low, mut high) = (0, (at < self.roots.entries).then_some(self.roots.records)?);
        while high - low > 1 {
            let middle = u64::midpoint(low, high);
            if start(middle) <= at { low = middle } else { high = middle }
        }
        Some((low, start(low), Hash(self.bytes(self.ids() + HASH * low)?)))
    }

    /// The siblings of a leaf of a tree.
    fn siblings(&self, tree: usize, leaf: u64) -> Vec<Hash> {
        let node = |number| self.bytes(self.node(tree, number)).map(Hash);
        siblings(self.leaves(tree), leaf, node).unwrap_or_default()
    }

    /// The siblings of a record's start.
    #[must_use]
    pub fn start_siblings(&self, number: u64) -> Vec<Hash> {
        self.siblings(3, number)
    }

    /// The pages with the entries `first..end` of a list.
    pub(super) fn pages(&self, list: List, first: u64, end: u64) -> Vec<Page> {
        let end = end.min(self.roots.entries);
        let range = if first < end { first / PAGE_ENTRIES..page_count(end) } else { 0..0 };
        let page = |page| {
            let entries = page * PAGE_ENTRIES..self.roots.entries.min((page + 1) * PAGE_ENTRIES);
            let entries = entries.map(|at| self.entry(list, at)).collect();
            Page { page, entries, siblings: self.siblings(list as usize, page) }
        };
        range.map(page).collect()
    }
}
