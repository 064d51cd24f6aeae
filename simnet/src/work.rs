//! Simulated computation: what a training or an answer gives follows from what was asked, by hashes.
//!
//! Invariant: equal work gives equal results on every peer, so a replay agrees with an honest worker and with
//! nobody else.

use tributary_protocol::id::Hash;
use tributary_protocol::message::{InferenceRequest, Release};
use tributary_protocol::node::{AnswerTranscript, FinishedAnswer};
use tributary_protocol::task::FineTune;
use tributary_protocol::wire;

/// The class of every simulated machine.
pub(crate) const CLASS: &str = "simnet";

/// Segments between the checkpoints of every simulated training.
pub(crate) const SEGMENTS: u32 = 8;
/// Bytes of a simulated adapter.
pub(crate) const ADAPTER_BYTES: u64 = 200_000;

fn derive(purpose: &str, parts: &[&[u8]]) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key("tributary simnet work v1");
    hasher.update(purpose.as_bytes());
    for part in parts {
        hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hasher.update(part);
    }
    Hash(*hasher.finalize().as_bytes())
}

/// The checkpoint before the first step.
pub(crate) fn first_checkpoint(work: &FineTune) -> Hash {
    derive("checkpoint", &[&wire::encode(work)])
}

/// The checkpoint one segment after `from`.
pub(crate) fn next_checkpoint(work: &FineTune, from: &Hash) -> Hash {
    derive("segment", &[&wire::encode(work), &from.0])
}

/// The adapter of the last checkpoint.
pub(crate) fn adapter_of(last: &Hash) -> Hash {
    derive("adapter", &[&last.0])
}

/// All checkpoints of an honest run.
pub(crate) fn checkpoints(work: &FineTune) -> Vec<Hash> {
    let mut all = vec![first_checkpoint(work)];
    for _ in 0..SEGMENTS {
        let last = all.last().copied().unwrap_or_default();
        all.push(next_checkpoint(work, &last));
    }
    all
}

/// The answer an adapter gives and what goes with it.
pub(crate) fn answer(
    adapter: &Hash,
    request: &InferenceRequest,
    release: &Release,
) -> (FinishedAnswer, AnswerTranscript) {
    let seed = request.decoding.seed.to_le_bytes();
    let drawn = derive("answer", &[&adapter.0, &request.prompt.commitment().0, &seed]);
    let text = format!("the answer is {}", drawn.short());
    let fingerprints = derive("fingerprints", &[&adapter.0, text.as_bytes()]);
    let credits = (0..release.contributors.len())
        .map(|number| {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            let credit = derive("credit", &[&drawn.0, &number.to_le_bytes()]).0;
            // Between minus a tenth of a nat and half a nat: some contributors explain nothing.
            (number, i64::from(u16::from_le_bytes([credit[0], credit[1]])) * 9 - 100_000)
        })
        .collect();
    let answer = FinishedAnswer {
        answer: Hash::of(text.as_bytes()),
        prompt_tokens: u32::try_from(request.prompt.len() / 4).unwrap_or(u32::MAX),
        answer_tokens: 12,
        fingerprints,
        logprobs: None,
        credits,
        class: CLASS.into(),
    };
    let transcript = AnswerTranscript { transcript: text.clone().into_bytes(), text, fingerprints, logprobs: None };
    (answer, transcript)
}
