//! Answers with retrieved records: what stood before the question, and how much of the answer it explains beside the
//! adapter.
//!
//! The players are the adapter and the passages. A coalition's worth is by how much it lowers the loss of the answer that
//! was given. The whole is divided by the exact Shapley value between the adapter and all passages as one player, and the
//! passages' part by the exact Shapley value of the same game among them (together the Owen value of this coalition
//! structure), in whole numbers: credits are multiplied by [`Split::scale`] so that nothing is rounded.
//!
//! Invariant: what the parts of a split sum to is exactly what the whole lowers the loss by; shares and commons sum
//! exactly to [`WHOLE`]; the order of the passages decides nothing of who is paid.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::attribution::{COMMONS_MICRO_NATS, CreditScore, NOISE_MICRO_NATS, Share, WHOLE, shares};
use crate::id::{AccountId, ChainAddress, Hash};
use crate::limits::{PASSAGE_MAX_BYTES, PASSAGES_MAX};

/// A record that stood before the question.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Passage {
    /// Its id.
    pub record: Hash,
    /// Who is credited for it, by number in the release.
    pub contributor: u32,
    /// Its text: what a model is given,
    pub prompt: String,
    /// and what it should say.
    pub completion: String,
}

impl Passage {
    /// Whether it may stand before a question.
    #[must_use]
    pub const fn fits(&self) -> bool {
        self.prompt.len() + self.completion.len() <= PASSAGE_MAX_BYTES
    }

    /// What the model reads of it: both texts as they were trained, apart where nothing else parts them.
    #[must_use]
    pub fn text(&self) -> String {
        let (prompt, completion) = (self.prompt.trim(), self.completion.trim());
        let is_apart = self.prompt.ends_with(char::is_whitespace) || self.completion.starts_with(char::is_whitespace);
        let between = match (prompt.is_empty() || completion.is_empty(), is_apart) {
            (true, _) => "",
            (false, true) => " ",
            (false, false) => "\n",
        };
        format!("{prompt}{between}{completion}")
    }
}

/// The question as the model reads it: each passage, then the question, with an empty line after each passage.
#[must_use]
pub fn before<'passage>(passages: impl IntoIterator<Item = &'passage Passage>, question: &str) -> String {
    let mut text = String::new();
    for passage in passages {
        text.push_str(&passage.text());
        text.push_str("\n\n");
    }
    text + question
}

/// What retrieval added to an answer; empty where nothing was wanted or found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Context {
    /// The passages, in the order in which they stood: the best last.
    pub passages: Vec<Passage>,
    /// The answer's loss under each coalition in micro-nats for each of its tokens: bit `i` of the place says whether
    /// passage `i` stood there, the bit above them whether the adapter was used.
    pub losses: Vec<i64>,
}

/// How many coalitions the adapter and so many passages make.
#[must_use]
pub const fn coalitions(passages: usize) -> usize {
    2 << passages
}

impl Context {
    /// Why this is no context of an answer for which at most `most` records were wanted, if it is none.
    #[must_use]
    pub fn fault(&self, most: u8, contributors: usize) -> Option<&'static str> {
        let count = self.passages.len();
        if count > usize::from(most) || count > PASSAGES_MAX {
            return Some("more records stand before the question than were wanted");
        }
        let expected = if count == 0 { 0 } else { coalitions(count) };
        if self.losses.len() != expected {
            return Some("there is not one loss for each coalition of adapter and records");
        }
        let is_known = |passage: &Passage| {
            passage.fits() && usize::try_from(passage.contributor).is_ok_and(|number| number < contributors)
        };
        let mut ids: Vec<Hash> = self.passages.iter().map(|passage| passage.record).collect();
        ids.sort_unstable();
        let is_repeated = ids.windows(2).any(|pair| pair[0] == pair[1]);
        let is_sound = !is_repeated && self.passages.iter().all(is_known);
        (!is_sound).then_some("a record before the question is too long, stands there twice, or is of no contributor")
    }

    /// What adapter and passages explain; nothing where there are no passages.
    #[must_use]
    pub fn split(&self) -> Option<Split> {
        let count = self.passages.len();
        ((1..=PASSAGES_MAX).contains(&count) && self.losses.len() == coalitions(count))
            .then(|| Split::of(count, &self.losses))
    }
}

/// What adapter and passages explain of an answer, in micro-nats times [`scale`](Self::scale).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// What one micro-nat is.
    pub scale: i128,
    /// The adapter's part.
    pub adapter: i128,
    /// Each passage's.
    pub passages: Vec<i128>,
}

fn factorial(number: usize) -> i128 {
    (1..=number).map(|factor| i128::try_from(factor).unwrap_or(1)).product()
}

impl Split {
    /// `losses` are those of [`Context`], of at most [`PASSAGES_MAX`] passages.
    fn of(count: usize, losses: &[i64]) -> Self {
        let all = (1 << count) - 1;
        let adapter = 1 << count;
        let worth = |coalition: usize| i128::from(losses[0]) - i128::from(losses[coalition]);
        // Twice the two-player Shapley value of the passages in `some`, against the adapter.
        let context = |some: usize| worth(some) + worth(adapter | some) - worth(adapter);
        let orders = factorial(count);
        let of_adapter = (worth(adapter) + worth(adapter | all) - worth(all)) * orders;
        let of_passage = |place: usize| -> i128 {
            let own = 1 << place;
            let without = (0..=all).filter(|some| some & own == 0);
            let marginal = |some: usize| {
                let size = usize::try_from(some.count_ones()).unwrap_or(count);
                factorial(size) * factorial(count - 1 - size) * (context(some | own) - context(some))
            };
            without.map(marginal).sum()
        };
        Self { scale: 2 * orders, adapter: of_adapter, passages: (0..count).map(of_passage).collect() }
    }
}

/// Shares of an answer with passages: the pot is what adapter and passages explain each, less the noise, with the commons'
/// part; the adapter's slice of it goes to its contributors as an answer without passages would, with `noise` micro-nats of
/// each credit taken for chance, a passage's to who is
/// credited for it. Credits of passages are summed by identity before the noise is taken and what harms is clipped.
/// Ordered by account; what is missing to [`WHOLE`] is the commons'.
#[must_use]
pub fn shares_with(
    (adapter, noise): (&[CreditScore], u64),
    split: &Split,
    owners: &[(AccountId, ChainAddress)],
) -> Vec<Share> {
    let of_adapter = shares(adapter, noise);
    let (noise, commons) = (i128::from(NOISE_MICRO_NATS) * split.scale, i128::from(COMMONS_MICRO_NATS) * split.scale);
    let beyond_noise = |credit: i128| (credit - noise).max(0);
    let mut parts: BTreeMap<AccountId, (ChainAddress, i128)> = BTreeMap::new();
    for ((account, payout), credit) in owners.iter().zip(&split.passages) {
        parts.entry(*account).or_insert((*payout, 0)).1 += credit;
    }
    parts.values_mut().for_each(|(_, part)| *part = beyond_noise(*part));
    let slice = beyond_noise(split.adapter);
    let pot = slice + parts.values().map(|(_, part)| part).sum::<i128>() + commons;
    let whole = i128::from(WHOLE);
    parts.values_mut().for_each(|(_, part)| *part *= whole);
    for share in of_adapter {
        parts.entry(share.account).or_insert((share.payout, 0)).1 += slice * i128::from(share.weight);
    }
    let share = |(account, (payout, part)): (AccountId, (ChainAddress, i128))| {
        let weight = u32::try_from(part / pot).unwrap_or(WHOLE);
        (weight > 0).then_some(Share { account, payout, weight })
    };
    parts.into_iter().filter_map(share).collect()
}

/// What of an answer's whole comes from the adapter and what from each passage, in parts per million, as
/// [`shares_with`] divides it; the rest is the commons'. Shown to people; nobody is paid by it.
#[must_use]
pub fn sources(split: &Split, contributors: &[u32]) -> (u32, Vec<u32>) {
    let (noise, commons) = (i128::from(NOISE_MICRO_NATS) * split.scale, i128::from(COMMONS_MICRO_NATS) * split.scale);
    let mut sums: BTreeMap<u32, (i128, i128)> = BTreeMap::new();
    for (contributor, credit) in contributors.iter().zip(&split.passages) {
        let sum = sums.entry(*contributor).or_default();
        *sum = (sum.0 + credit, sum.1 + (*credit).max(0));
    }
    let slice = (split.adapter - noise).max(0);
    let pot = slice + sums.values().map(|(sum, _)| (sum - noise).max(0)).sum::<i128>() + commons;
    let parts = |part: i128, of: i128| u32::try_from(part * i128::from(WHOLE) / of).unwrap_or(WHOLE);
    // What an identity is paid is told by the passages that help, in their proportion.
    let of_passage = |(contributor, credit): (&u32, &i128)| {
        let (sum, helpful) = sums.get(contributor).copied().unwrap_or_default();
        let paid = parts((sum - noise).max(0), pot);
        let part = i128::from(paid) * (*credit).max(0) / helpful.max(1);
        u32::try_from(part).unwrap_or(paid)
    };
    (parts(slice, pot), contributors.iter().zip(&split.passages).map(of_passage).collect())
}

#[cfg(test)]
mod tests;
