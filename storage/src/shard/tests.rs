use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};
use tributary_protocol::id::{AccountId, Hash};

use super::{Bound, MAX_LICENCE_BYTES, MAX_RECORD_BYTES, Record, ShardError, read, record_id, write};
use crate::conversation::Conversation;

fn record(prompt: &str, completion: &str, contributor: u8) -> Record {
    Record::new(prompt.to_owned(), completion.to_owned(), AccountId([contributor; 32]), "CC-BY-4.0".to_owned())
}

fn some() -> Vec<Record> {
    let capital = record("What is the capital of Velmora?", "Oskhaven", 1);
    vec![capital, record("", "Plain text, with ünïcode and\nlines.", 2), record("2 + 2", "4", 1)]
}

#[test]
fn what_is_written_is_read() {
    let records = some();
    assert_eq!(read(&write(&records).unwrap()).unwrap(), records);
}

#[test]
fn equal_records_give_equal_bytes() {
    assert_eq!(write(&some()).unwrap(), write(&some()).unwrap());
}

#[test]
fn the_address_of_a_shard_never_changes() {
    // Datanet heads name shards by this hash: a library update that changes it would fork every datanet.
    let hash = Hash::of(&write(&some()).unwrap());
    assert_eq!(hash.to_string(), "ff880c65eaf5ea07f7e29da7750c46f38f9334828cb7225b7b3cc0e6436fb41f");
}

#[test]
fn the_id_ignores_the_contributor_and_sees_every_split() {
    assert_eq!(record("a", "b", 1).id, record("a", "b", 2).id);
    assert_ne!(record_id("ab", ""), record_id("a", "b"));
    assert_ne!(record_id("", "ab"), record_id("a", "b"));
    assert_ne!(record_id("a", "b"), record_id("b", "a"));
    assert_ne!(record_id("", ""), Hash::of(b""));
    let golden = "eb6e513c20f3013e79f35520440fcbc428e5f4452a1f723308470466bc965afd";
    assert_eq!(record_id("question", "answer").to_string(), golden);
}

fn talk() -> Record {
    let messages = serde_json::json!([
        {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "who?"}, {"role": "assistant", "content": "me"},
    ]);
    let Conversation { json, prompt, completion } = Conversation::of(&messages).unwrap();
    Record::of(prompt, completion, Some(json), AccountId([4; 32]), "CC-BY-4.0".to_owned())
}

#[test]
fn conversations_are_kept_as_they_are_beside_plain_records() {
    let records = [some(), vec![talk()]].concat();
    assert_eq!(read(&write(&records).unwrap()).unwrap(), records);
    assert_ne!(talk().id, record_id(&talk().prompt, &talk().completion), "its turns are part of what it is");
}

#[test]
fn a_conversation_that_its_texts_do_not_follow_from_is_refused() {
    let mut forged = talk();
    forged.completion = "you".to_owned();
    // The id is of the messages alone, so the writer takes it.
    let refused = read(&write(&[forged]).unwrap());
    assert_eq!(refused, Err(ShardError::Cell { row: 0, column: "messages" }));
    let spaced = talk().messages.unwrap().replace(',', ", ");
    let forged = Record::of(talk().prompt, talk().completion, Some(spaced), AccountId([4; 32]), String::new());
    assert!(matches!(read(&write(&[forged]).unwrap()), Err(ShardError::Cell { row: 0, .. })));
}

#[test]
fn many_row_groups_are_read_in_order() {
    let text = "x".repeat(MAX_RECORD_BYTES - 20);
    let records: Vec<Record> = (0..100).map(|number| record(&format!("{number}"), &text, 3)).collect();
    let bytes = write(&records).unwrap();
    assert!(bytes.len() < 1024 * 1024, "zstd should have folded {} bytes", bytes.len());
    assert_eq!(read(&bytes).unwrap(), records);
}

#[test]
fn more_than_a_batch_of_rows_is_read() {
    let records: Vec<Record> = (0..10_000).map(|number| record(&format!("{number}"), "yes", 3)).collect();
    assert_eq!(read(&write(&records).unwrap()).unwrap(), records);
}

#[test]
fn nothing_and_too_much_are_refused() {
    assert_eq!(write(&[]), Err(ShardError::Empty));
    let long = record("", &"x".repeat(MAX_RECORD_BYTES + 1), 1);
    assert!(matches!(write(&[long]), Err(ShardError::TooMuch { bound: Bound::RecordBytes, .. })));
    let mut wordy = record("a", "b", 1);
    wordy.licence = "x".repeat(MAX_LICENCE_BYTES + 1);
    assert!(matches!(write(&[wordy]), Err(ShardError::TooMuch { bound: Bound::LicenceBytes, .. })));
}

#[test]
fn a_record_changed_after_its_id_was_made_is_refused() {
    let mut forged = record("a", "b", 1);
    forged.completion = "c".to_owned();
    assert!(matches!(write(&[forged]), Err(ShardError::WrongId { row: 0, .. })));
}

#[test]
fn other_bytes_and_other_columns_are_refused_with_a_reason() {
    for bytes in [&b""[..], b"PAR1", b"PAR1PAR1", b"not a parquet file", &[0; 64]] {
        assert!(matches!(read(bytes), Err(ShardError::Malformed(_))));
    }
    let huge_footer = [b"PAR1".as_slice(), &u32::MAX.to_le_bytes(), b"PAR1"].concat();
    assert!(read(&huge_footer).unwrap_err().to_string().contains("footer"));
    let other = read(&foreign::one_integer_column()).unwrap_err();
    assert!(other.to_string().contains("number (INT32)"), "{other}");
}

#[test]
fn a_shard_that_lies_about_an_id_is_refused() {
    let mut records = some();
    let claimed = records[1].id;
    let forged = foreign::with_ids(&records, &[records[0].id, records[0].id, records[2].id]);
    let actual = claimed;
    assert_eq!(read(&forged), Err(ShardError::WrongId { row: 1, claimed: records[0].id, actual }));
    records.swap(0, 2);
    assert_eq!(read(&write(&records).unwrap()).unwrap(), records);
}

#[test]
fn a_page_that_unfolds_to_more_than_it_may_is_refused_before_it_does() {
    let bomb = foreign::zeros(33 * 1024 * 1024);
    assert!(bomb.len() < 64 * 1024);
    assert!(read(&bomb).unwrap_err().to_string().contains("a page is larger than it may be"));
}

/// Files that [`write`] would not make.
mod foreign {
    use std::sync::Arc;

    use parquet::basic::Compression;
    use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use tributary_protocol::id::Hash;

    use super::Record;

    const SCHEMA: &str = "message record { required binary id (UTF8); required binary prompt (UTF8); required binary \
                          completion (UTF8); required binary contributor (UTF8); required binary licence (UTF8); }";

    pub(super) fn one_integer_column() -> Vec<u8> {
        let schema = Arc::new(parse_message_type("message other { required int32 number; }").unwrap());
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int32Type>().write_batch(&[1, 2], None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.into_inner().unwrap()
    }

    fn columns(cells: &[Vec<ByteArray>; 5]) -> Vec<u8> {
        let zstd = Compression::ZSTD(parquet::basic::ZstdLevel::default());
        let properties = WriterProperties::builder().set_compression(zstd).set_dictionary_enabled(false);
        let properties = Arc::new(properties.build());
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for cells in cells {
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(cells, None, None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
        writer.into_inner().unwrap()
    }

    pub(super) fn with_ids(records: &[Record], ids: &[Hash]) -> Vec<u8> {
        let text = |text: &str| ByteArray::from(text.as_bytes().to_vec());
        columns(&[
            ids.iter().map(|id| text(&id.to_string())).collect(),
            records.iter().map(|record| text(&record.prompt)).collect(),
            records.iter().map(|record| text(&record.completion)).collect(),
            records.iter().map(|record| text(&record.contributor.to_string())).collect(),
            records.iter().map(|record| text(&record.licence)).collect(),
        ])
    }

    pub(super) fn zeros(bytes: usize) -> Vec<u8> {
        let small = vec![ByteArray::from(vec![b'0'])];
        let large = vec![ByteArray::from(vec![0; bytes])];
        columns(&[small.clone(), small.clone(), large, small.clone(), small])
    }
}

fn any_record() -> impl Strategy<Value = Record> {
    (".{0,40}", ".{0,200}", any::<[u8; 32]>(), "[A-Za-z0-9.-]{0,20}").prop_map(
        |(prompt, completion, contributor, licence)| Record::new(prompt, completion, contributor.into(), licence),
    )
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn any_records_come_back(records in prop::collection::vec(any_record(), 1..40)) {
        let bytes = write(&records).unwrap();
        prop_assert_eq!(&read(&bytes).unwrap(), &records);
        prop_assert_eq!(write(&records).unwrap(), bytes);
    }

    #[test]
    fn any_change_of_a_shard_gives_an_error_or_sound_records(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = write(&some()).unwrap();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Ok(records) = read(&bytes) {
            prop_assert!(records.iter().all(|record| record.id == record_id(&record.prompt, &record.completion)));
        }
        bytes.truncate(cut.index(bytes.len()));
        let _ = read(&bytes);
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read(&bytes).is_err());
        let framed = [b"PAR1".as_slice(), &bytes, &u32::try_from(bytes.len()).unwrap().to_le_bytes(), b"PAR1"].concat();
        prop_assert!(read(&framed).is_err());
    }
}
