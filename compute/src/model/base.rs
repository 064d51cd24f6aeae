//! A frozen base: configuration, tokenizer, chat template and weights under one hash.
//!
//! Invariant: the hash names the files bit by bit, and a `Base` that exists has passed every check on them.

mod facts;
mod folder;
mod rules;

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use tributary_protocol::id::Hash;

use super::weights::TensorFiles;
use super::{Config, Model, ModelError, Weights};
use crate::chat::apart::Renderer;
use crate::chat::{ChatError, ChatTemplate};
use crate::device;
use crate::gguf::{GgufFile, config_of, parts_of, tokenizer_json};
use crate::ops::Precision;
use crate::tokenizer::Tokenizer;
pub use facts::BaseFacts;
use folder::{Folder, Weighing};
use rules::Rules;

/// The largest weights read, all files together: what 32-bit-indexed CPU serving can hold.
pub const MAX_BASE_BYTES: u64 = 16 << 30;
/// Names the hash of a base with files beyond the three.
const EXTRAS_CONTEXT: &str = "tributary 2026 base with chat and generation files";
/// Names the hash of a base in one GGUF file.
const GGUF_CONTEXT: &str = "tributary 2026 base in gguf";

/// A frozen base model. Cloning shares it.
#[derive(Clone)]
pub struct Base(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    model: Model,
    tokenizer: Tokenizer,
    chat: Result<ChatTemplate, Arc<ChatError>>,
    hash: Hash,
    /// How most of its numbers are stored.
    stored: String,
}

/// Files that say how to talk with a model. Each is optional; a base without any has the hash of its three files.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras<'a> {
    /// `tokenizer_config.json`: begin and end tokens, chat template.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `generation_config.json`: end tokens.
    pub generation_config: Option<&'a [u8]>,
    /// `chat_template.jinja`, which goes before the one in the tokenizer's configuration.
    pub chat_template: Option<&'a [u8]>,
}

impl Extras<'_> {
    fn extend(&self, plain: Hash) -> Hash {
        let files = [self.tokenizer_config, self.generation_config, self.chat_template];
        if files.iter().all(Option::is_none) {
            return plain;
        }
        let mut hasher = blake3::Hasher::new_derive_key(EXTRAS_CONTEXT);
        hasher.update(plain.as_bytes());
        for file in files {
            match file {
                None => hasher.update(&[0]),
                Some(bytes) => hasher.update(&[1]).update(Hash::of(bytes).as_bytes()),
            };
        }
        Hash(*hasher.finalize().as_bytes())
    }
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

fn hash_of<R: Read>(name: &str, reader: &mut R) -> Result<Hash, ModelError> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(reader).map_err(|source| ModelError::File { file: name.to_owned(), source })?;
    Ok(Hash(*hasher.finalize().as_bytes()))
}

impl Base {
    /// Reads a GGUF file (with `tokenizer.json` beside it, if there is one), or a folder in Hugging Face's layout:
    /// `config.json`, `tokenizer.json`, `model.safetensors` or its shards with their index, and, where they exist,
    /// `tokenizer_config.json`, `generation_config.json` and `chat_template.jinja`.
    ///
    /// # Errors
    /// When a file is missing, too large or refused.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let folder = Folder::at(path)?;
        match folder.weights {
            Weighing::Gguf(file) => Self::from_gguf(BufReader::new(file), folder.tokenizer.as_deref()),
            Weighing::Safetensors { config, files } => {
                let tokenizer = folder.tokenizer.unwrap_or_default();
                let files: Vec<(String, BufReader<File>)> =
                    files.into_iter().map(|(name, file)| (name, BufReader::new(file))).collect();
                Self::from_files(&config, &tokenizer, folder.extras.lend(), files)
            }
        }
    }

    /// Reads the three files, which may come from anybody.
    ///
    /// # Errors
    /// When a file is malformed, out of bounds or does not fit the others.
    pub fn from_bytes(config_json: &[u8], tokenizer_json: &[u8], safetensors: &[u8]) -> Result<Self, ModelError> {
        Self::from_bytes_with(config_json, tokenizer_json, safetensors, Extras::default())
    }

    /// The same with the files that say how to talk with the model.
    ///
    /// # Errors
    /// When a file is malformed, out of bounds or does not fit the others.
    pub fn from_bytes_with(
        config_json: &[u8],
        tokenizer_json: &[u8],
        safetensors: &[u8],
        extras: Extras<'_>,
    ) -> Result<Self, ModelError> {
        let files = vec![("model.safetensors".into(), std::io::Cursor::new(safetensors))];
        Self::from_files(config_json, tokenizer_json, extras, files)
    }

    fn from_files<R: Read + Seek>(
        config_json: &[u8],
        tokenizer_json: &[u8],
        extras: Extras<'_>,
        mut files: Vec<(String, R)>,
    ) -> Result<Self, ModelError> {
        let config = Config::from_json(config_json)?;
        let tokenizer = Tokenizer::from_bytes(tokenizer_json, config.vocab, config.bos, &config.eos)?;
        let rules = Rules::of_files(&config, &tokenizer, tokenizer_json, extras)?;
        let mut hashes = vec![Hash::of(config_json), Hash::of(tokenizer_json)];
        for (name, file) in &mut files {
            hashes.push(hash_of(name, file)?);
        }
        let hash = extras.extend(hash_of_hashes(&hashes));
        let mut tensors = TensorFiles::open(files)?;
        let stored = tensors.most_stored();
        let weights = Weights::from_files(&config, &mut tensors)?;
        Ok(Self::assemble(Model::new(&config, weights)?, tokenizer, rules, (hash, stored)))
    }

    /// Reads a GGUF file from anybody, with its own tokenizer or the `tokenizer.json` given.
    ///
    /// # Errors
    /// When the file is malformed, out of bounds, not finite, or of a kind we would compute wrongly.
    pub fn from_gguf<R: Read + Seek>(reader: R, given_tokenizer: Option<&[u8]>) -> Result<Self, ModelError> {
        let mut file = GgufFile::open(reader)?;
        let mut config = config_of(&file)?;
        let tokenizer_json = match given_tokenizer {
            Some(given) => given.to_vec(),
            None => tokenizer_json(&file)?,
        };
        let tokenizer = Tokenizer::from_bytes(&tokenizer_json, config.vocab, config.bos, &config.eos)?;
        let rules = Rules::of_gguf(&config, &file)?;
        let mut hasher = blake3::Hasher::new_derive_key(GGUF_CONTEXT);
        hasher.update(hash_of("gguf", file.whole()?)?.as_bytes());
        if let Some(given) = given_tokenizer {
            hasher.update(Hash::of(given).as_bytes());
        }
        let hash = Hash(*hasher.finalize().as_bytes());
        let stored = file.most_stored();
        let parts = parts_of(&mut file, &mut config)?;
        Ok(Self::assemble(Model::assemble(&config, parts), tokenizer, rules, (hash, stored)))
    }

    fn assemble(model: Model, tokenizer: Tokenizer, rules: Rules, (hash, stored): (Hash, String)) -> Self {
        let tokenizer = tokenizer.with_ends(rules.begin, rules.ends);
        Self(Arc::new(Inner { model, tokenizer, chat: rules.chat.map_err(Arc::new), hash, stored }))
    }

    /// The same base with its quantised products computed in another precision.
    #[must_use]
    pub fn with_precision(&self, precision: Precision) -> Self {
        Self(Arc::new(Inner { model: self.0.model.with_precision(precision), ..Inner::clone(&self.0) }))
    }

    /// The same base on `device`.
    ///
    /// # Errors
    /// When it doesn't fit the device's memory.
    pub fn to_device(&self, device: &Device) -> Result<Self, ModelError> {
        Ok(Self(Arc::new(Inner { model: self.0.model.to_device(device)?, ..Inner::clone(&self.0) })))
    }

    /// The same base whose chat template is read and rendered by a process of its own.
    #[must_use]
    pub fn rendering_by(&self, renderer: &Renderer) -> Self {
        let inner = Inner::clone(&self.0);
        let chat = inner.chat.map(|chat| chat.apart(renderer));
        Self(Arc::new(Inner { chat, ..inner }))
    }

    /// The determinism class of what this base computes.
    #[must_use]
    pub fn class(&self) -> String {
        let classes = device::Classes::of(self.0.model.device());
        if self.0.model.is_quantised() { classes.quantised } else { classes.dense }
    }

    /// The model's chat template, which nobody has read yet.
    ///
    /// # Errors
    /// When the model has none, or one that is too long.
    pub fn chat(&self) -> Result<&ChatTemplate, Arc<ChatError>> {
        self.0.chat.as_ref().map_err(Arc::clone)
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
