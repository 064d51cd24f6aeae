//! Contributors who teach the same: found by their records, and paid by what is lost without each set of them.
//!
//! A record's direction is that of its loss's gradient in the adapter's numbers, where it is half learned: two records that
//! teach one fact in different words pull the same numbers the same way. Leaving one of two such contributors out changes
//! little, since the other still teaches it; what both are worth shows only where both are left out.
//!
//! Invariant: likeness and clusters are a pure function of the directions, whatever the order of records; every cluster has two
//! to [`MAX_MEMBERS`] contributors, all of them alike to each other, and nobody is in two.

use std::collections::BTreeMap;

use rayon::iter::{IntoParallelIterator, ParallelIterator};
use tributary_protocol::limits::LEFT_OUT_MAX;

use super::AttributeError;
use crate::lora::Adapter;
use crate::loss::{Target, mean_gradient};
use crate::model::Base;
use crate::ops::narrow;

/// Members of a cluster at most.
pub const MAX_MEMBERS: usize = LEFT_OUT_MAX;

/// How alike two contributors are at least who are left out together: between those who teach the same and all others, as measured
/// (`compute/ATTRIBUTION.md`).
pub const ALIKE: f64 = 0.6;

/// How much more alike they are than two contributors usually are: where everybody teaches the same labels, all are somewhat alike.
const MORE_THAN_USUAL: f64 = 0.2;

/// From where on they teach the same whatever is usual: most may.
const SURELY_ALIKE: f64 = 0.75;

/// Contributors from whose likeness one can tell what is usual; of fewer, those who teach the same may be most.
const USUAL_FROM: usize = 4;

/// Numbers of a direction at most: those of thousands of records fit into memory, and the cosine of two moves by about one part
/// in a hundred and thirty (one over the square root).
const DIRECTION: usize = 1 << 14;

/// Records as many as which all contributors' common form counts beside one's own.
const FORM: f64 = 4.0;

/// Records whose gradients are held at once.
pub(super) const AT_ONCE: usize = 32;

/// A gradient's direction, of length one. Where the adapter has more numbers than a direction, each is added to one of its places
/// with a sign, both drawn by the number's own place (a count sketch; Charikar et al. 2002): cosines are kept in the mean.
#[derive(Debug, Clone, PartialEq)]
pub struct Direction(Vec<f32>);

impl Direction {
    /// That of a gradient in the adapter's numbers; of none, or of one that is not finite, it is nothing.
    #[must_use]
    pub fn of(gradient: &[f32]) -> Self {
        let mut values = match gradient.len() <= DIRECTION {
            true => gradient.to_vec(),
            false => sketch(gradient),
        };
        to_unit(&mut values);
        Self(values)
    }

    /// What is left of each direction without the mean of all: the form that all records have in common is nobody's knowledge, and
    /// makes all alike where a training was short.
    fn apart(records: &[(u32, Self)]) -> Vec<(u32, Self)> {
        let mut mean = vec![0.0_f64; records.first().map_or(0, |(_, first)| first.0.len())];
        let mut counts: BTreeMap<u32, f64> = BTreeMap::new();
        records.iter().for_each(|(contributor, _)| *counts.entry(*contributor).or_default() += 1.0);
        for (contributor, direction) in records {
            // Everybody counts alike, so nobody moves it by many records.
            let part = 1.0 / (counts[contributor] * counts.len() as f64);
            mean.iter_mut().zip(&direction.0).for_each(|(mean, value)| *mean += part * f64::from(*value));
        }
        records.into_par_iter().map(|(contributor, direction)| (*contributor, direction.without(&mean))).collect()
    }

    /// What is left of each direction without what its contributor's records have in common, as far as they are enough to tell it:
    /// one form in which all are written hides what each one says.
    pub(super) fn apart_by_contributor(records: &[(u32, Self)]) -> Vec<(u32, Self)> {
        let places = records.first().map_or(0, |(_, first)| first.0.len());
        let mut sums: BTreeMap<u32, (f64, Vec<f64>)> = BTreeMap::new();
        for (contributor, direction) in records {
            let (count, sum) = sums.entry(*contributor).or_insert_with(|| (0.0, vec![0.0; places]));
            *count += 1.0;
            sum.iter_mut().zip(&direction.0).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        let mut all = vec![0.0_f64; places];
        for (count, sum) in sums.values() {
            all.iter_mut().zip(sum).for_each(|(all, sum)| *all += sum / count / sums.len() as f64);
        }
        for (count, sum) in sums.values_mut() {
            sum.iter_mut().zip(&all).for_each(|(sum, all)| *sum = (*sum + FORM * all) / (*count + FORM));
        }
        let own = |(contributor, direction): &(u32, Self)| (*contributor, direction.without(&sums[contributor].1));
        records.into_par_iter().map(own).collect()
    }

    fn without(&self, mean: &[f64]) -> Self {
        let less = self.0.iter().zip(mean).map(|(value, mean)| narrow(f64::from(*value) - mean));
        let mut values: Vec<f32> = less.collect();
        // What rounding leaves of equal directions is none.
        if length(&values) < 1e-4 {
            values.fill(0.0);
        }
        to_unit(&mut values);
        Self(values)
    }

    /// In parts, so that the additions run side by side, in one order everywhere.
    pub(super) fn cosine(&self, other: &Self) -> f64 {
        const LANES: usize = 16;
        let mut sums = [0.0_f32; LANES];
        let (own, own_rest) = self.0.as_chunks::<LANES>();
        let (others, others_rest) = other.0.as_chunks::<LANES>();
        for (own, other) in own.iter().zip(others) {
            for lane in 0..LANES {
                sums[lane] += own[lane] * other[lane];
            }
        }
        let rest: f32 = own_rest.iter().zip(others_rest).map(|(own, other)| own * other).sum();
        f64::from(sums.iter().sum::<f32>() + rest)
    }
}

pub(super) fn length(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

/// Makes its length one; of nothing, and of what has no finite length, nothing.
fn to_unit(values: &mut [f32]) {
    let length = length(values);
    if length > 0.0 && length.is_finite() {
        values.iter_mut().for_each(|value| *value = narrow(f64::from(*value) / length));
    } else {
        values.fill(0.0);
    }
}

fn sketch(gradient: &[f32]) -> Vec<f32> {
    let mut values = vec![0.0_f32; DIRECTION];
    for (place, value) in (0_u64..).zip(gradient) {
        let drawn = mixed(place);
        let at = usize::try_from(drawn % DIRECTION as u64).unwrap_or(0);
        values[at] += if drawn >> 63 == 0 { *value } else { -value };
    }
    values
}

/// SplitMix64's output for a place (Steele et al. 2014).
const fn mixed(place: u64) -> u64 {
    let mut bits = place.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The direction of each record's loss where it is half learned, at half of what the adapter adds to each product, each with its
/// contributor. Of what a long training has learned by heart the gradients at its end are chance; before its beginning
/// they tell forms more than facts (`compute/ATTRIBUTION.md`).
///
/// # Errors
/// When `is_stopped` says so, or tokens can't run.
pub fn directions(
    base: &Base,
    adapter: &Adapter,
    records: &[(u32, Target)],
    is_stopped: impl Fn() -> bool,
) -> Result<Vec<(u32, Direction)>, AttributeError> {
    let (adapter, variables) = half_of(base, adapter)?.trainable()?;
    let mut all = Vec::with_capacity(records.len());
    for some in records.chunks(AT_ONCE) {
        if is_stopped() {
            return Err(AttributeError::Stopped);
        }
        let direction = |(contributor, record): &(u32, Target)| {
            let gradient = mean_gradient(base.model(), &adapter, &variables, record)?;
            Ok((*contributor, Direction::of(&gradient)))
        };
        all.extend(some.into_par_iter().map(direction).collect::<Result<Vec<_>, AttributeError>>()?);
    }
    Ok(all)
}

/// The adapter that adds half: both factors of each product by the root of that.
pub(super) fn half_of(base: &Base, adapter: &Adapter) -> Result<Adapter, AttributeError> {
    let values: Vec<f32> = adapter.values()?.iter().map(|value| value * std::f32::consts::FRAC_1_SQRT_2).collect();
    Ok(Adapter::from_values(base.config(), adapter.config(), &values)?)
}

/// How alike what contributors teach is.
#[derive(Debug, Clone, PartialEq)]
pub struct Likeness {
    /// Ascending.
    contributors: Vec<u32>,
    /// Of each two of them, symmetric.
    values: Vec<Vec<f64>>,
}

impl Likeness {
    /// Of the directions of all records, each with its contributor. Two contributors are as alike as the mean cosine of a
    /// record of one and the nearest of the other, without what all records have in common, of the one for whom that is less:
    /// who knows more than another is not alike to him. A record without a gradient is near to none.
    #[must_use]
    pub fn of(records: &[(u32, Direction)]) -> Self {
        let mut contributors: Vec<u32> = records.iter().map(|(contributor, _)| *contributor).collect();
        contributors.sort_unstable();
        contributors.dedup();
        let records = &Direction::apart(records);
        let nearest: Vec<Vec<f64>> =
            records.into_par_iter().map(|(_, own)| nearest(own, records, &contributors)).collect();
        let covered = |of: u32, by: usize| {
            let own = records.iter().zip(&nearest).filter(|((contributor, _), _)| *contributor == of);
            let cosines: Vec<f64> = own.map(|(_, nearest)| nearest[by]).collect();
            crate::statistics::mean(&cosines).unwrap_or(0.0)
        };
        let count = contributors.len();
        let mut values = vec![vec![1.0; count]; count];
        for first in 0..count {
            for second in 0..first {
                let both = [covered(contributors[first], second), covered(contributors[second], first)];
                values[first][second] = both[0].min(both[1]);
                values[second][first] = values[first][second];
            }
        }
        Self { contributors, values }
    }

    /// Each two contributors and how alike they are, most first; of equals the lower numbers.
    #[must_use]
    pub fn pairs(&self) -> Vec<([u32; 2], f64)> {
        let all = 0..self.contributors.len();
        let of = |second: usize| (0..second).map(move |first| [first, second]);
        let mut places: Vec<[usize; 2]> = all.flat_map(of).collect();
        places.sort_by(|a, b| self.values[b[0]][b[1]].total_cmp(&self.values[a[0]][a[1]]).then(a.cmp(b)));
        let named = |[first, second]: [usize; 2]| {
            ([self.contributors[first], self.contributors[second]], self.values[first][second])
        };
        places.into_iter().map(named).collect()
    }

    /// How alike two contributors usually are: the median of all pairs.
    fn usual(&self) -> f64 {
        let values: Vec<f64> = self.pairs().into_iter().map(|(_, value)| value).collect();
        crate::statistics::median(&values).filter(|_| self.contributors.len() >= USUAL_FROM).unwrap_or(0.0)
    }

    /// Who is left out together: from the most alike on, as long as all members of a cluster are at least so alike to each other,
    /// and clearly more than contributors of these records usually are or as good as equal, and at most [`MAX_MEMBERS`].
    #[must_use]
    pub fn clusters(&self, least: f64) -> Vec<Vec<u32>> {
        let (pairs, clearly) = (self.pairs(), self.usual() + MORE_THAN_USUAL);
        let least = least.max(clearly.min(SURELY_ALIKE));
        let mut of: Vec<Vec<u32>> = self.contributors.iter().map(|contributor| vec![*contributor]).collect();
        for (pair, value) in &pairs {
            let place = |who: &u32| of.iter().position(|members| members.contains(who));
            let (Some(first), Some(second)) = (place(&pair[0]), place(&pair[1])) else { continue };
            let fits = first != second && of[first].len() + of[second].len() <= MAX_MEMBERS;
            let joined = [of[first].as_slice(), &of[second]].concat();
            let is_alike =
                |(pair, value): &([u32; 2], f64)| *value >= least || !pair.iter().all(|who| joined.contains(who));
            if *value >= least && fits && pairs.iter().all(is_alike) {
                of[first] = joined;
                of.remove(second);
            }
        }
        of.retain(|members| members.len() > 1);
        of.iter_mut().for_each(|members| members.sort_unstable());
        of.sort_unstable();
        of
    }
}

/// The cosine of a record and the nearest of each contributor's.
fn nearest(own: &Direction, records: &[(u32, Direction)], contributors: &[u32]) -> Vec<f64> {
    let mut nearest = vec![0.0_f64; contributors.len()];
    for (contributor, other) in records {
        let place = contributors.binary_search(contributor).expect("invariant: every contributor is listed");
        nearest[place] = nearest[place].max(own.cosine(other));
    }
    nearest
}

/// Who is left out of the run of each coalition of these members: of run number c those whose bits are set in c, so nobody
/// of the first.
#[must_use]
pub fn without(members: &[u32]) -> Vec<Vec<u32>> {
    let of = |coalition: u32| {
        let is_in = |(place, _): &(usize, &u32)| (coalition >> place) & 1 == 1;
        members.iter().enumerate().filter(is_in).map(|(_, member)| *member).collect()
    };
    (0..1_u32 << members.len()).map(of).collect()
}

/// How much each run of [`without`] counts in Shapley's value of the member at a place: the value is the sum of these times
/// what is lost in each run. For two members it is Banzhaf's value too.
///
/// Times losses they divide an answer; times leave-out deltas they make the member's one row.
#[must_use]
pub fn shapley(members: usize, place: usize) -> Vec<f64> {
    // |S|! (m - 1 - |S|)! / m! for a coalition S of others.
    let weight = |size: u32| {
        let chosen = |all: f64, at: u32| all * (members as f64 - 1.0 - f64::from(at)) / (1.0 + f64::from(at));
        1.0 / (members as f64 * (0..size).fold(1.0, chosen))
    };
    let count = |coalition: u32| match (coalition >> place) & 1 {
        1 => weight(coalition.count_ones() - 1),
        _ => -weight(coalition.count_ones()),
    };
    (0..1_u32 << members).map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::{DIRECTION, Direction, Likeness, MAX_MEMBERS, mixed, shapley, without};
    use crate::ops::narrow;

    /// Contributors 1 and 4 teach the same two things in other words, 2 one of them and a third, 3 everything.
    const RECORDS: [(u32, [f32; 4]); 10] = [
        (4, [0.9, 0.1, 0.0, 0.0]),
        (1, [2.0, 0.0, 0.0, 0.1]),
        (1, [0.0, 1.0, 0.1, 0.0]),
        (4, [0.1, 3.0, 0.0, 0.0]),
        (2, [1.0, 0.0, 0.1, 0.1]),
        (2, [0.0, 0.0, 1.0, 0.0]),
        (3, [1.0, 0.0, 0.0, 0.1]),
        (3, [0.0, 1.0, 0.0, 0.1]),
        (3, [0.1, 0.0, 1.0, 0.0]),
        (3, [0.0, 0.0, 0.0, 1.0]),
    ];

    fn likeness(records: &[(u32, [f32; 4])]) -> Likeness {
        Likeness::of(&records.iter().map(|(who, gradient)| (*who, Direction::of(gradient))).collect::<Vec<_>>())
    }

    #[test]
    fn who_teaches_the_same_is_alike_and_who_teaches_more_is_not() {
        let found = likeness(&RECORDS);
        let (first, value) = found.pairs()[0];
        assert!(first == [1, 4] && value > 0.98, "{:?}", found.pairs());
        assert!(found.pairs()[1..].iter().all(|(_, value)| *value < 0.8), "{:?}", found.pairs());
        assert_eq!(found.clusters(0.9), [vec![1, 4]]);
        let mut turned = RECORDS;
        turned.reverse();
        assert_eq!(likeness(&turned), found, "the order of records decides nothing");
        let nothing = likeness(&[(1, [0.0; 4]), (2, [0.0; 4])]);
        assert!(nothing.clusters(0.1).is_empty(), "who teaches nothing is like nobody: {nothing:?}");
    }

    #[test]
    fn all_members_are_alike_and_few() {
        let same = |a: u32, b: u32, c: u32, what: [f32; 4]| [a, b, c].map(|who| (who, what));
        let six = [same(5, 3, 9, [1.0, 0.0, 0.0, 0.0]), same(1, 8, 7, [0.9, 0.1, 0.0, 0.0])].concat();
        let found = likeness(&[six, same(4, 4, 4, [0.0, 0.0, 1.0, 0.0]).to_vec()].concat()).clusters(0.9);
        assert!(found == [vec![1, 7, 8], vec![3, 5, 9]] && MAX_MEMBERS == 3, "{found:?}");
        // In a chain the middle one is like both, who are not alike.
        let chain = [(0, [1.0, 0.0, 0.0, 0.0]), (1, [0.9, 0.5, 0.0, 0.0]), (2, [0.0, 1.0, 0.0, 0.0])];
        assert_eq!(likeness(&chain).clusters(0.4), [vec![0, 1]]);
    }

    #[test]
    fn where_all_are_alike_only_those_who_stand_out_teach_the_same() {
        let of = |close: f64| {
            let value = |a: u32, b: u32| match (a.min(b), a.max(b)) {
                (a, b) if a == b => 1.0,
                (0, 1) => close,
                (a, b) => 0.5 + 0.02 * f64::from((a + b) % 5),
            };
            let contributors: Vec<u32> = (0..6).collect();
            let values = contributors.iter().map(|a| contributors.iter().map(|b| value(*a, *b)).collect()).collect();
            Likeness { contributors, values }
        };
        assert!(of(0.65).clusters(0.6).is_empty(), "everybody is alike by .5 to .58");
        assert_eq!(of(0.8).clusters(0.6), [vec![0, 1]]);
        let two = Likeness { contributors: vec![0, 1], values: vec![vec![1.0, 0.65], vec![0.65, 1.0]] };
        assert_eq!(two.clusters(0.6), [vec![0, 1]], "of two nobody can tell what is usual");
    }

    #[test]
    fn directions_of_large_adapters_keep_their_cosines() {
        // Two gradients of a tenth of a million numbers that share half of their length's square.
        let noise =
            |seed: u64, place: u64| narrow((mixed((seed << 32) | place) >> 40) as f64 / f64::from(1 << 24) - 0.5);
        let gradient = |seed: u64| (0..100_000).map(|place| noise(1, place) + noise(seed, place)).collect::<Vec<_>>();
        let (first, second) = (Direction::of(&gradient(2)), Direction::of(&gradient(3)));
        assert_eq!(first.0.len(), DIRECTION);
        let (own, other) = (first.cosine(&first), first.cosine(&second));
        assert!((own - 1.0).abs() < 1e-4 && (other - 0.5).abs() < 0.04, "{own} {other}");
        assert_eq!(Direction::of(&[f32::MAX, f32::MAX]).cosine(&Direction::of(&[0.0, 0.0])), 0.0);
    }

    #[test]
    fn shapleys_values_add_up_to_the_whole() {
        let lost =
            |runs: &[Vec<u32>], value: &dyn Fn(&[u32]) -> f64| runs.iter().map(|set| value(set)).collect::<Vec<_>>();
        let value = |members: usize, place: usize, lost: &[f64]| {
            shapley(members, place).iter().zip(lost).map(|(count, lost)| count * lost).sum::<f64>()
        };
        // 7 and 9 know the same, worth 2; 8 something of his own, worth 1.
        let runs = without(&[7, 8, 9]);
        assert_eq!((runs.len(), runs[0].len(), &runs[5]), (8, 0, &vec![7, 9]));
        let of = |set: &[u32]| {
            let both = set.contains(&7) && set.contains(&9);
            2.0 * f64::from(u8::from(both)) + f64::from(u8::from(set.contains(&8)))
        };
        let lost = lost(&runs, &of);
        for place in 0..3 {
            assert!((value(3, place, &lost) - 1.0).abs() < 1e-12, "{place}");
        }
        let pair = [0.0, 0.25, 0.5, 3.0];
        assert!((value(2, 0, &pair) - 1.375).abs() < 1e-12 && (value(2, 1, &pair) - 1.625).abs() < 1e-12);
    }
}
