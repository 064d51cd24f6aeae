//! Bytes at rest: content-addressed blobs, Parquet shards of records, the readers that make records from files,
//! datanet cards, indexes that find records by their words and embeddings, the journal of accepted receipts and the vault
//! of secret keys.
//!
//! Architecture invariant: what a call here acknowledged survives a crash, and what comes from another machine is
//! bounded before memory is given to it. Nothing here speaks to the network or knows a rule of money.

pub mod admission;
pub mod base;
pub mod blobs;
pub mod card;
pub mod conversation;
pub mod dedup;
pub mod disk;
pub mod ingest;
pub mod journal;
pub mod retrieval;
pub mod shard;
pub mod spans;
pub mod vault;
