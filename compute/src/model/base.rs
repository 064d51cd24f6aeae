//! A frozen base: configuration, tokenizer and weights under one hash.
//!
//! Invariant: the hash names the files bit by bit, and a `Base` that exists has passed every check on them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use tributary_protocol::id::Hash;

use super::weights::TensorFiles;
use super::{Config, MAX_CONFIG_BYTES, Model, ModelError, Weights};
use crate::tokenizer::{MAX_TOKENIZER_BYTES, Tokenizer};

/// The largest weights read, all files together: what 32-bit-indexed CPU serving can hold.
pub const MAX_BASE_BYTES: u64 = 16 << 30;
/// The longest index of shards; a hundred bytes for each tensor.
const MAX_INDEX_BYTES: u64 = 4 << 20;
/// Most shards of a model; the largest public ones have about two hundred.
const MAX_SHARDS: usize = 512;
/// Weights in one file.
const SINGLE: &str = "model.safetensors";
/// The list of shards, where there are several.
const INDEX: &str = "model.safetensors.index.json";

/// A frozen base model. Cloning shares it.
#[derive(Clone)]
pub struct Base(Arc<Inner>);

struct Inner {
    model: Model,
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
    hash_of_hashes(&[config_json, tokenizer_json, safetensors].map(Hash::of))
}

fn hash_of_hashes(hashes: &[Hash]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for hash in hashes {
        hasher.update(hash.as_bytes());
    }
    Hash(*hasher.finalize().as_bytes())
}

fn open(dir: &Path, name: &str, most: u64) -> Result<(File, u64), ModelError> {
    let path = dir.join(name);
    let failed = |source| ModelError::File { file: path.display().to_string(), source };
    let file = File::open(&path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length > most {
        return Err(ModelError::Input(format!("{name} has {length} bytes, at most {most}")));
    }
    Ok((file, length))
}

fn read_bounded(dir: &Path, name: &str, most: u64) -> Result<Vec<u8>, ModelError> {
    let (file, _) = open(dir, name, most)?;
    let mut bytes = Vec::new();
    // A file that grows while it is read stays within the bound too.
    let read = file.take(most).read_to_end(&mut bytes);
    read.map_err(|source| ModelError::File { file: dir.join(name).display().to_string(), source })?;
    Ok(bytes)
}

/// The folder's weight files in order of their names.
fn weight_files(dir: &Path) -> Result<Vec<String>, ModelError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    if dir.join(SINGLE).exists() || !dir.join(INDEX).exists() {
        return Ok(vec![SINGLE.into()]);
    }
    let refused = |what: String| ModelError::Weights(format!("{INDEX}: {what}"));
    let index: Index = serde_json::from_slice(&read_bounded(dir, INDEX, MAX_INDEX_BYTES)?)
        .map_err(|error| refused(error.to_string()))?;
    let files: BTreeSet<String> = index.weight_map.into_values().collect();
    if files.is_empty() || files.len() > MAX_SHARDS {
        return Err(refused(format!("{} files, allowed 1 to {MAX_SHARDS}", files.len())));
    }
    // A name from the file must not lead out of the folder.
    let plain = |name: &String| name.ends_with(".safetensors") && !name.contains(['/', '\\']);
    match files.iter().find(|name| !plain(name)) {
        Some(name) => Err(refused(format!("{name:?} is no file of the folder"))),
        None => Ok(files.into_iter().collect()),
    }
}

impl Base {
    /// Reads a folder in Hugging Face's layout: `config.json`, `tokenizer.json`, and `model.safetensors` or its shards
    /// with their index.
    ///
    /// # Errors
    /// When a file is missing, too large or refused.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        let config = read_bounded(dir, "config.json", MAX_CONFIG_BYTES as u64)?;
        let tokenizer = read_bounded(dir, "tokenizer.json", MAX_TOKENIZER_BYTES as u64)?;
        let mut left = MAX_BASE_BYTES;
        let mut files = Vec::new();
        for name in weight_files(dir)? {
            let (file, length) = open(dir, &name, left)?;
            left -= length;
            files.push((name, BufReader::new(file)));
        }
        Self::from_files(&config, &tokenizer, files)
    }

    /// Reads the three files, which may come from anybody.
    ///
    /// # Errors
    /// When a file is malformed, out of bounds or does not fit the others.
    pub fn from_bytes(config_json: &[u8], tokenizer_json: &[u8], safetensors: &[u8]) -> Result<Self, ModelError> {
        Self::from_files(config_json, tokenizer_json, vec![(SINGLE.into(), std::io::Cursor::new(safetensors))])
    }

    fn from_files<R: Read + Seek>(
        config_json: &[u8],
        tokenizer_json: &[u8],
        mut files: Vec<(String, R)>,
    ) -> Result<Self, ModelError> {
        let config = Config::from_json(config_json)?;
        let tokenizer = Tokenizer::from_bytes(tokenizer_json, config.vocab, config.bos, &config.eos)?;
        let mut hashes = vec![Hash::of(config_json), Hash::of(tokenizer_json)];
        for (name, file) in &mut files {
            let failed = |source| ModelError::File { file: name.clone(), source };
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(file).map_err(failed)?;
            hashes.push(Hash(*hasher.finalize().as_bytes()));
        }
        let weights = Weights::from_files(&config, &mut TensorFiles::open(files)?)?;
        let model = Model::new(&config, &weights)?;
        Ok(Self(Arc::new(Inner { model, tokenizer, hash: hash_of_hashes(&hashes) })))
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
    pub fn model(&self) -> &Model {
        &self.0.model
    }

    /// The model's shape.
    #[must_use]
    pub fn config(&self) -> &Config {
        self.0.model.config()
    }
}
