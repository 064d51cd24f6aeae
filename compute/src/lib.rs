//! Models on the processor or a GPU: Llama, Mistral, Qwen2 and Qwen3 that train with LoRA and serve, from Hugging Face's, PEFT's
//! and llama.cpp's files, with the logits of `transformers` and `peft` (`cargo xtask parity` writes what the tests compare
//! with).
//!
//! Invariant: on the processor every product and reduction adds in an order that depends on neither the batch around a row
//! nor the number of threads, so that a second machine of the same [`device::class`] repeats any result bit by bit. A GPU
//! gives the same results up to rounding ([`ops::portable`]) and is never compared in bits.

pub mod attribute;
pub mod bench;
pub mod chat;
pub mod device;
pub mod engine;
pub mod export;
pub mod frame;
pub mod gguf;
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
pub mod statistics;
pub mod study;
pub mod tokenizer;
pub mod train;
pub mod triage;
