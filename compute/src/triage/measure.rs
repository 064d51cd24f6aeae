//! What a training made of each record: losses at points of it, gradients at both ends.
//!
//! Invariant: a record's numbers do not depend on what is measured beside it, and a record has all of them or is not among
//! those measured.

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::{Curve, TriageError};
use crate::lora::Adapter;
use crate::loss::{Target, fitting, mean_gradient, mean_losses};
use crate::model::Base;
use crate::ops::narrow;

/// Points of a training between its beginning and its end: as many as the study's, and a mean over more says little else.
pub const MAX_POINTS: usize = 5;
/// Records between two looks at whether to go on; also those whose activations are in memory at once.
const AT_ONCE: usize = 16;

/// The adapter before its training, at points of it and at its end, where the base computes.
///
/// # Errors
/// When one has another shape than the model, or memory can't be had.
pub fn points(base: &Base, between: &[Adapter], end: &Adapter) -> Result<Vec<Adapter>, TriageError> {
    let before = end.untrained()?;
    let all = std::iter::once(&before).chain(between).chain(std::iter::once(end));
    Ok(all.map(|adapter| adapter.to_device(base.model().device())).collect::<Result<_, _>>()?)
}

/// Measures the first of `targets`, as many as there are before `goes_on` says no.
///
/// # Errors
/// When the model can't run them.
pub fn measure(
    base: &Base,
    points: &[Adapter],
    targets: &[Target],
    goes_on: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Curve>, TriageError> {
    let mut curves = Vec::with_capacity(targets.len());
    let mut rest = targets;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(fitting(rest).min(AT_ONCE));
        rest = later;
        match base.model().within_pool(|| measure_part(base, points, now, goes_on))? {
            Some(part) => curves.extend(part),
            None => break,
        }
    }
    Ok(curves)
}

/// `None` when it was not to go on.
fn measure_part(
    base: &Base,
    points: &[Adapter],
    targets: &[Target],
    goes_on: &(dyn Fn() -> bool + Sync),
) -> Result<Option<Vec<Curve>>, TriageError> {
    let mut curves = vec![Curve { losses: Vec::new(), gradients: [0.0; 2] }; targets.len()];
    for adapter in points {
        if !goes_on() {
            return Ok(None);
        }
        let losses = mean_losses(base.model(), adapter, targets)?;
        curves.iter_mut().zip(losses).for_each(|(curve, loss)| curve.losses.push(loss));
    }
    for (end, adapter) in points.first().into_iter().chain(points.last()).enumerate() {
        if !goes_on() {
            return Ok(None);
        }
        let norms = norms(base, adapter, targets)?;
        curves.iter_mut().zip(norms).for_each(|(curve, norm)| curve.gradients[end] = norm);
    }
    let is_sound = |curve: &Curve| curve.losses.iter().chain(&curve.gradients).all(|number| number.is_finite());
    match curves.iter().all(is_sound) {
        true => Ok(Some(curves)),
        false => Err(TriageError::Diverged),
    }
}

/// The norm of the gradient of each target's mean token loss.
fn norms(base: &Base, adapter: &Adapter, targets: &[Target]) -> Result<Vec<f32>, TriageError> {
    let (adapter, variables) = adapter.trainable()?;
    let norm = |target: &Target| -> Result<f32, TriageError> {
        let gradient = mean_gradient(base.model(), &adapter, &variables, target)?;
        Ok(narrow(gradient.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt()))
    };
    targets.par_iter().map(norm).collect()
}
