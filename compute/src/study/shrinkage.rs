//! How much of a credit is chance: fitted on trainings of two seeds, never assumed.
//!
//! Invariant: the fit sees nothing but the rises of two true runs, each in turn predicting the other.

use super::matrix::Matrix;
use crate::attribute::spread;

/// Standard deviations that are tried: by tenths, up to as many tenths.
const TENTHS: u32 = 60;

/// What two true runs say of shrinking.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shrinkage {
    /// The standard deviation of chance, in nats: the mean of both runs'.
    pub spread: f64,
    /// How many of them are best taken off a credit that is paid: clipped at zero, it then is nearest, by squares, to what the other
    /// run's rise turns out to be.
    pub spreads: f64,
    /// The part of the other run's squared rises that credits shrunk so explain; below zero, paying nothing predicts better.
    pub explained: f64,
}

/// The fit, given the rises of each contributor for each question in two runs that differ by their seed alone.
#[must_use]
pub fn shrinkage(one: &Matrix, other: &Matrix) -> Option<Shrinkage> {
    let spread_of = |run: &Matrix| spread(run.iter().map(|row| row.iter().map(|rise| f64::from(*rise)).collect()));
    let runs = [(one, other, spread_of(one)?), (other, one, spread_of(other)?)];
    let missed = |spreads: f64| -> f64 {
        let of_run = |(run, other, spread): &(&Matrix, &Matrix, f64)| -> f64 {
            let pairs = run.iter().flatten().zip(other.iter().flatten());
            let paid = |rise: &f32| (f64::from(*rise) - spreads * spread).max(0.0);
            pairs.map(|(rise, truth)| (paid(rise) - f64::from(*truth)).powi(2)).sum()
        };
        runs.iter().map(of_run).sum()
    };
    let all: f64 =
        runs.iter().flat_map(|(_, other, _)| other.iter().flatten()).map(|rise| f64::from(*rise).powi(2)).sum();
    let tried = (0..=TENTHS).map(|tenths| f64::from(tenths) / 10.0);
    let spreads = tried.min_by(|a, b| missed(*a).total_cmp(&missed(*b)))?;
    let spread = f64::midpoint(runs[0].2, runs[1].2);
    (all > 0.0).then(|| Shrinkage { spread, spreads, explained: 1.0 - missed(spreads) / all })
}

#[cfg(test)]
mod tests {
    use super::shrinkage;
    use crate::study::Matrix;
    use crate::study::bootstrap::Draws;

    /// Rises of two runs: what is taught is the same in both, chance is not.
    fn runs(taught: f64, chance: f64) -> [Matrix; 2] {
        let mut draws = Draws::new(3, 0);
        let mut normal = || (0..12).map(|_| draws.uniform()).sum::<f64>() - 6.0;
        let run = |normal: &mut dyn FnMut() -> f64| {
            let rise = |at: usize, chance: f64| if at.is_multiple_of(8) { taught + chance } else { chance };
            let rows = (0..16).map(|_| (0..64).map(|at| crate::ops::narrow(rise(at, chance * normal()))).collect());
            Matrix::from_rows(rows.collect()).unwrap()
        };
        [run(&mut normal), run(&mut normal)]
    }

    #[test]
    fn the_more_is_chance_the_more_is_taken_off() {
        let of = |taught, chance| shrinkage(&runs(taught, chance)[0], &runs(taught, chance)[1]).unwrap();
        let (clear, weak) = (of(2.0, 0.05), of(0.2, 0.2));
        assert!(clear.spreads < 1.0 && clear.explained > 0.95, "{clear:?}");
        assert!(weak.spreads > 1.0 && weak.explained < 0.7, "{weak:?}");
        assert!((weak.spread - 0.2).abs() < 0.03, "{weak:?}");
    }

    #[test]
    fn without_chance_there_is_nothing_to_fit() {
        let same = Matrix::from_rows(vec![vec![1.0; 4]; 4]).unwrap();
        assert_eq!(shrinkage(&same, &same), None);
    }
}
