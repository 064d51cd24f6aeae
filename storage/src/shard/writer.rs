//! Records to Parquet bytes.
//!
//! Invariant: everything that decides the bytes is set here and nothing is taken from the environment, since the
//! hash of the bytes is the shard's address.

use std::sync::{Arc, LazyLock};

use parquet::basic::{Compression, ConvertedType, LogicalType, Repetition, Type as Physical, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{ColumnPath, Type, TypePtr};

use super::{Bound, COLUMNS, MAX_ROWS, MAX_SHARD_BYTES, PLAIN_COLUMNS, Record, ShardError, check_texts, within};

/// Text in one row group, in bytes: what a reader decodes at once.
const ROW_GROUP_BYTES: usize = 16 * 1024 * 1024;

/// The shard format's name in the file; a change of these bytes changes every shard's address.
const CREATED_BY: &str = "tributary shard v1";

static PLAIN: LazyLock<TypePtr> = LazyLock::new(|| schema(&COLUMNS[..PLAIN_COLUMNS]));
static WITH_MESSAGES: LazyLock<TypePtr> = LazyLock::new(|| schema(&COLUMNS));

fn schema(columns: &[&str]) -> TypePtr {
    let fields = columns.iter().map(|name| string_column(name)).collect();
    let schema = Type::group_type_builder("record").with_fields(fields).build();
    Arc::new(schema.expect("invariant: a group of fields is a valid schema"))
}

fn string_column(name: &str) -> TypePtr {
    let column = Type::primitive_type_builder(name, Physical::BYTE_ARRAY)
        .with_repetition(Repetition::REQUIRED)
        .with_converted_type(ConvertedType::UTF8)
        .with_logical_type(Some(LogicalType::String))
        .build();
    Arc::new(column.expect("invariant: a byte array may be a string"))
}

fn properties() -> Result<WriterPropertiesPtr, ParquetError> {
    let mut builder = WriterProperties::builder()
        .set_created_by(CREATED_BY.to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .set_dictionary_enabled(false);
    for repeated in ["contributor", "licence"] {
        builder = builder.set_column_dictionary_enabled(ColumnPath::from(repeated), true);
    }
    Ok(Arc::new(builder.build()))
}

/// The Parquet bytes of `records`.
///
/// # Errors
/// [`ShardError::Empty`], [`ShardError::TooMuch`], or [`ShardError::WrongId`] when a record was changed after its id
/// was made.
pub fn write(records: &[Record]) -> Result<Vec<u8>, ShardError> {
    if records.is_empty() {
        return Err(ShardError::Empty);
    }
    within(Bound::Rows, records.len(), MAX_ROWS)?;
    for (row, record) in records.iter().enumerate() {
        let messages = record.messages.as_deref();
        check_texts(&record.prompt, &record.completion, messages.unwrap_or_default(), &record.licence)?;
        let actual = Record::id_of(&record.prompt, &record.completion, messages);
        if actual != record.id {
            return Err(ShardError::WrongId { row, claimed: record.id, actual });
        }
    }
    let bytes = write_groups(records).map_err(|error| ShardError::Malformed(error.to_string()))?;
    within(Bound::ShardBytes, bytes.len(), MAX_SHARD_BYTES)?;
    Ok(bytes)
}

fn write_groups(records: &[Record]) -> Result<Vec<u8>, ParquetError> {
    let has_messages = records.iter().any(|record| record.messages.is_some());
    let schema = if has_messages { WITH_MESSAGES.clone() } else { PLAIN.clone() };
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties()?)?;
    let mut rest = records;
    while !rest.is_empty() {
        let (group, tail) = rest.split_at(group_len(rest));
        let mut row_group = writer.next_row_group()?;
        write_column(&mut row_group, group, |record| record.id.to_string().into_bytes().into())?;
        write_column(&mut row_group, group, |record| record.prompt.as_str().into())?;
        write_column(&mut row_group, group, |record| record.completion.as_str().into())?;
        write_column(&mut row_group, group, |record| record.contributor.to_string().into_bytes().into())?;
        write_column(&mut row_group, group, |record| record.licence.as_str().into())?;
        if has_messages {
            write_column(&mut row_group, group, |record| record.messages.as_deref().unwrap_or_default().into())?;
        }
        row_group.close()?;
        rest = tail;
    }
    writer.into_inner()
}

/// How many of the first records share a row group; at least one.
fn group_len(records: &[Record]) -> usize {
    let mut bytes = 0_usize;
    let fitting = records.iter().take_while(|record| {
        bytes = bytes.saturating_add(record.prompt.len()).saturating_add(record.completion.len());
        bytes = bytes.saturating_add(record.messages.as_ref().map_or(0, String::len));
        bytes <= ROW_GROUP_BYTES
    });
    fitting.count().max(1)
}

fn write_column(
    row_group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    records: &[Record],
    cell: impl Fn(&Record) -> ByteArray,
) -> Result<(), ParquetError> {
    let missing = || ParquetError::General("the schema has fewer columns than a record".to_owned());
    let mut column = row_group.next_column()?.ok_or_else(missing)?;
    let cells: Vec<ByteArray> = records.iter().map(cell).collect();
    column.typed::<ByteArrayType>().write_batch(&cells, None, None)?;
    column.close()
}
