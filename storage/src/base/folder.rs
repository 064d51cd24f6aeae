//! From files to a manifest and its blobs, and from these to the folder that the engine reads.
//!
//! Invariant: a base's folder under the root appears whole or not at all, and holds exactly the manifest's files.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use tributary_protocol::id::Hash;

use super::name::{INDEX, Kind, SINGLE, TOKENIZER};
use super::{BaseFile, BaseManifest, GGUF, ManifestError};
use crate::blobs::{BlobError, BlobStore, IrohBlobs};

/// How a folder that is not whole yet ends.
const PARTIAL: &str = ".partial";
/// The ending of GGUF files.
const GGUF_ENDING: &str = "gguf";

/// Why files cannot become a base, or a base a folder.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The files are no base.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Together they are larger than this node takes.
    #[error("the base has {bytes} bytes, this node takes at most {limit}")]
    OverLimit {
        /// All files together.
        bytes: u64,
        /// What the node's user set.
        limit: u64,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] BlobError),
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

fn failed(path: &Path) -> impl Fn(io::Error) -> BaseError + '_ {
    move |source| BaseError::Io { path: path.to_owned(), source }
}

/// A file that belongs to a base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// What it is called in the manifest.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
}

/// The files of the model at `path`: a GGUF file, with `tokenizer.json` if one lies beside it, or a folder in Hugging
/// Face's layout, or one with a single GGUF file.
///
/// # Errors
/// When there is no model, or more than one.
pub fn sources(path: &Path) -> Result<Vec<Source>, BaseError> {
    let found = std::fs::metadata(path).map_err(failed(path))?;
    if found.is_file() {
        return gguf_sources(path);
    }
    let names: BTreeSet<String> = std::fs::read_dir(path)
        .map_err(failed(path))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| path.join(name).is_file())
        .collect();
    let has_weights = names.contains(SINGLE) || names.contains(INDEX);
    let ggufs: Vec<&String> =
        names.iter().filter(|name| Path::new(name).extension().is_some_and(|end| end == GGUF_ENDING)).collect();
    match (has_weights, ggufs.as_slice()) {
        (false, [only]) => return gguf_sources(&path.join(only)),
        (false, [_, _, ..]) => {
            let list: Vec<&str> = ggufs.iter().map(|name| name.as_str()).collect();
            return Err(ManifestError::Incomplete(format!("several GGUF files, name one: {}", list.join(", "))).into());
        }
        _ => {}
    }
    let is_single = names.contains(SINGLE);
    let wanted = |name: &String| match Kind::of(name) {
        Some(Kind::Config | Kind::Tokenizer | Kind::Extra | Kind::Weights) => true,
        Some(Kind::Index | Kind::Shard(..)) => !is_single,
        Some(Kind::Gguf) | None => false,
    };
    Ok(names
        .iter()
        .filter(|name| wanted(name))
        .map(|name| Source { name: name.clone(), path: path.join(name) })
        .collect())
}

fn gguf_sources(path: &Path) -> Result<Vec<Source>, BaseError> {
    if path.extension().is_none_or(|end| end != GGUF_ENDING) {
        return Err(ManifestError::Name(path.display().to_string()).into());
    }
    let mut sources = vec![Source { name: GGUF.into(), path: path.to_owned() }];
    let beside = path.with_file_name(TOKENIZER);
    if beside.is_file() {
        sources.push(Source { name: TOKENIZER.into(), path: beside });
    }
    Ok(sources)
}

/// Whether a file of that name belongs to a model in Hugging Face's layout.
#[must_use]
pub fn is_base_file(name: &str) -> bool {
    Kind::of(name).is_some()
}

/// Copies the files into the store, of at most `limit` bytes together.
///
/// # Errors
/// Before anything is copied when they are no base or too large, else when a file cannot be read or kept.
pub async fn import(store: &IrohBlobs, sources: &[Source], limit: u64) -> Result<BaseManifest, BaseError> {
    let mut measured = Vec::new();
    for Source { name, path } in sources {
        let found = tokio::fs::metadata(path).await.map_err(failed(path))?;
        // The hash is not known yet; names and sizes decide whether it is worth reading anything.
        measured.push(BaseFile { name: name.clone(), hash: Hash::default(), bytes: found.len() });
    }
    let bytes = BaseManifest::new(measured)?.total_bytes();
    if bytes > limit {
        return Err(BaseError::OverLimit { bytes, limit });
    }
    let mut files = Vec::new();
    for Source { name, path } in sources {
        let hash = store.put_file(path).await?;
        let bytes = store.size(hash).await?.unwrap_or(0);
        files.push(BaseFile { name: name.clone(), hash, bytes });
    }
    Ok(BaseManifest::new(files)?)
}

/// Where the folder of base `id` lies below `root`.
#[must_use]
pub fn folder_of(root: &Path, id: Hash) -> PathBuf {
    root.join(id.to_string())
}

/// Makes the folder of a base whose files are all in the store, without a second copy where the file system can.
///
/// # Errors
/// When a file is not in the store or the disk refuses.
pub async fn materialise(store: &IrohBlobs, manifest: &BaseManifest, root: &Path) -> Result<PathBuf, BaseError> {
    let whole = folder_of(root, manifest.id());
    if whole.is_dir() {
        return Ok(whole);
    }
    let partial = root.join(format!("{}{PARTIAL}", manifest.id()));
    let made = partial.clone();
    let prepare = move || {
        match std::fs::remove_dir_all(&made) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(&made)
    };
    blocking(prepare).await.map_err(failed(&partial))?;
    for file in manifest.files() {
        store.link_to(file.hash, &partial.join(&file.name)).await?;
    }
    let (from, to, above) = (partial.clone(), whole.clone(), root.to_owned());
    let finish = move || {
        std::fs::File::open(&from)?.sync_all()?;
        std::fs::rename(&from, &to)?;
        std::fs::File::open(&above)?.sync_all()
    };
    blocking(finish).await.map_err(failed(&whole))?;
    Ok(whole)
}

async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Removes the folder of a base.
///
/// # Errors
/// When the disk refuses.
pub fn remove_folder(root: &Path, id: Hash) -> Result<(), BaseError> {
    let whole = folder_of(root, id);
    match std::fs::remove_dir_all(&whole) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&whole)(error)),
        _ => Ok(()),
    }
}

/// Removes what a crash left half made. Nobody else may be using `root`.
pub fn clear_partial(root: &Path) {
    let Ok(entries) = std::fs::read_dir(root) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().ends_with(PARTIAL)) {
        if let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "a half-made base stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, names: &[&str]) {
        std::fs::create_dir_all(folder).unwrap();
        for name in names {
            std::fs::write(folder.join(name), format!("what {name} says")).unwrap();
        }
    }

    const SHARDED: [&str; 6] = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];

    #[tokio::test]
    async fn a_folder_becomes_blobs_and_a_folder_again_and_a_crash_leaves_no_half() {
        let temporary = tempfile::tempdir().unwrap();
        let (given, root) = (temporary.path().join("given"), temporary.path().join("models"));
        write(&given, &[&SHARDED[..], &["README.md", "pytorch_model.bin", "training_args.json"]].concat());
        std::fs::write(given.join("model-00001-of-00002.safetensors"), vec![7; 100_000]).unwrap();
        let store = IrohBlobs::open(&temporary.path().join("blobs")).await.unwrap();
        let sources = sources(&given).unwrap();
        assert_eq!(sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>(), SHARDED);
        assert!(matches!(import(&store, &sources, 1_000).await, Err(BaseError::OverLimit { .. })));
        let manifest = import(&store, &sources, 1 << 20).await.unwrap();
        // What a crash left behind is no obstacle, and is swept.
        write(&root.join(format!("{}{PARTIAL}", manifest.id())), &["config.json", "left"]);
        write(&root.join(format!("{}{PARTIAL}", Hash([1; 32]))), &["config.json"]);
        let folder = materialise(&store, &manifest, &root).await.unwrap();
        assert_eq!(folder, folder_of(&root, manifest.id()));
        for name in SHARDED {
            assert_eq!(std::fs::read(folder.join(name)).unwrap(), std::fs::read(given.join(name)).unwrap(), "{name}");
        }
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), SHARDED.len());
        clear_partial(&root);
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 1);
        remove_folder(&root, manifest.id()).unwrap();
        assert!(!folder.exists());
        store.shutdown().await.unwrap();
    }

    #[test]
    fn a_gguf_file_is_a_base_and_several_in_a_folder_are_none() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        write(folder, &["a.Q8_0.gguf"]);
        let alone = sources(&folder.join("a.Q8_0.gguf")).unwrap();
        assert_eq!(alone, [Source { name: GGUF.into(), path: folder.join("a.Q8_0.gguf") }]);
        assert_eq!(sources(folder).unwrap(), alone);
        write(folder, &["b.gguf", "tokenizer.json", "weights.bin"]);
        assert_eq!(sources(&folder.join("b.gguf")).unwrap().len(), 2);
        assert!(sources(folder).unwrap_err().to_string().contains("a.Q8_0.gguf, b.gguf"));
        assert!(sources(&folder.join("weights.bin")).is_err());
        assert!(sources(&folder.join("nothing")).is_err());
    }
}
