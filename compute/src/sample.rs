//! Picking a token from logits, so that anyone can pick it again.
//!
//! Invariant: the choice is a pure function of the logits, the temperature, the committed seed and the step;
//! there is no generator state to carry, so step 700 is re-checked without the 699 before it. Temperature 0 is
//! greedy. Otherwise the Gumbel-max trick draws from the softmax exactly: the largest of
//! `logit / temperature + gumbel` is a sample (Gumbel 1954; Maddison et al., arXiv 1411.0030). Penalties and a grammar
//! also depend on the tokens before, which a checker has; filters only take candidates away, so the noise of a token
//! is the same with and without them.

mod constraint;
mod filter;
mod params;
mod sampler;

pub use constraint::Grammars;
pub use params::{Format, MAX_SCHEMA_BYTES, MAX_TOP_LOGPROBS, Sampling};
pub use sampler::{Sampler, TokenLogprob, top_logprobs};

use crate::engine::EngineError;
use crate::random::{Stream, words};

/// The token at `step`; ties go to the lowest token id.
///
/// # Errors
/// [`EngineError::NotFinite`] when a logit is NaN or infinite: such an answer can't be re-checked.
pub fn pick(logits: &[f32], temperature: f32, seed: u64, step: u32) -> Result<u32, EngineError> {
    if logits.iter().any(|logit| !logit.is_finite()) {
        return Err(EngineError::NotFinite { step });
    }
    if temperature == 0.0 {
        return largest(logits.iter().map(|&logit| f64::from(logit)));
    }
    // One draw of the counter-based generator gives the noise of four neighbouring tokens.
    let noise = (0_u64..).flat_map(|quad| words(seed, Stream::Sample, step, quad)).map(gumbel);
    largest(logits.iter().zip(noise).map(|(&logit, noise)| f64::from(logit) / f64::from(temperature) + noise))
}

/// The noise of one token, as [`pick`] draws it.
fn noise_of(seed: u64, step: u32, token: u32) -> f64 {
    gumbel(words(seed, Stream::Sample, step, u64::from(token / 4))[(token % 4) as usize])
}

/// Standard Gumbel noise from 32 uniform bits; the half keeps the uniform strictly between 0 and 1.
fn gumbel(word: u32) -> f64 {
    let uniform = (f64::from(word) + 0.5) / 4_294_967_296.0;
    -(-uniform.ln()).ln()
}

fn largest(scores: impl Iterator<Item = f64>) -> Result<u32, EngineError> {
    let mut best: Option<(u32, f64)> = None;
    for (token, score) in (0_u32..).zip(scores) {
        if best.is_none_or(|(_, high)| score > high) {
            best = Some((token, score));
        }
    }
    best.map(|(token, _)| token).ok_or(EngineError::NoLogits)
}

#[cfg(test)]
mod tests {
    use super::pick;

    #[test]
    fn greedy_takes_the_first_of_equal_logits() {
        assert_eq!(pick(&[0.5, 2.0, 2.0, -1.0], 0.0, 9, 0).unwrap(), 1);
    }

    #[test]
    fn refuses_logits_that_are_not_finite() {
        assert!(pick(&[0.0, f32::NAN], 0.0, 0, 0).is_err());
        assert!(pick(&[0.0, f32::INFINITY], 1.0, 0, 0).is_err());
        assert!(pick(&[], 0.0, 0, 0).is_err());
    }

    #[test]
    fn a_seed_reproduces_and_steps_differ() {
        let logits = vec![0.0; 64];
        let draw = |seed| (0..32).map(|step| pick(&logits, 1.0, seed, step).unwrap()).collect::<Vec<_>>();
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
        assert!(draw(5).windows(2).any(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        // logits ln 1, ln 2, ln 5: probabilities 1/8, 2/8, 5/8.
        let logits = [1.0_f32.ln(), 2.0_f32.ln(), 5.0_f32.ln()];
        let mut counts = [0_u32; 3];
        for step in 0..20_000 {
            counts[pick(&logits, 1.0, 11, step).unwrap() as usize] += 1;
        }
        for (count, expected) in counts.into_iter().zip([2_500.0, 5_000.0, 12_500.0]) {
            assert!((f64::from(count) - expected).abs() < 300.0, "{counts:?}");
        }
    }

    #[test]
    fn a_low_temperature_approaches_greedy() {
        let logits = [0.0, 1.0, 0.9];
        assert!((0..200).all(|step| pick(&logits, 0.001, 3, step).unwrap() == 1));
    }
}
