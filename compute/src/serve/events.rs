//! What a request's client hears, and through what.
//!
//! Invariant: a stream ends with exactly one of `Finished`, `Embedding` and `Failed`; offering never waits, so a client
//! that doesn't read holds up nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tributary_protocol::id::Hash;

use super::schedule::{Refused, RequestId};
use crate::engine::{EngineError, Finish, Generation};
use crate::sample::TokenLogprob;

/// Tokens used, as OpenAI's interface counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, tokens whose keys and values another request had computed.
    pub cached_tokens: usize,
    /// Tokens of the answer, an end token included.
    pub completion_tokens: usize,
}

/// One token with its logarithms, if they were asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenReport {
    /// The token and its own.
    pub chosen: TokenLogprob,
    /// The most probable ones, as many as were asked for, largest first.
    pub top: Vec<TokenLogprob>,
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Piece {
    /// Whole characters; may be empty only where tokens are reported.
    pub text: String,
    /// The tokens picked since the last piece, if logarithms were asked for.
    pub tokens: Vec<TokenReport>,
}

impl Piece {
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.tokens.is_empty()
    }
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Why it ended.
    pub finish: Finish,
    /// What it took.
    pub usage: Usage,
    /// Text, tokens and fingerprints, as a receipt needs them.
    pub generation: Generation,
}

/// What a client hears.
#[derive(Debug)]
pub enum Event {
    /// The request leaves the queue: from now on it is computed, and whatever it does to this process is its own doing.
    Begun,
    /// More text.
    Piece(Piece),
    /// The answer's end.
    Finished(Box<Finished>),
    /// The prompt's embedding: the mean of the last hidden states (after the final norm) of all its tokens, summed in
    /// f64 in order of position and scaled to length 1. The mean was chosen over the last token since bases here are
    /// not trained to gather a text in its last token, and since it needs no template.
    Embedding {
        /// The vector, as wide as the model.
        vector: Vec<f32>,
        /// What it took.
        usage: Usage,
    },
    /// The request's end by an error.
    Failed(ServeError),
}

/// Why a request isn't answered.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No adapter of that hash is known; the base is not asked in its place.
    #[error("unknown adapter {0}")]
    UnknownAdapter(Hash),
    /// The adapter is known but its files can't be used.
    #[error("adapter {hash}: {reason}")]
    AdapterUnusable {
        /// Which.
        hash: Hash,
        /// Why.
        reason: String,
    },
    /// The request is malformed, or its computation failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The scheduler has no place for it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// More requests arrive than can be looked at.
    #[error("too many requests at once")]
    Busy,
    /// The client didn't read its events.
    #[error("the client has not read for {seconds} s")]
    NotRead {
        /// How long it was waited for.
        seconds: u64,
    },
    /// Computing this request panicked.
    #[error("the request failed inside the engine")]
    Panicked,
    /// The server has stopped.
    #[error("the server has stopped")]
    Stopped,
}

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request's (HTTP 400).
    Invalid,
    /// What it names doesn't exist (HTTP 404).
    NotFound,
    /// Nobody's; the same request can be sent again later (HTTP 429).
    TryLater,
    /// The client left or might as well have (HTTP 408).
    ClientGone,
    /// This machine's, or its files' (HTTP 500).
    Broken,
    /// This machine is going down (HTTP 503).
    Unavailable,
}

impl ServeError {
    /// Whose fault it is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownAdapter(_) => ErrorKind::NotFound,
            Self::Refused(Refused::QueueFull { .. } | Refused::QueueTokens { .. }) | Self::Busy => ErrorKind::TryLater,
            Self::NotRead { .. } => ErrorKind::ClientGone,
            Self::Stopped => ErrorKind::Unavailable,
            Self::AdapterUnusable { .. } | Self::Panicked | Self::Refused(Refused::Known(_)) => ErrorKind::Broken,
            Self::Refused(_) => ErrorKind::Invalid,
            Self::Engine(error) => match error {
                EngineError::Params(_)
                | EngineError::EmptyPrompt
                | EngineError::PromptTooLong { .. }
                | EngineError::Batch { .. }
                | EngineError::Constraint(_)
                | EngineError::Adapter => ErrorKind::Invalid,
                _ => ErrorKind::Broken,
            },
        }
    }
}

/// What became of an offered event.
#[derive(Debug)]
pub enum Offered {
    /// The client will get it.
    Taken,
    /// Not now.
    Full(Event),
    /// Never: the client left.
    Gone,
}

/// Where a request's events go. Both calls come from the server's thread and must not wait.
pub trait Sink: Send {
    /// Takes an event, or gives it back.
    fn offer(&mut self, event: Event) -> Offered;
    /// Whether the client left.
    fn is_gone(&self) -> bool;
}

/// A sink and the stream it feeds, with room for `room` events.
#[must_use]
pub fn stream(room: usize) -> (impl Sink, EventStream) {
    let (sender, receiver) = sync_channel(room.max(1));
    let gone = Arc::new(AtomicBool::new(false));
    (ChannelSink { sender, gone: gone.clone() }, EventStream { id: RequestId(0), receiver, gone })
}

struct ChannelSink {
    sender: SyncSender<Event>,
    gone: Arc<AtomicBool>,
}

impl Sink for ChannelSink {
    fn offer(&mut self, event: Event) -> Offered {
        match self.sender.try_send(event) {
            Ok(()) => Offered::Taken,
            Err(TrySendError::Full(event)) => Offered::Full(event),
            Err(TrySendError::Disconnected(_)) => Offered::Gone,
        }
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

/// A request's events. Dropping it cancels the request.
#[derive(Debug)]
pub struct EventStream {
    id: RequestId,
    receiver: Receiver<Event>,
    gone: Arc<AtomicBool>,
}

impl EventStream {
    pub(super) const fn named(mut self, id: RequestId) -> Self {
        self.id = id;
        self
    }

    /// The request's name.
    #[must_use]
    pub const fn id(&self) -> RequestId {
        self.id
    }

    /// The next event; `None` after the last.
    #[must_use]
    pub fn next_event(&self) -> Option<Event> {
        self.receiver.recv().ok()
    }

    /// The next event, if it comes in time.
    ///
    /// # Errors
    /// When it doesn't, or there is none any more.
    pub fn next_within(&self, timeout: Duration) -> Result<Event, RecvTimeoutError> {
        self.receiver.recv_timeout(timeout)
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}
