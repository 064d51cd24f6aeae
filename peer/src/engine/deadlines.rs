//! How long the engine's jobs may take.
//!
//! Invariant: whatever a process works on has a time by which it is heard of or has ended, apart from answers that
//! somebody waits for: these have their bound from whoever asks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tributary_protocol::id::Hash;
use tributary_protocol::limits::ANSWER_TIMEOUT_MS;

use super::Ask;

/// How long an answer may take: an asker has turned to another worker then.
pub const ANSWER_TIME: Duration = Duration::from_millis(ANSWER_TIMEOUT_MS);
/// How long an answer that may have killed the engine is computed alone: those who wait behind it have most of
/// [`ANSWER_TIME`] left.
const SUSPECT_TIME: Duration = Duration::from_secs(60);
/// How long an answer that began may go on after it was stopped: a step of it takes seconds.
const STOPPED_TIME: Duration = Duration::from_secs(60);
/// How long any other job may take, and how long a training may say nothing: to read a base of the largest size from a
/// disk of 20 MB/s takes 14 minutes, and after 10 minutes without a step a training is given to another worker.
const JOB_TIME: Duration = Duration::from_secs(15 * 60);
/// How long an export may take, which reads a base, writes one as large and reads it again.
const EXPORT_TIME: Duration = Duration::from_secs(60 * 60);

/// How long jobs may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Any answer that this node asks its engine for itself.
    pub answer: Duration,
    /// One that is computed alone since an engine died with it.
    pub suspect: Duration,
    /// One that began and was stopped.
    pub stopped: Duration,
    /// Everything else, and the silence of a training.
    pub job: Duration,
    /// An export.
    pub export: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { answer: ANSWER_TIME, suspect: SUSPECT_TIME, stopped: STOPPED_TIME, job: JOB_TIME, export: EXPORT_TIME }
    }
}

impl Limits {
    const fn of(&self, ask: &Ask) -> Option<Duration> {
        match ask {
            Ask::Base { .. } | Ask::Forget { .. } | Ask::Stop { .. } | Ask::Answer { .. } | Ask::Embed { .. } => None,
            Ask::Export { .. } => Some(self.export),
            Ask::Inspect { .. }
            | Ask::Train { .. }
            | Ask::Adopt { .. }
            | Ask::Replay { .. }
            | Ask::Triage { .. }
            | Ask::Estimate { .. }
            | Ask::Cluster { .. }
            | Ask::Influence { .. }
            | Ask::Index { .. }
            | Ask::Quality { .. }
            | Ask::TrueCredits { .. }
            | Ask::Credit { .. }
            | Ask::Open { .. }
            | Ask::Check { .. } => Some(self.job),
        }
    }
}

struct Deadline {
    at: Instant,
    allowed: Duration,
    /// Whether every sign of life puts it off.
    renews: bool,
}

/// The deadlines of what the running process works on.
#[derive(Default)]
pub(super) struct Deadlines {
    limits: Limits,
    all: BTreeMap<Hash, Deadline>,
}

impl Deadlines {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, all: BTreeMap::new() }
    }

    /// The process gets this job.
    pub(super) fn begin(&mut self, job: Hash, ask: &Ask, now: Instant) {
        if let Some(allowed) = self.limits.of(ask) {
            let renews =
                matches!(ask, Ask::Train { .. } | Ask::Estimate { .. } | Ask::Cluster { .. } | Ask::Influence { .. });
            self.all.insert(job, Deadline { at: now + allowed, allowed, renews });
        }
    }

    /// The process said something of this job.
    pub(super) fn heard(&mut self, job: &Hash, now: Instant) {
        if let Some(deadline) = self.all.get_mut(job).filter(|deadline| deadline.renews) {
            deadline.at = now + deadline.allowed;
        }
    }

    /// A job was stopped: it is not put off any more.
    pub(super) fn stop(&mut self, job: &Hash) {
        if let Some(deadline) = self.all.get_mut(job) {
            deadline.renews = false;
        }
    }

    /// An answer was stopped that the process has. One that has not begun may wait for its base to be loaded.
    pub(super) fn stop_answer(&mut self, job: Hash, has_begun: bool, now: Instant) {
        let allowed = if has_begun { self.limits.stopped } else { self.limits.job };
        self.all.insert(job, Deadline { at: now + allowed, allowed, renews: false });
    }

    pub(super) fn ended(&mut self, job: &Hash) {
        self.all.remove(job);
    }

    /// The process died.
    pub(super) fn clear(&mut self) {
        self.all.clear();
    }

    /// A job that should have ended, and the time that it had.
    pub(super) fn overdue(&self, now: Instant) -> Option<(Hash, Duration)> {
        let late = self.all.iter().find(|(_, deadline)| deadline.at <= now);
        late.map(|(job, deadline)| (*job, deadline.allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Run;

    const JOB: Hash = Hash([1; 32]);

    fn after(seconds: u64, from: Instant) -> Instant {
        from + Duration::from_secs(seconds)
    }

    #[test]
    fn a_job_is_overdue_after_its_time_and_never_after_its_end() {
        let (mut deadlines, now) = (Deadlines::default(), Instant::now());
        deadlines.begin(JOB, &Ask::Inspect { job: JOB, base: JOB }, now);
        deadlines.heard(&JOB, after(60, now));
        assert_eq!(deadlines.overdue(after(899, now)), None);
        assert_eq!(deadlines.overdue(after(900, now)), Some((JOB, JOB_TIME)));
        deadlines.ended(&JOB);
        assert_eq!(deadlines.overdue(after(9_000, now)), None);
    }

    #[test]
    fn a_training_has_time_as_long_as_it_goes_on_and_nobody_stopped_it() {
        let (mut deadlines, now) = (Deadlines::default(), Instant::now());
        let run = Run { base: JOB, recipe: String::new(), steps: 1, examples: Vec::new() };
        deadlines.begin(JOB, &Ask::Train { job: JOB, run, resume: None }, now);
        deadlines.heard(&JOB, after(800, now));
        assert_eq!(deadlines.overdue(after(1_600, now)), None);
        deadlines.stop(&JOB);
        deadlines.heard(&JOB, after(1_600, now));
        assert!(deadlines.overdue(after(1_700, now)).is_some());
    }

    #[test]
    fn an_answer_has_a_deadline_once_it_is_stopped_and_until_the_process_dies() {
        let (mut deadlines, now) = (Deadlines::default(), Instant::now());
        deadlines.stop(&JOB);
        assert_eq!(deadlines.overdue(after(9_000, now)), None);
        deadlines.stop_answer(JOB, false, now);
        assert_eq!(deadlines.overdue(after(60, now)), None, "its base may be on its way");
        deadlines.stop_answer(JOB, true, now);
        assert_eq!(deadlines.overdue(after(60, now)), Some((JOB, STOPPED_TIME)));
        deadlines.clear();
        assert_eq!(deadlines.overdue(after(60, now)), None);
    }
}
