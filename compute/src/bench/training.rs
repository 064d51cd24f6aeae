//! Tokens per second of LoRA training, and the memory it takes.
//!
//! Invariant: the examples fill the batch exactly, so every step feeds the same number of tokens, ours and the peers'.

use std::time::Instant;

use super::machine::peak_bytes;
use super::material::{BATCH, Format, Material, RANK, SEQUENCE_TOKENS, letters};
use super::{Activations, BenchError, Plan, Sample};
use crate::model::Base;
use crate::train::{Example, Recipe, Trainer};

/// Examples of [`SEQUENCE_TOKENS`] tokens, one letter each; one more token is the target of the last.
fn examples() -> Vec<Example> {
    let example = |seed: usize| {
        let prompt = letters(seed, 1);
        let completion = letters(seed + BATCH, SEQUENCE_TOKENS);
        Example { prompt, completion, messages: None, contributor: 0, weight: 1.0 }
    };
    (0..BATCH).map(example).collect()
}

pub(super) fn lora(
    material: &Material<'_>,
    format: Format,
    activations: Activations,
    plan: &Plan,
) -> Result<Vec<Sample>, BenchError> {
    let base = Base::load(&material.model(format))?;
    let recipe = Recipe {
        rank: RANK,
        steps: plan.steps + 1,
        batch: u32::try_from(BATCH).unwrap_or(u32::MAX),
        max_len: u32::try_from(SEQUENCE_TOKENS + 1).unwrap_or(u32::MAX),
        lr: 1e-4,
        warmup: 0,
        recompute: activations == Activations::Recomputed,
        ..Recipe::default()
    };
    let mut trainer = Trainer::new(&base, &recipe, &examples())?;
    // The first step makes what later ones find made.
    trainer.step()?;
    let (start, mut tokens) = (Instant::now(), 0);
    for _ in 0..plan.steps {
        tokens += trainer.step()?.tokens;
    }
    let rate = tokens as f64 / start.elapsed().as_secs_f64();
    let name = match activations {
        Activations::Kept => format.name().to_owned(),
        Activations::Recomputed => format!("{}-recomputed", format.name()),
    };
    let mut samples = vec![Sample::ours(format!("train/{name}"), rate)];
    samples.extend(peak_bytes().map(|bytes| Sample::ours(format!("train/{name}/memory"), bytes / 1e6)));
    Ok(samples)
}
