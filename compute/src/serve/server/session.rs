//! One request on the server's thread: its task, its memory, and what its client has not taken yet.
//!
//! Invariant: events are offered in order; what a client doesn't take is kept as one piece that grows by at most the
//! answer's own length, until the client takes it, leaves, or has been waited for long enough.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use tributary_protocol::id::Hash;

use super::super::events::{Event, Finished, Offered, Piece, ServeError, Sink, TokenReport, Usage};
use crate::engine::EngineError;
use crate::engine::answer::{Answer, Heard};
use crate::kv::{BLOCK_POSITIONS, Cache};
use crate::ops::narrow;
use crate::sample::top_logprobs;

/// What a step gave for one session: the last hidden states of all tokens fed, and the logits of the last.
pub(super) struct Outcome {
    pub(super) states: Vec<Vec<f32>>,
    pub(super) logits: Vec<f32>,
}

/// What comes after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// More of the prompt.
    Prompt,
    /// This token.
    Token(u32),
    /// Nothing: it is over.
    Over,
}

pub(super) enum Task {
    Answer { answer: Option<Box<Answer>>, logprobs: Option<u8> },
    Embed { sum: Vec<f64> },
}

impl Task {
    pub(super) fn answer(answer: Answer, logprobs: Option<u8>) -> Self {
        Self::Answer { answer: Some(Box::new(answer)), logprobs }
    }

    pub(super) fn embed(width: usize) -> Self {
        Self::Embed { sum: vec![0.0; width] }
    }
}

pub(super) struct Session {
    sink: Box<dyn Sink>,
    pub(super) adapter: Option<Hash>,
    task: Task,
    prompt: Vec<u32>,
    /// `Some` while the request runs.
    pub(super) cache: Option<Cache>,
    cached_tokens: usize,
    piece: Piece,
    last: Option<Event>,
    full_since: Option<Instant>,
    gone: bool,
}

impl Session {
    pub(super) fn new(sink: Box<dyn Sink>, adapter: Option<Hash>, task: Task, prompt: Vec<u32>) -> Self {
        Self {
            sink,
            adapter,
            task,
            prompt,
            cache: None,
            cached_tokens: 0,
            piece: Piece::default(),
            last: None,
            full_since: None,
            gone: false,
        }
    }

    /// Begins with what others have computed.
    pub(super) fn begin(&mut self, cache: Cache, prefix_blocks: usize) {
        self.cache = Some(cache);
        self.cached_tokens = prefix_blocks * BLOCK_POSITIONS;
    }

    /// Tells the client that computing begins. The first event of a stream has room; who left is noticed with the
    /// first piece.
    pub(super) fn announce(&mut self) {
        drop(self.sink.offer(Event::Begun));
    }

    /// The next `count` tokens after `seen` positions.
    pub(super) fn tokens(&self, seen: usize, count: usize) -> Vec<u32> {
        match &self.task {
            Task::Answer { answer: Some(answer), .. } => answer.next_tokens(seen, count).unwrap_or(&[]).to_vec(),
            Task::Answer { answer: None, .. } => Vec::new(),
            Task::Embed { .. } => self.prompt[seen..self.prompt.len().min(seen + count)].to_vec(),
        }
    }

    /// Takes in what a step gave after `seen` positions are in the cache.
    pub(super) fn heard(&mut self, seen: usize, outcome: Outcome) -> Result<Next, ServeError> {
        match &mut self.task {
            Task::Embed { sum } => {
                add_states(sum, &outcome.states);
                if seen < self.prompt.len() {
                    return Ok(Next::Prompt);
                }
                let vector = unit(sum).ok_or(EngineError::NotFinite { step: 0 })?;
                self.last = Some(Event::Embedding { vector, usage: self.usage(0) });
                Ok(Next::Over)
            }
            Task::Answer { answer: Some(answer), .. } if !answer.has_read(seen) => Ok(Next::Prompt),
            Task::Answer { .. } => self.answered(outcome),
        }
    }

    fn answered(&mut self, mut outcome: Outcome) -> Result<Next, ServeError> {
        let Task::Answer { answer: slot, logprobs } = &mut self.task else { return Ok(Next::Over) };
        let Some(answer) = slot else { return Ok(Next::Over) };
        let state = outcome.states.pop().ok_or(EngineError::NoLogits)?;
        let text = &mut self.piece.text;
        answer.heard(Heard { state, logits: &outcome.logits }, &mut |piece| {
            text.push_str(piece);
            ControlFlow::Continue(())
        })?;
        let token = *answer.output().last().ok_or(EngineError::NoLogits)?;
        if let Some(most) = *logprobs {
            let (chosen, top) = top_logprobs(&outcome.logits, token, most)?;
            self.piece.tokens.push(TokenReport { chosen, top });
        }
        let Some(finish) = answer.finish() else { return Ok(Next::Token(token)) };
        let completion_tokens = answer.output().len();
        let generation = slot.take().map(|answer| answer.close()).transpose()?;
        let usage = self.usage(completion_tokens);
        self.last = generation.map(|generation| Event::Finished(Box::new(Finished { finish, usage, generation })));
        Ok(Next::Over)
    }

    /// Ends it with an error; text that was certain still goes out before.
    pub(super) fn fail(&mut self, error: ServeError) {
        self.cache = None;
        self.last = Some(Event::Failed(error));
    }

    /// Offers what there is. Whether everything has been taken, or there is nobody to take it.
    pub(super) fn flush(&mut self, now: Instant) -> bool {
        if self.is_gone() {
            return true;
        }
        // A piece whose text waits for the rest of a character would be tokens alone: it waits, unless it is the last.
        let ready = !self.piece.text.is_empty() || (self.last.is_some() && !self.piece.is_empty());
        if ready {
            match self.sink.offer(Event::Piece(std::mem::take(&mut self.piece))) {
                Offered::Taken => self.full_since = None,
                Offered::Gone => self.gone = true,
                Offered::Full(event) => {
                    if let Event::Piece(piece) = event {
                        self.piece = piece;
                    }
                    self.full_since.get_or_insert(now);
                    return false;
                }
            }
        }
        let Some(last) = self.last.take() else { return true };
        match self.sink.offer(last) {
            Offered::Taken => true,
            Offered::Gone => {
                self.gone = true;
                true
            }
            Offered::Full(event) => {
                self.last = Some(event);
                self.full_since.get_or_insert(now);
                false
            }
        }
    }

    /// How long the client's stream has been full.
    pub(super) fn full_for(&self, now: Instant) -> Duration {
        self.full_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Whether the client left.
    pub(super) fn is_gone(&self) -> bool {
        self.gone || self.sink.is_gone()
    }

    fn usage(&self, completion_tokens: usize) -> Usage {
        Usage { prompt_tokens: self.prompt.len(), cached_tokens: self.cached_tokens, completion_tokens }
    }
}

fn add_states(sum: &mut [f64], states: &[Vec<f32>]) {
    for state in states {
        for (sum, value) in sum.iter_mut().zip(state) {
            *sum += f64::from(*value);
        }
    }
}

/// The vector of that direction with length 1; `None` when it has no direction.
fn unit(sum: &[f64]) -> Option<Vec<f32>> {
    let length = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
    (length.is_finite() && length > 0.0).then(|| sum.iter().map(|value| narrow(value / length)).collect())
}
