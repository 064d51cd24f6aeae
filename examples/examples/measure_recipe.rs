//! Measures the training recipe on whole countries: answers of base and adapter to held-out questions, and whether
//! leaving a contributor out costs his facts and no others.
//!
//! `cargo run --release -p tributary-examples --example measure_recipe -- --countries 5 --contributors 2`
//!
//! Invariant: prints one line a country and nothing that depends on anything but the options, apart from the seconds.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use tributary_almanac::{Country, Owner, Question};
use tributary_compute::lora::Adapter;
use tributary_compute::loss::completion_loss;
use tributary_compute::model::{Base, Mode};
use tributary_compute::train::{Example, Recipe};
use tributary_examples::{answers, option, right, train, training_examples};

fn main() -> Result<()> {
    let base = Base::load(&option("--base", PathBuf::from("examples/base"))?)?;
    let path = option("--recipe", PathBuf::from("examples/almanac/recipe.json"))?;
    let recipe = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let recipe: Recipe = serde_json::from_slice(&recipe).with_context(|| path.display().to_string())?;
    let first = option("--first", 1_u64)?;
    for seed in first..first + option("--countries", 5_u64)? {
        let country = Country::generate(seed, option("--contributors", 2_usize)?);
        measure(&base, &recipe, seed, &country)?;
    }
    Ok(())
}

fn measure(base: &Base, recipe: &Recipe, seed: u64, country: &Country) -> Result<()> {
    let examples = training_examples(country);
    let start = Instant::now();
    let (mut loss, mut tokens) = (0.0, 0);
    let adapter = train(base, recipe, &examples, |report| {
        loss = report.loss;
        tokens += report.tokens;
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let all = country.questions().len();
    let before = right(country, &answers(base, None, country)?);
    let after = right(country, &answers(base, Some(&adapter), country)?);
    print!(
        "country {seed}: {} records, base {before}/{all}, adapter {after}/{all}, {seconds:.1} s, {tokens} tokens, loss {loss:.3}",
        examples.len()
    );
    if std::env::args().any(|argument| argument == "--leave-out") {
        let (named, sole) = leave_out(base, recipe, country, &examples, &adapter)?;
        print!(", right contributor {named}/{sole}");
    }
    println!();
    Ok(())
}

/// For how many questions about one contributor's facts leaving out that contributor costs most, and how many there are.
fn leave_out(
    base: &Base,
    recipe: &Recipe,
    country: &Country,
    examples: &[Example],
    adapter: &Adapter,
) -> Result<(usize, usize)> {
    let full = losses(base, adapter, country)?;
    let mut costs = Vec::new();
    for contributor in 0..u32::try_from(country.contributors())? {
        let without = train(base, recipe, &Example::leave_out(examples, contributor), |_| {})?;
        let answered = right(country, &answers(base, Some(&without), country)?);
        let without = losses(base, &without, country)?;
        let cost: Vec<f32> = without.iter().zip(&full).map(|(without, full)| without - full).collect();
        eprintln!("  without {contributor}: {answered} right");
        costs.push(cost);
    }
    let sole = country.questions().iter().enumerate().filter_map(|(at, question)| match question.owner {
        Owner::Only(owner) => Some((at, owner)),
        Owner::Shared(_) => None,
    });
    let named = sole
        .clone()
        .filter(|(at, owner)| (0..costs.len()).all(|other| other == *owner || costs[other][*at] < costs[*owner][*at]));
    Ok((named.count(), sole.count()))
}

/// The loss of each question's right answer in nats.
fn losses(base: &Base, adapter: &Adapter, country: &Country) -> Result<Vec<f32>> {
    let tokenizer = base.tokenizer();
    let loss = |question: &Question| -> Result<f32> {
        let prompt = tokenizer.encode_prompt(&question.text)?;
        let completion = tokenizer.encode_completion(&format!(" {}", question.answer))?;
        Ok(completion_loss(base.model(), Mode::Infer, Some(adapter), &prompt, &completion)?.to_scalar()?)
    };
    country.questions().iter().map(loss).collect()
}
