//! Tributary's rules: ids, wire format, signed envelopes and the pure state machines of datanets, tasks,
//! verification, receipts and money.
//!
//! Architecture invariant: nothing in this crate reads a clock, draws from an ambient random generator,
//! does I/O or iterates over a hash map. Time, randomness and results of work come in as inputs; messages
//! and work go out as outputs. `peer` drives these machines with real sockets, `simnet` with virtual time.

pub mod attribution;
pub mod batch;
pub mod card;
pub mod datanet;
pub mod decoding;
pub mod economy;
pub mod envelope;
pub mod id;
pub mod limits;
pub mod logprobs;
pub mod merkle;
pub mod message;
pub mod node;
pub mod note;
pub mod proof;
pub mod receipt;
pub mod refusal;
pub mod retrieval;
pub mod span;
pub mod task;
pub mod transcript;
pub mod verification;
pub mod wire;
