//! Which matches are worth showing: spans that no longer one covers, the improbable ones first.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::Longest;

/// One in this many words of an answer may begin a span that is shown (OLMoTrace, arXiv 2504.07096, section 3: 0.05).
const WORDS_PER_SPAN: usize = 20;
/// Bits beyond the length of the whole index at which a span is no accident: by chance it would stand once in a million
/// such indexes, were words independent; phrases of a language are likelier than that.
const MARGIN_MICRO_BITS: u64 = 20_000_000;

/// A part of an answer that stands in a record word for word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Span {
    /// The first word in the answer.
    pub begin: u64,
    /// Words.
    pub words: u64,
    /// Where it stands in the shard's text.
    pub at: u64,
    /// How improbable it is from the words' frequencies alone, in millionths of a bit.
    pub micro_bits: u64,
}

/// −log2 of the part that `count` of `total` is, in millionths of a bit, by integers alone (repeated squaring); for a word
/// that never appears as if it did once.
#[must_use]
pub fn improbability(count: u64, total: u64) -> u64 {
    micro_log2(total.max(1)).saturating_sub(micro_log2(count.max(1)))
}

/// log2 in millionths, rounded down to 2^-20.
fn micro_log2(value: u64) -> u64 {
    let whole = u64::from(value.max(1).ilog2());
    // 1 ≤ mantissa < 2, with 62 bits after the point.
    let mut mantissa = (u128::from(value.max(1)) << 62) >> whole;
    let mut fraction = 0_u64;
    for _ in 0..20 {
        mantissa = (mantissa * mantissa) >> 62;
        fraction <<= 1;
        if mantissa >> 63 != 0 {
            fraction |= 1;
            mantissa >>= 1;
        }
    }
    whole * 1_000_000 + ((fraction * 1_000_000) >> 20)
}

/// How improbable a span must be at least to be shown, in millionths of a bit: more than chance explains in an index of
/// `entries` entries.
#[must_use]
pub fn least_improbability(entries: u64) -> u64 {
    micro_log2(entries.max(1)).saturating_add(MARGIN_MICRO_BITS)
}

/// The spans of an answer worth showing: `matches` has the longest match at each of its words, `costs` each word's
/// improbability. Spans that lie in another one, and those that chance explains in an index of `entries` entries, are
/// left out; the most improbable come first, one for each twenty words at most.
#[must_use]
pub fn maximal(matches: &[Longest], costs: &[u64], entries: u64) -> Vec<Span> {
    let enough = least_improbability(entries);
    let mut spans = Vec::new();
    let mut reached = 0;
    for (begin, found) in matches.iter().enumerate() {
        let words = usize::try_from(found.words).unwrap_or(usize::MAX);
        let end = begin.saturating_add(words).min(costs.len());
        if end <= reached {
            continue;
        }
        reached = end;
        let micro_bits = costs[begin..end].iter().fold(0_u64, |sum, cost| sum.saturating_add(*cost));
        if micro_bits >= enough {
            let begin = u64::try_from(begin).unwrap_or(u64::MAX);
            spans.push(Span { begin, words: found.words, at: found.at, micro_bits });
        }
    }
    spans.sort_by_key(|span| (core::cmp::Reverse(span.micro_bits), span.begin));
    spans.truncate(matches.len().div_ceil(WORDS_PER_SPAN));
    spans
}
