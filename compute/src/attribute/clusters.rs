//! Contributors who teach the same: found by their records, and paid by what is lost without each set of them.
//!
//! A record's direction is that of its loss's gradient in the adapter's numbers: two records that teach one fact in different
//! words pull the same numbers the same way. Leaving one of two such contributors out changes little, since the other still
//! teaches it; what both are worth shows only where both are left out.
//!
//! Invariant: likeness and clusters are a pure function of the directions, whatever the order of records; every cluster has two
//! to [`MAX_MEMBERS`] contributors, all of them alike to each other, and nobody is in two.

use rayon::iter::{IntoParallelIterator, ParallelIterator};

/// Members of a cluster at most: one with m members costs 2^m - 1 trainings.
pub const MAX_MEMBERS: usize = 3;

/// How alike two contributors are at least who are left out together too: halfway between those who teach the same and all
/// others, of whom it finds none (`compute/ATTRIBUTION.md`).
pub const ALIKE: f64 = 0.5;

/// How alike what contributors teach is.
#[derive(Debug, Clone, PartialEq)]
pub struct Likeness {
    /// Ascending.
    contributors: Vec<u32>,
    /// Of each two of them, symmetric.
    values: Vec<Vec<f64>>,
}

impl Likeness {
    /// Of the gradients of all records, each with its contributor. Two contributors are as alike as the mean cosine of a
    /// record of one and the nearest of the other, of the one for whom that is less: who knows more than another is not
    /// alike to him. A record without a gradient is near to none.
    #[must_use]
    pub fn of(records: &[(u32, &[f32])]) -> Self {
        let mut contributors: Vec<u32> = records.iter().map(|(contributor, _)| *contributor).collect();
        contributors.sort_unstable();
        contributors.dedup();
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

    /// Who is left out together: from the most alike on, as long as all members of a cluster are at least so alike to each other
    /// and at most [`MAX_MEMBERS`].
    #[must_use]
    pub fn clusters(&self, least: f64) -> Vec<Vec<u32>> {
        let pairs = self.pairs();
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
fn nearest(own: &[f32], records: &[(u32, &[f32])], contributors: &[u32]) -> Vec<f64> {
    let mut nearest = vec![0.0_f64; contributors.len()];
    for (contributor, other) in records {
        let place = contributors.binary_search(contributor).expect("invariant: every contributor is listed");
        nearest[place] = nearest[place].max(cosine(own, other));
    }
    nearest
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
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
    use super::{Likeness, MAX_MEMBERS, shapley, without};

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
        Likeness::of(&records.iter().map(|(who, gradient)| (*who, gradient.as_slice())).collect::<Vec<_>>())
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
        let pair = |a: u32, b: u32, c: u32| [a, b, c].map(|who| (who, [1.0, 0.0, 0.0, 0.0]));
        let found = likeness(&[pair(5, 3, 9).as_slice(), &pair(1, 8, 7)].concat()).clusters(0.9);
        assert!(found == [vec![1, 3, 5], vec![7, 8, 9]] && MAX_MEMBERS == 3, "{found:?}");
        // In a chain the middle one is like both, who are not alike.
        let chain = [(0, [1.0, 0.0, 0.0, 0.0]), (1, [0.9, 0.5, 0.0, 0.0]), (2, [0.0, 1.0, 0.0, 0.0])];
        assert_eq!(likeness(&chain).clusters(0.4), [vec![0, 1]]);
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
