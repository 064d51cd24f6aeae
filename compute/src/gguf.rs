//! GGUF, the file of llama.cpp: our own reader of its header, models out of it and into it.
//!
//! Invariant: whatever a file claims, nothing is allocated for it before the file proved long enough, and every count
//! has a bound; a hostile file gives a [`GgufError`], never a panic.
//!
//! Layout (version 3, little-endian): magic, version, counts, metadata, tensor descriptions, padding, tensors.

mod config;
mod export;
mod file;
mod tokenizer;
mod value;
mod weights;
mod write;

pub use file::{GgufFile, MAX_HEADER_BYTES, MAX_TENSORS, TensorInfo};
pub use tokenizer::MAX_TOKEN_BYTES;
pub use value::{Value, Values};
pub use write::{GgufTensor, write, write_to};

pub(crate) use config::config_of;
pub(crate) use export::{write_adapter, write_model};
pub(crate) use tokenizer::tokenizer_json;
pub(crate) use weights::parts_of;

/// Why a GGUF file was refused.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The header is malformed or breaks a bound.
    #[error("header: {0}")]
    Header(String),
    /// A metadata entry is missing or of another type.
    #[error("metadata {key}: {what}")]
    Metadata {
        /// The entry.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// A tensor is missing, surplus, of another shape or type, or not finite.
    #[error("tensor {name}: {what}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// The file can't be read.
    #[error("cannot read: {0}")]
    File(#[from] std::io::Error),
    /// A tensor operation failed.
    #[error("tensor operation: {0}")]
    Compute(#[from] candle_core::Error),
}

impl GgufError {
    fn metadata(key: &str, what: impl std::fmt::Display) -> Self {
        Self::Metadata { key: key.into(), what: what.to_string() }
    }

    fn tensor(name: &str, what: impl std::fmt::Display) -> Self {
        Self::Tensor { name: name.into(), what: what.to_string() }
    }
}
