//! A frozen base: configuration, tokenizer and weights under one hash.
//!
//! Invariant: the hash names the three files bit by bit, and a `Base` that exists has passed every check on them.

use std::path::Path;
use std::sync::Arc;

use tributary_protocol::id::Hash;

use super::{Config, Llama, MAX_CONFIG_BYTES, ModelError, Weights};
use crate::tokenizer::{MAX_TOKENIZER_BYTES, Tokenizer};

/// The largest weights file read: what 32-bit-indexed CPU serving can hold.
pub const MAX_BASE_BYTES: u64 = 16 << 30;

/// A frozen base model. Cloning shares it.
#[derive(Clone)]
pub struct Base(Arc<Inner>);

struct Inner {
    model: Llama,
    tokenizer: Tokenizer,
    hash: Hash,
}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Base").field("hash", &self.0.hash).finish_non_exhaustive()
    }
}

/// The hash that names a base: BLAKE3 over the hashes of config.json, tokenizer.json and model.safetensors.
#[must_use]
pub fn base_hash(config_json: &[u8], tokenizer_json: &[u8], safetensors: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for file in [config_json, tokenizer_json, safetensors] {
        hasher.update(Hash::of(file).as_bytes());
    }
    Hash(*hasher.finalize().as_bytes())
}

fn read_bounded(dir: &Path, name: &str, most: u64) -> Result<Vec<u8>, ModelError> {
    let path = dir.join(name);
    let failed = |source| ModelError::File { file: path.display().to_string(), source };
    let length = std::fs::metadata(&path).map_err(failed)?.len();
    if length > most {
        return Err(ModelError::Input(format!("{name} has {length} bytes, at most {most}")));
    }
    std::fs::read(&path).map_err(failed)
}

impl Base {
    /// Reads a folder in Hugging Face's layout: `config.json`, `tokenizer.json`, `model.safetensors`.
    ///
    /// # Errors
    /// When a file is missing, too large or refused.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        let config = read_bounded(dir, "config.json", MAX_CONFIG_BYTES as u64)?;
        let tokenizer = read_bounded(dir, "tokenizer.json", MAX_TOKENIZER_BYTES as u64)?;
        let weights = read_bounded(dir, "model.safetensors", MAX_BASE_BYTES)?;
        Self::from_bytes(&config, &tokenizer, &weights)
    }

    /// Reads the three files, which may come from anybody.
    ///
    /// # Errors
    /// When a file is malformed, out of bounds or does not fit the others.
    pub fn from_bytes(config_json: &[u8], tokenizer_json: &[u8], safetensors: &[u8]) -> Result<Self, ModelError> {
        let config = Config::from_json(config_json)?;
        let tokenizer = Tokenizer::from_bytes(tokenizer_json, config.vocab, config.bos, &config.eos)?;
        let model = Llama::new(&config, &Weights::from_safetensors(&config, safetensors)?)?;
        Ok(Self(Arc::new(Inner { model, tokenizer, hash: base_hash(config_json, tokenizer_json, safetensors) })))
    }

    /// The hash that names this base.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.0.hash
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.0.tokenizer
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Llama {
        &self.0.model
    }

    /// The model's shape.
    #[must_use]
    pub fn config(&self) -> &Config {
        self.0.model.config()
    }
}
