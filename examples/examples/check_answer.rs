//! Checks somebody else's answer by one prefill: an honest one passes, one computed by the base alone under the
//! adapter's name does not.
//!
//! `cargo run --release -p tributary-examples --example check_answer`

use std::ops::ControlFlow;

use anyhow::Result;
use tributary_almanac::Country;
use tributary_compute::engine::{Engine, GenerateParams};
use tributary_compute::proof::check_generation;
use tributary_examples::{base, recipe, train, training_examples};

fn main() -> Result<()> {
    let base = base()?;
    let country = Country::generate(1, 2);
    let adapter = train(&base, &recipe()?, &training_examples(&country), |_| {})?;
    let params = GenerateParams { max_tokens: 12, ..GenerateParams::default() };
    let question = &country.questions()[0].text;
    for (name, used) in [("with the adapter", Some(&adapter)), ("with the base alone", None)] {
        let answer = Engine::new().generate(&base, used, question, &params, &mut |_| ControlFlow::Continue(()))?;
        let (prompt, output) = (&answer.prompt_tokens, &answer.output_tokens);
        let verdict = check_generation(&base, Some(&adapter), prompt, output, &answer.fingerprints, &params)?;
        println!("{question}{} ({name}): {verdict:?}", answer.text);
    }
    Ok(())
}
