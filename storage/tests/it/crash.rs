//! A process that is killed while it appends: what it was told is kept, is kept.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use tributary_storage::journal::{Batch, Journal};

/// Names the journal to the process that is going to be killed; without it that test has nothing to do.
const JOURNAL: &str = "TRIBUTARY_TEST_JOURNAL";

/// Appends without end and prints each acknowledged sequence number. Run by the test below in a process of its own.
#[test]
fn appends_until_killed() {
    let Some(path) = std::env::var_os(JOURNAL) else { return };
    let journal = Journal::open(Path::new(&path)).unwrap();
    let mut stdout = std::io::stdout();
    loop {
        let next = journal.len().unwrap();
        let batch = Batch::new().entry(format!("entry {next}")).put("by number", next.to_be_bytes(), "here");
        let sequence = journal.commit(&batch).unwrap();
        writeln!(stdout, "acknowledged {sequence}").unwrap();
        stdout.flush().unwrap();
    }
}

#[test]
fn a_killed_process_loses_no_acknowledged_entry() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.redb");
    let mut before = 0;
    for lines in [1, 7, 20] {
        let acknowledged = append_and_kill(&path, lines);
        let journal = Journal::open(&path).unwrap();
        let found: Vec<Vec<u8>> = journal.replay(0).unwrap().map(|entry| entry.unwrap().1).collect();
        assert!(found.len() as u64 > acknowledged, "{} entries, {acknowledged} acknowledged", found.len());
        assert!(acknowledged >= before);
        for (number, entry) in found.iter().enumerate() {
            assert_eq!(*entry, format!("entry {number}").into_bytes());
        }
        assert_eq!(journal.index_scan("by number", b"", usize::MAX).unwrap().len(), found.len());
        before = acknowledged;
    }
}

/// Starts the appending process, kills it once it has printed some lines, and returns the last number it printed.
fn append_and_kill(path: &Path, lines: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "crash::appends_until_killed", "--nocapture", "--test-threads=1"])
        .env(JOURNAL, path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("start");
    let mut output = BufReader::new(child.stdout.take().expect("piped")).lines();
    let number = |line: String| line.rsplit_once("acknowledged ")?.1.trim().parse::<u64>().ok();
    let printed: Vec<u64> = output.by_ref().map_while(Result::ok).filter_map(number).take(lines).collect();
    child.kill().expect("kill");
    // What it printed between the last line read and its end was acknowledged too.
    let rest: Vec<u64> = output.map_while(Result::ok).filter_map(number).collect();
    child.wait().expect("end");
    rest.last().or(printed.last()).copied().expect("it printed at least one line")
}
