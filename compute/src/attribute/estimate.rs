//! Leave-out adapters of contributors for whom none was trained, estimated from gradients.
//!
//! To first order, training without some records ends further along the sum of the gradients of their losses, less far where the loss
//! is curved ([`super::curvature`]). How far along is told by the leave-out adapters that were trained: by the factor with which
//! these sums tell best, by least squares, what leaving one of their contributors out changed in the losses of the others' records,
//! the median of all of them. In the weights themselves one can't see it: most of what a training moves there changes no loss.
//!
//! Of contributors who were left out together, each one's part of what that changed is told by the bare sums of their gradients, as
//! far as these explain it, evenly for the rest.
//!
//! Estimates add up: the parts of a body of records have, together, the whole's. And each follows from adapter, records and
//! trained leave-out adapters alone, so that whoever has these can make it again.
//!
//! Invariant: an estimate is a pure function of its inputs, and the same bits in any company; sums run in the order of the records.

use std::collections::BTreeMap;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::clusters::length;
use super::curvature::{Curvature, Moments};
use super::{AttributeError, mean_over};
use crate::lora::Adapter;
use crate::loss::{Target, mean_gradient, target_gradient};
use crate::model::Base;
use crate::ops::narrow;
use crate::statistics::median;

/// Records whose gradients are held at once.
const AT_ONCE: usize = 16;
/// Leave-out adapters that the factor is fitted to, and records on which it is, at most: evenly spread ones, so that nobody
/// chooses them by choosing his account.
const FITTED_TO: usize = 8;
const FITTED_ON: usize = 512;

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
    /// For how many of a contributor's each of those above stands, where it is more than one.
    pub stand_for: BTreeMap<u32, f64>,
}

impl Learned {
    fn own(&self, contributor: u32) -> Vec<&(u32, Target)> {
        self.records.iter().filter(|(whose, _)| *whose == contributor).collect()
    }

    /// For how many records of the contributor one of those that are here stands.
    fn stands_for(&self, contributor: u32) -> f64 {
        self.stand_for.get(&contributor).copied().unwrap_or(1.0)
    }
}

/// What estimates are made from.
pub struct Estimator<'a> {
    base: &'a Base,
    adapter: &'a Adapter,
    learned: &'a Learned,
    /// Asked again and again: whether nobody wants them any more.
    is_stopped: &'a (dyn Fn() -> bool + Sync),
    values: Vec<f32>,
}

/// What leaving contributors out changed, and what gradients say of it.
struct Told {
    left_out: Vec<u32>,
    moved: Vec<f32>,
    said: Vec<f32>,
}

impl<'a> Estimator<'a> {
    /// Of a deployed adapter and what it learned.
    ///
    /// # Errors
    /// When a tensor can't be read.
    pub fn new(
        base: &'a Base,
        adapter: &'a Adapter,
        learned: &'a Learned,
        is_stopped: &'a (dyn Fn() -> bool + Sync),
    ) -> Result<Self, AttributeError> {
        Ok(Self { base, adapter, learned, is_stopped, values: adapter.values()? })
    }

    /// Fits to the leave-out adapters that were trained, each beside those who were left out.
    ///
    /// # Errors
    /// When there is none, shapes differ, tokens can't run, a number is not finite, or nobody wants it any more. Where gradients say
    /// nothing of those who were left out, nothing is said of the others either.
    pub fn fit(self, trained: &[(Vec<u32>, Adapter)]) -> Result<Estimates<'a>, AttributeError> {
        let curvature = self.curvature()?;
        let told = |(left_out, without): &(Vec<u32>, Adapter)| {
            let moved = self.moved(left_out, without)?.into_iter().map(narrow).collect();
            let mut said = self.sum(left_out)?;
            curvature.weigh(&mut said);
            Ok(Told { left_out: left_out.clone(), moved, said })
        };
        let every = trained.len().div_ceil(FITTED_TO).max(1);
        let told = trained.iter().step_by(every).map(told).collect::<Result<Vec<_>, AttributeError>>()?;
        if told.is_empty() {
            return Err(AttributeError::Unfitted);
        }
        let factor = self.factor(&told)?;
        Ok(Estimates { estimator: self, curvature, factor })
    }

    fn curvature(&self) -> Result<Curvature, AttributeError> {
        let mut moments =
            Moments::new(self.adapter.tensors().map(|tensor| tensor.dims2()).collect::<Result<Vec<_>, _>>()?);
        let all: Vec<&(u32, Target)> = self.learned.records.iter().collect();
        self.gradients(&all, |some| {
            let weighed = |(whose, gradient)| (gradient, self.learned.stands_for(whose));
            moments.add(&some.into_iter().map(weighed).collect::<Vec<_>>());
        })?;
        Ok(moments.curvature())
    }

    /// What each record did for each of these answers, in the order of the records: the product of their gradients through the
    /// inverse of the curvature. To first order, leaving a record out raises the answers' losses in proportion to these numbers;
    /// they have no unit and compare with each other alone.
    ///
    /// # Errors
    /// When tokens can't run, or nobody wants it any more.
    pub fn by_record(&self, answers: &[Target]) -> Result<Vec<Vec<f64>>, AttributeError> {
        let curvature = self.curvature()?;
        let direction = |answer: &Target| {
            let (mut gradient, _) = target_gradient(self.base.model(), self.adapter, answer)?;
            curvature.weigh(&mut gradient);
            Ok(gradient)
        };
        let directions = answers.iter().map(direction).collect::<Result<Vec<_>, AttributeError>>()?;
        let all: Vec<&(u32, Target)> = self.learned.records.iter().collect();
        let mut scores = Vec::with_capacity(all.len());
        self.gradients(&all, |some| {
            let of = |(_, gradient): &(u32, Vec<f32>)| {
                directions.iter().map(|direction| product(direction, gradient)).collect::<Vec<_>>()
            };
            scores.extend(some.par_iter().map(of).collect::<Vec<_>>());
        })?;
        Ok(scores)
    }

    /// By how much what gradients say is to be multiplied, so that it tells best what happened to the losses of others' records; to
    /// first order both. For each training alone, and of these the median: one contributor who teaches the contrary of what gradients
    /// say, or nothing that is learned, does not decide what the records of others are worth.
    fn factor(&self, told: &[Told]) -> Result<f64, AttributeError> {
        let every = self.learned.records.len().div_ceil(FITTED_ON).max(1);
        let some: Vec<&(u32, Target)> = self.learned.records.iter().step_by(every).collect();
        let mut sums = vec![(0.0, 0.0); told.len()];
        self.gradients(&some, |some| {
            for (whose, gradient) in some {
                let weight = self.learned.stands_for(whose);
                for (told, (over, under)) in
                    told.iter().zip(&mut sums).filter(|(told, _)| !told.left_out.contains(&whose))
                {
                    let [moved, said] = [&told.moved, &told.said].map(|values| product(values, &gradient));
                    *over += weight * moved * said;
                    *under += weight * said * said;
                }
            }
        })?;
        if sums.iter().any(|(over, under): &(f64, f64)| !over.is_finite() || !under.is_finite()) {
            return Err(AttributeError::NotFinite);
        }
        let each: Vec<f64> = sums.iter().filter(|(_, under)| *under > 0.0).map(|(over, under)| over / under).collect();
        // Below zero, gradients say the contrary of what the trainings say: then nothing is said of the others. Nor where they
        // have no records.
        Ok(median(&each).unwrap_or_default().max(0.0))
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
    /// When shapes differ, tokens can't run, a number is not finite, or nobody wants them any more.
    pub fn divide(&self, members: &[u32], without: &Adapter) -> Result<Vec<Adapter>, AttributeError> {
        let moved = self.moved(members, without)?;
        let mut sums = members.iter().map(|member| self.sum(&[*member])).collect::<Result<Vec<_>, _>>()?;
        to_one_length(&mut sums);
        let mut whole = vec![0.0; moved.len()];
        sums.iter().for_each(|own| whole.iter_mut().zip(own).for_each(|(whole, own)| *whole += f64::from(*own)));
        let (over, under) = fitted(&moved, &whole);
        let factor = if under > 0.0 { (over / under).max(0.0) } else { 0.0 };
        let count = members.len().max(1) as f64;
        let rest: Vec<f64> = moved.iter().zip(&whole).map(|(moved, whole)| (moved - factor * whole) / count).collect();
        let part = |own: &Vec<f32>| self.at(own.iter().zip(&rest).map(|(own, rest)| factor * f64::from(*own) + rest));
        sums.iter().map(part).collect()
    }

    /// The adapter so far from the deployed one.
    fn at(&self, moved: impl Iterator<Item = f64>) -> Result<Adapter, AttributeError> {
        let values: Vec<f32> =
            self.values.iter().zip(moved).map(|(value, moved)| narrow(f64::from(*value) + moved)).collect();
        Ok(Adapter::from_values(self.base.config(), self.adapter.config(), &values)?)
    }

    /// The sum of the gradients of the contributors' records' summed losses at the adapter.
    fn sum(&self, contributors: &[u32]) -> Result<Vec<f32>, AttributeError> {
        let mut sum = vec![0.0_f32; self.values.len()];
        for contributor in contributors {
            let each = narrow(self.learned.stands_for(*contributor));
            self.gradients(&self.learned.own(*contributor), |some| {
                for (_, gradient) in some {
                    sum.iter_mut().zip(gradient).for_each(|(sum, value)| *sum += value * each);
                }
            })?;
        }
        Ok(sum)
    }

    /// Shows the gradients of the records' summed losses at the adapter, in order, some at a time.
    fn gradients(
        &self,
        records: &[&(u32, Target)],
        mut show: impl FnMut(Vec<(u32, Vec<f32>)>),
    ) -> Result<(), AttributeError> {
        let (adapter, variables) = self.adapter.trainable()?;
        for some in records.chunks(AT_ONCE) {
            let gradient = |(whose, record): &&(u32, Target)| {
                if (self.is_stopped)() {
                    return Err(AttributeError::Stopped);
                }
                let mut gradient = mean_gradient(self.base.model(), &adapter, &variables, record)?;
                let tokens = narrow(mean_over(record));
                gradient.iter_mut().for_each(|value| *value *= tokens);
                Ok((*whose, gradient))
            };
            show(some.par_iter().map(gradient).collect::<Result<Vec<_>, AttributeError>>()?);
        }
        Ok(())
    }
}

fn product(one: &[f32], other: &[f32]) -> f64 {
    one.iter().zip(other).map(|(one, other)| f64::from(*one) * f64::from(*other)).sum()
}

/// Estimates, fitted to what was trained.
pub struct Estimates<'a> {
    estimator: Estimator<'a>,
    curvature: Curvature,
    factor: f64,
}

impl Estimates<'_> {
    /// The adapter without the contributor.
    ///
    /// # Errors
    /// When tokens can't run, a number is not finite, or nobody wants it any more.
    pub fn without(&self, contributor: u32) -> Result<Adapter, AttributeError> {
        let mut said = self.estimator.sum(&[contributor])?;
        self.curvature.weigh(&mut said);
        self.estimator.at(said.iter().map(|said| self.factor * f64::from(*said)))
    }
}
