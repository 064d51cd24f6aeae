//! Simulated computation: what a training or an answer gives follows from what was asked, by hashes.
//!
//! Invariant: equal work gives equal results on every peer, so a replay agrees with an honest worker and with
//! nobody else.

use tributary_protocol::id::Hash;
use tributary_protocol::message::{InferenceRequest, Release};
use tributary_protocol::node::{AnswerTranscript, FinishedAnswer};
use tributary_protocol::retrieval::Context;
use tributary_protocol::task::FineTune;
use tributary_protocol::transcript::Transcript;
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

/// Credits of contributors, by number.
pub(crate) type Credits = Vec<(u32, i64)>;

/// The answer an adapter gives and what goes with it; `say` makes of the true credits those that are told.
pub(crate) fn answer(
    adapter: &Hash,
    request: &InferenceRequest,
    release: &Release,
    say: impl Fn(Credits) -> Credits,
) -> (FinishedAnswer, AnswerTranscript) {
    let seed = request.decoding.seed.to_le_bytes();
    let drawn = derive("answer", &[&adapter.0, &request.prompt.commitment().0, &seed]);
    let text = format!("the answer is {}", drawn.short());
    let fingerprints = derive("fingerprints", &[&adapter.0, text.as_bytes()]);
    let credits: Credits = (0..release.contributors.len())
        .map(|number| {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            let credit = derive("credit", &[&drawn.0, &number.to_le_bytes()]).0;
            // Between minus a tenth of a nat and half a nat: some contributors explain nothing.
            (number, i64::from(u16::from_le_bytes([credit[0], credit[1]])) * 9 - 100_000)
        })
        .collect();
    let sent = Transcript {
        prompt_tokens: vec![1; request.prompt.len() / 4],
        output_tokens: vec![2; 12],
        fingerprints: vec![text.clone().into_bytes()],
        credits: say(credits),
        context: Context::default(),
    };
    let transcript = sent.to_bytes();
    let count = |tokens: &[u32]| u32::try_from(tokens.len()).unwrap_or(u32::MAX);
    let answer = FinishedAnswer {
        answer: Hash::of(text.as_bytes()),
        prompt_tokens: count(&sent.prompt_tokens),
        answer_tokens: count(&sent.output_tokens),
        fingerprints,
        logprobs: None,
        transcript: Transcript::commitment(&transcript),
        credits: sent.credits,
        context: sent.context,
        class: CLASS.into(),
    };
    let transcript = AnswerTranscript { transcript, text, fingerprints, logprobs: None };
    (answer, transcript)
}
