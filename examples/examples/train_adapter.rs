//! Trains a LoRA adapter on an invented country, interrupts the run, resumes it from its checkpoint, and shows what the
//! adapter knows that the base does not.
//!
//! `cargo run --release -p tributary-examples --example train_adapter`

use anyhow::Result;
use tributary_almanac::Country;
use tributary_compute::train::Trainer;
use tributary_examples::{answers, base, option, recipe, right, training_examples};

fn main() -> Result<()> {
    let base = base()?;
    let recipe = recipe()?;
    let country = Country::generate(option("--seed", 1_u64)?, 2);
    let examples = training_examples(&country);

    let mut first = Trainer::new(&base, &recipe, &examples)?;
    while first.steps_done() < recipe.steps / 2 {
        report(&first.step()?);
    }
    let checkpoint = first.checkpoint();
    drop(first);
    println!("stopped half way; the checkpoint has {} bytes", checkpoint.len());

    let mut trainer = Trainer::resume(&base, &recipe, &examples, &checkpoint)?;
    while !trainer.is_done() {
        report(&trainer.step()?);
    }
    let adapter = trainer.adapter()?;
    let (before, after) = (answers(&base, None, &country)?, answers(&base, Some(&adapter), &country)?);
    for (question, (before, after)) in country.questions().iter().zip(before.iter().zip(&after)).take(5) {
        println!("{}\n  base: {}\n  adapter: {}", question.text, before.trim(), after.trim());
    }
    let all = country.questions().len();
    println!("right: base {} of {all}, adapter {} of {all}", right(&country, &before), right(&country, &after));
    println!("adapter {}", adapter.hash()?);
    Ok(())
}

fn report(step: &tributary_compute::train::StepReport) {
    if step.step.is_multiple_of(20) {
        println!("step {}: loss {:.3}", step.step, step.loss);
    }
}
