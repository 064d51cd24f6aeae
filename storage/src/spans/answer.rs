//! The spans of an answer in several indexes as if they were one.
//!
//! Of what an index has, only a match matters that is improbable enough to be shown and goes on behind all that begin
//! earlier. So a few words at the end of such a match are looked for first: hardly ever does an index have them, and then
//! nothing that would hold them has to be looked for (as Boyer and Moore's search compares from the end, CACM 20(10), 1977).
//!
//! Invariant: what is found is what [`maximal`] would make of every word's longest match.

use std::panic::resume_unwind;
use std::thread::Builder;

use tributary_protocol::span::{Longest, MAX_WORDS, Span, improbability, least_improbability, maximal};

use super::SpanIndex;

/// Threads that search at once: more than a machine has cores, since those whose files are not in memory wait for the
/// disk, which answers many at once sooner than one after another.
const SEARCHERS: usize = 32;
/// By how much the words that are looked for first are more improbable than one occurrence in the index, in millionths of
/// a bit: it has them by chance once in sixteen times. More words are rarer, and exclude fewer matches.
const TEST_MICRO_BITS: u64 = 4_000_000;

/// A match at each word, with the number of its index; without words where none matters.
type Matches = Vec<(Longest, usize)>;

/// An answer's words and how improbable the beginnings of the answer are.
struct Wanted<'a> {
    words: &'a [u32],
    /// The sum of the words' costs before each of them and at the end, in millionths of a bit.
    sums: Vec<u64>,
    /// Of a span that is shown.
    least: u64,
}

impl<'a> Wanted<'a> {
    fn of(words: &'a [u32], costs: &[u64], least: u64) -> Self {
        let sums = costs.iter().scan(0_u64, |sum, cost| {
            *sum = sum.saturating_add(*cost);
            Some(*sum)
        });
        Self { words, sums: std::iter::once(0).chain(sums).collect(), least }
    }

    /// Where a span that begins at `begin` ends at the earliest, if the answer is long enough.
    fn end(&self, begin: usize) -> Option<usize> {
        let least = self.sums.get(begin)?.saturating_add(self.least);
        let end = self.sums.partition_point(|sum| *sum < least);
        (end < self.sums.len()).then_some(end)
    }

    /// The last word from which on what stands before `end` is too improbable to be in `index` by chance.
    fn test(&self, index: &SpanIndex, end: usize) -> usize {
        let rare = improbability(1, index.roots().entries).saturating_add(TEST_MICRO_BITS);
        let sum = self.sums.get(end).copied().unwrap_or(0);
        self.sums.partition_point(|before| before.saturating_add(rare) <= sum).saturating_sub(1)
    }

    /// Puts into `matches` what index `number` has of more words.
    fn look_up(&self, index: &SpanIndex, number: usize, matches: &mut Matches) {
        let (mut begin, mut reached) = (0, 0);
        while let Some(end) = self.end(begin).map(|end| end.max(reached + 1)).filter(|end| *end <= self.words.len()) {
            let test = self.test(index, end).max(begin);
            let (found, to) = self.longest(index, test);
            if to < end {
                // No match that begins here or earlier goes on to the end.
                begin = test + 1;
                continue;
            }
            let (found, to) = if test == begin { (found, to) } else { self.longest(index, begin) };
            if to >= end {
                matches[begin] = longer(matches[begin], (found, number));
                reached = to;
            }
            begin += 1;
        }
    }

    /// The longest match at `begin`, and its end.
    fn longest(&self, index: &SpanIndex, begin: usize) -> (Longest, usize) {
        let found = index.longest(&self.words[begin..]);
        (found, begin.saturating_add(usize::try_from(found.words).unwrap_or(usize::MAX)))
    }
}

/// The one of more words; the earlier of equal ones.
fn longer(best: (Longest, usize), later: (Longest, usize)) -> (Longest, usize) {
    if later.0.words > best.0.words { later } else { best }
}

/// What `work` makes of groups of indexes with their numbers, in their order.
fn in_groups<T: Send>(
    indexes: &[&SpanIndex],
    work: impl Fn(&mut dyn Iterator<Item = (usize, &SpanIndex)>) -> T + Sync,
) -> Vec<T> {
    let share = indexes.len().div_ceil(SEARCHERS).max(1);
    let group = |first: usize| work(&mut indexes.iter().copied().enumerate().skip(first).take(share));
    let group = &group;
    std::thread::scope(|scope| {
        let spawn = |first| (first, Builder::new().spawn_scoped(scope, move || group(first)));
        let others: Vec<_> = (share..indexes.len()).step_by(share).map(spawn).collect();
        let mut done = vec![group(0)];
        for (first, thread) in others {
            // Where the system gives no thread, this one works in its place.
            done.push(
                thread.map_or_else(|_| group(first), |thread| thread.join().unwrap_or_else(|why| resume_unwind(why))),
            );
        }
        done
    })
}

/// How improbable each word of an answer is in all indexes.
fn costs(indexes: &[&SpanIndex], answer: &[u32]) -> Vec<u64> {
    let mut words = answer.to_vec();
    words.sort_unstable();
    words.dedup();
    let counts = in_groups(indexes, |group| {
        let mut counts = vec![0_u64; words.len()];
        for (_, index) in group {
            counts.iter_mut().zip(&words).for_each(|(count, word)| *count += index.count(*word));
        }
        counts
    });
    let total = |at: usize| counts.iter().filter_map(|counts| counts.get(at)).sum();
    let entries = entries(indexes);
    let costs: Vec<u64> = (0..words.len()).map(|at| improbability(total(at), entries)).collect();
    let cost = |word| words.binary_search(word).ok().and_then(|at| costs.get(at).copied());
    answer.iter().map(|word| cost(word).unwrap_or(0)).collect()
}

fn entries(indexes: &[&SpanIndex]) -> u64 {
    indexes.iter().map(|index| index.roots().entries).sum()
}

/// The verbatim spans of an answer that are worth showing over all `indexes` as if they were one, each with its index's
/// number, the most improbable first; words beyond [`MAX_WORDS`] are not looked at. Words that several indexes have are
/// found in the first of them.
#[must_use]
pub fn spans_in(indexes: &[&SpanIndex], answer: &[u32]) -> Vec<(Span, usize)> {
    let answer = &answer[..answer.len().min(MAX_WORDS)];
    let (costs, entries) = (costs(indexes, answer), entries(indexes));
    let wanted = Wanted::of(answer, &costs, least_improbability(entries));
    let nothing = || vec![(Longest { words: 0, at: 0 }, 0); answer.len()];
    let found = in_groups(indexes, |group| {
        let mut matches = nothing();
        group.for_each(|(number, index)| wanted.look_up(index, number, &mut matches));
        matches
    });
    let mut matches = nothing();
    for later in found {
        matches.iter_mut().zip(later).for_each(|(best, later)| *best = longer(*best, later));
    }
    let (matches, numbers): (Vec<Longest>, Vec<usize>) = matches.into_iter().unzip();
    let spans = maximal(&matches, &costs, entries).into_iter();
    spans.filter_map(|span| Some((span, *numbers.get(usize::try_from(span.begin).ok()?)?))).collect()
}
