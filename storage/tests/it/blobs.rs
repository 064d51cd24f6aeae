//! The three stores behind one trait, on a real disk where there is one.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tributary_protocol::id::Hash;
use tributary_storage::blobs::{BlobError, BlobStore, FaultyBlobs, IrohBlobs, IrohOptions, MemoryBlobs};

fn bytes(len: usize, seed: u8) -> Bytes {
    let mut stream = blake3::Hasher::new().update(&[seed]).finalize_xof();
    let mut bytes = vec![0; len];
    stream.fill(&mut bytes);
    bytes.into()
}

/// Around the sizes where the store changes its way of keeping: inline, file, file with a tree.
const SIZES: [usize; 6] = [0, 1, 16 * 1024, 16 * 1024 + 1, 1_000_000, 9_000_000];

async fn keeps_what_it_is_given(store: &dyn BlobStore) {
    let mut hashes = Vec::new();
    for (seed, size) in (0..).zip(SIZES) {
        let bytes = bytes(size, seed);
        let hash = store.put(bytes.clone()).await.expect("put");
        assert_eq!(hash, Hash::of(&bytes));
        assert_eq!(store.put(bytes.clone()).await.expect("put twice"), hash);
        assert_eq!(store.get(hash).await.expect("get"), Some(bytes));
        assert_eq!(store.size(hash).await.expect("size"), Some(size as u64));
        hashes.push(hash);
    }
    hashes.sort_unstable();
    let listed = store.list().await.expect("list");
    assert!(hashes.iter().all(|hash| listed.contains(hash) || *hash == Hash::of(b"")), "{listed:?}");
    assert!(listed.is_sorted());

    let absent = Hash::of(b"never put");
    assert!(!store.has(absent).await.expect("has"));
    assert_eq!(store.get(absent).await.expect("get"), None);
    assert!(!store.remove(absent).await.expect("remove"));

    let gone = Hash::of(&bytes(SIZES[4], 4));
    assert!(store.remove(gone).await.expect("remove"));
    assert!(!store.has(gone).await.expect("has"));
    assert_eq!(store.get(gone).await.expect("get"), None);
    assert!(!store.list().await.expect("list").contains(&gone));
    assert_eq!(store.put(bytes(SIZES[4], 4)).await.expect("put again"), gone);
    assert!(store.has(gone).await.expect("has"));
}

async fn takes_a_file(store: &dyn BlobStore, folder: &Path) {
    let bytes = bytes(300_000, 77);
    let path = folder.join("file.bin");
    std::fs::write(&path, &bytes).expect("write");
    let hash = store.put_file(&path).await.expect("put file");
    std::fs::remove_file(&path).expect("the store has a copy");
    assert_eq!(store.get(hash).await.expect("get"), Some(bytes));
    let gone = store.put_file(&path).await.expect_err("no file");
    assert!(gone.to_string().contains("file.bin"), "{gone}");
}

#[tokio::test]
async fn memory_keeps_what_it_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn BlobStore> = Arc::new(MemoryBlobs::new());
    keeps_what_it_is_given(store.as_ref()).await;
    takes_a_file(store.as_ref(), folder.path()).await;
}

#[tokio::test]
async fn the_disk_keeps_what_it_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let store = IrohBlobs::open(&folder.path().join("blobs")).await.unwrap();
    keeps_what_it_is_given(&store).await;
    takes_a_file(&store, folder.path()).await;
    store.shutdown().await.unwrap();
}

#[tokio::test]
async fn blobs_are_there_after_a_restart_and_removed_ones_are_swept() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("blobs");
    let store = IrohBlobs::open(&root).await.unwrap();
    let kept = store.put(bytes(100_000, 1)).await.unwrap();
    let small = store.put(bytes(10, 2)).await.unwrap();
    let removed = store.put(bytes(200_000, 3)).await.unwrap();
    // Fetched through the inner store and not pinned: never swept either.
    let fetched = bytes(50_000, 4);
    let tag = store.inner().blobs().add_bytes(fetched.clone()).temp_tag().await.unwrap();
    drop(tag);
    assert!(store.remove(removed).await.unwrap());
    store.shutdown().await.unwrap();
    assert!(data_file(&root, removed).exists());

    let store = IrohBlobs::open(&root).await.unwrap();
    assert_eq!(store.get(kept).await.unwrap(), Some(bytes(100_000, 1)));
    assert_eq!(store.get(small).await.unwrap(), Some(bytes(10, 2)));
    assert_eq!(store.get(Hash::of(&fetched)).await.unwrap(), Some(fetched.clone()));
    assert!(!store.has(removed).await.unwrap());
    assert!(!data_file(&root, removed).exists());
    assert!(store.pin(Hash::of(&fetched)).await.unwrap());
    assert!(!store.pin(removed).await.unwrap());
    assert_eq!(store.put(bytes(200_000, 3)).await.unwrap(), removed);
    store.shutdown().await.unwrap();

    let store = IrohBlobs::open(&root).await.unwrap();
    assert!(store.has(removed).await.unwrap());
    store.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_sweep_frees_the_disk_of_what_was_removed_and_of_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("blobs");
    let store = IrohBlobs::open(&root).await.unwrap();
    assert!(store.sweep().await.unwrap(), "there is nothing to sweep");
    for round in 0..3 {
        let kept = store.put(bytes(100_000, 1)).await.unwrap();
        let removed = store.put(bytes(200_000, 3)).await.unwrap();
        let fetched = bytes(50_000, 4);
        // Neither pinned nor held: whoever fetched it pins it any moment.
        drop(store.inner().blobs().add_bytes(fetched.clone()).temp_tag().await.unwrap());
        assert!(store.remove(removed).await.unwrap());
        assert!(data_file(&root, removed).exists());
        assert!(store.sweep().await.unwrap());
        assert!(!data_file(&root, removed).exists(), "round {round}");
        assert!(!store.has(removed).await.unwrap() && !store.pin(removed).await.unwrap());
        assert_eq!(store.get(kept).await.unwrap(), Some(bytes(100_000, 1)));
        assert!(store.pin(Hash::of(&fetched)).await.unwrap());
        // What was swept can be put again, from memory and from a file.
        let again = match round {
            0 => store.put(bytes(200_000, 3)).await.unwrap(),
            _ => {
                let path = folder.path().join("file");
                std::fs::write(&path, bytes(200_000, 3)).unwrap();
                store.put_file(&path).await.unwrap()
            }
        };
        assert_eq!(store.get(again).await.unwrap(), Some(bytes(200_000, 3)));
    }
    store.shutdown().await.unwrap();
    let store = IrohBlobs::open(&root).await.unwrap();
    assert!(store.has(Hash::of(&bytes(200_000, 3))).await.unwrap());
    drop(store);
    // The sweeper does not keep a store open that was dropped.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while IrohBlobs::open(&root).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "the folder is released");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn data_file(root: &Path, hash: Hash) -> std::path::PathBuf {
    root.join("data").join(format!("{hash}.data"))
}

#[tokio::test]
async fn a_store_in_use_is_locked_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = IrohBlobs::open(folder.path()).await.unwrap();
    let error = IrohBlobs::open(folder.path()).await.unwrap_err();
    assert!(matches!(error, BlobError::Locked { .. }), "{error}");
    assert!(error.to_string().contains(&folder.path().display().to_string()));
    store.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_damaged_index_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("blobs.db"), [7; 5000]).unwrap();
    let error = IrohBlobs::open(folder.path()).await.unwrap_err();
    assert!(matches!(error, BlobError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains(&folder.path().display().to_string()));
}

#[tokio::test]
async fn a_damaged_file_is_never_returned() {
    let folder = tempfile::tempdir().unwrap();
    let store = IrohBlobs::open(folder.path()).await.unwrap();
    let hash = store.put(bytes(100_000, 1)).await.unwrap();
    store.shutdown().await.unwrap();
    let path = data_file(folder.path(), hash);
    let mut content = std::fs::read(&path).unwrap();
    content[50_000] ^= 1;
    std::fs::write(&path, content).unwrap();
    let store = IrohBlobs::open(folder.path()).await.unwrap();
    assert!(store.get(hash).await.is_err());
    store.shutdown().await.unwrap();
}

#[tokio::test]
async fn imports_cut_short_by_a_crash_are_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let left = folder.path().join("temp/left-over");
    std::fs::create_dir_all(left.parent().unwrap()).unwrap();
    std::fs::write(&left, [0; 100]).unwrap();
    IrohBlobs::open(folder.path()).await.unwrap().shutdown().await.unwrap();
    assert!(!left.exists());
}

#[tokio::test]
async fn a_full_disk_is_named_and_nothing_is_half_written() {
    let folder = tempfile::tempdir().unwrap();
    IrohBlobs::open(folder.path()).await.unwrap().shutdown().await.unwrap();
    // The reserve is larger than any disk, so every write meets a full one.
    let options = IrohOptions { reserve_bytes: u64::MAX / 2 };
    let store = IrohBlobs::open_with(folder.path(), &options).await.unwrap();
    let error = store.put(bytes(100_000, 1)).await.unwrap_err();
    assert!(matches!(error, BlobError::DiskFull(_)), "{error}");
    assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
    assert!(error.to_string().contains("no space left"), "{error}");
    assert!(store.list().await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(folder.path().join("data")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(folder.path().join("temp")).unwrap().count(), 0);
    store.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_disk_that_fills_up_on_command_refuses_and_recovers() {
    let store = FaultyBlobs::new(MemoryBlobs::new());
    let first = store.put(bytes(100, 1)).await.unwrap();
    store.set_room_bytes(150);
    let second = store.put(bytes(100, 2)).await.unwrap();
    let error = store.put(bytes(100, 3)).await.unwrap_err();
    assert!(matches!(error, BlobError::DiskFull(_)));
    assert_eq!(store.list().await.unwrap().len(), 2);
    assert!(store.has(first).await.unwrap() && store.has(second).await.unwrap());
    assert!(store.remove(first).await.unwrap());
    store.set_room_bytes(u64::MAX);
    assert!(store.put(bytes(100, 3)).await.is_ok());
    assert_eq!(store.inner().list().await.unwrap().len(), 2);
}
