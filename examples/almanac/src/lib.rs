//! The almanac of an invented country: data whose every fact, owner and question is known, made from a seed.
//!
//! A [`Country`] holds facts that one contributor alone records, facts that two record, noise, and one held-out
//! question for each fact. [`Language`] is the text the demonstration's small base model is pretrained on.
//!
//! Invariant: no clock, no ambient randomness, no file is read; equal seeds give equal bytes on every machine.

mod base;
mod country;
mod language;
mod name;
mod random;
mod relation;
mod shape;

pub use base::{BaseFiles, base, recipe};
pub use country::{Country, Fact, MAX_CONTRIBUTORS, Owner, Question, Record, to_jsonl};
pub use language::Language;
pub use name::Kind;
pub use random::Stream;
pub use relation::{PHRASINGS, Relation};
pub use shape::SHAPES;
