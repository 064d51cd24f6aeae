//! What the example programs share: training examples of a country, an adapter trained on them, and the answers.
//!
//! Invariant: contributor number i of a country is contributor i of the training, so credits name the right one.

pub mod zipf;

use std::ops::ControlFlow;

use anyhow::{Context as _, Result};
use tributary_almanac::Country;
use tributary_compute::engine::{Engine, GenerateParams, MAX_BATCH_REQUESTS, Request};
use tributary_compute::lora::Adapter;
use tributary_compute::model::Base;
use tributary_compute::train::{Example, Recipe, StepReport, Trainer};

/// An answer is a name of at most five tokens and the end token.
const ANSWER_TOKENS: usize = 12;

/// The demonstration's base model.
///
/// # Errors
/// When the embedded files are not a model of this build.
pub fn base() -> Result<Base> {
    let files = tributary_almanac::base();
    Ok(Base::from_bytes(files.config, files.tokenizer, files.safetensors)?)
}

/// The demonstration's training recipe.
///
/// # Errors
/// When the embedded file is not a recipe of this build.
pub fn recipe() -> Result<Recipe> {
    Ok(serde_json::from_str(tributary_almanac::recipe())?)
}

/// All records of a country as training examples.
pub fn training_examples(country: &Country) -> Vec<Example> {
    let of = |contributor: usize| {
        let number = u32::try_from(contributor).expect("invariant: a country has at most 64 contributors");
        country.records_of(contributor).iter().map(move |record| Example {
            prompt: record.prompt.clone(),
            completion: record.completion.clone(),
            contributor: number,
            weight: 1.0,
            ..Example::default()
        })
    };
    (0..country.contributors()).flat_map(of).collect()
}

/// Trains one adapter to the end of its recipe.
///
/// # Errors
/// When recipe or examples are refused, or the run diverges.
pub fn train(
    base: &Base,
    recipe: &Recipe,
    examples: &[Example],
    mut on_step: impl FnMut(&StepReport),
) -> Result<Adapter> {
    let mut trainer = Trainer::new(base, recipe, examples)?;
    while !trainer.is_done() {
        on_step(&trainer.step()?);
    }
    Ok(trainer.adapter()?)
}

/// What the model answers to each of a country's held-out questions, greedily.
///
/// # Errors
/// When a question can't be answered at all.
pub fn answers(base: &Base, adapter: Option<&Adapter>, country: &Country) -> Result<Vec<String>> {
    let params = GenerateParams { max_tokens: ANSWER_TOKENS, ..GenerateParams::default() };
    let mut answers = Vec::new();
    for questions in country.questions().chunks(MAX_BATCH_REQUESTS) {
        let requests: Vec<Request<'_>> =
            questions.iter().map(|question| Request { adapter, prompt: &question.text, params: &params }).collect();
        let batch = Engine::new().generate_batch(base, &requests, &mut |_, _| ControlFlow::Continue(()))?;
        for (answer, question) in batch.into_iter().zip(questions) {
            answers.push(answer.with_context(|| question.text.clone())?.text);
        }
    }
    Ok(answers)
}

/// How many of the answers are right.
pub fn right(country: &Country, answers: &[String]) -> usize {
    country.questions().iter().zip(answers).filter(|(question, answer)| question.is_answered_by(answer)).count()
}

/// The value after `name` on the command line, or `otherwise`.
///
/// # Errors
/// When there is no value or it can't be read.
pub fn option<T>(name: &str, otherwise: T) -> Result<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    if arguments.next().is_none() {
        return Ok(otherwise);
    }
    let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
    value.parse().with_context(|| format!("{name} {value}"))
}
