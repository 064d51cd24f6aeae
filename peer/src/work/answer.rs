//! Answering a question on its stream.

use tributary_protocol::id::Hash;
use tributary_protocol::message::{InferenceRequest, Release};
use tributary_protocol::node::{FinishedAnswer, JobOutcome};
use tributary_protocol::refusal::{Refusal, RefusalKind};

use super::{JobError, Workshop};
use crate::bundle::Transcript;
use crate::engine::{Ask, Done, Reply};

fn count(tokens: &[u32]) -> u32 {
    u32::try_from(tokens.len()).unwrap_or(u32::MAX)
}

impl Workshop {
    pub(super) async fn answer(
        &self,
        job: Hash,
        request: &InferenceRequest,
        release: &Release,
        stream: u64,
    ) -> Result<JobOutcome, JobError> {
        let ask = Ask::Answer {
            job,
            base: release.base,
            adapter: Some(release.adapter),
            prompt: request.prompt.clone(),
            max_tokens: request.max_tokens,
            temperature_milli: request.temperature_milli,
            seed: request.seed,
        };
        let mut replies = self.begin(job, &ask).await?;
        while let Some(reply) = replies.recv().await {
            match reply {
                Reply::Text { text, .. } => {
                    if self.answers.text(stream, &text).await.is_err() {
                        self.engine.stop(job).await;
                        return Err("the asker went away".into());
                    }
                }
                Reply::Done { outcome: Done::Answered { text, transcript, fingerprints, credits }, .. } => {
                    let tokens = Transcript::from_bytes(&transcript).map_err(|error| error.to_string())?;
                    self.answers.hold_transcript(stream, transcript);
                    return Ok(JobOutcome::Answered(FinishedAnswer {
                        answer: Hash::of(text.as_bytes()),
                        prompt_tokens: count(&tokens.prompt_tokens),
                        answer_tokens: count(&tokens.output_tokens),
                        fingerprints,
                        credits,
                    }));
                }
                Reply::Done { outcome: Done::PromptTooLong { tokens, context }, .. } => {
                    let reason = format!("the prompt has {tokens} tokens, the model's context {context}");
                    return Ok(JobOutcome::Refused(Refusal::new(RefusalKind::TooLong, reason)));
                }
                Reply::Failed { reason, .. } => return Err(reason),
                Reply::Done { .. } | Reply::Ready { .. } | Reply::Progress { .. } | Reply::Checkpoint { .. } => {}
            }
        }
        Err("the answer was stopped".into())
    }
}
