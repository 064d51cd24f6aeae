//! Leave-out adapters of contributors for whom none was trained, estimated from gradients.
//!
//! To first order, training without some records ends further along the sum of the gradients of their losses. How far along is
//! told by the leave-out adapters that were trained: it is the factor by which these sums are nearest, by least squares, to what
//! leaving their contributors out really changed in the weights.
//!
//! Of contributors who were left out together, each one's part of what that changed is told alike: by the sums of their gradients as
//! far as these explain it, evenly for the rest.
//!
//! Estimates add up: the parts of a body of records have, together, the whole's. And each follows from adapter, records and
//! trained leave-out adapters alone, so that whoever has these can make it again.
//!
//! Invariant: an estimate is a pure function of its inputs, and the same bits in any company; sums run in the order of the records.

use std::collections::BTreeMap;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::clusters::length;
use super::{AttributeError, mean_over};
use crate::lora::Adapter;
use crate::loss::{Target, mean_gradient};
use crate::model::Base;
use crate::ops::narrow;

/// Records whose gradients are held at once.
const AT_ONCE: usize = 32;

/// What a factor of `sum` nearest to `moved`, by least squares, is the quotient of.
fn fitted(moved: &[f64], sum: &[f64]) -> (f64, f64) {
    let over = moved.iter().zip(sum).map(|(moved, sum)| moved * sum).sum();
    (over, sum.iter().map(|sum| sum * sum).sum())
}

/// Scales those that are anything to the mean of their lengths.
fn to_one_length(sums: &mut [Vec<f32>]) {
    let lengths: Vec<f64> = sums.iter().map(|sum| length(sum)).collect();
    let Some(mean) = crate::statistics::mean(&lengths) else { return };
    for (sum, length) in sums.iter_mut().zip(lengths).filter(|(_, length)| *length > 0.0) {
        sum.iter_mut().for_each(|value| *value = narrow(f64::from(*value) * mean / length));
    }
}

/// What was learned of contributors' records: of all, or of some that stand for all.
#[derive(Default)]
pub struct Learned {
    /// Of each record whose it is.
    pub records: Vec<(u32, Target)>,
    /// How many a contributor has in all, where they are more than those above.
    pub counts: BTreeMap<u32, u32>,
}

/// Estimates the leave-out adapters of one release.
pub struct Estimator<'a> {
    base: &'a Base,
    adapter: &'a Adapter,
    values: Vec<f32>,
    /// What the sum of gradients is multiplied by.
    factor: f64,
}

impl<'a> Estimator<'a> {
    /// Fits the factor to the leave-out adapters that were trained, each beside what was learned of the records of those who were
    /// left out.
    ///
    /// # Errors
    /// When there is none, shapes differ, tokens can't run, or a number is not finite.
    pub fn fit(
        base: &'a Base,
        adapter: &'a Adapter,
        trained: &[(Vec<u32>, Adapter)],
        learned: &Learned,
    ) -> Result<Self, AttributeError> {
        let mut estimator = Self { base, adapter, values: adapter.values()?, factor: 0.0 };
        let (mut over, mut under) = (0.0, 0.0);
        for (left_out, without) in trained {
            let moved = estimator.moved(left_out, without)?;
            let mut sum = vec![0.0; moved.len()];
            for contributor in left_out {
                let own = estimator.sum(*contributor, learned)?;
                sum.iter_mut().zip(own).for_each(|(sum, own)| *sum += f64::from(own));
            }
            let (own_over, own_under) = fitted(&moved, &sum);
            over += own_over;
            under += own_under;
        }
        if trained.is_empty() || under <= 0.0 {
            return Err(AttributeError::Unfitted);
        }
        // Below zero, gradients say the contrary of what the trainings say: then nothing is said of the others.
        estimator.factor = (over / under).max(0.0);
        match estimator.factor.is_finite() {
            true => Ok(estimator),
            false => Err(AttributeError::NotFinite),
        }
    }

    /// What leaving contributors out changed.
    fn moved(&self, left_out: &[u32], without: &Adapter) -> Result<Vec<f64>, AttributeError> {
        let without = without.values()?;
        if without.len() != self.values.len() {
            return Err(AttributeError::Shapes { contributor: left_out.first().copied().unwrap_or_default() });
        }
        Ok(without.iter().zip(&self.values).map(|(without, with)| f64::from(*without) - f64::from(*with)).collect())
    }

    /// The adapters without each of those who were left out together, given the one trained without all. Together they change
    /// what that changed. Who says the same more often has no more of it: the members' sums count at one length.
    ///
    /// # Errors
    /// When shapes differ, tokens can't run, or a number is not finite.
    pub fn divide(
        base: &'a Base,
        adapter: &'a Adapter,
        (members, without): (&[u32], &Adapter),
        learned: &Learned,
    ) -> Result<Vec<Adapter>, AttributeError> {
        let estimator = Self { base, adapter, values: adapter.values()?, factor: 0.0 };
        let moved = estimator.moved(members, without)?;
        let mut sums = members.iter().map(|member| estimator.sum(*member, learned)).collect::<Result<Vec<_>, _>>()?;
        to_one_length(&mut sums);
        let mut whole = vec![0.0; moved.len()];
        sums.iter().for_each(|own| whole.iter_mut().zip(own).for_each(|(whole, own)| *whole += f64::from(*own)));
        let (over, under) = fitted(&moved, &whole);
        let factor = if under > 0.0 { (over / under).max(0.0) } else { 0.0 };
        let count = members.len().max(1) as f64;
        let rest: Vec<f64> = moved.iter().zip(&whole).map(|(moved, whole)| (moved - factor * whole) / count).collect();
        let part = |own: &Vec<f32>| {
            let moved = own.iter().zip(&rest).map(|(own, rest)| factor * f64::from(*own) + rest);
            let values: Vec<f32> =
                estimator.values.iter().zip(moved).map(|(value, moved)| narrow(f64::from(*value) + moved)).collect();
            Ok(Adapter::from_values(base.config(), adapter.config(), &values)?)
        };
        sums.iter().map(part).collect()
    }

    /// The adapter without the contributor.
    ///
    /// # Errors
    /// When tokens can't run, or a number is not finite.
    pub fn without(&self, contributor: u32, learned: &Learned) -> Result<Adapter, AttributeError> {
        let sum = self.sum(contributor, learned)?;
        let moved =
            self.values.iter().zip(&sum).map(|(value, sum)| narrow(f64::from(*value) + self.factor * f64::from(*sum)));
        Ok(Adapter::from_values(self.base.config(), self.adapter.config(), &moved.collect::<Vec<_>>())?)
    }

    /// The sum of the gradients of the contributor's records' summed losses at the adapter.
    fn sum(&self, contributor: u32, learned: &Learned) -> Result<Vec<f32>, AttributeError> {
        let is_own = |one: &&(u32, Target)| one.0 == contributor;
        let own: Vec<&Target> = learned.records.iter().filter(is_own).map(|(_, record)| record).collect();
        let count = learned.counts.get(&contributor).map_or(own.len() as f64, |count| f64::from(*count));
        let each = count / own.len().max(1) as f64;
        let (adapter, variables) = self.adapter.trainable()?;
        let mut sum = vec![0.0_f32; self.values.len()];
        for some in own.chunks(AT_ONCE) {
            let gradient = |record: &&Target| mean_gradient(self.base.model(), &adapter, &variables, record);
            let gradients = some.par_iter().map(gradient).collect::<Result<Vec<_>, _>>()?;
            for (gradient, record) in gradients.iter().zip(some) {
                let factor = narrow(mean_over(record) * each);
                sum.iter_mut().zip(gradient).for_each(|(sum, value)| *sum += value * factor);
            }
        }
        Ok(sum)
    }
}
