//! Integration tests of the compute crate, in one binary.

// The attribute tells clippy what cargo knows: everything here is a test.
#![cfg(test)]

#[path = "it/attributing.rs"]
mod attributing;
#[path = "it/files.rs"]
mod files;
#[path = "it/gradients.rs"]
mod gradients;
#[path = "it/proving.rs"]
mod proving;
#[path = "it/server.rs"]
mod server;
#[path = "it/serving.rs"]
mod serving;
#[path = "it/serving_base.rs"]
mod serving_base;
#[path = "it/training.rs"]
mod training;
