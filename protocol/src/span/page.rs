//! Pages: pieces of text, order and inverse as they are committed and shown.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::SpanError;
use crate::id::Hash;
use crate::merkle;

/// Entries of a page: half a kilobyte, so that a proof is about as much siblings as entries.
pub const PAGE_ENTRIES: u64 = 128;

/// Pages of `entries` entries.
#[must_use]
pub const fn page_count(entries: u64) -> u64 {
    entries.div_ceil(PAGE_ENTRIES)
}

/// The leaf of a page.
#[must_use]
pub fn page_hash(entries: &[u32]) -> Hash {
    let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    Hash(blake3::derive_key("tributary span page v1", &bytes))
}

/// One page and its way to the root.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Page {
    /// Which page.
    pub page: u64,
    /// Its entries.
    pub entries: Vec<u32>,
    /// The siblings from its leaf up.
    pub siblings: Vec<Hash>,
}

/// Pages that were found under their root.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    pages: BTreeMap<u64, &'a [u32]>,
    entries: u64,
}

impl<'a> Pages<'a> {
    /// Checks each page against `root` over `entries` entries.
    pub(super) fn check(root: &Hash, entries: u64, given: &'a [Page]) -> Result<Self, SpanError> {
        let mut pages = BTreeMap::new();
        for Page { page, entries: own, siblings } in given {
            let first = page.saturating_mul(PAGE_ENTRIES);
            let length = entries.saturating_sub(first).min(PAGE_ENTRIES);
            let fits = length > 0 && u64::try_from(own.len()) == Ok(length);
            if !fits || !merkle::verify(root, &page_hash(own), *page, page_count(entries), siblings) {
                return Err(SpanError::Page { page: *page });
            }
            pages.insert(*page, own.as_slice());
        }
        Ok(Self { pages, entries })
    }

    /// Entry `at`, or that it is missing.
    pub(super) fn get(&self, at: u64) -> Result<u32, SpanError> {
        let page = self.pages.get(&(at / PAGE_ENTRIES));
        let entry = page.and_then(|page| page.get(usize::try_from(at % PAGE_ENTRIES).ok()?));
        entry.copied().ok_or(SpanError::Missing { entry: at })
    }

    /// How many entries there are in all.
    pub(super) const fn entries(&self) -> u64 {
        self.entries
    }
}
