//! The folder that node and engine share: what is too large for a message, and what outlives the process.
//!
//! Invariant: names are hashes, never anybody's words; a file or folder under its final name is whole.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tributary_protocol::id::Hash;

/// Where the engine's files lie.
#[derive(Debug, Clone)]
pub struct EngineFolder(PathBuf);

impl EngineFolder {
    /// The folder at `path`.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The engine's first step: makes the folder, and clears what an earlier process left half made. What was handed
    /// over stays, since the node hands over before it starts a process that is not there.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn prepare(&self) -> io::Result<()> {
        emptied(&self.begun())?;
        std::fs::create_dir_all(self.adapters())
    }

    /// The node's first step: clears what an earlier node handed over and did not take back.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn forget_handed(&self) -> io::Result<()> {
        emptied(&self.handed())
    }

    /// A blob that the node hands over for a job.
    #[must_use]
    pub fn blob(&self, job: Hash, hash: Hash) -> PathBuf {
        self.handed().join(job.to_string()).join(hash.to_string())
    }

    /// Hands a blob over for a job.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn hand_over(&self, job: Hash, hash: Hash, bytes: &[u8]) -> io::Result<()> {
        let place = self.handed().join(job.to_string());
        std::fs::create_dir_all(&place)?;
        let mut file = tempfile::NamedTempFile::new_in(&place)?;
        file.write_all(bytes)?;
        file.persist(self.blob(job, hash))?;
        Ok(())
    }

    /// Takes back what was handed over for a job.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn take_back(&self, job: Hash) -> io::Result<()> {
        std::fs::remove_dir_all(self.handed().join(job.to_string()))
    }

    /// The folder of a served adapter: PEFT's two files, and the attribution index by its commitment.
    #[must_use]
    pub fn adapter(&self, id: Hash) -> PathBuf {
        self.adapters().join(id.to_string())
    }

    /// The index of an adapter.
    #[must_use]
    pub fn index(&self, id: Hash, commitment: Hash) -> PathBuf {
        self.adapter(id).join(format!("{commitment}.{INDEX_EXTENSION}"))
    }

    /// The commitment of the index that an adapter is kept with.
    ///
    /// # Errors
    /// When the adapter is not kept.
    pub fn commitment(&self, id: Hash) -> io::Result<Hash> {
        for entry in std::fs::read_dir(self.adapter(id))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == INDEX_EXTENSION)
                && let Some(commitment) = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok())
            {
                return Ok(commitment);
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// Puts these files in place as the adapter's folder, all or none.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn keep(&self, id: Hash, files: &[(String, &[u8])]) -> io::Result<()> {
        std::fs::create_dir_all(self.begun())?;
        let begun = tempfile::TempDir::new_in(self.begun())?;
        for (name, bytes) in files {
            std::fs::write(begun.path().join(name), bytes)?;
        }
        let place = self.adapter(id);
        match std::fs::remove_dir_all(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(self.adapters())?;
        std::fs::rename(begun.keep(), place)
    }

    fn handed(&self) -> PathBuf {
        self.0.join("handed")
    }

    fn begun(&self) -> PathBuf {
        self.0.join("begun")
    }

    /// Where all served adapters lie.
    #[must_use]
    pub fn adapters(&self) -> PathBuf {
        self.0.join("adapters")
    }
}

const INDEX_EXTENSION: &str = "index";

/// Makes `folder` an empty one.
fn emptied(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => std::fs::create_dir_all(folder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_is_kept_whole_and_found_by_its_index() {
        let folder = tempfile::tempdir().unwrap();
        let engine = EngineFolder::at(&folder.path().join("engine"));
        engine.prepare().unwrap();
        let (id, first, second) = (Hash([1; 32]), Hash([2; 32]), Hash([3; 32]));
        assert_eq!(engine.commitment(id).unwrap_err().kind(), io::ErrorKind::NotFound);
        for commitment in [first, second] {
            let index = (format!("{commitment}.{INDEX_EXTENSION}"), b"index".as_slice());
            engine.keep(id, &[("adapter_config.json".to_owned(), b"{}".as_slice()), index]).unwrap();
            assert_eq!(engine.commitment(id).unwrap(), commitment);
            assert!(engine.index(id, commitment).is_file());
        }
        assert!(!engine.index(id, first).exists(), "the earlier index is gone");
    }

    #[test]
    fn what_was_handed_over_outlives_the_engine_and_not_the_node() {
        let folder = tempfile::tempdir().unwrap();
        let engine = EngineFolder::at(folder.path());
        engine.prepare().unwrap();
        let (job, blob) = (Hash([3; 32]), Hash([4; 32]));
        engine.hand_over(job, blob, b"blob").unwrap();
        engine.keep(Hash([5; 32]), &[]).unwrap();
        assert_eq!(std::fs::read(engine.blob(job, blob)).unwrap(), b"blob");
        engine.prepare().unwrap();
        assert_eq!(std::fs::read(engine.blob(job, blob)).unwrap(), b"blob", "the next engine's jobs find it");
        engine.forget_handed().unwrap();
        assert!(!engine.blob(job, blob).exists());
        assert!(engine.adapter(Hash([5; 32])).is_dir());
    }
}
