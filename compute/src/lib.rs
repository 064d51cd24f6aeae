//! Models on the processor: a Llama family that trains with LoRA and serves, from Hugging Face and PEFT files.
//!
//! Invariant: every product and reduction adds in an order that depends on neither the batch around a row nor the
//! number of threads, so that a second machine of the same [`device::class`] repeats any result bit by bit.

pub mod attribute;
pub mod device;
pub mod engine;
pub mod kv;
pub mod linear;
pub mod lora;
pub mod loss;
pub mod model;
pub mod ops;
pub mod proof;
pub mod random;
pub mod sample;
pub mod serve;
pub mod tokenizer;
pub mod train;
