//! Answer streams between an asker and a worker.
//!
//! Invariant: a stream ends once: with an answer, a refusal, a break or a time-out; what comes after is dropped.

use std::collections::BTreeMap;

use tributary_protocol::id::{Hash, NodeId};
use tributary_protocol::node::{AnswerTranscript, Input, JobOutcome};
use tributary_protocol::refusal::Refusal;

use super::{Happening, World};

/// How long a driver waits for an answer, in milliseconds.
const STREAM_TIMEOUT_MS: u64 = 15_000;
/// How long a driver tries to reach a worker, in milliseconds.
const DIAL_MS: u64 = 1_000;

struct Stream {
    asker: usize,
    asker_incarnation: u32,
    worker: usize,
    key: Hash,
    transcript: Option<AnswerTranscript>,
}

#[derive(Default)]
pub(super) struct Streams {
    open: BTreeMap<u64, Stream>,
    opened: u64,
}

impl Streams {
    pub(super) fn remember(&mut self, stream: u64, transcript: AnswerTranscript) {
        if let Some(stream) = self.open.get_mut(&stream) {
            stream.transcript = Some(transcript);
        }
    }

    /// Streams of a machine, as asker or as worker.
    fn of(&self, host: usize) -> Vec<(u64, bool)> {
        let touches = |stream: &&Stream| stream.asker == host || stream.worker == host;
        let streams = self.open.iter().filter(|(_, stream)| touches(stream));
        streams.map(|(number, stream)| (*number, stream.asker == host)).collect()
    }
}

impl World {
    pub(super) fn open_answer(&mut self, asker: usize, key: Hash, worker: NodeId, bytes: Vec<u8>) {
        let worker = self.places.get(&worker).copied().filter(|worker| self.hosts[*worker].node.is_some());
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let delay_ms =
            worker.and_then(|worker| self.links.transfer(self.now_ms, asker, worker, size, &mut self.chance));
        let (Some(worker), Some(delay_ms)) = (worker, delay_ms) else {
            let refusal = "the worker cannot be reached".into();
            return self.schedule_local(asker, DIAL_MS, Input::AnswerFailed { key, refusal });
        };
        self.streams.opened += 1;
        let number = self.streams.opened;
        let asker_incarnation = self.hosts[asker].incarnation;
        let stream = Stream { asker, asker_incarnation, worker, key, transcript: None };
        self.streams.open.insert(number, stream);
        self.schedule(delay_ms, Happening::Question { stream: number, bytes });
        self.schedule(STREAM_TIMEOUT_MS, Happening::StreamTimeout { stream: number });
    }

    pub(super) fn question(&mut self, number: u64, bytes: Vec<u8>) {
        let Some(stream) = self.streams.open.get(&number) else { return };
        let (from, worker) = (self.hosts[stream.asker].id, stream.worker);
        self.note("question", worker, &bytes);
        self.feed(worker, Input::Question { from, stream: number, bytes });
    }

    pub(super) fn finish_answer(&mut self, number: u64, offer: Vec<u8>) {
        let Some(stream) = self.streams.open.get(&number) else { return };
        let (asker, worker) = (stream.asker, stream.worker);
        let size = u64::try_from(offer.len()).unwrap_or(u64::MAX);
        let Some(delay_ms) = self.links.transfer(self.now_ms, worker, asker, size, &mut self.chance) else {
            return self.break_stream(number, "the stream broke");
        };
        let Some(stream) = self.streams.open.remove(&number) else { return };
        if let (Some(transcript), true) = (stream.transcript, self.is_up(asker, stream.asker_incarnation)) {
            let transcript = Box::new(transcript);
            self.schedule_local(asker, delay_ms, Input::AnswerArrived { key: stream.key, offer, transcript });
        }
    }

    /// Ends a stream without an answer.
    pub(super) fn break_stream(&mut self, number: u64, reason: &str) {
        self.refuse_stream(number, reason.into());
    }

    /// Ends a stream with its worker's reason.
    pub(super) fn refuse_stream(&mut self, number: u64, refusal: Refusal) {
        let Some(stream) = self.streams.open.remove(&number) else { return };
        self.count("streams without an answer");
        if self.is_up(stream.asker, stream.asker_incarnation) {
            let input = Input::AnswerFailed { key: stream.key, refusal };
            self.schedule_local(stream.asker, 10, input);
        }
        let job = self.hosts[stream.worker].jobs.iter().find(|(_, of)| **of == Some(number)).map(|(job, _)| *job);
        if let Some(job) = job {
            // The worker's driver notices that nobody listens any more.
            let incarnation = self.hosts[stream.worker].incarnation;
            let outcome = Box::new(JobOutcome::Failed("the asker went away".into()));
            self.schedule(10, Happening::JobEnds { host: stream.worker, incarnation, job, outcome });
        }
    }

    /// A machine went down with all its streams.
    pub(super) fn break_streams_of(&mut self, host: usize) {
        for (number, _) in self.streams.of(host) {
            self.break_stream(number, "the other end went away");
        }
    }
}
