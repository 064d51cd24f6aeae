//! A model's files on disk, measured and opened.
//!
//! Invariant: no file is read beyond its bound, and no name in an index leads out of the folder.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::{Extras, MAX_BASE_BYTES};
use crate::chat::MAX_TEMPLATE_BYTES;
use crate::model::{MAX_CONFIG_BYTES, ModelError};
use crate::tokenizer::MAX_TOKENIZER_BYTES;

/// The longest index of shards; a hundred bytes for each tensor.
const MAX_INDEX_BYTES: u64 = 4 << 20;
/// Most shards of a model; the largest public ones have about two hundred.
const MAX_SHARDS: usize = 512;
/// Weights in one file.
const SINGLE: &str = "model.safetensors";
/// The list of shards, where there are several.
const INDEX: &str = "model.safetensors.index.json";

/// The longest `tokenizer_config.json`: it may describe a few thousand added tokens.
pub(super) const MAX_TOKENIZER_CONFIG_BYTES: usize = 4 << 20;

/// What lies at a path.
pub(super) struct Folder {
    /// `tokenizer.json`; only GGUF may come without.
    pub(super) tokenizer: Option<Vec<u8>>,
    pub(super) extras: OwnedExtras,
    pub(super) weights: Weighing,
}

/// The weights.
pub(super) enum Weighing {
    Gguf(File),
    Safetensors { config: Vec<u8>, files: Vec<(String, File)> },
}

#[derive(Default)]
pub(super) struct OwnedExtras {
    tokenizer_config: Option<Vec<u8>>,
    generation_config: Option<Vec<u8>>,
    chat_template: Option<Vec<u8>>,
}

impl OwnedExtras {
    pub(super) fn lend(&self) -> Extras<'_> {
        Extras {
            tokenizer_config: self.tokenizer_config.as_deref(),
            generation_config: self.generation_config.as_deref(),
            chat_template: self.chat_template.as_deref(),
        }
    }
}

impl Folder {
    pub(super) fn at(path: &Path) -> Result<Self, ModelError> {
        if path.is_file() {
            let (dir, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
            let (file, _) = open(dir, &name.to_string_lossy(), MAX_BASE_BYTES)?;
            let tokenizer = optional(dir, "tokenizer.json", MAX_TOKENIZER_BYTES)?;
            return Ok(Self { tokenizer, extras: OwnedExtras::default(), weights: Weighing::Gguf(file) });
        }
        let config = read_bounded(path, "config.json", MAX_CONFIG_BYTES as u64)?;
        let tokenizer = Some(read_bounded(path, "tokenizer.json", MAX_TOKENIZER_BYTES as u64)?);
        let mut left = MAX_BASE_BYTES;
        let mut files = Vec::new();
        for name in weight_files(path)? {
            let (file, length) = open(path, &name, left)?;
            left -= length;
            files.push((name, file));
        }
        let extras = OwnedExtras {
            tokenizer_config: optional(path, "tokenizer_config.json", MAX_TOKENIZER_CONFIG_BYTES)?,
            generation_config: optional(path, "generation_config.json", MAX_CONFIG_BYTES)?,
            chat_template: optional(path, "chat_template.jinja", MAX_TEMPLATE_BYTES)?,
        };
        Ok(Self { tokenizer, extras, weights: Weighing::Safetensors { config, files } })
    }
}

fn optional(dir: &Path, name: &str, most: usize) -> Result<Option<Vec<u8>>, ModelError> {
    if dir.join(name).exists() { read_bounded(dir, name, most as u64).map(Some) } else { Ok(None) }
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
