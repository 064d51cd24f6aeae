//! What refutes an index: two neighbours out of order, a position that the inverse sends elsewhere, words that are not
//! the record's, and, of a claim alone, a match that is longer.

use core::cmp::Ordering;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::page::{Page, Pages};
use super::{Longest, SEPARATOR, SpanError, SpanRoots, start_hash, words};
use crate::id::Hash;
use crate::merkle;

/// A fault of a committed index, with the pages that show it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub enum Fault {
    /// The suffix at `place` of the order is not below the next one, or one of them is no position.
    Order {
        /// The first of the two.
        place: u64,
        /// Pages of the order with both entries.
        order: Vec<Page>,
        /// Pages of the text up to where the two differ.
        text: Vec<Page>,
    },
    /// The order has another position at the place that the inverse gives for `position`: some position is missing.
    Inverse {
        /// The position.
        position: u64,
        /// The page of the inverse with it.
        inverse: Page,
        /// The page of the order with the place that stands there; none when there is no such place.
        order: Option<Page>,
    },
    /// The text at a record's place is not the record's words and a separator. Whoever judges has checked that `content`
    /// is the text of the record with this id.
    Words {
        /// The record's number in the shard.
        number: u64,
        /// Its id.
        record: Hash,
        /// Where it begins.
        start: u64,
        /// The siblings from its start's leaf up.
        siblings: Vec<Hash>,
        /// What it says.
        content: String,
        /// Pages of the text with its place.
        text: Vec<Page>,
    },
}

/// A match that is longer than somebody claimed: words at `at`, as many as it has.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Longer {
    /// How many words match.
    pub words: u64,
    /// Where.
    pub at: u64,
    /// Pages of the text with it.
    pub text: Vec<Page>,
}

/// Whether `longer` refutes the claim that the longest match of the beginning of `text` is `claimed`. It says nothing of
/// the index: who claimed it may have looked badly.
///
/// # Errors
/// When the pages are not the committed ones, or what they show is no longer match.
pub fn refutes(roots: &SpanRoots, text: &[u32], claimed: &Longest, longer: &Longer) -> Result<(), SpanError> {
    let pages = Pages::check(&roots.text, roots.entries, &longer.text)?;
    let length = usize::try_from(longer.words).unwrap_or(usize::MAX);
    let own = text.get(..length).filter(|own| longer.words > claimed.words && !own.contains(&SEPARATOR));
    match own {
        Some(own) if stands(&pages, longer.at, own.iter().copied())? => Ok(()),
        _ => Err(SpanError::NoFault),
    }
}

/// Whether `fault` is one of the index under `roots`.
///
/// # Errors
/// When the pages are not the committed ones, something is missing, or what they show is right.
pub fn judge(roots: &SpanRoots, fault: &Fault) -> Result<(), SpanError> {
    let wrong = match fault {
        Fault::Order { place, order, text } => out_of_order(roots, *place, order, text)?,
        Fault::Inverse { position, inverse, order } => elsewhere(roots, *position, inverse, order.as_ref())?,
        Fault::Words { number, record, start, siblings, content, text } => {
            let leaf = start_hash(*start, record);
            if !merkle::verify(&roots.starts, &leaf, *number, roots.records, siblings) {
                return Err(SpanError::Page { page: *number });
            }
            let pages = Pages::check(&roots.text, roots.entries, text)?;
            let wanted = words(content).map(|(_, word)| word).chain([SEPARATOR]);
            !stands(&pages, *start, wanted)?
        }
    };
    if wrong { Ok(()) } else { Err(SpanError::NoFault) }
}

/// Whether `wanted` stands at `start`; the end of the text is no word.
fn stands(pages: &Pages<'_>, start: u64, wanted: impl Iterator<Item = u32>) -> Result<bool, SpanError> {
    for (offset, word) in (0..).zip(wanted) {
        let at = start.saturating_add(offset);
        if at >= pages.entries() || pages.get(at)? != word {
            return Ok(false);
        }
    }
    Ok(true)
}

fn out_of_order(roots: &SpanRoots, place: u64, order: &[Page], text: &[Page]) -> Result<bool, SpanError> {
    let order = Pages::check(&roots.order, roots.entries, order)?;
    let pages = Pages::check(&roots.text, roots.entries, text)?;
    let (first, second) = (u64::from(order.get(place)?), u64::from(order.get(place.saturating_add(1))?));
    if first >= roots.entries || second >= roots.entries {
        return Ok(true);
    }
    let end = roots.entries - first.max(second);
    for offset in 0..end {
        let (one, other) = (pages.get(first + offset)?, pages.get(second + offset)?);
        match one.cmp(&other) {
            Ordering::Equal if one == SEPARATOR => return Ok(first >= second),
            Ordering::Equal => {}
            unequal => return Ok(unequal == Ordering::Greater),
        }
    }
    // A text that doesn't end with a separator is false by itself.
    Ok(true)
}

fn elsewhere(roots: &SpanRoots, position: u64, inverse: &Page, order: Option<&Page>) -> Result<bool, SpanError> {
    let inverse = Pages::check(&roots.inverse, roots.entries, core::slice::from_ref(inverse))?;
    let place = u64::from(inverse.get(position)?);
    if place >= roots.entries {
        return Ok(true);
    }
    let order = order.ok_or(SpanError::Missing { entry: place })?;
    let order = Pages::check(&roots.order, roots.entries, core::slice::from_ref(order))?;
    Ok(u64::from(order.get(place)?) != position)
}
