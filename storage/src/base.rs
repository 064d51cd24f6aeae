//! A base model as a list of content-addressed files: what travels between peers, and the folder it becomes here.
//!
//! Invariant: a [`BaseManifest`] that exists names only files of the closed list in `name`, each once, in order, and
//! together they are one model; so its names may be joined to a folder's path, and one model has one id.

mod folder;
mod name;

use bincode::{Decode, Encode};
use tributary_protocol::id::Hash;
use tributary_protocol::wire::{self, WireError};

pub use folder::{
    BaseError, Source, clear_partial, folder_of, import, is_base_file, materialise, remove_folder, sources,
};

use name::Kind;

/// The largest manifest: 512 shards and the small files take 40 kB.
pub const MANIFEST_MAX_BYTES: usize = 64 * 1024;
/// Most files of a base: 512 shards, their index, and the small files.
pub const FILES_MAX: usize = 520;
/// The largest base of all: what the engine reads.
pub const BASE_MAX_BYTES: u64 = 16 << 30;
/// The file that a GGUF is kept as, whatever it was called.
pub const GGUF: &str = "model.gguf";
/// Begins every manifest, so that no other blob is taken for one.
const MAGIC: [u8; 8] = *b"tribase1";

/// Why a list of files is no base.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The bytes are no manifest.
    #[error("no base's manifest: {0}")]
    Wire(#[from] WireError),
    /// The bytes are something else.
    #[error("no base's manifest: it begins otherwise")]
    Magic,
    /// A file that no base has.
    #[error("{0:?} is no file of a base")]
    Name(String),
    /// The files are not in the order of their names, or one is named twice.
    #[error("the files are not in order")]
    Order,
    /// A file beyond its bound.
    #[error("{name} has {bytes} bytes, allowed 1 to {most}")]
    Size {
        /// The file.
        name: String,
        /// Its size.
        bytes: u64,
        /// The most it may have.
        most: u64,
    },
    /// All files together are beyond their bound.
    #[error("the base has {bytes} bytes, at most {BASE_MAX_BYTES}")]
    Total {
        /// All files together.
        bytes: u64,
    },
    /// Something is missing, or there are two models in one.
    #[error("{0}")]
    Incomplete(String),
}

/// One file of a base.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BaseFile {
    /// Its name, one of the closed list.
    pub name: String,
    /// The blob.
    pub hash: Hash,
    /// Its size in bytes.
    pub bytes: u64,
}

#[derive(Encode, Decode)]
struct Body {
    magic: [u8; 8],
    files: Vec<BaseFile>,
}

/// The files of a base, in order of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseManifest {
    files: Vec<BaseFile>,
}

impl BaseManifest {
    /// A manifest of these files, in any order.
    ///
    /// # Errors
    /// When they are not exactly one model within the bounds.
    pub fn new(mut files: Vec<BaseFile>) -> Result<Self, ManifestError> {
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Self::checked(files)
    }

    /// Reads a manifest that may come from anybody.
    ///
    /// # Errors
    /// When it is malformed, out of bounds, not in order or not one model.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.get(..MAGIC.len()).is_some_and(|magic| magic != MAGIC) {
            return Err(ManifestError::Magic);
        }
        let body: Body = wire::decode(bytes, MANIFEST_MAX_BYTES)?;
        if body.magic != MAGIC {
            return Err(ManifestError::Magic);
        }
        Self::checked(body.files)
    }

    fn checked(files: Vec<BaseFile>) -> Result<Self, ManifestError> {
        if files.len() > FILES_MAX {
            return Err(ManifestError::Incomplete(format!("{} files, at most {FILES_MAX}", files.len())));
        }
        if !files.is_sorted_by(|a, b| a.name < b.name) {
            return Err(ManifestError::Order);
        }
        let mut total = 0_u64;
        for BaseFile { name, bytes, .. } in &files {
            let most = Kind::of(name).ok_or_else(|| ManifestError::Name(name.clone()))?.max_bytes();
            if !(1..=most).contains(bytes) {
                return Err(ManifestError::Size { name: name.clone(), bytes: *bytes, most });
            }
            total = total.saturating_add(*bytes);
        }
        if total > BASE_MAX_BYTES {
            return Err(ManifestError::Total { bytes: total });
        }
        name::check_set(&files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>())
            .map_err(ManifestError::Incomplete)?;
        Ok(Self { files })
    }

    /// The canonical bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        wire::encode(&Body { magic: MAGIC, files: self.files.clone() })
    }

    /// The base's id: the hash of the canonical bytes.
    #[must_use]
    pub fn id(&self) -> Hash {
        Hash::of(&self.to_bytes())
    }

    /// The files, in order of their names.
    #[must_use]
    pub fn files(&self) -> &[BaseFile] {
        &self.files
    }

    /// All files together, in bytes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Whether the weights are one GGUF file.
    #[must_use]
    pub fn is_gguf(&self) -> bool {
        self.files.iter().any(|file| file.name == GGUF)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(name: &str, bytes: u64) -> BaseFile {
        BaseFile { name: name.into(), hash: Hash::of(name.as_bytes()), bytes }
    }

    fn files(names: &[&str]) -> Vec<BaseFile> {
        names.iter().map(|name| file(name, 10)).collect()
    }

    const PLAIN: [&str; 3] = ["config.json", "model.safetensors", "tokenizer.json"];

    #[test]
    fn what_is_written_reads_back_and_the_order_given_does_not_matter() {
        let manifest = BaseManifest::new(files(&PLAIN)).unwrap();
        assert_eq!(BaseManifest::from_bytes(&manifest.to_bytes()).unwrap(), manifest);
        let mut turned = files(&PLAIN);
        turned.reverse();
        assert_eq!(BaseManifest::new(turned).unwrap().id(), manifest.id());
        assert_eq!(manifest.total_bytes(), 30);
    }

    #[test]
    fn what_makes_a_base_is_accepted() {
        for names in [
            &["model.gguf"][..],
            &["model.gguf", "tokenizer.json"],
            &["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors"],
            &[
                "config.json",
                "tokenizer.json",
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
            ],
        ] {
            assert!(BaseManifest::new(files(names)).is_ok(), "{names:?}");
        }
    }

    #[test]
    fn what_makes_none_is_refused_with_its_reason() {
        let refused = |names: &[&str]| BaseManifest::new(files(names)).unwrap_err().to_string();
        for (names, word) in [
            (&["config.json", "tokenizer.json"][..], "weights"),
            (&["model.safetensors", "tokenizer.json"], "config.json"),
            (&["model.safetensors", "config.json"], "tokenizer.json"),
            (&["model.gguf", "model.safetensors", "config.json", "tokenizer.json"], "GGUF"),
            (&["config.json", "tokenizer.json", "model.safetensors.index.json"], "shard"),
            (
                &["config.json", "tokenizer.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"],
                "model-00002-of-00002.safetensors",
            ),
            (&["config.json", "tokenizer.json", "model.safetensors", "../evil"], "no file of a base"),
            (&["config.json", "config.json", "model.safetensors", "tokenizer.json"], "order"),
        ] {
            assert!(refused(names).contains(word), "{names:?}: {}", refused(names));
        }
    }

    #[test]
    fn sizes_are_bounded_before_anything_is_fetched() {
        let sized = |config: u64, weights: u64| {
            BaseManifest::new(vec![
                file("config.json", config),
                file("tokenizer.json", 10),
                file("model.safetensors", weights),
            ])
        };
        assert!(matches!(sized(0, 10), Err(ManifestError::Size { .. })));
        assert!(matches!(sized(10 << 20, 10), Err(ManifestError::Size { .. })));
        assert!(matches!(sized(10, u64::MAX), Err(ManifestError::Size { .. })));
        assert!(matches!(sized(10, BASE_MAX_BYTES), Err(ManifestError::Total { .. })));
    }

    #[test]
    fn another_blob_is_no_manifest() {
        assert_eq!(BaseManifest::from_bytes(b"{\"architectures\":[]}"), Err(ManifestError::Magic));
        assert!(BaseManifest::from_bytes(&[]).is_err());
        let mut turned = files(&PLAIN);
        turned.swap(0, 1);
        let bytes = wire::encode(&Body { magic: MAGIC, files: turned });
        assert_eq!(BaseManifest::from_bytes(&bytes), Err(ManifestError::Order));
    }

    proptest! {
        #[test]
        fn whatever_is_read_has_one_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..600), at in 0_usize..200) {
            let mut whole = BaseManifest::new(files(&PLAIN)).unwrap().to_bytes();
            let end = (at + bytes.len()).min(whole.len());
            if at < end {
                whole[at..end].copy_from_slice(&bytes[..end - at]);
            }
            for candidate in [bytes, whole] {
                if let Ok(manifest) = BaseManifest::from_bytes(&candidate) {
                    prop_assert_eq!(manifest.to_bytes(), candidate);
                }
            }
        }
    }
}
