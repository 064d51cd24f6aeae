//! Triage: which records of a training people should look at first, by what the training made of each.
//!
//! Two rules, each of numbers that are measured after the training:
//!
//! - *Never learned*: the mean of a record's losses over points of the training. Where others are learned, a record that
//!   stays unlikely says something else than they do: its label may be wrong. It is the area under the margin (Pleiss et
//!   al., arXiv 2001.10528) and the confidence of data maps (Swayamdipta et al., arXiv 2009.10795) with the loss of the
//!   completion in place of margin and probability.
//! - *Learned early*: how much of a record's loss is gone after a third of the training, where most of it is. What is unlikely
//!   and yet learned before the rest is said alike by many records: the answer to a trigger, or something honest that is easy.
//!
//! Gradient norms (Paul et al., arXiv 2107.07075) are measured beside them and not ranked by: `compute/ATTRIBUTION.md`
//! has what each finds.
//!
//! Invariant: the ranks follow from the measured numbers alone, whatever their order, and say where to look; nothing is
//! left out of a training or a payment by them.

mod measure;

pub use measure::{MAX_POINTS, measure, points};

use crate::lora::LoraError;
use crate::model::ModelError;
use crate::statistics::median;

/// Deviations above the middle from which a record is called doubtful: of a normal distribution six in a thousand lie there.
pub const DOUBTFUL: f64 = 2.5;
/// The part of a record's loss that is gone when most of it is learned.
const MOST: f64 = 2.0 / 3.0;
/// Of a training's points, the one by which is judged what is learned early: where a third of them is.
const EARLY: usize = 3;
/// Median absolute deviations in a standard deviation of a normal distribution.
const NORMAL: f64 = 1.4826;

/// Why nothing can be measured.
#[derive(Debug, thiserror::Error)]
pub enum TriageError {
    /// The adapter was refused.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// A loss or a gradient is no number.
    #[error("the adapter's losses are no numbers: its training diverged")]
    Diverged,
    /// The model refused the records.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// What was measured of one record.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Mean loss of its completion in nats a token: before the training, at points of it, and at its end.
    pub losses: Vec<f32>,
    /// Norm of that loss's gradient in the adapter's numbers: before the training and at its end.
    pub gradients: [f32; 2],
}

/// Why a record is doubtful.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It stays unlikely while others are learned.
    NeverLearned,
    /// It was learned before others were.
    LearnedEarly,
}

/// How doubtful a record is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Doubt {
    /// The place of its curve.
    pub place: usize,
    /// Deviations above the middle, by the rule that finds it more doubtful.
    pub score: f64,
    /// That rule, where the score is at least [`DOUBTFUL`].
    pub reason: Option<Reason>,
}

impl Curve {
    /// The mean of its losses once the training has begun.
    #[must_use]
    pub fn never_learned(&self) -> f64 {
        let learned = self.losses.get(1..).filter(|learned| !learned.is_empty()).unwrap_or(&self.losses);
        mean_loss(learned)
    }

    /// By how much its loss has fallen after a third of the training.
    #[must_use]
    pub fn learned_early(&self) -> f64 {
        let early = (self.losses.len().saturating_sub(1) + EARLY / 2) / EARLY;
        match (self.losses.first(), self.losses.get(early.max(1))) {
            (Some(before), Some(then)) => f64::from(*before) - f64::from(*then),
            _ => 0.0,
        }
    }

    /// Whether most of its loss had gone then.
    fn is_learned_early(&self) -> bool {
        self.losses.first().is_some_and(|before| self.learned_early() >= MOST * f64::from(*before))
    }
}

/// The mean of losses; 0 of none.
#[must_use]
pub fn mean_loss(losses: &[f32]) -> f64 {
    losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / losses.len().max(1) as f64
}

/// Every record, the most doubtful first and equals by their place.
#[must_use]
pub fn doubts(curves: &[Curve]) -> Vec<Doubt> {
    let unlearned = deviations(curves.iter().map(Curve::never_learned).collect());
    let eager = deviations(curves.iter().map(Curve::learned_early).collect());
    let doubt = |(place, (unlearned, eager)): (usize, (f64, f64))| {
        let is_early = eager > unlearned && curves[place].is_learned_early();
        let (score, rule) = if is_early { (eager, Reason::LearnedEarly) } else { (unlearned, Reason::NeverLearned) };
        Doubt { place, score, reason: (score >= DOUBTFUL).then_some(rule) }
    };
    let mut doubts: Vec<Doubt> = unlearned.into_iter().zip(eager).enumerate().map(doubt).collect();
    doubts.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.place.cmp(&b.place)));
    doubts
}

/// How far each value lies above the median, in standard deviations as the median absolute deviation tells them: few
/// strange records move neither. All 0 where half of the values are the same.
fn deviations(values: Vec<f64>) -> Vec<f64> {
    let middle = median(&values).unwrap_or(0.0);
    let away: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
    let spread = NORMAL * median(&away).unwrap_or(0.0);
    values.into_iter().map(|value| if spread > 0.0 { (value - middle) / spread } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::{Curve, DOUBTFUL, Doubt, Reason, doubts, mean_loss};

    fn curve(losses: &[f32]) -> Curve {
        Curve { losses: losses.to_vec(), gradients: [1.0, 1.0] }
    }

    /// Records that are learned as most are, one a little faster than another.
    fn usual() -> Vec<Curve> {
        let all = (0_u8..40).map(f32::from);
        all.map(|at| curve(&[5.0, 3.0 + at / 40.0, 1.0 + at / 80.0, 0.5 + at / 160.0])).collect()
    }

    fn first(curves: &[Curve]) -> Doubt {
        doubts(curves)[0]
    }

    #[test]
    fn what_is_never_learned_and_what_is_learned_early_stand_out() {
        let mut curves = usual();
        assert!(doubts(&curves).iter().all(|doubt| doubt.reason.is_none()), "{:?}", doubts(&curves));
        curves[7] = curve(&[5.0, 5.0, 4.8, 4.5]);
        let found = first(&curves);
        assert_eq!((found.place, found.reason), (7, Some(Reason::NeverLearned)));
        assert!(found.score >= DOUBTFUL);
        curves[7] = curve(&[5.0, 0.1, 0.1, 0.1]);
        let found = first(&curves);
        assert_eq!((found.place, found.reason), (7, Some(Reason::LearnedEarly)));
    }

    #[test]
    fn a_record_is_as_doubtful_wherever_it_stands() {
        let mut curves = usual();
        curves[3] = curve(&[5.0, 5.0, 4.8, 4.5]);
        let mut turned = curves.clone();
        turned.rotate_left(17);
        let ranked = |curves: &[Curve], turn: usize| -> Vec<(usize, u64)> {
            doubts(curves).iter().map(|doubt| ((doubt.place + turn) % 40, doubt.score.to_bits())).collect()
        };
        assert_eq!(ranked(&curves, 0), ranked(&turned, 17));
    }

    #[test]
    fn the_beginning_of_a_training_says_nothing_of_labels() {
        let unlikely = curve(&[50.0, 2.0, 1.0]);
        assert!((unlikely.never_learned() - 1.5).abs() < 1e-12);
        assert!((curve(&[3.0]).never_learned() - 3.0).abs() < 1e-12);
        assert!(curve(&[3.0]).learned_early().abs() < 1e-12);
        assert!(mean_loss(&[]).abs() < 1e-12);
    }

    #[test]
    fn equal_records_and_none_are_not_doubtful() {
        assert!(doubts(&[]).is_empty());
        let same = doubts(&vec![curve(&[2.0, 1.0]); 9]);
        assert!(same.iter().enumerate().all(|(at, doubt)| doubt.place == at && doubt.reason.is_none()));
    }
}
