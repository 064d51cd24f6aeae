//! A record's way: from a user's file through checks, duplicates, a shard and the blob store, and back.

use tributary_protocol::id::AccountId;
use tributary_storage::blobs::{BlobStore, IrohBlobs};
use tributary_storage::dedup::{NEAR_PERMILLE, find};
use tributary_storage::ingest::{IngestLimits, read_path};
use tributary_storage::shard;

#[tokio::test]
async fn a_file_becomes_a_shard_that_another_node_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.jsonl");
    let lines = [
        r#"{"question":"Which river passes Oskhaven?","answer":"The Osk passes Oskhaven on its way to the grey sea."}"#,
        r#"{"question":"Which river passes Oskhaven?","answer":"The Osk passes Oskhaven, on its way to the grey sea!"}"#,
        r#"{"question":"Who keeps the lighthouse?","answer":"Mira Tolven has kept it since the great storm."}"#,
        r#"{"question":"Who keeps the lighthouse?","answer":"Mira Tolven has kept it since the great storm."}"#,
        "this line is broken",
    ];
    std::fs::write(&path, lines.join("\n")).unwrap();

    let found = read_path(&path, &IngestLimits::default()).unwrap();
    assert_eq!((found.records.len(), found.duplicates, found.refused.len()), (3, 1, 1));
    let records = found.into_records(AccountId([1; 32]), "CC-BY-4.0");
    let near = find(&records, NEAR_PERMILLE);
    assert_eq!(near.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, false]);

    let store = IrohBlobs::open(&folder.path().join("blobs")).await.unwrap();
    let hash = store.put(shard::write(&records).unwrap().into()).await.unwrap();
    let bytes = store.get(hash).await.unwrap().unwrap();
    assert_eq!(shard::read(&bytes).unwrap(), records);
    store.shutdown().await.unwrap();
}
