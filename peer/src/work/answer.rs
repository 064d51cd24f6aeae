//! Answering a question on its stream.

use std::time::Duration;

use tokio::sync::mpsc;
use tributary_protocol::id::Hash;
use tributary_protocol::message::{InferenceRequest, Release};
use tributary_protocol::node::{FinishedAnswer, JobOutcome};
use tributary_protocol::refusal::{Refusal, RefusalKind};

use super::{JobError, Workshop};
use crate::bundle::Transcript;
use crate::engine::deadlines::ANSWER_TIME;
use crate::engine::{Ask, Done, Reply};

/// How often an asker hears that its answer is still worked on, well within its patience.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
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
            passages: self.retrieved(request, release).await?,
            decoding: request.decoding.clone(),
        };
        let mut replies = self.begin(job, &ask).await?;
        let wanted = self.engine.wanted(job);
        let last = self.pass_on(&mut replies, stream).await?;
        wanted.ended();
        match last {
            Reply::Done { outcome: Done::Answered { text, transcript, fingerprints, logprobs, pending }, .. } => {
                let transcript = match pending {
                    None => transcript,
                    Some(reason) => {
                        let attributed = self.attribute_late(release, job, transcript, &reason);
                        self.while_asked(stream, attributed).await?
                    }
                };
                let tokens = Transcript::from_bytes(&transcript).map_err(|error| error.to_string())?;
                let commitment = Transcript::commitment(&transcript);
                self.answers.hold_transcript(stream, transcript);
                Ok(JobOutcome::Answered(FinishedAnswer {
                    answer: Hash::of(text.as_bytes()),
                    prompt_tokens: count(&tokens.prompt_tokens),
                    answer_tokens: count(&tokens.output_tokens),
                    fingerprints,
                    logprobs,
                    transcript: commitment,
                    credits: tokens.credits,
                    context: tokens.context,
                    class: self.bases.class(&release.base).map_err(|error| error.to_string())?,
                }))
            }
            Reply::Done { outcome: Done::Refused { kind, reason }, .. } => {
                Ok(JobOutcome::Refused(Refusal::new(RefusalKind::of_code(kind), reason)))
            }
            Reply::Failed { reason, .. } => Err(reason.into()),
            other => Err(format!("the engine answered another question: {other:?}").into()),
        }
    }

    /// The credits of an answer whose text is out, by an index that is made anew: what was kept of it can't be used. One
    /// that can't be made as it was committed to leaves the answer without a receipt.
    async fn attribute_late(
        &self,
        release: &Release,
        answer: Hash,
        transcript: Vec<u8>,
        reason: &str,
    ) -> Result<Vec<u8>, JobError> {
        let job = Hash::of(&[b"credit".as_slice(), &answer.0].concat());
        let ask = Ask::Credit { job, base: release.base, adapter: release.adapter, transcript };
        let _mends = self.mending.lock().await;
        // Another answer may have waited for the same index.
        let credited = match self.ask(job, &ask).await {
            Ok(done) => done,
            Err(_) => {
                tracing::warn!(adapter = %release.adapter.short(), %reason, "an answer's attribution waits for its index");
                let built = self.build_release(release, &[release.node]).await?;
                if built != release.index {
                    return Err(JobError::OtherIndex { built });
                }
                self.ask(job, &ask).await?
            }
        };
        match credited {
            Done::Credited { transcript } => Ok(transcript),
            other => Err(format!("the engine answered another question: {other:?}").into()),
        }
    }

    /// Works for an asker as long as he is there and the time of an answer is not over.
    async fn while_asked<T>(
        &self,
        stream: u64,
        work: impl Future<Output = Result<T, JobError>>,
    ) -> Result<T, JobError> {
        tokio::pin!(work);
        let late = tokio::time::sleep(ANSWER_TIME);
        tokio::pin!(late);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = &mut late => return Err(JobError::Late(ANSWER_TIME)),
                () = tokio::time::sleep(SIGN_OF_LIFE) => {
                    self.answers.still(stream).await.map_err(|_| "the asker went away")?;
                }
            }
        }
    }

    /// Passes the pieces of an answer on to its asker, as long as he is there and its time is not over; returns its end.
    async fn pass_on(&self, replies: &mut mpsc::Receiver<Reply>, stream: u64) -> Result<Reply, JobError> {
        let late = tokio::time::sleep(ANSWER_TIME);
        tokio::pin!(late);
        loop {
            let reply = tokio::select! {
                reply = replies.recv() => reply.ok_or("the answer was stopped")?,
                () = self.answers.gone(stream) => return Err("the asker went away".into()),
                () = &mut late => return Err(JobError::Late(ANSWER_TIME)),
            };
            let (text, tokens) = match reply {
                Reply::Text { text, tokens, .. } => (text, tokens),
                Reply::Done { .. } | Reply::Failed { .. } | Reply::Late { .. } => return Ok(reply),
                Reply::Begun { .. } => {
                    self.answers.still(stream).await.map_err(|_| "the asker went away")?;
                    continue;
                }
                Reply::Ready { .. }
                | Reply::Progress { .. }
                | Reply::Checkpoint { .. }
                | Reply::Saved { .. }
                | Reply::Working { .. }
                | Reply::Estimated { .. } => continue,
            };
            let sent = tokio::time::timeout(ASKER_PATIENCE, self.answers.text(stream, &text, &tokens)).await;
            match sent {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err("the asker went away".into()),
                Err(_) => return Err("the asker does not read its answer".into()),
            }
        }
    }
}
