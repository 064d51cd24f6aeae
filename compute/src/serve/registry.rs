//! Adapters by hash: thousands known, some in memory, read from disk on a thread of their own.
//!
//! Invariant: an adapter is measured when it is registered and again, with its hash, when it is read, before memory is
//! taken for its numbers. A known adapter is its hash, folder and size, well under 1 KB, and no step ever looks at it.
//! An unknown hash is an error; nothing here answers with the base in its place.

mod loader;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use tributary_protocol::id::Hash;

pub(super) use loader::{Loader, Loading};

use super::schedule::AdapterSize;
use crate::lora::{AdapterFiles, FrozenAdapter, LoraError, MAX_ADAPTER_CONFIG_BYTES, measure};
use crate::model::Config;

/// Most adapters known at once: at about 200 bytes each, some 200 MB.
pub const MAX_KNOWN_ADAPTERS: usize = 1_000_000;
/// PEFT's name for an adapter's configuration.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// PEFT's name for an adapter's numbers.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// Why an adapter can't be registered or read.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A file can't be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is larger than what its configuration calls for.
    #[error("{} has {bytes} bytes, at most {most}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The bound.
        most: u64,
    },
    /// The files are no adapter for this base.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// The files are not those that were registered.
    #[error("the files' hash is {found}, registered was {registered}")]
    Hash {
        /// What they hash to.
        found: Hash,
        /// What was expected.
        registered: Hash,
    },
    /// No room for another name.
    #[error("{MAX_KNOWN_ADAPTERS} adapters are known already")]
    Full,
}

#[derive(Debug, Clone)]
struct Known {
    folder: Box<Path>,
    bytes: u64,
}

/// The adapters that requests can name.
#[derive(Debug)]
pub struct Registry {
    model: Config,
    known: RwLock<BTreeMap<Hash, Known>>,
}

impl Registry {
    /// A registry for adapters of a base of shape `model`.
    #[must_use]
    pub const fn new(model: Config) -> Self {
        Self { model, known: RwLock::new(BTreeMap::new()) }
    }

    /// Makes the adapter in `folder` (PEFT's two files) known as `hash`, by a look at its configuration and the size of
    /// its weights. The hash is checked when it is read.
    ///
    /// # Errors
    /// When it can't be an adapter of this base, or a file is missing or too large.
    pub fn register(&self, hash: Hash, folder: &Path) -> Result<(), RegistryError> {
        let bytes = self.measure(folder)?.0;
        let mut known = write(&self.known);
        if known.len() >= MAX_KNOWN_ADAPTERS && !known.contains_key(&hash) {
            return Err(RegistryError::Full);
        }
        known.insert(hash, Known { folder: folder.into(), bytes });
        Ok(())
    }

    /// Makes the adapter in `folder` known by the hash of its files, which are read for it.
    ///
    /// # Errors
    /// As [`Registry::register`].
    pub fn register_folder(&self, folder: &Path) -> Result<Hash, RegistryError> {
        let hash = self.files(folder)?.hash();
        self.register(hash, folder)?;
        Ok(hash)
    }

    /// Forgets an adapter: requests that come from now on can't name it. Whether it was known.
    pub fn forget(&self, hash: &Hash) -> bool {
        write(&self.known).remove(hash).is_some()
    }

    /// An adapter's size, if it is known.
    #[must_use]
    pub fn size(&self, hash: &Hash) -> Option<AdapterSize> {
        read(&self.known).get(hash).map(|known| AdapterSize { hash: *hash, bytes: known.bytes })
    }

    /// The hashes of all known adapters.
    #[must_use]
    pub fn known(&self) -> Vec<Hash> {
        read(&self.known).keys().copied().collect()
    }

    /// The folder of a known adapter.
    fn folder(&self, hash: &Hash) -> Option<Box<Path>> {
        read(&self.known).get(hash).map(|known| known.folder.clone())
    }

    /// Reads an adapter's numbers.
    fn read(&self, hash: Hash, folder: &Path) -> Result<FrozenAdapter, RegistryError> {
        let files = self.files(folder)?;
        let found = files.hash();
        if found != hash {
            return Err(RegistryError::Hash { found, registered: hash });
        }
        Ok(FrozenAdapter::from_files(&self.model, &files)?)
    }

    /// Both files, once their sizes are known to be right.
    fn files(&self, folder: &Path) -> Result<AdapterFiles, RegistryError> {
        let (_, most, config_json) = self.measure(folder)?;
        let safetensors = read_bounded(&folder.join(WEIGHTS_FILE), most)?;
        Ok(AdapterFiles { config_json, safetensors })
    }

    /// Bytes in memory, bytes of the weights file at most, and the configuration.
    fn measure(&self, folder: &Path) -> Result<(u64, u64, Vec<u8>), RegistryError> {
        let config_json = read_bounded(&folder.join(CONFIG_FILE), MAX_ADAPTER_CONFIG_BYTES as u64)?;
        let measure = measure(&self.model, &config_json)?;
        check_size(&folder.join(WEIGHTS_FILE), measure.most_file_bytes)?;
        Ok((measure.memory_bytes, measure.most_file_bytes, config_json))
    }
}

fn check_size(path: &Path, most: u64) -> Result<u64, RegistryError> {
    let failed = |source| RegistryError::File { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > most {
        return Err(RegistryError::TooLarge { path: path.to_owned(), bytes, most });
    }
    Ok(bytes)
}

/// A whole file that stays within `most` bytes even while it is read.
fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>, RegistryError> {
    use std::io::Read;
    let bytes = check_size(path, most)?;
    let failed = |source| RegistryError::File { path: path.to_owned(), source };
    let mut content = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(most + 1).read_to_end(&mut content).map_err(failed)?;
    match content.len() as u64 > most {
        true => Err(RegistryError::TooLarge { path: path.to_owned(), bytes: content.len() as u64, most }),
        false => Ok(content),
    }
}

// A thread that panicked while it held the lock left the map whole: every change of it is one insertion or removal.
fn read(known: &RwLock<BTreeMap<Hash, Known>>) -> std::sync::RwLockReadGuard<'_, BTreeMap<Hash, Known>> {
    known.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write(known: &RwLock<BTreeMap<Hash, Known>>) -> std::sync::RwLockWriteGuard<'_, BTreeMap<Hash, Known>> {
    known.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}
