//! Integration tests of the compute crate, in one binary.

// The attribute tells clippy what cargo knows: everything here is a test.
#![cfg(test)]

#[path = "it/attributing.rs"]
mod attributing;
#[path = "it/bench.rs"]
mod bench;
#[path = "it/chat.rs"]
mod chat;
#[path = "it/exchanging.rs"]
mod exchanging;
#[path = "it/exporting.rs"]
mod exporting;
#[path = "it/files.rs"]
mod files;
#[path = "it/gguf.rs"]
mod gguf;
#[path = "it/gguf_hostile.rs"]
mod gguf_hostile;
#[path = "it/golden.rs"]
mod golden;
#[path = "it/gradients.rs"]
mod gradients;
#[path = "it/hostile.rs"]
mod hostile;
#[path = "it/merging.rs"]
mod merging;
#[path = "it/parity.rs"]
mod parity;
#[path = "it/peft.rs"]
mod peft;
#[path = "it/proving.rs"]
mod proving;
#[path = "it/server.rs"]
mod server;
#[path = "it/serving.rs"]
mod serving;
#[path = "it/serving_base.rs"]
mod serving_base;
#[path = "it/shards.rs"]
mod shards;
#[path = "it/sharing.rs"]
mod sharing;
#[path = "it/studying.rs"]
mod studying;
#[path = "it/training.rs"]
mod training;
#[path = "it/training_modes.rs"]
mod training_modes;
#[path = "it/triaging.rs"]
mod triaging;
