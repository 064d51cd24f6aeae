//! Records that say what somebody else's say, in other words: found for people to look at.
//!
//! Two signs tell them: what the two teach, the direction of their losses' gradients where the model has half learned them, as
//! contributors who teach the same are found ([`super::clusters`]); and how the base reads them, its mean final hidden states.
//! Words and figures find copies before anything is trained; these find what words don't.
//!
//! Invariant: both signs are told without what all records have in common; a record has an echo among others' records only, and
//! neither who is trained nor who is paid depends on it. Nothing tells a copy in other words from somebody's own.

use rayon::iter::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator};

use super::AttributeError;
use super::clusters::{AT_ONCE, Direction, half_of};
use crate::linear::Hook;
use crate::lora::Adapter;
use crate::loss::{Target, mean_gradient};
use crate::model::{Base, Mode, Packed};

/// How alike two records teach that are shown, as a cosine (`compute/ATTRIBUTION.md`).
pub const TAUGHT_ALIKE: f64 = 0.7;
/// How alike the base reads them, as a cosine.
pub const READ_ALIKE: f64 = 0.3;

/// A record by both signs, and whose it is.
#[derive(Debug, Clone)]
pub struct Reading {
    owner: u32,
    taught: Direction,
    read: Direction,
}

/// A record and the nearest one of somebody else.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Echo {
    /// Its place.
    pub place: usize,
    /// The other's.
    pub of: usize,
    /// Cosine of what they teach.
    pub taught: f64,
    /// Cosine of how the base reads them.
    pub read: f64,
}

impl Echo {
    /// Whether people should look at it.
    #[must_use]
    pub fn stands_out(&self) -> bool {
        self.taught >= TAUGHT_ALIKE && self.read >= READ_ALIKE
    }
}

/// The first of the records by both signs, as many as there is time for.
///
/// # Errors
/// When tokens can't run.
pub fn readings(
    base: &Base,
    adapter: &Adapter,
    records: &[(u32, Target)],
    goes_on: &dyn Fn() -> bool,
) -> Result<Vec<Reading>, AttributeError> {
    let (half, variables) = half_of(base, adapter)?.to_device(base.model().device())?.trainable()?;
    let reading = |(owner, record): &(u32, Target)| -> Result<Reading, AttributeError> {
        let taught = Direction::of(&mean_gradient(base.model(), &half, &variables, record)?);
        let hidden = base.model().hidden(Mode::Infer, &Packed::new(&[&record.tokens])?, Hook::Base)?;
        let read = Direction::of(&hidden.mean(0)?.to_vec1::<f32>()?);
        Ok(Reading { owner: *owner, taught, read })
    };
    let mut all = Vec::with_capacity(records.len());
    for some in records.chunks(AT_ONCE) {
        if !goes_on() {
            break;
        }
        let some = base.model().within_pool(|| some.par_iter().map(reading).collect::<Result<Vec<_>, _>>())?;
        all.extend(some);
    }
    Ok(all)
}

/// The nearest record of somebody else to each, by what they teach; `None` of who has none beside him.
#[must_use]
pub fn nearest(readings: &[Reading]) -> Vec<Option<Echo>> {
    let apart = |sign: fn(&Reading) -> &Direction| {
        let all: Vec<_> = readings.iter().map(|reading| (reading.owner, sign(reading).clone())).collect();
        Direction::apart_by_contributor(&all)
    };
    let (taught, read) = (apart(|reading| &reading.taught), apart(|reading| &reading.read));
    let of = |(place, (owner, own)): (usize, &(u32, Direction))| {
        let others = taught.iter().enumerate().filter(|(_, (other, _))| other != owner);
        let cosines = others.map(|(at, (_, other))| (at, own.cosine(other)));
        // Of equally near ones the first.
        let (of, cosine) = cosines.reduce(|best, next| if next.1 > best.1 { next } else { best })?;
        Some(Echo { place, of, taught: cosine, read: read[place].1.cosine(&read[of].1) })
    };
    taught.par_iter().enumerate().map(of).collect()
}

/// The pairs that people should look at, each once, what teaches most alike first.
#[must_use]
pub fn echoes(readings: &[Reading]) -> Vec<Echo> {
    let nearest = nearest(readings);
    let is_told_by_the_other = |echo: &Echo| {
        let back = nearest.get(echo.of).copied().flatten();
        echo.place > echo.of && back.is_some_and(|back| back.of == echo.place && back.stands_out())
    };
    let mut found: Vec<Echo> = nearest.iter().flatten().copied().filter(Echo::stands_out).collect();
    found.retain(|echo| !is_told_by_the_other(echo));
    found.sort_by(|a, b| b.taught.total_cmp(&a.taught).then(a.place.cmp(&b.place)));
    found
}

#[cfg(test)]
mod tests {
    use super::{Direction, Echo, Reading, echoes, nearest};

    /// One that teaches and reads like the things of these numbers, the first of which it is about for the most part.
    fn reading(owner: u32, taught: [usize; 2], read: [usize; 2]) -> Reading {
        let direction = |[most, little]: [usize; 2]| {
            let mut values = [0.0; 9];
            (values[most], values[little]) = (1.0, 0.2);
            Direction::of(&values)
        };
        Reading { owner, taught: direction(taught), read: direction(read) }
    }

    /// The first of two contributors say the same in other words; the third's first teaches it too and reads otherwise, and has his
    /// second as his own once more.
    fn readings() -> Vec<Reading> {
        let of = |owner: u32, about: usize| reading(owner, [about, 8], [about, 8]);
        vec![
            of(1, 0),
            of(1, 1),
            of(1, 2),
            reading(2, [0, 3], [0, 3]),
            of(2, 3),
            of(2, 4),
            reading(3, [0, 5], [7, 8]),
            of(3, 6),
            of(3, 6),
        ]
    }

    #[test]
    fn what_says_the_same_in_other_words_is_told_once() {
        let found = echoes(&readings());
        let pairs: Vec<_> = found.iter().map(|echo| [echo.place, echo.of]).collect();
        assert_eq!(pairs, [[0, 3]], "{found:?} of {:?}", nearest(&readings()));
    }

    #[test]
    fn ones_own_records_are_no_echoes() {
        let own: Vec<Reading> = readings().into_iter().map(|reading| Reading { owner: 1, ..reading }).collect();
        assert!(nearest(&own).iter().all(Option::is_none));
        assert!(echoes(&own).is_empty() && echoes(&[]).is_empty());
    }

    #[test]
    fn one_sign_alone_does_not_stand_out() {
        let echo = |taught, read| Echo { place: 0, of: 1, taught, read };
        assert!(echo(0.9, 0.9).stands_out());
        assert!(!echo(0.9, 0.1).stands_out() && !echo(0.1, 0.9).stands_out());
    }
}
