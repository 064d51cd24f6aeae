//! Asking the engine process one thing and waiting for its end; and the limit of an answer that hangs.
//!
//! Invariant: an answer that nobody waits for any more is stopped, and none is waited for without end: neither by who
//! asked nor by the answers behind one that is computed alone.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tributary_protocol::id::Hash;
use tributary_protocol::limits::ANSWER_TIMEOUT_MS;

use super::parent::{EngineError, EngineHandle, is_answer};
use super::{Ask, Done, Reply};
use crate::bases::Facts;

/// How long an answer may take: an asker has turned to another worker then.
pub const ANSWER_TIME: Duration = Duration::from_millis(ANSWER_TIMEOUT_MS);
/// How long an answer that may have killed the engine is computed alone: those who wait behind it have most of
/// [`ANSWER_TIME`] left.
const SUSPECT_TIME: Duration = Duration::from_secs(60);

/// How long answers may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Any answer that this node asks its engine for itself.
    pub answer: Duration,
    /// One that is computed alone since an engine died with it.
    pub suspect: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { answer: ANSWER_TIME, suspect: SUSPECT_TIME }
    }
}

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
    #[error("the engine did not answer within {} s", .0.as_secs())]
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
        if !is_answer(ask) {
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
                Reply::Ready { .. }
                | Reply::Begun { .. }
                | Reply::Progress { .. }
                | Reply::Checkpoint { .. }
                | Reply::Saved { .. }
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

    /// Gives the suspect that is computed now up when its time is over, and ends the process that it hangs in.
    pub(super) fn watch_suspect(&self) {
        let Some(turn) = self.open().pending.suspect() else { return };
        let handle = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(handle.limits().suspect).await;
            // Under the lock: the next process is started only after its death was told here.
            let mut open = handle.open();
            if open.pending.suspect() == Some(turn) {
                tracing::warn!(job = %turn.0.short(), "an answer hangs: the engine is ended");
                open.pending.ended(&turn.0);
                open.fail(turn.0, "the engine did not end this answer in time after a process died with it");
                handle.kill();
            }
        });
    }

    /// Ends the process without waiting for whoever writes to it.
    fn kill(&self) {
        let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) else { return };
        if let Err(error) = kill_process(pid, Signal::KILL) {
            tracing::debug!(%error, "the engine was gone already");
        }
    }
}
