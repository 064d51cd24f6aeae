use std::fs;
use std::path::Path;

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

use super::{Batch, Journal, JournalError, MAX_ENTRY_BYTES};
use backend::Disk;

mod backend;

fn entries(journal: &Journal) -> Vec<Vec<u8>> {
    journal.replay(0).unwrap().map(|entry| entry.unwrap().1).collect()
}

fn numbered(range: std::ops::Range<u32>) -> Vec<Vec<u8>> {
    range.map(|number| format!("entry {number}").into_bytes()).collect()
}

#[test]
fn entries_come_back_in_order_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/journal.redb");
    let journal = Journal::open(&path).unwrap();
    assert!(journal.is_empty().unwrap());
    assert_eq!(journal.append_durable(&numbered(0..3)).unwrap(), 0);
    assert_eq!(journal.append_durable(&[]).unwrap(), 3);
    assert_eq!(journal.append_durable(&numbered(3..4)).unwrap(), 3);
    drop(journal);
    let journal = Journal::open(&path).unwrap();
    assert_eq!(journal.len().unwrap(), 4);
    assert_eq!(entries(&journal), numbered(0..4));
    assert_eq!(journal.get(2).unwrap(), Some(b"entry 2".to_vec()));
    assert_eq!(journal.get(4).unwrap(), None);
    let late: Vec<u64> = journal.replay(2).unwrap().map(|entry| entry.unwrap().0).collect();
    assert_eq!(late, [2, 3]);
}

#[test]
fn a_replay_shows_the_journal_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&folder.path().join("j")).unwrap();
    journal.append_durable(&numbered(0..2)).unwrap();
    let replay = journal.replay(0).unwrap();
    journal.append_durable(&numbered(2..3)).unwrap();
    assert_eq!(replay.count(), 2);
}

#[test]
fn an_index_changes_together_with_the_entries() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&folder.path().join("j")).unwrap();
    let batch = Batch::new().entry("e").put("by payer", "ann/1", "a").put("by payer", "ann/2", "b");
    journal.commit(&batch.put("by payer", "bob/1", "c").put("by payers", "ann/9", "other")).unwrap();
    assert_eq!(journal.index_get("by payer", b"ann/2").unwrap(), Some(b"b".to_vec()));
    assert_eq!(journal.index_get("by payee", b"ann/2").unwrap(), None);
    let found = journal.index_scan("by payer", b"ann/", 10).unwrap();
    assert_eq!(found, [(b"ann/1".to_vec(), b"a".to_vec()), (b"ann/2".to_vec(), b"b".to_vec())]);
    assert_eq!(journal.index_scan("by payer", b"", 2).unwrap().len(), 2);
    assert_eq!(journal.index_scan("by payer", b"", 9).unwrap().len(), 3);
    journal.commit(&Batch::new().remove("by payer", "ann/1")).unwrap();
    assert_eq!(journal.index_scan("by payer", b"ann/", 10).unwrap().len(), 1);
    journal.commit(&Batch::new().clear("by payer")).unwrap();
    assert!(journal.index_scan("by payer", b"", 10).unwrap().is_empty());
    assert_eq!(journal.index_scan("by payers", b"", 10).unwrap().len(), 1);
    journal.index_put("by payer", b"k", b"v").unwrap();
    assert_eq!(journal.index_get("by payer", b"k").unwrap(), Some(b"v".to_vec()));
}

#[test]
fn what_is_too_large_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&folder.path().join("j")).unwrap();
    let error = journal.append_durable(&[b"fine".to_vec(), vec![0; MAX_ENTRY_BYTES + 1]]).unwrap_err();
    assert!(matches!(error, JournalError::TooLarge { .. }));
    assert!(journal.commit(&Batch::new().put("i", vec![0; 2000], "")).is_err());
    assert!(journal.is_empty().unwrap());
}

#[test]
fn an_open_journal_is_locked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("j");
    let _open = Journal::open(&path).unwrap();
    let error = Journal::open(&path).unwrap_err();
    assert!(matches!(error, JournalError::Locked { .. }), "{error}");
    assert!(error.to_string().contains(&path.display().to_string()));
}

#[test]
fn a_disk_without_room_refuses_and_the_journal_goes_on_when_there_is_some() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("j");
    assert!(matches!(Journal::open_with_reserve(&path, u64::MAX / 2), Err(JournalError::DiskFull(_))));
    assert!(!path.exists());
    Journal::open(&path).unwrap().append_durable(&numbered(0..1)).unwrap();
    // The reserve is larger than any disk, so each write meets a full one.
    let full = Journal::open_with_reserve(&path, u64::MAX / 2).unwrap();
    let error = full.append_durable(&numbered(1..2)).unwrap_err();
    assert!(matches!(error, JournalError::DiskFull(_)), "{error}");
    assert!(error.to_string().contains(&path.display().to_string()));
    assert_eq!(entries(&full), numbered(0..1));
    drop(full);
    let journal = Journal::open(&path).unwrap();
    journal.append_durable(&numbered(1..2)).unwrap();
    assert_eq!(entries(&journal), numbered(0..2));
}

#[test]
fn a_file_that_is_no_journal_is_named_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in
        [("text", b"this is not a database".to_vec()), ("zeros", vec![0; 8192]), ("ones", vec![1; 100_000])]
    {
        let path = folder.path().join(name);
        fs::write(&path, &bytes).unwrap();
        let error = Journal::open(&path).unwrap_err();
        assert!(matches!(error, JournalError::Corrupt { .. }), "{name}: {error}");
        assert!(error.to_string().contains(name));
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    let error = Journal::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
}

#[test]
fn a_cut_journal_is_an_error_and_never_a_shorter_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("j");
    Journal::open(&path).unwrap().append_durable(&numbered(0..2000)).unwrap();
    let whole = fs::read(&path).unwrap();
    for cut in [64, 512, 4096, 5000, whole.len() / 2, whole.len() - 4096] {
        let cut_path = folder.path().join(format!("cut{cut}"));
        fs::write(&cut_path, &whole[..cut]).unwrap();
        expect_error_or_everything(&cut_path, 2000);
    }
}

/// Opens a damaged journal: an error is right, silence about missing entries is not.
fn expect_error_or_everything(path: &Path, count: u32) {
    let Ok(journal) = Journal::open(path) else { return };
    let read: Result<Vec<_>, JournalError> = journal.replay(0).and_then(Iterator::collect);
    if let Ok(read) = read {
        let read: Vec<Vec<u8>> = read.into_iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(read, numbered(0..count));
    }
}

fn open(disk: &Disk) -> Result<Journal, JournalError> {
    Journal::build(Path::new("simulated"), 0, |builder| builder.create_with_backend(disk.backend()))
}

#[test]
fn a_disk_that_fills_up_in_the_middle_loses_nothing_acknowledged() {
    let disk = Disk::default();
    let journal = open(&disk).unwrap();
    let mut acknowledged = 0;
    disk.fill_after_bytes(200_000);
    let error = loop {
        match journal.append_durable(&[vec![7; 10_000]]) {
            Ok(sequence) => acknowledged = sequence + 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, JournalError::DiskFull(_)), "{error}");
    let next = journal.append_durable(&[vec![7; 10]]).unwrap_err();
    assert!(matches!(next, JournalError::Halted { .. } | JournalError::DiskFull(_)), "{next}");
    disk.fill_after_bytes(u64::MAX);
    drop(journal);
    disk.restart();
    let journal = open(&disk).unwrap();
    assert_eq!(journal.len().unwrap(), acknowledged);
    assert_eq!(journal.append_durable(&[vec![8; 10_000]]).unwrap(), acknowledged);
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    /// The disk loses power at any write or flush, and keeps any part of what was not flushed.
    #[test]
    fn a_power_cut_at_any_moment_loses_nothing_acknowledged(
        sizes in prop::collection::vec(1..400_usize, 1..12),
        batch in 1..6_usize,
        operation in 0..160_u64,
        seed in any::<u64>(),
    ) {
        let disk = Disk::default();
        let journal = open(&disk).unwrap();
        disk.cut_power_after(operation, seed);
        let (mut acknowledged, mut tried) = (Vec::new(), Vec::new());
        for (number, size) in sizes.iter().enumerate() {
            let batch: Vec<Vec<u8>> = (0..batch).map(|place| format!("{number}.{place}").repeat(*size).into_bytes()).collect();
            tried.clone_from(&acknowledged);
            tried.extend(batch.clone());
            if journal.append_durable(&batch).is_err() {
                break;
            }
            acknowledged.clone_from(&tried);
        }
        disk.cut_power(seed);
        drop(journal);
        disk.restart();
        let journal = open(&disk).unwrap();
        let found = entries(&journal);
        prop_assert!(found == acknowledged || found == tried, "{} of {}", found.len(), acknowledged.len());
        prop_assert_eq!(journal.append_durable(&[b"next".to_vec()]).unwrap(), found.len() as u64);
    }

    #[test]
    fn a_flipped_byte_is_an_error_or_does_no_harm(place in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        Journal::open(&path).unwrap().append_durable(&numbered(0..300)).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let used = bytes.len().min(64 * 1024);
        bytes[place.index(used)] ^= 1 << bit;
        fs::write(&path, &bytes).unwrap();
        expect_error_or_everything(&path, 300);
    }
}

/// The page of redb that names its tables and holds their roots: damaged there, a table may look new and empty.
#[test]
fn a_flipped_bit_beside_a_tables_name_hides_no_entry() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("j");
    Journal::open(&path).unwrap().append_durable(&numbered(0..300)).unwrap();
    let whole = fs::read(&path).unwrap();
    let names: Vec<usize> = (0..whole.len() - 7).filter(|&at| &whole[at..at + 7] == b"entries").collect();
    assert!(!names.is_empty());
    for place in names.into_iter().flat_map(|at| at - 32..at + 40) {
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << (place % 8);
        fs::write(&path, &bytes).unwrap();
        expect_error_or_everything(&path, 300);
    }
}
