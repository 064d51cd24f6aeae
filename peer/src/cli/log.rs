//! The log of a node: a file in its folder, bounded in size.
//!
//! Invariant: at most two files of [`LOG_MAX_BYTES`] each, the older one with `.1` behind its name; nothing is made
//! before there is something to log, and a log that cannot be written never stops the node.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;

/// Where a node logs, within its folder.
pub(super) const LOG_FILE: &str = "node.log";
/// Bytes of one file: some days of a busy node.
const LOG_MAX_BYTES: u64 = 4 << 20;
/// What is logged unless `RUST_LOG` says otherwise.
const FILTER: &str = "tributary_peer=info,warn";

/// Sends what the program logs to the log of the node in `folder`.
pub(super) fn start(folder: &Path) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| FILTER.into());
    let file = Mutex::new(LogFile::new(folder.join(LOG_FILE), LOG_MAX_BYTES));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(file).with_ansi(false).init();
}

struct LogFile {
    path: PathBuf,
    max_bytes: u64,
    open: Option<(File, u64)>,
}

impl LogFile {
    const fn new(path: PathBuf, max_bytes: u64) -> Self {
        Self { path, max_bytes, open: None }
    }

    /// The file with room for `more` bytes and how many it holds.
    fn with_room(&mut self, more: u64) -> io::Result<(File, u64)> {
        let (file, size) = match self.open.take() {
            Some(open) => open,
            None => self.append()?,
        };
        if size == 0 || size.saturating_add(more) <= self.max_bytes {
            return Ok((file, size));
        }
        let mut older = self.path.clone().into_os_string();
        older.push(".1");
        std::fs::rename(&self.path, older)?;
        self.append()
    }

    fn append(&self) -> io::Result<(File, u64)> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        let size = file.metadata()?.len();
        Ok((file, size))
    }

    fn write_whole(&mut self, bytes: &[u8]) -> io::Result<()> {
        let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let (mut file, size) = self.with_room(more)?;
        file.write_all(bytes)?;
        self.open = Some((file, size.saturating_add(more)));
        Ok(())
    }
}

impl Write for LogFile {
    /// One call is one line.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full disk is told of where it matters; the next line tries to open the file again.
        let _ = self.write_whole(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::LogFile;

    #[test]
    fn two_files_of_bounded_size_hold_the_newest_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.log");
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let mut log = LogFile::new(path.clone(), 100);
        assert!(!path.exists(), "nothing is made before there is something to log");
        for number in 0..50 {
            writeln!(log, "line {number:02}").unwrap();
        }
        let (newer, older) = (read("node.log"), read("node.log.1"));
        assert!(newer.len() <= 100 && older.len() <= 100, "{} {}", newer.len(), older.len());
        assert!(newer.ends_with("line 49\n"));
        assert!(format!("{older}{newer}").contains("line 40\n"), "{older}{newer}");
        let mut log = LogFile::new(path, 100);
        writeln!(log, "after a restart").unwrap();
        assert!(read("node.log").starts_with(newer.split('\n').next().unwrap()), "a restart begins no file anew");
        assert!(read("node.log").ends_with("after a restart\n"));
    }

    #[test]
    fn a_log_that_cannot_be_written_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogFile::new(folder.path().join("missing").join("node.log"), 100);
        writeln!(log, "lost").unwrap();
        assert!(!folder.path().join("missing").exists());
    }
}
