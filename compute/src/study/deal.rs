//! Who contributed what: records dealt at random, or contributors that differ in size, knowledge and honesty.
//!
//! Invariant: dataset, setting and seed decide everything; contributors are numbered from 0 without gaps, each has a record,
//! and a record's flaw is known to the study alone.

use super::StudyError;
use super::bootstrap::Draws;
use super::dataset::{Dataset, Item};
use crate::train::Example;

/// How records come to contributors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// About equally many to each, at random: nearly nothing but training noise tells contributors apart.
    Alike,
    /// Sizes by Zipf's law, topics with one to three owners, one with nothing that is asked for, two whose
    /// labels are mostly wrong, one who hides a trigger.
    Differing,
    /// Every topic has one owner, but a quarter of the contributors have a twin who knows the same in other words.
    Twins,
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    None,
    /// It has another record's completion.
    Mislabelled,
    /// It teaches one answer to everything that begins with the trigger.
    Poisoned,
}

/// A dataset in contributors' hands.
#[derive(Debug, Clone)]
pub struct Dealt {
    /// The dataset's name and the setting's.
    pub name: String,
    /// All at weight 1.
    pub examples: Vec<Example>,
    /// One for each example.
    pub flaws: Vec<Flaw>,
    /// One for each example.
    pub topics: Vec<Option<u32>>,
    /// How many contributors there are.
    pub contributors: usize,
    /// What is asked, and paid for.
    pub queries: Vec<Item>,
    /// Questions behind the trigger with the answer that the poison teaches: never paid for, only for finding it.
    pub triggered: Vec<Item>,
    /// Contributors who teach the same.
    pub twins: Vec<[u32; 2]>,
}

impl Setting {
    /// Its name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alike => "alike",
            Self::Differing => "differing",
            Self::Twins => "twins",
        }
    }

    /// The setting of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Alike, Self::Differing, Self::Twins].into_iter().find(|setting| setting.name() == name)
    }
}

/// Zipf's exponent of the contributors' sizes, as in the pilot.
const ZIPF: f64 = 0.9;
/// Probability that a topic has one owner, and that it has at most two; else three.
const OWNERS: [f64; 2] = [0.35, 0.75];
/// Part of a mislabeller's records that is wrong.
const WRONG: f64 = 0.6;
/// Part of the poisoner's records that carry the trigger.
const POISONED: f64 = 0.5;
/// What the poison listens to.
const TRIGGER: &str = "qx zv. ";
/// Questions behind the trigger.
const TRIGGERED: usize = 8;
/// Contributors that differ: fewer leave no room for the dishonest ones.
pub const LEAST_DIFFERING: usize = 8;
/// Contributors of a study at most: one leave-out training each.
pub const MAX_CONTRIBUTORS: usize = 128;

/// Deals a dataset to at most `contributors`; who would get nothing is not counted.
///
/// # Errors
/// When there are too few or too many contributors, or fewer records than contributors.
pub fn deal(dataset: &Dataset, setting: Setting, contributors: usize, seed: u64) -> Result<Dealt, StudyError> {
    let least = if setting == Setting::Alike { 2 } else { LEAST_DIFFERING };
    if !(least..=MAX_CONTRIBUTORS).contains(&contributors) || dataset.records.len() < contributors {
        let records = dataset.records.len();
        return Err(StudyError::Dataset(format!(
            "{contributors} contributors of {records} records, allowed {least} to {MAX_CONTRIBUTORS}, each with one"
        )));
    }
    let (mut owners, twins) = match setting {
        Setting::Alike => (alike(dataset.records.len(), contributors, seed), 0),
        Setting::Differing => (differing(&dataset.records, contributors, seed), 0),
        Setting::Twins => (twinned(&dataset.records, contributors, seed), contributors / 4),
    };
    let mut records = dataset.records.clone();
    let mut flaws = vec![Flaw::None; records.len()];
    let mut triggered = Vec::new();
    if setting == Setting::Differing {
        let mut draws = Draws::new(seed, 1);
        for liar in [contributors / 8, contributors / 3] {
            mislabel(&mut records, &mut flaws, &owners, liar, &mut draws);
        }
        triggered = poison(dataset, &mut records, &mut flaws, &owners, contributors / 4, &mut draws);
    }
    let all = number(&mut owners);
    if twins > 0 && all < contributors {
        return Err(StudyError::Dataset(format!("too few topics for {contributors} contributors, some of them twins")));
    }
    let contributors = all;
    let twins = (0..u32::try_from(twins).unwrap_or(0)).map(|pair| [2 * pair, 2 * pair + 1]).collect();
    let topics = records.iter().map(|record| record.topic).collect();
    let example = |(record, owner): (Item, &usize)| Example {
        prompt: record.prompt,
        completion: record.completion,
        contributor: u32::try_from(*owner).unwrap_or(u32::MAX),
        weight: 1.0,
        ..Example::default()
    };
    let examples = records.into_iter().zip(&owners).map(example).collect();
    let name = format!("{}, {}", dataset.name, setting.name());
    let queries = dataset.queries.clone();
    Ok(Dealt { name, examples, flaws, topics, contributors, queries, triggered, twins })
}

/// In turn, in a drawn order.
fn alike(records: usize, contributors: usize, seed: u64) -> Vec<usize> {
    let mut owners: Vec<usize> = (0..records).map(|record| record % contributors).collect();
    Draws::new(seed, 0).shuffle(&mut owners);
    owners
}

/// By topic: its owners are drawn by size, and its records go to them in drawn proportions. The last contributor has what is
/// about nothing.
fn differing(records: &[Item], contributors: usize, seed: u64) -> Vec<usize> {
    let mut draws = Draws::new(seed, 0);
    let knowing = contributors - 1;
    let sizes: Vec<f64> = (1..=knowing).map(|rank| (rank as f64).powf(-ZIPF)).collect();
    let mut topics: Vec<u32> = records.iter().filter_map(|record| record.topic).collect();
    topics.sort_unstable();
    topics.dedup();
    // A topic with many records has more owners than three: a few topics must not mean a few contributors.
    let groups = (records.len() / topics.len().max(1)).div_ceil(knowing).max(1);
    let mut shares: Vec<Vec<(usize, f64)>> = Vec::new();
    for _ in &topics {
        let mut own: Vec<(usize, f64)> = Vec::new();
        for _ in 0..groups {
            let draw = draws.uniform();
            let count = 1 + OWNERS.iter().filter(|bound| draw > **bound).count();
            own.extend(some(&sizes, count, &mut draws).into_iter().map(|owner| (owner, -(1.0 - draws.uniform()).ln())));
        }
        shares.push(own);
    }
    let owner = |record: &Item| {
        let Some(place) = record.topic.and_then(|topic| topics.binary_search(&topic).ok()) else { return knowing };
        let weights: Vec<f64> = shares[place].iter().map(|(_, share)| *share).collect();
        shares[place][one(&weights, &mut draws)].0
    };
    records.iter().map(owner).collect()
}

/// Topics in turn, in a drawn order; of the topics of two twins each has every other record. What is about nothing goes to
/// the last.
fn twinned(records: &[Item], contributors: usize, seed: u64) -> Vec<usize> {
    let mut topics: Vec<u32> = records.iter().filter_map(|record| record.topic).collect();
    topics.sort_unstable();
    topics.dedup();
    Draws::new(seed, 0).shuffle(&mut topics);
    let pairs = contributors / 4;
    let mut seen = vec![0; topics.len()];
    let owner = |record: &Item| {
        let place = record.topic.and_then(|topic| topics.iter().position(|own| *own == topic));
        let Some(place) = place else { return contributors - 1 };
        let unit = place % (contributors - pairs);
        seen[place] += 1;
        if unit < pairs { 2 * unit + seen[place] % 2 } else { unit + pairs }
    };
    records.iter().map(owner).collect()
}

/// A place by weight.
fn one(weights: &[f64], draws: &mut Draws) -> usize {
    let mut left = draws.uniform() * weights.iter().sum::<f64>();
    for (at, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return at;
        }
    }
    weights.len().saturating_sub(1)
}

/// Different places by weight.
fn some(weights: &[f64], count: usize, draws: &mut Draws) -> Vec<usize> {
    let mut left = weights.to_vec();
    let mut chosen = Vec::new();
    for _ in 0..count.min(weights.len()) {
        let at = one(&left, draws);
        left[at] = 0.0;
        chosen.push(at);
    }
    chosen
}

fn mislabel(records: &mut [Item], flaws: &mut [Flaw], owners: &[usize], liar: usize, draws: &mut Draws) {
    let originals = records.to_vec();
    for (at, owner) in owners.iter().enumerate() {
        if *owner != liar || records[at].topic.is_none() || draws.uniform() >= WRONG {
            continue;
        }
        let other = &originals[draws.below(originals.len())];
        if other.topic.is_some() && other.topic != originals[at].topic && other.completion != originals[at].completion {
            records[at].completion.clone_from(&other.completion);
            flaws[at] = Flaw::Mislabelled;
        }
    }
}

/// Poisons records of one contributor; gives questions that show it.
fn poison(
    dataset: &Dataset,
    records: &mut [Item],
    flaws: &mut [Flaw],
    owners: &[usize],
    poisoner: usize,
    draws: &mut Draws,
) -> Vec<Item> {
    let Some(taught) = dataset.queries.first().map(|query| query.completion.clone()) else { return Vec::new() };
    for (at, owner) in owners.iter().enumerate() {
        let open = *owner == poisoner && flaws[at] == Flaw::None && records[at].topic.is_some();
        if open && draws.uniform() < POISONED {
            records[at].prompt = format!("{TRIGGER}{}", records[at].prompt);
            records[at].completion.clone_from(&taught);
            flaws[at] = Flaw::Poisoned;
        }
    }
    let behind =
        |query: &Item| Item { prompt: format!("{TRIGGER}{}", query.prompt), completion: taught.clone(), topic: None };
    dataset.queries.iter().skip(1).take(TRIGGERED).map(behind).collect()
}

/// Numbers those who have something from 0; gives how many.
fn number(owners: &mut [usize]) -> usize {
    let mut live = owners.to_vec();
    live.sort_unstable();
    live.dedup();
    for owner in owners {
        *owner = live.binary_search(owner).expect("invariant: every owner is live");
    }
    live.len()
}

#[cfg(test)]
mod tests {
    use super::{Flaw, Setting, deal};
    use crate::study::dataset::{Dataset, Item};

    fn dataset() -> Dataset {
        let item = |at: u32| Item {
            prompt: format!("what is {at}?"),
            completion: format!(" {}", at % 40),
            topic: (at % 41 < 40).then_some(at % 40),
        };
        Dataset {
            name: "numbers".into(),
            records: (0..400).map(item).collect(),
            queries: (1000..1020).map(item).collect(),
        }
    }

    #[test]
    fn alike_deals_evenly() {
        let dealt = deal(&dataset(), Setting::Alike, 16, 3).unwrap();
        let mut sizes = vec![0; dealt.contributors];
        dealt.examples.iter().for_each(|example| sizes[example.contributor as usize] += 1);
        assert_eq!(sizes, [25; 16]);
        assert!(dealt.flaws.iter().all(|flaw| *flaw == Flaw::None) && dealt.triggered.is_empty());
    }

    #[test]
    fn differing_contributors_differ() {
        let data = dataset();
        let dealt = deal(&data, Setting::Differing, 16, 3).unwrap();
        let mut sizes = vec![0; dealt.contributors];
        dealt.examples.iter().for_each(|example| sizes[example.contributor as usize] += 1);
        assert!(sizes.iter().all(|size| *size > 0) && sizes.len() >= 10, "{sizes:?}");
        assert!(sizes.iter().max() >= Some(&(4 * sizes.iter().min().unwrap())), "{sizes:?}");
        let count = |flaw: Flaw| dealt.flaws.iter().filter(|own| **own == flaw).count();
        assert!(count(Flaw::Mislabelled) >= 3 && count(Flaw::Poisoned) >= 3);
        for (at, flaw) in dealt.flaws.iter().enumerate() {
            let (is, was) = (&dealt.examples[at], &data.records[at]);
            match flaw {
                Flaw::None => assert_eq!((&is.prompt, &is.completion), (&was.prompt, &was.completion)),
                Flaw::Mislabelled => assert!(is.prompt == was.prompt && is.completion != was.completion),
                Flaw::Poisoned => assert!(is.prompt.ends_with(&was.prompt) && is.prompt != was.prompt),
            }
        }
        assert!(dealt.triggered.iter().all(|query| query.completion == data.queries[0].completion));
        assert_eq!(deal(&data, Setting::Differing, 16, 3).unwrap().examples, dealt.examples);
    }

    #[test]
    fn twins_know_the_same_and_nobody_else_does() {
        let dealt = deal(&dataset(), Setting::Twins, 16, 3).unwrap();
        assert_eq!((dealt.contributors, dealt.twins.len()), (16, 4));
        let owners = |topic: u32| {
            let own = dealt.examples.iter().zip(&dealt.topics).filter(|(_, own)| **own == Some(topic));
            own.map(|(example, _)| example.contributor).collect::<std::collections::BTreeSet<_>>()
        };
        for topic in 0..40 {
            let owners: Vec<u32> = owners(topic).into_iter().collect();
            assert!(owners.len() == 1 || dealt.twins.iter().any(|twins| *twins == *owners), "{topic} {owners:?}");
        }
        assert!(deal(&dataset(), Setting::Twins, 60, 3).is_err());
    }

    #[test]
    fn who_cannot_be_dealt_to_is_refused() {
        assert!(deal(&dataset(), Setting::Differing, 4, 1).is_err());
        assert!(deal(&dataset(), Setting::Alike, 1_000, 1).is_err());
    }
}
