//! Proof that an answer was computed as claimed: fingerprints committed by the worker, re-checked by one prefill.
//!
//! The checker runs the answer's tokens through the same base and adapter at once, picks every token again, and
//! compares the hidden states that the picks came from. Decoding and prefill use the same kernels with the same
//! order of additions for each row, so within a determinism class the comparison is for equal bits and has no
//! tolerance to hide in. Across classes nothing here accuses: tolerances need calibration per base, so the verdict
//! is [`ProofVerdict::CannotCheck`].
//!
//! Invariant: the claim is data of a stranger. Nothing in it can make the check panic or run beyond one prefill of
//! a context's length; a malformed claim is a mismatch, and an error means that this machine could not check.

mod fingerprint;
mod polynomial;

pub use fingerprint::{Deviation, Fingerprint, FingerprintError, TOKENS_PER_FINGERPRINT, TOP_VALUES, fingerprint_root};

use crate::device;
use crate::engine::{EngineError, GenerateParams, replay_answer};
use crate::linear::Hook;
use crate::lora::Adapter;
use crate::model::{Base, Mode, Packed};
use crate::sample::Sampler;

/// Takes a token of an answer and the logits that it was picked from.
pub type OnLogits<'a> = &'a mut dyn FnMut(u32, &[f32]) -> Result<(), EngineError>;

/// Rows whose logits are held at once: bounds memory for large vocabularies.
const LOGIT_ROWS: usize = 128;

/// What a check found.
#[derive(Debug, Clone, PartialEq)]
pub enum ProofVerdict {
    /// Every token and every fingerprint is what this base and adapter give.
    Match,
    /// The claim is false.
    Mismatch {
        /// Where.
        reason: Mismatch,
    },
    /// Not for this machine to say; it abstains.
    CannotCheck {
        /// Why.
        reason: CannotCheck,
    },
}

/// Where a claim is false.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Mismatch {
    /// The claim can't be of any answer.
    #[error("malformed claim: {0}")]
    Malformed(&'static str),
    /// A token follows the answer's end.
    #[error("the answer ends after {end} tokens, {claimed} are claimed")]
    PastTheEnd {
        /// Tokens up to the end.
        end: usize,
        /// Tokens claimed.
        claimed: usize,
    },
    /// Another token is picked.
    #[error("output token {at} is {claimed}, this base and adapter give {expected}")]
    Token {
        /// Position in the output.
        at: usize,
        /// Token claimed.
        claimed: u32,
        /// Token recomputed.
        expected: u32,
    },
    /// The tokens agree as far as compared, the hidden states don't.
    #[error("fingerprint {at} differs: {} of {} exponents equal", deviation.exponents_equal, deviation.values)]
    Fingerprint {
        /// Which fingerprint.
        at: usize,
        /// How far the states are apart, in TOPLOC's terms.
        deviation: Deviation,
    },
    /// This base and adapter give numbers that are not finite, so they gave no answer.
    #[error("this base and adapter give no finite numbers")]
    NotFinite,
}

/// Why a machine abstains.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotCheck {
    /// The answer was computed in another determinism class.
    #[error("computed in class {claimed}, this machine is {own}")]
    OtherClass {
        /// Class of the claim.
        claimed: String,
        /// Class of this machine.
        own: String,
    },
    /// This base is computed by kernels whose bits depend on what else is computed.
    #[error("kernels of class {0} don't repeat an answer's bits in one prefill")]
    NotRepeated(String),
}

/// Checks a claim that was computed in determinism class `class`.
///
/// # Errors
/// As [`check_generation`].
pub fn check_in_class(
    class: &str,
    base: &Base,
    adapter: Option<&Adapter>,
    prompt_tokens: &[u32],
    output_tokens: &[u32],
    fingerprints: &[Fingerprint],
    params: &GenerateParams,
) -> Result<ProofVerdict, EngineError> {
    let own = base.class();
    if class != own {
        let reason = CannotCheck::OtherClass { claimed: class.to_owned(), own };
        return Ok(ProofVerdict::CannotCheck { reason });
    }
    check_generation(base, adapter, prompt_tokens, output_tokens, fingerprints, params)
}

/// Checks a claim of this machine's determinism class by one teacher-forced prefill.
///
/// # Errors
/// When the parameters are out of bounds, the adapter doesn't fit the base, or the computation fails here.
pub fn check_generation(
    base: &Base,
    adapter: Option<&Adapter>,
    prompt_tokens: &[u32],
    output_tokens: &[u32],
    fingerprints: &[Fingerprint],
    params: &GenerateParams,
) -> Result<ProofVerdict, EngineError> {
    check_generation_with(base, adapter, prompt_tokens, output_tokens, fingerprints, params, &mut |_, _| Ok(()))
}

/// The same, and `heard` gets each token with the logits that it was picked from, in order and as far as they agree.
///
/// # Errors
/// As [`check_generation`], and those of `heard`.
pub fn check_generation_with(
    base: &Base,
    adapter: Option<&Adapter>,
    prompt_tokens: &[u32],
    output_tokens: &[u32],
    fingerprints: &[Fingerprint],
    params: &GenerateParams,
    heard: OnLogits<'_>,
) -> Result<ProofVerdict, EngineError> {
    params.check()?;
    if adapter.is_some_and(|adapter| !adapter.fits(base.config())) {
        return Err(EngineError::Adapter);
    }
    if !device::repeats_bits(base.model().device()) {
        return Ok(ProofVerdict::CannotCheck { reason: CannotCheck::NotRepeated(base.class()) });
    }
    let found = match malformed(base, prompt_tokens, output_tokens, fingerprints) {
        Some(what) => Some(Mismatch::Malformed(what)),
        None => compare(base, adapter, prompt_tokens, output_tokens, fingerprints, params, heard)?,
    };
    Ok(found.map_or(ProofVerdict::Match, |reason| ProofVerdict::Mismatch { reason }))
}

fn malformed(base: &Base, prompt: &[u32], output: &[u32], fingerprints: &[Fingerprint]) -> Option<&'static str> {
    let config = base.config();
    let known = |token: &u32| usize::try_from(*token).is_ok_and(|token| token < config.vocab);
    let chunks = output.chunks(TOKENS_PER_FINGERPRINT).map(<[u32]>::len);
    if prompt.is_empty() {
        Some("no prompt")
    } else if output.is_empty() {
        // An answer has the token that ends it at the least.
        Some("nothing was generated")
    } else if prompt.len().saturating_add(output.len()) > config.max_positions {
        Some("longer than the context")
    } else if !prompt.iter().chain(output).all(known) {
        Some("a token outside the vocabulary")
    } else if !chunks.eq(fingerprints.iter().map(Fingerprint::tokens)) {
        Some("fingerprints don't cover the tokens")
    } else {
        None
    }
}

fn compare(
    base: &Base,
    adapter: Option<&Adapter>,
    prompt: &[u32],
    output: &[u32],
    fingerprints: &[Fingerprint],
    params: &GenerateParams,
    heard: OnLogits<'_>,
) -> Result<Option<Mismatch>, EngineError> {
    let end = replay_answer(base, params, prompt.len(), output)?.tokens;
    if end < output.len() {
        return Ok(Some(Mismatch::PastTheEnd { end, claimed: output.len() }));
    }
    // The last output token was picked but never fed.
    let fed = [prompt, &output[..output.len() - 1]].concat();
    let hook = adapter.map_or(Hook::Base, |adapter| Hook::One(adapter, None));
    let hidden = base.model().hidden(Mode::Infer, &Packed::new(&[fed])?, hook)?;
    let hidden = hidden.narrow(0, prompt.len() - 1, output.len())?;
    let states = hidden.to_vec2::<f32>()?;
    if states.iter().flatten().any(|value| !value.is_finite()) {
        return Ok(Some(Mismatch::NotFinite));
    }
    for (at, (claimed, states)) in fingerprints.iter().zip(states.chunks(TOKENS_PER_FINGERPRINT)).enumerate() {
        if Fingerprint::of(states).as_ref() != Some(claimed) {
            return Ok(Some(Mismatch::Fingerprint { at, deviation: claimed.deviation(states) }));
        }
    }
    first_other_token(base, &hidden, prompt, output, params, heard)
}

fn first_other_token(
    base: &Base,
    hidden: &candle_core::Tensor,
    prompt: &[u32],
    output: &[u32],
    params: &GenerateParams,
    heard: OnLogits<'_>,
) -> Result<Option<Mismatch>, EngineError> {
    let mut sampler = Sampler::new(base.tokenizer(), params, prompt)?;
    for (chunk, claimed) in output.chunks(LOGIT_ROWS).enumerate() {
        let from = chunk * LOGIT_ROWS;
        let logits = base.model().logits(&hidden.narrow(0, from, claimed.len())?)?.to_vec2::<f32>()?;
        for (at, (&claimed, logits)) in (from..).zip(claimed.iter().zip(&logits)) {
            let step = u32::try_from(at).map_err(|_| EngineError::Params("too many tokens"))?;
            match sampler.pick(logits, step) {
                Ok(expected) if expected == claimed => {
                    sampler.accept(claimed)?;
                    heard(claimed, logits)?;
                }
                Ok(expected) => return Ok(Some(Mismatch::Token { at, claimed, expected })),
                Err(EngineError::NotFinite { .. }) => return Ok(Some(Mismatch::NotFinite)),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(None)
}
