//! Finding: matches of an answer's words, the spans worth showing, and the pages that prove them.

use std::cmp::Ordering;
use std::ops::Range;

use tributary_protocol::span::{Fault, Longer, Longest, MatchProof, Page, SEPARATOR, Span};

use super::SpanIndex;
use super::answer::spans_in;
use super::file::List;

impl SpanIndex {
    /// How `text` stands to the suffix at `at`, the first `common` words of which are known to agree, and how many do.
    fn compare(&self, text: &[u32], at: u64, common: u64) -> (Ordering, u64) {
        let mut common = common;
        while let Some(word) = usize::try_from(common).ok().and_then(|common| text.get(common)) {
            let other = self.entry(List::Text, at + common);
            if other == SEPARATOR || other != *word {
                return (word.cmp(&other), common);
            }
            common += 1;
        }
        (Ordering::Less, common)
    }

    /// Suffixes below `text`, which lie before all that begin with it. Only those that begin with its first word are
    /// compared. Both neighbours' common words only grow, so most comparisons begin where they end (Manber and Myers,
    /// section 3).
    fn place(&self, text: &[u32]) -> u64 {
        let Some(word) = text.first() else { return 0 };
        let Range { start: mut low, end: mut high } = self.range(*word);
        let (mut low_common, mut high_common) = (1, 1);
        while low < high {
            let middle = u64::midpoint(low, high);
            let at = u64::from(self.entry(List::Order, middle));
            let (side, common) = self.compare(text, at, low_common.min(high_common));
            if side == Ordering::Greater {
                (low, low_common) = (middle + 1, common);
            } else {
                (high, high_common) = (middle, common);
            }
        }
        low
    }

    /// The longest match of the beginning of `text` beside `place`.
    fn beside(&self, text: &[u32], place: u64) -> Longest {
        let mut best = Longest { words: 0, at: 0 };
        if let Some(below) = place.checked_sub(1) {
            let at = u64::from(self.entry(List::Order, below));
            best = Longest { words: self.compare(text, at, 0).1, at };
        }
        if place < self.roots().entries {
            let at = u64::from(self.entry(List::Order, place));
            let words = self.compare(text, at, 0).1;
            if words >= best.words {
                best = Longest { words, at };
            }
        }
        best
    }

    /// The longest match of the beginning of `text`.
    #[must_use]
    pub fn longest(&self, text: &[u32]) -> Longest {
        self.beside(text, self.place(text))
    }

    /// How often a word stands in the shard.
    #[must_use]
    pub fn count(&self, word: u32) -> u64 {
        if word == SEPARATOR {
            return self.roots().records;
        }
        let places = self.range(word);
        // A damaged vocabulary may say anything.
        places.end.saturating_sub(places.start)
    }

    /// The verbatim spans of an answer that are worth showing, the most improbable first; words beyond
    /// [`MAX_WORDS`](tributary_protocol::span::MAX_WORDS) are not looked at.
    #[must_use]
    pub fn spans(&self, answer: &[u32]) -> Vec<Span> {
        spans_in(&[self], answer).into_iter().map(|(span, _)| span).collect()
    }

    /// What proves [`longest`](Self::longest) of the beginning of `text`.
    #[must_use]
    pub fn prove(&self, text: &[u32]) -> MatchProof {
        let place = self.place(text);
        let beside = place.saturating_sub(1)..(place + 1).min(self.roots().entries);
        let mut pages = Vec::new();
        for place in beside.clone() {
            let at = u64::from(self.entry(List::Order, place));
            let common = self.compare(text, at, 0).1;
            pages.extend(self.pages(List::Text, at, at + common + 1));
        }
        MatchProof { place, order: self.pages(List::Order, beside.start, beside.end), text: distinct(pages) }
    }

    /// What shows the longest match of the beginning of `text` to whoever claims a shorter one.
    #[must_use]
    pub fn prove_longer(&self, text: &[u32]) -> Longer {
        let Longest { words, at } = self.longest(text);
        Longer { words, at, text: self.pages(List::Text, at, at + words) }
    }

    /// The first fault of order or inverse, if there is one: neighbours that are not in order, or a position that the
    /// order lacks. Reads everything once.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        (0..self.roots().entries).find_map(|at| self.inverse_fault(at).or_else(|| self.order_fault(at)))
    }

    fn inverse_fault(&self, position: u64) -> Option<Fault> {
        let place = u64::from(self.entry(List::Inverse, position));
        let right = place < self.roots().entries && u64::from(self.entry(List::Order, place)) == position;
        let inverse = self.pages(List::Inverse, position, position + 1).pop().filter(|_| !right)?;
        Some(Fault::Inverse { position, inverse, order: self.pages(List::Order, place, place + 1).pop() })
    }

    fn order_fault(&self, place: u64) -> Option<Fault> {
        let end = self.roots().entries;
        let second = u64::from(self.entry(List::Order, (place + 1 < end).then_some(place + 1)?));
        let first = u64::from(self.entry(List::Order, place));
        let mut offset = 0;
        // Positions beyond the end are faults that no word has to show.
        while first.max(second) + offset < end {
            let (one, other) = (self.entry(List::Text, first + offset), self.entry(List::Text, second + offset));
            let fine = match one.cmp(&other) {
                Ordering::Equal if one == SEPARATOR => first < second,
                Ordering::Equal => {
                    offset += 1;
                    continue;
                }
                unequal => unequal == Ordering::Less,
            };
            if fine {
                return None;
            }
            break;
        }
        let mut text = self.pages(List::Text, first, first + offset + 1);
        text.extend(self.pages(List::Text, second, second + offset + 1));
        Some(Fault::Order { place, order: self.pages(List::Order, place, place + 2), text: distinct(text) })
    }
}

/// Each page once.
fn distinct(mut pages: Vec<Page>) -> Vec<Page> {
    pages.sort_by_key(|page| page.page);
    pages.dedup_by_key(|page| page.page);
    pages
}
