//! Fetching files of a commit: from where an earlier try broke off, bounded, checked.
//!
//! Invariant: what lies under a file's own name is whole and checked; all else ends in `.part`. A part is of one commit
//! and one file, since the folder is the commit's.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::fs::OpenOptions;
use tokio::io::AsyncWriteExt;

use super::{Hub, HubError, HubFile, HubSource, SILENCE, Snapshot, repo};

/// Tries to go on without a new byte before giving up.
const TRIES: u32 = 4;
/// Time between them.
const PAUSE: Duration = Duration::from_millis(500);
/// Bytes hashed at a time.
const PIECE: usize = 1 << 20;

/// The files of a commit on this disk, while nobody else works on them.
pub struct Staged {
    /// Their folder.
    pub folder: PathBuf,
    _lock: File,
}

impl Staged {
    /// Removes the folder: its files are in the store.
    pub fn remove(self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(path = %self.folder.display(), %error, "fetched files stay");
        }
    }
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> HubError + '_ {
    move |source| HubError::Disk { path: path.to_owned(), source }
}

impl Hub {
    /// Fetches what of a snapshot is not under `root` yet, of at most `limit` bytes; `progress` hears the bytes that
    /// are there of all files together.
    ///
    /// # Errors
    /// When the hub goes away (what is there stays for the next try), lies, or the disk refuses.
    pub async fn fetch(
        &self,
        source: &HubSource,
        snapshot: &Snapshot,
        root: &Path,
        limit: u64,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Staged, HubError> {
        let bytes = snapshot.total_bytes();
        if bytes > limit {
            return Err(HubError::OverLimit { bytes, limit });
        }
        let folder = root.join(source.folder_name(&snapshot.commit));
        std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
        let lock = lock(&folder)?;
        let mut done = 0;
        for file in &snapshot.files {
            let path = folder.join(&file.name);
            if !std::fs::metadata(&path).is_ok_and(|found| found.len() == file.bytes) {
                let url = self.api.repo(repo(source, &snapshot.commit)).url(&file.remote);
                self.fetch_file(&url, file, &path, &mut |there| progress(done + there)).await?;
            }
            done += file.bytes;
            progress(done);
        }
        Ok(Staged { folder, _lock: lock })
    }

    async fn fetch_file(
        &self,
        url: &str,
        file: &HubFile,
        path: &Path,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), HubError> {
        let part = path.with_file_name(format!("{}.part", file.name));
        let (mut have, mut tries) = (length(&part), 0);
        if have > file.bytes {
            std::fs::remove_file(&part).map_err(failed(&part))?;
            have = 0;
        }
        while have < file.bytes || (file.bytes == 0 && !part.exists()) {
            let ended = self.fetch_rest(url, file, &part, have, progress).await;
            let now = length(&part);
            // Whoever goes on slowly is waited for; whoever sends nothing is not.
            tries = if now > have { 0 } else { tries + 1 };
            have = now;
            match ended {
                Err(HubError::Unreachable { .. }) if tries < TRIES => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error),
                Ok(()) => {}
            }
        }
        check(file, &part).await?;
        std::fs::rename(&part, path).map_err(failed(path))
    }

    /// Appends to `part` what follows its first `have` bytes.
    async fn fetch_rest(
        &self,
        url: &str,
        file: &HubFile,
        part: &Path,
        have: u64,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), HubError> {
        let asked = self.api.client().get(url).header("range", format!("bytes={have}-"));
        let answer = tokio::time::timeout(SILENCE, asked.send()).await.map_err(|_| self.silent())?;
        let mut answer = answer.map_err(|error| self.unreachable(&error))?;
        let status = answer.status().as_u16();
        let begins = match status {
            206 => have,
            // A hub without ranges sends everything again.
            200 => 0,
            _ => return Err(self.refusal(&file.remote, status)),
        };
        let ranged = answer.headers().get("content-range").and_then(|value| value.to_str().ok());
        if status == 206 && !ranged.is_some_and(|range| range.starts_with(&format!("bytes {begins}-"))) {
            return Err(HubError::Malformed(format!("{} comes from another place than was asked", file.remote)));
        }
        let mut out = OpenOptions::new().create(true).append(true).open(part).await.map_err(failed(part))?;
        out.set_len(begins).await.map_err(failed(part))?;
        let mut there = begins;
        let ended = loop {
            match tokio::time::timeout(SILENCE, answer.chunk()).await {
                Err(_) => break Err(self.silent()),
                Ok(Err(error)) => break Err(self.unreachable(&error)),
                Ok(Ok(None)) if there < file.bytes => break Err(self.unreachable(&"the file broke off")),
                Ok(Ok(None)) => break Ok(()),
                Ok(Ok(Some(piece))) => {
                    there = there.saturating_add(piece.len() as u64);
                    if there > file.bytes {
                        break Err(HubError::Malformed(format!("{} is longer than the hub said", file.remote)));
                    }
                    out.write_all(&piece).await.map_err(failed(part))?;
                    progress(there);
                }
            }
        };
        out.sync_all().await.map_err(failed(part))?;
        ended
    }
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}

fn lock(folder: &Path) -> Result<File, HubError> {
    let path = folder.join("lock");
    let file = File::options().create(true).append(true).open(&path).map_err(failed(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(HubError::Busy),
        Err(TryLockError::Error(source)) => Err(HubError::Disk { path, source }),
    }
}

/// Small files have no hash that says anything but over the whole repository; the engine's check is theirs.
async fn check(file: &HubFile, part: &Path) -> Result<(), HubError> {
    let Some(expected) = file.sha256.clone() else { return Ok(()) };
    let path = part.to_owned();
    let hashed = tokio::task::spawn_blocking(move || sha256(&path)).await;
    let hashed = hashed.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(failed(part))?;
    if hashed == expected {
        return Ok(());
    }
    // The next try begins anew: nobody knows which byte is wrong.
    std::fs::remove_file(part).map_err(failed(part))?;
    Err(HubError::Corrupt { name: file.remote.clone() })
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let (mut hasher, mut piece) = (Sha256::new(), vec![0; PIECE]);
    loop {
        match std::io::Read::read(&mut file, &mut piece)? {
            0 => return Ok(hex::encode(hasher.finalize())),
            read => hasher.update(&piece[..read]),
        }
    }
}
