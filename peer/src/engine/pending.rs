//! The answers that the engine process holds, and what becomes of them when it dies.
//!
//! Whatever was being computed when the process died may be what killed it. Such answers are computed again one at a
//! time, while all others wait; one that kills the process again while it is alone is given up, and so is one that hangs
//! there. So a poisoned request costs two processes and ends by itself, and no other is lost.
//!
//! Invariant: every answer that was admitted is sent, waits, or is named as given up; each is sent at most
//! [`DEATHS_MAX`] + 1 times.

use std::collections::{BTreeMap, VecDeque};

use tributary_protocol::id::Hash;

/// Deaths after which an answer is given up even where it was never alone.
const DEATHS_MAX: u8 = 3;

struct Held {
    frame: Vec<u8>,
    is_sent: bool,
    has_begun: bool,
    deaths: u8,
}

/// The answers in the engine's hands, by job.
#[derive(Default)]
pub(super) struct Pending {
    held: BTreeMap<Hash, Held>,
    /// Suspects, the first of which is computed alone.
    suspects: VecDeque<Hash>,
    /// How often a suspect was sent.
    turns: u64,
}

/// What follows from the process's death.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Death {
    /// Jobs that are not tried again.
    pub(super) given_up: Vec<Hash>,
    /// Frames to send to the next process.
    pub(super) send: Vec<Vec<u8>>,
}

impl Pending {
    /// Takes an answer; its frame comes back when it can be sent now.
    pub(super) fn admit(&mut self, job: Hash, frame: Vec<u8>) -> Option<Vec<u8>> {
        let is_sent = self.suspects.is_empty();
        let now = is_sent.then(|| frame.clone());
        self.held.insert(job, Held { frame, is_sent, has_begun: false, deaths: 0 });
        now
    }

    /// The process computes this answer from now on.
    pub(super) fn begun(&mut self, job: Hash) {
        if let Some(held) = self.held.get_mut(&job) {
            held.has_begun = true;
        }
    }

    /// Whether the job is an answer that is held here.
    pub(super) fn holds(&self, job: &Hash) -> bool {
        self.held.contains_key(job)
    }

    /// Whether a process has this answer, and if so, whether it computes it.
    pub(super) fn is_computed(&self, job: &Hash) -> Option<bool> {
        self.held.get(job).filter(|held| held.is_sent).map(|held| held.has_begun)
    }

    /// The suspect that is computed now, with the number of its turn.
    pub(super) fn suspect(&self) -> Option<(Hash, u64)> {
        let first = *self.suspects.front()?;
        self.is_sent(&first).then_some((first, self.turns))
    }

    /// An answer ended or is not wanted any more. Whether others waited for that, who can be sent now.
    pub(super) fn ended(&mut self, job: &Hash) -> bool {
        self.held.remove(job);
        let suspects = self.suspects.len();
        self.suspects.retain(|suspect| suspect != job);
        self.suspects.len() < suspects
    }

    /// The process died; `alone` says that it had nothing to do beside answers.
    pub(super) fn died(&mut self, alone: bool) -> Death {
        let mut given_up = Vec::new();
        let convicted = self.suspects.front().copied().filter(|suspect| alone && self.is_sent(suspect));
        for (job, held) in self.held.iter_mut().filter(|(_, held)| held.is_sent) {
            held.deaths += 1;
            let is_suspect = held.has_begun || held.deaths > 1;
            held.is_sent = false;
            held.has_begun = false;
            if convicted == Some(*job) || held.deaths >= DEATHS_MAX {
                given_up.push(*job);
            } else if is_suspect && !self.suspects.contains(job) {
                self.suspects.push_back(*job);
            }
        }
        for job in &given_up {
            self.held.remove(job);
            self.suspects.retain(|suspect| suspect != job);
        }
        Death { given_up, send: self.next() }
    }

    /// Nothing can be sent any more: every job that was held, and is forgotten now.
    pub(super) fn abandon(&mut self) -> Vec<Hash> {
        self.suspects.clear();
        std::mem::take(&mut self.held).into_keys().collect()
    }

    fn is_sent(&self, job: &Hash) -> bool {
        self.held.get(job).is_some_and(|held| held.is_sent)
    }

    /// What is to be sent now: the first suspect, else everything that waits.
    pub(super) fn next(&mut self) -> Vec<Vec<u8>> {
        let first = self.suspects.front().copied();
        let may_go = |job: &Hash| first.is_none_or(|first| first == *job);
        let waiting = self.held.iter_mut().filter(|(job, held)| !held.is_sent && may_go(job));
        let frames: Vec<_> = waiting
            .map(|(_, held)| {
                held.is_sent = true;
                held.frame.clone()
            })
            .collect();
        if first.is_some() && !frames.is_empty() {
            self.turns += 1;
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(number: u8) -> Hash {
        Hash([number; 32])
    }

    fn with(numbers: &[u8]) -> Pending {
        let mut pending = Pending::default();
        for number in numbers {
            assert_eq!(pending.admit(job(*number), vec![*number]), Some(vec![*number]));
        }
        pending
    }

    #[test]
    fn what_waited_is_sent_again_and_what_was_computed_goes_first_and_alone() {
        let mut pending = with(&[1, 2, 3]);
        pending.begun(job(2));
        assert_eq!(pending.suspect(), None);
        assert_eq!(pending.died(true), Death { given_up: vec![], send: vec![vec![2]] });
        assert_eq!(pending.suspect(), Some((job(2), 1)));
        assert_eq!(pending.admit(job(4), vec![4]), None, "it waits until the suspect has ended");
        assert!(pending.ended(&job(2)));
        assert_eq!(pending.next(), vec![vec![1], vec![3], vec![4]]);
        assert_eq!(pending.suspect(), None);
        assert_eq!(pending.admit(job(5), vec![5]), Some(vec![5]));
    }

    #[test]
    fn a_poisoned_request_is_given_up_after_two_processes_and_no_other() {
        let mut pending = with(&[1, 2, 3]);
        for number in [1, 2, 3] {
            pending.begun(job(number));
        }
        assert_eq!(pending.died(true).send, vec![vec![1]]);
        assert!(pending.ended(&job(1)));
        assert_eq!(pending.next(), vec![vec![2]]);
        pending.begun(job(2));
        assert_eq!(pending.died(true), Death { given_up: vec![job(2)], send: vec![vec![3]] });
        assert!(!pending.holds(&job(2)));
        assert!(pending.ended(&job(3)));
        assert!(pending.next().is_empty());
        assert!(!pending.ended(&job(3)), "nobody waits for what ended before");
    }

    #[test]
    fn a_poison_that_kills_before_it_is_known_to_have_begun_is_found_all_the_same() {
        let mut pending = with(&[1, 2]);
        assert_eq!(pending.died(true).send, vec![vec![1], vec![2]]);
        assert_eq!(pending.died(true).send, vec![vec![1]]);
        assert!(pending.ended(&job(1)));
        assert_eq!(pending.next(), vec![vec![2]]);
        assert_eq!(pending.died(true), Death { given_up: vec![job(2)], send: vec![] });
    }

    #[test]
    fn who_was_not_alone_is_not_convicted_but_never_tried_without_end() {
        let mut pending = with(&[1]);
        pending.begun(job(1));
        for _ in 1..DEATHS_MAX {
            assert_eq!(pending.died(false), Death { given_up: vec![], send: vec![vec![1]] });
        }
        assert_eq!(pending.died(false), Death { given_up: vec![job(1)], send: vec![] });
    }

    #[test]
    fn a_suspect_that_is_stopped_makes_way() {
        let mut pending = with(&[1, 2]);
        pending.begun(job(1));
        pending.begun(job(2));
        assert_eq!(pending.died(true).send, vec![vec![1]]);
        assert!(pending.ended(&job(1)));
        assert_eq!(pending.next(), vec![vec![2]]);
        assert_eq!(pending.abandon(), vec![job(2)]);
    }
}
