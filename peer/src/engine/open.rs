//! The jobs whose replies somebody waits for.
//!
//! Invariant: nobody hears a word or a token of an answer twice, however often it is computed; an open job that is not
//! tried again hears that it failed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tributary_protocol::id::Hash;
use tributary_protocol::logprobs::TokenReport;

use super::Reply;
use super::deadlines::{Deadlines, Limits};
use super::pending::Pending;

/// What was passed on of something that a process may give again from the beginning.
#[derive(Default)]
struct Passed {
    passed: usize,
    /// Of it, what the running process has given.
    given: usize,
}

impl Passed {
    /// How much of the next `length` was passed on before.
    fn old(&mut self, length: usize) -> usize {
        let old = self.passed.saturating_sub(self.given).min(length);
        self.given += length;
        self.passed = self.passed.max(self.given);
        old
    }
}

/// Who waits for a job's replies.
pub(super) struct Listener {
    replies: mpsc::Sender<Reply>,
    text_bytes: Passed,
    tokens: Passed,
}

impl Listener {
    /// What of a piece is new to the reader: a process that computes an answer again gives it from the beginning.
    fn pass(&mut self, text: &str, tokens: &[TokenReport]) -> Option<(String, Vec<TokenReport>)> {
        let text = text.get(self.text_bytes.old(text.len())..).unwrap_or_default();
        let tokens = tokens.get(self.tokens.old(tokens.len())..).unwrap_or_default();
        (!text.is_empty() || !tokens.is_empty()).then(|| (text.to_owned(), tokens.to_vec()))
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Open {
    listeners: BTreeMap<Hash, Listener>,
    pub(super) pending: Pending,
    pub(super) deadlines: Deadlines,
    /// The frames that have a process hold the bases, by their hash.
    pub(super) bases: BTreeMap<Hash, Vec<u8>>,
}

/// What a reply leads to.
pub(super) struct Delivery {
    /// Who gets it.
    pub(super) to: Option<(mpsc::Sender<Reply>, Reply)>,
    /// Whether answers waited for this job's end.
    pub(super) others_waited: bool,
}

impl Open {
    pub(super) fn within(limits: Limits) -> Self {
        Self { deadlines: Deadlines::new(limits), ..Self::default() }
    }

    /// From now on `replies` gets what is heard of `job`.
    pub(super) fn listen(&mut self, job: Hash, replies: mpsc::Sender<Reply>) {
        let listener = Listener { replies, text_bytes: Passed::default(), tokens: Passed::default() };
        self.listeners.insert(job, listener);
    }

    /// Forgets a job. Whether other answers waited for its end.
    pub(super) fn forget(&mut self, job: &Hash) -> bool {
        self.listeners.remove(job);
        self.stopped(job);
        // A suspect that hangs heeds no stop: the others wait until the process says that it ended, or is ended itself.
        let is_computed_alone = self.pending.suspect().is_some_and(|(suspect, _)| suspect == *job);
        !is_computed_alone && self.pending.ended(job)
    }

    /// Forgets a job that no process has got.
    pub(super) fn unsent(&mut self, job: &Hash) {
        self.forget(job);
        self.deadlines.ended(job);
    }

    /// A job is to end soon.
    pub(super) fn stopped(&mut self, job: &Hash) {
        match self.pending.is_computed(job) {
            Some(has_begun) => self.deadlines.stop_answer(*job, has_begun, Instant::now()),
            None => self.deadlines.stop(job),
        }
    }

    /// Takes a reply in.
    pub(super) fn deliver(&mut self, job: Hash, reply: Reply) -> Delivery {
        let mut others_waited = false;
        match reply {
            Reply::Done { .. } | Reply::Failed { .. } | Reply::Late { .. } => self.deadlines.ended(&job),
            _ => self.deadlines.heard(&job, Instant::now()),
        }
        let to = match reply {
            Reply::Begun { .. } => {
                self.pending.begun(job);
                None
            }
            Reply::Done { .. } | Reply::Failed { .. } | Reply::Late { .. } => {
                others_waited = self.pending.ended(&job);
                self.listeners.remove(&job).map(|listener| (listener.replies, reply))
            }
            Reply::Text { text, tokens, .. } => self.listeners.get_mut(&job).and_then(|listener| {
                let (text, tokens) = listener.pass(&text, &tokens)?;
                Some((listener.replies.clone(), Reply::Text { job, text, tokens }))
            }),
            other => self.listeners.get(&job).map(|listener| (listener.replies.clone(), other)),
        };
        Delivery { to, others_waited }
    }

    pub(super) fn fail(&mut self, job: Hash, reason: &str) {
        self.end(job, Reply::Failed { job, reason: reason.to_owned() });
    }

    /// A job has taken longer than it may.
    pub(super) fn late(&mut self, job: Hash, allowed: Duration) {
        self.pending.ended(&job);
        self.deadlines.ended(&job);
        self.end(job, Reply::Late { job, after_s: allowed.as_secs() });
    }

    fn end(&mut self, job: Hash, last: Reply) {
        if let Some(listener) = self.listeners.remove(&job) {
            // A reader whose queue is full finds it closed, which means the same.
            let _ = listener.replies.try_send(last);
        }
    }

    /// The process died: fails what is not tried again and gives what is to be sent to the next one.
    pub(super) fn died(&mut self, reason: &str) -> Vec<Vec<u8>> {
        self.deadlines.clear();
        // Nobody waits any more for a suspect that was stopped.
        if let Some((suspect, _)) = self.pending.suspect().filter(|(job, _)| !self.listeners.contains_key(job)) {
            self.pending.ended(&suspect);
        }
        let pending = &self.pending;
        let others: Vec<Hash> = self.listeners.keys().filter(|job| !pending.holds(job)).copied().collect();
        let death = self.pending.died(others.is_empty());
        for job in others {
            self.fail(job, reason);
        }
        for job in death.given_up {
            self.fail(job, "the engine process ended each time it computed this answer");
        }
        for listener in self.listeners.values_mut() {
            (listener.text_bytes.given, listener.tokens.given) = (0, 0);
        }
        death.send
    }
}

#[cfg(test)]
mod tests {
    use tributary_protocol::logprobs::{Spelling, TokenLogprob};

    use super::*;

    fn heard(open: &mut Open, job: Hash, text: &str, tokens: &[u32]) -> Option<(String, Vec<u32>)> {
        let report = |token: &u32| {
            let chosen = TokenLogprob { token: *token, spelling: Spelling::Bytes(Vec::new()), minus_micro_nats: 0 };
            TokenReport { chosen, top: Vec::new() }
        };
        let reply = Reply::Text { job, text: text.into(), tokens: tokens.iter().map(report).collect() };
        let (_, Reply::Text { text, tokens, .. }) = open.deliver(job, reply).to? else { panic!("another reply") };
        Some((text, tokens.iter().map(|report| report.chosen.token).collect()))
    }

    #[test]
    fn an_answer_computed_again_is_passed_on_where_it_stopped() {
        let (mut open, job) = (Open::default(), Hash([1; 32]));
        let (replies, _receiver) = mpsc::channel(1);
        open.listen(job, replies);
        open.pending.admit(job, vec![7]);
        assert_eq!(heard(&mut open, job, "The ri", &[1, 2]), Some(("The ri".into(), vec![1, 2])));
        open.died("ended");
        assert_eq!(heard(&mut open, job, "The", &[1]), None);
        assert_eq!(heard(&mut open, job, " river", &[2, 3]), Some(("ver".into(), vec![3])));
        assert_eq!(heard(&mut open, job, "", &[4]), Some((String::new(), vec![4])));
        assert_eq!(heard(&mut open, job, " Nevola", &[]), Some((" Nevola".into(), vec![])));
    }

    #[test]
    fn a_suspect_that_is_stopped_holds_the_others_until_the_process_says_so() {
        let (mut open, suspect, other) = (Open::default(), Hash([1; 32]), Hash([2; 32]));
        let (replies, _receiver) = mpsc::channel(4);
        for job in [suspect, other] {
            open.listen(job, replies.clone());
            open.pending.admit(job, vec![job.0[0]]);
        }
        open.pending.begun(suspect);
        assert_eq!(open.died("ended"), vec![vec![1]]);
        assert!(!open.forget(&suspect), "it may hang");
        assert!(open.pending.next().is_empty());
        let stopped = Reply::Failed { job: suspect, reason: "stopped".into() };
        assert!(open.deliver(suspect, stopped).others_waited);
        assert_eq!(open.pending.next(), vec![vec![2]]);
        // Where the process dies instead, nobody computes it again.
        open.pending.begun(other);
        assert_eq!(open.died("ended"), vec![vec![2]]);
        open.forget(&other);
        assert!(open.died("ended").is_empty());
    }

    #[test]
    fn a_death_fails_trainings_and_keeps_answers() {
        let mut open = Open::default();
        let (answer, training) = (Hash([1; 32]), Hash([2; 32]));
        let (replies, mut heard) = mpsc::channel(4);
        for job in [answer, training] {
            open.listen(job, replies.clone());
        }
        open.pending.admit(answer, vec![7]);
        assert_eq!(open.died("ended"), vec![vec![7]]);
        assert!(matches!(heard.try_recv(), Ok(Reply::Failed { job, .. }) if job == training));
        assert!(heard.try_recv().is_err(), "the answer goes on");
    }
}
