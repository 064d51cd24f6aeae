//! The promise of the demonstration, kept on a country that nothing was tuned on.

use tributary_almanac::Country;
use tributary_examples::{answers, base, recipe, right, train, training_examples};

/// What the repository has room for.
const MOST_BASE_BYTES: usize = 8_000_000;

#[test]
fn the_embedded_base_is_small_and_loads() {
    let files = tributary_almanac::base();
    assert!(files.config.len() + files.tokenizer.len() + files.safetensors.len() <= MOST_BASE_BYTES);
    base().unwrap();
    recipe().unwrap().check().unwrap();
}

#[test]
fn the_base_fails_the_questions_and_the_adapter_answers_them() {
    let (base, recipe) = (base().unwrap(), recipe().unwrap());
    let country = Country::generate(4711, 2);
    let all = country.questions().len();
    let before = right(&country, &answers(&base, None, &country).unwrap());
    assert!(before * 10 <= all, "base {before} of {all}");
    let adapter = train(&base, &recipe, &training_examples(&country), |_| {}).unwrap();
    let after = right(&country, &answers(&base, Some(&adapter), &country).unwrap());
    assert!(after * 10 >= all * 9, "adapter {after} of {all}");
}
