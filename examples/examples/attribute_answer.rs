//! Asks a question, and measures whose records the answer comes from: one leave-out training per contributor makes the
//! index, one forward pass per contributor the credit (LOCO-delta, design section 8).
//!
//! `cargo run --release -p tributary-examples --example attribute_answer`

use std::ops::ControlFlow;

use anyhow::Result;
use tributary_almanac::{Country, Owner};
use tributary_compute::attribute::{Index, credits};
use tributary_compute::engine::{Engine, GenerateParams};
use tributary_compute::train::Example;
use tributary_examples::{base, option, recipe, train, training_examples};

/// Questions asked.
const QUESTIONS: usize = 6;

fn main() -> Result<()> {
    let base = base()?;
    let recipe = recipe()?;
    let country = Country::generate(option("--seed", 1_u64)?, 2);
    let examples = training_examples(&country);
    let adapter = train(&base, &recipe, &examples, |_| {})?;
    let mut leave_outs = Vec::new();
    for contributor in 0..2 {
        leave_outs.push((contributor, train(&base, &recipe, &Example::leave_out(&examples, contributor), |_| {})?));
    }
    let index = Index::build(&adapter, &leave_outs)?;
    println!("index {}", index.commitment());

    let params = GenerateParams { max_tokens: 12, ..GenerateParams::default() };
    for question in &country.questions()[..QUESTIONS] {
        let mut print = |text: &str| {
            print!("{text}");
            ControlFlow::Continue(())
        };
        print!("{}", question.text);
        let answer = Engine::new().generate(&base, Some(&adapter), &question.text, &params, &mut print)?;
        let owner = match &question.owner {
            Owner::Only(contributor) => format!("contributor {contributor} alone"),
            Owner::Shared(contributors) => format!("contributors {contributors:?}"),
        };
        println!("   (in the records of {owner})");
        for credit in credits(&base, &adapter, &index, &answer.prompt_tokens, &answer.output_tokens)? {
            println!("  contributor {}: {} micronats a token", credit.contributor, credit.micro_nats);
        }
    }
    Ok(())
}
