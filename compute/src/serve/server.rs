//! The server: a thread that computes steps, and the handle that requests go through.
//!
//! Invariant: a request is checked, tokenised and its grammar compiled on the caller's thread; the server's thread gets
//! only what can run. Both queues to it are bounded, and it never waits for a client.

mod session;
mod step;
mod worker;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tributary_protocol::id::Hash;

use super::events::{EventStream, ServeError, Sink, stream};
use super::registry::{Loader, Loading, Registry, RegistryError};
use super::schedule::{AdapterSize, Arrival, Limits, Load, RequestId, Scheduler};
use crate::engine::answer::{Answer, encode};
use crate::engine::{EngineError, GenerateParams};
use crate::kv::block_bytes;
use crate::model::Base;
use crate::sample::MAX_TOP_LOGPROBS;
use session::{Session, Task};
use worker::Worker;

/// Requests and adapters on their way to the server's thread, which empties this in every step.
const INBOX: usize = 1_024;
/// How often a position may lie in a device's memory: as a shared block and in the sequence that reads it, with room to
/// grow.
const DEVICE_COPIES: usize = 2;
/// Events a stream of [`Server::submit`] holds before it is full.
const STREAM_EVENTS: usize = 64;

/// What a server may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Bytes for keys and values.
    pub kv_bytes: usize,
    /// Bytes for adapters in memory.
    pub adapter_bytes: u64,
    /// How long a client's full stream is waited for before its request is cancelled.
    pub patience: Duration,
    /// Further limits, instead of those that [`Limits::for_memory`] gives.
    pub limits: Option<Limits>,
}

impl Default for ServerConfig {
    /// For a laptop: half a gigabyte for keys and values, a quarter for adapters.
    fn default() -> Self {
        Self { kv_bytes: 512 << 20, adapter_bytes: 256 << 20, patience: Duration::from_secs(10), limits: None }
    }
}

/// The text to go on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Text; the begin token is put before it, if the model has one.
    Text(String),
    /// Tokens, taken as they are: a template's, or OpenAI's list of ids.
    Tokens(Vec<u32>),
}

/// What to do with a prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Answer it.
    Generate {
        /// How.
        params: GenerateParams,
        /// Report each token's logarithm and that many most probable ones.
        logprobs: Option<u8>,
    },
    /// Embed it.
    Embed,
}

/// A request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The adapter, or the base.
    pub adapter: Option<Hash>,
    /// The prompt.
    pub prompt: Prompt,
    /// What to do.
    pub work: Work,
}

/// What reaches the server's thread.
enum Mail {
    Request { arrival: Arrival, session: Box<Session> },
    Cancel(RequestId),
    Adapter(Loading),
    Stop,
}

/// A running server.
pub struct Server {
    base: Base,
    registry: Arc<Registry>,
    inbox: SyncSender<Mail>,
    next: AtomicU64,
    load: Arc<Mutex<Load>>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("base", &self.base).field("load", &self.load()).finish_non_exhaustive()
    }
}

impl Server {
    /// Starts a server on `base`.
    ///
    /// # Errors
    /// When a thread can't be started.
    pub fn start(base: &Base, config: &ServerConfig) -> std::io::Result<Self> {
        let shape = base.config();
        let copies = if base.model().device().is_cpu() { 1 } else { DEVICE_COPIES };
        let blocks = config.kv_bytes / (block_bytes(shape.layers, shape.kv_width()) * copies);
        let limits = config
            .limits
            .clone()
            .unwrap_or_else(|| Limits::for_memory(blocks, config.adapter_bytes, shape.max_positions));
        let registry = Arc::new(Registry::new(shape.clone()));
        let (inbox, mail) = sync_channel(INBOX);
        let deliver = {
            let inbox = inbox.clone();
            move |loading| inbox.send(Mail::Adapter(loading)).is_ok()
        };
        let loader = Loader::start(registry.clone(), limits.loads, deliver)?;
        let scheduler = Scheduler::new(limits);
        let load = Arc::new(Mutex::new(scheduler.load()));
        let worker = Worker::new(base.clone(), scheduler, loader, config.patience, load.clone());
        let thread = std::thread::Builder::new().name("serve".into()).spawn(move || worker.run(&mail))?;
        Ok(Self { base: base.clone(), registry, inbox, next: AtomicU64::new(1), load, thread: Some(thread) })
    }

    /// The base.
    #[must_use]
    pub const fn base(&self) -> &Base {
        &self.base
    }

    /// The adapters that requests can name.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Makes the adapter in `folder` known.
    ///
    /// # Errors
    /// As [`Registry::register_folder`].
    pub fn register(&self, folder: &Path) -> Result<Hash, RegistryError> {
        self.registry.register_folder(folder)
    }

    /// What is in use, as of the last step.
    #[must_use]
    pub fn load(&self) -> Load {
        *self.load.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Hands in a request and gives the stream of its events.
    ///
    /// # Errors
    /// When the request is malformed, names an unknown adapter, or more arrive than can be looked at. A full queue shows
    /// as the stream's only event.
    pub fn submit(&self, request: &Request) -> Result<EventStream, ServeError> {
        let (sink, events) = stream(STREAM_EVENTS);
        Ok(events.named(self.submit_to(request, Box::new(sink))?))
    }

    /// Hands in a request whose events go to `sink`.
    ///
    /// # Errors
    /// As [`Server::submit`].
    pub fn submit_to(&self, request: &Request, sink: Box<dyn Sink>) -> Result<RequestId, ServeError> {
        let adapter = request.adapter.map(|hash| self.adapter(hash)).transpose()?;
        let prompt = self.prompt(&request.prompt)?;
        let (task, max_tokens) = match &request.work {
            Work::Embed => (Task::embed(self.base.config().hidden), 0),
            Work::Generate { params, logprobs } => {
                if logprobs.is_some_and(|most| most > MAX_TOP_LOGPROBS) {
                    return Err(EngineError::Params("at most 20 logprobs").into());
                }
                params.check()?;
                (Task::answer(Answer::open(&self.base, prompt.clone(), params)?, *logprobs), params.max_tokens)
            }
        };
        let id = RequestId(self.next.fetch_add(1, Ordering::Relaxed));
        let session = Box::new(Session::new(sink, request.adapter, task, prompt.clone()));
        let whole_prompt = request.work == Work::Embed;
        let arrival = Arrival { id, adapter, prompt, max_tokens, whole_prompt };
        match self.inbox.try_send(Mail::Request { arrival, session }) {
            Ok(()) => Ok(id),
            Err(TrySendError::Full(_)) => Err(ServeError::Busy),
            Err(TrySendError::Disconnected(_)) => Err(ServeError::Stopped),
        }
    }

    /// Ends a request, whose sink hears nothing more. Dropping an [`EventStream`] does the same.
    ///
    /// # Errors
    /// When the server has stopped.
    pub fn cancel(&self, id: RequestId) -> Result<(), ServeError> {
        self.inbox.send(Mail::Cancel(id)).map_err(|_| ServeError::Stopped)
    }

    fn adapter(&self, hash: Hash) -> Result<AdapterSize, ServeError> {
        self.registry.size(&hash).ok_or(ServeError::UnknownAdapter(hash))
    }

    /// The prompt's tokens, all of them in the vocabulary and few enough for the context.
    fn prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, ServeError> {
        let (vocab, context) = (self.base.config().vocab, self.base.config().max_positions);
        let tokens = match prompt {
            Prompt::Text(text) => encode(&self.base, text)?,
            Prompt::Tokens(tokens) if tokens.len() <= context => tokens.clone(),
            Prompt::Tokens(tokens) => return Err(EngineError::PromptTooLong { tokens: tokens.len(), context }.into()),
        };
        if tokens.is_empty() {
            return Err(EngineError::EmptyPrompt.into());
        }
        if tokens.len() > context {
            return Err(EngineError::PromptTooLong { tokens: tokens.len(), context }.into());
        }
        if tokens.iter().any(|token| usize::try_from(*token).map_or(true, |token| token >= vocab)) {
            return Err(EngineError::Params("a token outside the vocabulary").into());
        }
        Ok(tokens)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.inbox.send(Mail::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
