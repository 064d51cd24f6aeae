//! Asking the engine process one thing and waiting for its end.
//!
//! Invariant: an answer that nobody waits for any more is stopped, and none is waited for without end.

use std::time::Duration;

use tributary_protocol::id::Hash;

use super::parent::{EngineError, EngineHandle};
use super::{Ask, Done, Reply};
use crate::bases::Facts;

/// Why the engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskFault {
    /// What was asked can't be done, as the engine says.
    #[error("{0}")]
    Failed(String),
    /// The engine can't be reached.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine died meanwhile.
    #[error("the engine ended while it worked: {0}")]
    Died(String),
    /// It took too long and was stopped.
    #[error("the engine did not do it within {} s", .0.as_secs())]
    Late(Duration),
    /// Somebody stopped it.
    #[error("the job was stopped")]
    Stopped,
}

/// Stops a job when it is dropped before the job ended.
pub struct Wanted {
    engine: EngineHandle,
    job: Option<Hash>,
}

impl Wanted {
    /// The job ended by itself.
    pub fn ended(mut self) {
        self.job = None;
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        let (Some(job), Ok(runtime)) = (self.job, tokio::runtime::Handle::try_current()) else { return };
        let engine = self.engine.clone();
        runtime.spawn(async move { engine.stop(job).await });
    }
}

impl EngineHandle {
    /// The job is stopped unless the caller says that it ended.
    #[must_use]
    pub fn wanted(&self, job: Hash) -> Wanted {
        Wanted { engine: self.clone(), job: Some(job) }
    }

    /// Begins a job and waits for its end. An answer or an embedding ends with the caller's waiting, and has a limit;
    /// its job must be nobody else's.
    ///
    /// # Errors
    /// What the engine says of the job, or what became of the engine.
    pub async fn ask(&self, job: Hash, ask: &Ask) -> Result<Done, AskFault> {
        if !ask.is_answer() {
            return self.asked(job, ask).await;
        }
        let wanted = self.wanted(job);
        let limit = self.limits().answer;
        let asked = tokio::time::timeout(limit, self.asked(job, ask)).await.map_err(|_| AskFault::Late(limit))?;
        wanted.ended();
        asked
    }

    async fn asked(&self, job: Hash, ask: &Ask) -> Result<Done, AskFault> {
        let deaths = self.deaths();
        let mut replies = self.begin(job, ask).await?;
        while let Some(reply) = replies.recv().await {
            match reply {
                Reply::Done { outcome, .. } => return Ok(outcome),
                Reply::Failed { reason, .. } if self.deaths() != deaths => return Err(AskFault::Died(reason)),
                Reply::Failed { reason, .. } => return Err(AskFault::Failed(reason)),
                Reply::Late { after_s, .. } => return Err(AskFault::Late(Duration::from_secs(after_s))),
                Reply::Ready { .. }
                | Reply::Begun { .. }
                | Reply::Progress { .. }
                | Reply::Checkpoint { .. }
                | Reply::Saved { .. }
                | Reply::Working { .. }
                | Reply::Estimated { .. }
                | Reply::Text { .. } => {}
            }
        }
        Err(AskFault::Stopped)
    }

    /// Has the engine load a base and say what it is. Another job may have ended the engine meanwhile, so it is tried
    /// once more then: only what a living engine says of a base counts against it.
    ///
    /// # Errors
    /// As [`EngineHandle::ask`].
    pub async fn inspect(&self, base: Hash) -> Result<Facts, AskFault> {
        let job = Hash::of(&[b"inspect".as_slice(), &base.0].concat());
        let ask = Ask::Inspect { job, base };
        let asked = match self.asked(job, &ask).await {
            Err(AskFault::Died(_) | AskFault::Engine(EngineError::Gone(_))) => self.asked(job, &ask).await,
            asked => asked,
        };
        match asked? {
            Done::Inspected(facts) => Ok(facts),
            other => Err(AskFault::Failed(format!("the engine answered another question: {other:?}"))),
        }
    }
}
