//! Files of records; the first byte chooses the kind.

#![no_main]

use tributary_storage::ingest::{IngestLimits, read_path};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let ending = ["jsonl", "json", "csv", "tsv", "txt"][usize::from(*kind) % 5];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(format!("records.{ending}"));
    std::fs::write(&path, rest).expect("a temporary file");
    let _ = read_path(&path, &IngestLimits::default());
});
