//! The fuzz targets' body in a bounded run: some thousand changed files, the same each time, and nothing panics.

use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tributary_protocol::id::{AccountId, Hash};
use tributary_storage::base::{BaseFile, BaseManifest};
use tributary_storage::card::CardDocument;
use tributary_storage::ingest::{IngestLimits, read_path};
use tributary_storage::shard::{self, Bound, Record, ShardError};

const CHANGES: usize = 400;

/// Draws from a seeded stream: no two runs differ.
struct Draws(blake3::OutputReader);

impl Draws {
    fn new(purpose: &str) -> Self {
        Self(blake3::Hasher::new_derive_key(purpose).finalize_xof())
    }

    fn below(&mut self, limit: usize) -> usize {
        let mut word = [0; 4];
        self.0.fill(&mut word);
        usize::try_from(u32::from_le_bytes(word)).expect("32 bits fit") % limit.max(1)
    }

    /// One to three changes: a bit, a byte, an insertion, a removal or a cut.
    fn changed(&mut self, whole: &[u8]) -> Vec<u8> {
        let mut bytes = whole.to_vec();
        for _ in 0..=self.below(2) {
            let place = self.below(bytes.len());
            match self.below(5) {
                0 if !bytes.is_empty() => bytes[place] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[place] = [0, 1, 127, 128, 255][self.below(5)],
                2 => bytes.insert(place, 0xff),
                3 if !bytes.is_empty() => {
                    bytes.remove(place);
                }
                _ => bytes.truncate(place),
            }
        }
        bytes
    }
}

#[test]
fn a_changed_manifest_is_refused_or_has_one_encoding() {
    let names = ["config.json", "model.safetensors", "tokenizer.json"];
    let file = |name: &str| BaseFile { name: name.into(), hash: Hash::of(name.as_bytes()), bytes: 7 };
    let whole = BaseManifest::new(names.map(file).to_vec()).unwrap().to_bytes();
    let mut draws = Draws::new("tributary manifests v1");
    let mut read = 0;
    for _ in 0..10 * CHANGES {
        let bytes = draws.changed(&whole);
        if let Ok(manifest) = BaseManifest::from_bytes(&bytes) {
            assert_eq!(manifest.to_bytes(), bytes);
            read += 1;
        }
    }
    assert!(read > 0, "a changed hash or size is a manifest too");
}

#[test]
fn changed_shards_records_and_cards_never_panic() {
    let record = |text: &str| Record::new(text.into(), "an answer".into(), AccountId([1; 32]), "CC0-1.0".into());
    let shard = shard::write(&[record("one"), record("two")]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut draws = Draws::new("tributary files v1");
    let files: [(&str, &[u8]); 3] = [
        (
            "a.jsonl",
            b"{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"messages\":[{\"role\":\"user\",\"content\":\"c\"}]}\n",
        ),
        ("b.csv", b"prompt,completion\n\"a, b\",c\nd,\"e\"\"f\"\n"),
        ("c.txt", "Words.\n\nMore wörds.\n".as_bytes()),
    ];
    for _ in 0..CHANGES {
        let _ = shard::read(&draws.changed(&shard));
        for (name, whole) in files {
            let path = folder.path().join(name);
            std::fs::write(&path, draws.changed(whole)).unwrap();
            let _ = read_path(&path, &IngestLimits::default());
        }
        let _ = CardDocument::new(2).apply(&AccountId([7; 32]), &draws.changed(&shard[..64]));
    }
}

/// A file of few bytes whose rows all name one long word of a dictionary.
fn unfolding(rows: usize, word: usize) -> Result<Vec<u8>, ParquetError> {
    let columns =
        ["id", "prompt", "completion", "contributor", "licence"].map(|name| format!("required binary {name} (UTF8);"));
    let schema = parse_message_type(&format!("message record {{ {} }}", columns.concat()))?;
    let properties = WriterProperties::builder().set_dictionary_enabled(true).build();
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties))?;
    let mut group = writer.next_row_group()?;
    let mut lengths = [1, word, 1, 1, 1].into_iter();
    while let (Some(mut column), Some(length)) = (group.next_column()?, lengths.next()) {
        let cell = ByteArray::from("a".repeat(length).into_bytes());
        column.typed::<ByteArrayType>().write_batch(&vec![cell; rows], None, None)?;
        column.close()?;
    }
    group.close()?;
    writer.into_inner()
}

#[test]
fn a_small_file_that_unfolds_to_more_than_memory_is_refused_before_it_does() {
    let bytes = unfolding(4_200, 272_000).unwrap();
    assert!(bytes.len() < 1 << 20, "{} bytes for more than 1 GiB", bytes.len());
    let refused = shard::read(&bytes);
    assert!(matches!(refused, Err(ShardError::TooMuch { bound: Bound::UncompressedBytes, .. })), "{refused:?}");
}

#[test]
fn every_parser_here_has_a_fuzz_target() {
    let manifest = include_str!("../../fuzz/Cargo.toml");
    for name in ["manifest", "shard", "ingest", "card"] {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "no fuzz target for {name}");
    }
}
