//! What an answer would have cost without the adapter, and without some of what stood before the question.

use super::{AttributeError, mean_over, to_micro};
use crate::linear::Hook;
use crate::lora::{Adapter, FrozenAdapter};
use crate::loss::{Target, fitting, token_losses};
use crate::model::{Base, Mode};

/// The mean loss of the answer's tokens after each of `prompts`, in millionths of a nat: first all by the base alone, then
/// all with the adapter. An answer without tokens costs nothing. `goes_on` is asked before each pass.
///
/// # Errors
/// When a prompt with the answer can't run, a number is not finite, or it does not go on.
pub fn coalition_losses(
    base: &Base,
    adapter: &Adapter,
    prompts: &[Vec<u32>],
    output: &[u32],
    goes_on: &dyn Fn() -> bool,
) -> Result<Vec<i64>, AttributeError> {
    if output.is_empty() {
        return Ok(vec![0; 2 * prompts.len()]);
    }
    let adapter = FrozenAdapter::new(adapter)?;
    let targets: Vec<Target> = prompts.iter().map(|prompt| Target::new(prompt, output)).collect();
    let mut losses = Vec::with_capacity(2 * targets.len());
    for adapter in [None, Some(&adapter)] {
        let mut rest = targets.as_slice();
        while !rest.is_empty() {
            if !goes_on() {
                return Err(AttributeError::Stopped);
            }
            let (batch, later) = rest.split_at(fitting(rest));
            losses.extend(batch_losses(base, adapter, batch)?);
            rest = later;
        }
    }
    Ok(losses)
}

fn batch_losses(base: &Base, adapter: Option<&FrozenAdapter>, targets: &[Target]) -> Result<Vec<i64>, AttributeError> {
    let fed: usize = targets.iter().map(Target::fed).sum();
    let segments = [(0..fed, adapter)];
    let all = token_losses(base.model(), Mode::Infer, Hook::Segments(&segments), targets)?.to_vec1::<f32>()?;
    let mut rest = all.as_slice();
    let mean = |target: &Target| {
        let (own, later) = rest.split_at(target.predicted());
        rest = later;
        to_micro(own.iter().map(|loss| f64::from(*loss)).sum::<f64>() / mean_over(target))
    };
    targets.iter().map(mean).collect()
}
