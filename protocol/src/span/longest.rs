//! The longest match of a text's beginning, proven by the two suffixes between which the text falls.

use core::cmp::Ordering;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::page::{Page, Pages};
use super::{MAX_WORDS, SEPARATOR, SpanError, SpanRoots};

/// How far a text's beginning goes on in the records, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Longest {
    /// Words in common; zero when no record has the first one.
    pub words: u64,
    /// A position of the shard's text where they stand; meaningless without words.
    pub at: u64,
}

/// What proves a [`Longest`]: a few kilobytes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct MatchProof {
    /// Suffixes that are below the text.
    pub place: u64,
    /// Pages with the entries of the suffix array at `place - 1` and `place`, as far as they exist.
    pub order: Vec<Page>,
    /// Pages of the text with the beginnings of these suffixes.
    pub text: Vec<Page>,
}

/// How `text` stands to the suffix whose words `suffix` gives one by one, and the words in common. A text that ends is
/// below a suffix that goes on.
pub(super) fn compare(
    text: &[u32],
    mut suffix: impl FnMut(u64) -> Result<u32, SpanError>,
) -> Result<(Ordering, u64), SpanError> {
    for (common, word) in (0..).zip(text) {
        let other = suffix(common)?;
        if other == SEPARATOR || other != *word {
            return Ok((word.cmp(&other), common));
        }
    }
    Ok((Ordering::Less, u64::try_from(text.len()).unwrap_or(u64::MAX)))
}

/// The longest match of the beginning of `text` (words, no separator), as `proof` proves it.
///
/// # Errors
/// When the proof is not under the roots, lacks an entry, or the text does not fall where it says.
pub fn longest(roots: &SpanRoots, text: &[u32], proof: &MatchProof) -> Result<Longest, SpanError> {
    if text.is_empty() || text.len() > MAX_WORDS || text.contains(&SEPARATOR) {
        return Err(SpanError::Words { got: text.len(), most: MAX_WORDS });
    }
    let order = Pages::check(&roots.order, roots.entries, &proof.order)?;
    let pages = Pages::check(&roots.text, roots.entries, &proof.text)?;
    if proof.place > roots.entries {
        return Err(SpanError::Place);
    }
    let beside = |place: u64| -> Result<(Ordering, Longest), SpanError> {
        let at = u64::from(order.get(place)?);
        let (side, words) = compare(text, |offset| pages.get(at.saturating_add(offset)))?;
        Ok((side, Longest { words, at }))
    };
    let mut best = Longest { words: 0, at: 0 };
    if let Some(below) = proof.place.checked_sub(1) {
        let (side, found) = beside(below)?;
        if side != Ordering::Greater {
            return Err(SpanError::Place);
        }
        best = found;
    }
    if proof.place < roots.entries {
        let (side, found) = beside(proof.place)?;
        if side != Ordering::Less {
            return Err(SpanError::Place);
        }
        if found.words >= best.words {
            best = found;
        }
    }
    Ok(best)
}
