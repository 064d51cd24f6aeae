//! What an answer would have cost without the adapter, and without some of what stood before the question.

use super::{AttributeError, BATCH_TOKENS, mean_over, to_micro};
use crate::linear::Hook;
use crate::lora::{Adapter, FrozenAdapter};
use crate::loss::{Target, token_losses};
use crate::model::{Base, Mode};

/// The mean loss of the answer's tokens after each of `prompts`, in millionths of a nat: first all by the base alone, then
/// all with the adapter. An answer without tokens costs nothing.
///
/// # Errors
/// When a prompt with the answer can't run, or a number is not finite.
pub fn coalition_losses(
    base: &Base,
    adapter: &Adapter,
    prompts: &[Vec<u32>],
    output: &[u32],
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
            let (batch, later) = rest.split_at(batch_of(rest));
            losses.extend(batch_losses(base, adapter, batch, output)?);
            rest = later;
        }
    }
    Ok(losses)
}

/// How many of the first targets one pass takes: at least one.
fn batch_of(targets: &[Target]) -> usize {
    let mut tokens = 0;
    let fits = targets.iter().take_while(|target| {
        tokens += target.fed();
        tokens <= BATCH_TOKENS
    });
    fits.count().max(1)
}

fn batch_losses(
    base: &Base,
    adapter: Option<&FrozenAdapter>,
    targets: &[Target],
    output: &[u32],
) -> Result<Vec<i64>, AttributeError> {
    let fed: usize = targets.iter().map(Target::fed).sum();
    let segments = [(0..fed, adapter)];
    let all = token_losses(base.model(), Mode::Infer, Hook::Segments(&segments), targets)?.to_vec1::<f32>()?;
    let mean = |own: &[f32]| own.iter().map(|loss| f64::from(*loss)).sum::<f64>() / mean_over(output);
    all.chunks_exact(output.len()).map(|own| to_micro(mean(own))).collect()
}
