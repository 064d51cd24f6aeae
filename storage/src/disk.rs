//! What the disk can still take, and how a full one is told apart from a broken one.
//!
//! Invariant: a write that would eat into the reserve is refused before its first byte, so a full disk leaves the
//! stores as they were and there is room for the databases to commit what they hold.

use std::io;
use std::path::{Path, PathBuf};

/// Space that writes never touch, in bytes: redb grows its file in regions and needs room to commit.
pub const RESERVE_BYTES: u64 = 64 * 1024 * 1024;

/// A disk without room.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no space left on the disk of {}: {needed_bytes} bytes needed, {free_bytes} free of which {reserve_bytes} stay reserved",
    path.display()
)]
pub struct DiskFull {
    /// The file or folder that was to be written.
    pub path: PathBuf,
    /// Bytes the write needs.
    pub needed_bytes: u64,
    /// Bytes free for this user.
    pub free_bytes: u64,
    /// Bytes that writes never touch.
    pub reserve_bytes: u64,
}

impl DiskFull {
    /// The disk of `path` refused a write of `needed_bytes`.
    #[must_use]
    pub fn at(path: &Path, needed_bytes: u64, reserve_bytes: u64) -> Self {
        let free_bytes = free_bytes(path).unwrap_or(0);
        Self { path: path.to_owned(), needed_bytes, free_bytes, reserve_bytes }
    }
}

/// Bytes free for this user on the disk that holds `path`, or the nearest existing folder above it.
///
/// # Errors
/// When the file system cannot be asked.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let existing = path.ancestors().find(|part| part.exists()).unwrap_or_else(|| Path::new("."));
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let stat = rustix::fs::statvfs(existing)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Checks that `needed_bytes` fit beside the reserve.
///
/// # Errors
/// [`DiskFull`] when they don't. A file system that cannot be asked counts as having room: the write itself will tell.
pub fn check_room(path: &Path, needed_bytes: u64, reserve_bytes: u64) -> Result<(), DiskFull> {
    let Ok(free_bytes) = free_bytes(path) else { return Ok(()) };
    if free_bytes >= needed_bytes.saturating_add(reserve_bytes) {
        return Ok(());
    }
    Err(DiskFull { path: path.to_owned(), needed_bytes, free_bytes, reserve_bytes })
}

/// Whether an operating-system error means that there is no room: a full disk, a quota or a size limit.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

#[cfg(test)]
mod tests {
    use super::{check_room, free_bytes, is_full};

    #[test]
    fn room_is_found_even_for_a_path_that_does_not_exist_yet() {
        let folder = tempfile::tempdir().unwrap();
        let free = free_bytes(&folder.path().join("a/b/c")).unwrap();
        assert!(free > 0);
    }

    #[test]
    fn a_reserve_that_no_disk_has_refuses_the_write_and_names_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let full = check_room(folder.path(), 10, u64::MAX - 10).unwrap_err();
        assert!(full.to_string().contains(&folder.path().display().to_string()));
        assert!(full.to_string().contains("10 bytes needed"));
    }

    #[test]
    fn a_full_disk_is_told_apart_from_other_faults() {
        assert!(is_full(&std::io::Error::from(std::io::ErrorKind::StorageFull)));
        assert!(!is_full(&std::io::Error::from(std::io::ErrorKind::PermissionDenied)));
    }
}
