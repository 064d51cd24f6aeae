//! Serving: many requests with different adapters on one base, continuously batched.
//!
//! [`Server`] drives three things on a thread of its own: the pure [`schedule::Scheduler`], which says who computes
//! what; the [`registry::Registry`], whose adapters are read on another thread; and the model, which runs one ragged
//! step for all. Requests go in through a bounded queue, their events come out through a [`Sink`] each.
//!
//! It fits OpenAI's interface so: `/v1/completions` is [`Request`] with text, `/v1/chat/completions` the same with a
//! template's text (both streamed or not, one choice), `/v1/embeddings` is [`Work::Embed`], `model` names the adapter.
//! Wherever those return an error, [`ServeError::kind`] says which status it is.
//!
//! Invariant: tokens, text and fingerprints of an answer are bitwise those of [`crate::engine::Engine`] for the same
//! request alone, whatever shared its steps, its prefix or its adapter's memory. What goes wrong with one request ends
//! that request and nothing else.

mod events;
pub mod registry;
pub mod schedule;
mod server;

pub use events::{
    ErrorKind, Event, EventStream, Finished, Offered, Piece, ServeError, Sink, TokenReport, Usage, stream,
};
pub use server::{Prompt, Request, Server, ServerConfig, Work};
