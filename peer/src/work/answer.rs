//! Answering a question on its stream.

use std::time::Duration;

use tributary_protocol::id::Hash;
use tributary_protocol::message::{InferenceRequest, Release};
use tributary_protocol::node::{FinishedAnswer, JobOutcome};
use tributary_protocol::refusal::{Refusal, RefusalKind};

use super::{JobError, Workshop};
use crate::bundle::Transcript;
use crate::engine::{Ask, Done, Reply};

/// How long an asker may leave its answer unread before its place goes to others.
const ASKER_PATIENCE: Duration = Duration::from_secs(30);

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
        self.room.touch(release.adapter);
        let ask = Ask::Answer {
            job,
            base: release.base,
            adapter: Some(release.adapter),
            prompt: request.prompt.clone(),
            decoding: request.decoding.clone(),
        };
        let mut replies = self.begin(job, &ask).await?;
        while let Some(reply) = replies.recv().await {
            match reply {
                Reply::Text { text, tokens, .. } => {
                    let sent = tokio::time::timeout(ASKER_PATIENCE, self.answers.text(stream, &text, &tokens)).await;
                    let gone = match sent {
                        Ok(Ok(())) => continue,
                        Ok(Err(_)) => "the asker went away",
                        Err(_) => "the asker does not read its answer",
                    };
                    self.engine.stop(job).await;
                    return Err(gone.into());
                }
                Reply::Done {
                    outcome: Done::Answered { text, transcript, fingerprints, logprobs, credits }, ..
                } => {
                    let tokens = Transcript::from_bytes(&transcript).map_err(|error| error.to_string())?;
                    self.answers.hold_transcript(stream, transcript);
                    return Ok(JobOutcome::Answered(FinishedAnswer {
                        answer: Hash::of(text.as_bytes()),
                        prompt_tokens: count(&tokens.prompt_tokens),
                        answer_tokens: count(&tokens.output_tokens),
                        fingerprints,
                        logprobs,
                        credits,
                        class: self.bases.class(&release.base).map_err(|error| error.to_string())?,
                    }));
                }
                Reply::Done { outcome: Done::Refused { kind, reason }, .. } => {
                    return Ok(JobOutcome::Refused(Refusal::new(RefusalKind::of_code(kind), reason)));
                }
                Reply::Failed { reason, .. } => return Err(reason),
                Reply::Done { .. }
                | Reply::Ready { .. }
                | Reply::Begun { .. }
                | Reply::Progress { .. }
                | Reply::Checkpoint { .. }
                | Reply::Saved { .. } => {}
            }
        }
        Err("the answer was stopped".into())
    }
}
