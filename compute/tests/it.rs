//! Integration tests of the compute crate, in one binary.

mod attributing;
mod proving;
mod serving;
mod serving_base;
