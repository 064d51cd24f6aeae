//! Parquet bytes of strangers to records.
//!
//! Invariant: sizes are checked in the order file, footer, schema, rows, pages, cells, each before memory is given to
//! the next; whatever the bytes, the answer is records or an error.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use parquet::basic::{Compression, Repetition, Type as Physical};
use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{FileReader, SerializedFileReader};
use tributary_protocol::id::{AccountId, Hash};

use super::{
    Bound, COLUMNS, MAX_ROW_GROUPS, MAX_ROWS, MAX_SHARD_BYTES, MAX_UNCOMPRESSED_BYTES, PLAIN_COLUMNS, Record,
    ShardError, check_texts, pages, within,
};
use crate::conversation::Conversation;

/// Bytes of the footer: a schema of six columns and the row groups' places, about 500 bytes a row group.
const MAX_FOOTER_BYTES: usize = 1024 * 1024;

/// Cells decoded at a time, so that memory follows what the file really holds and not what it claims.
const BATCH_ROWS: usize = 4096;

impl From<ParquetError> for ShardError {
    fn from(error: ParquetError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// The records in the Parquet file `bytes`.
///
/// # Errors
/// When the file is larger than the bounds of this module, is no Parquet file, has other columns, or holds a record
/// whose id is not that of its text.
pub fn read(bytes: &[u8]) -> Result<Vec<Record>, ShardError> {
    within(Bound::ShardBytes, bytes.len(), MAX_SHARD_BYTES)?;
    check_footer(bytes)?;
    let bytes = Bytes::copy_from_slice(bytes);
    // The decoder is foreign code over foreign bytes: a panic in it is one more way of saying that they are broken.
    let read = catch_unwind(AssertUnwindSafe(|| read_groups(&bytes)));
    read.unwrap_or_else(|_| Err(ShardError::Malformed("the decoder gave up".to_owned())))
}

/// The last 8 bytes: the footer's length and the magic number.
fn check_footer(bytes: &[u8]) -> Result<(), ShardError> {
    let malformed = |what: &str| ShardError::Malformed(what.to_owned());
    let (rest, magic) = bytes.split_last_chunk::<4>().ok_or_else(|| malformed("too short"))?;
    if magic != b"PAR1" {
        return Err(malformed("it does not end in PAR1"));
    }
    let (rest, length) = rest.split_last_chunk::<4>().ok_or_else(|| malformed("too short"))?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_FOOTER_BYTES || length > rest.len() {
        return Err(malformed("its footer is longer than it may be"));
    }
    Ok(())
}

fn read_groups(bytes: &Bytes) -> Result<Vec<Record>, ShardError> {
    let reader = SerializedFileReader::new(bytes.clone())?;
    check_schema(reader.metadata())?;
    check_sizes(reader.metadata(), bytes)?;
    let mut read = Read::default();
    for group in 0..reader.num_row_groups() {
        read.group(&reader, group)?;
    }
    let records = read.records;
    if records.is_empty() {
        return Err(ShardError::Empty);
    }
    Ok(records)
}

fn check_schema(metadata: &ParquetMetaData) -> Result<(), ShardError> {
    let columns = metadata.file_metadata().schema_descr().columns();
    let right = [PLAIN_COLUMNS, COLUMNS.len()].contains(&columns.len())
        && columns.iter().zip(COLUMNS).all(|(column, name)| {
            column.path().parts().len() == 1
                && column.name() == name
                && column.physical_type() == Physical::BYTE_ARRAY
                && column.self_type().get_basic_info().repetition() == Repetition::REQUIRED
        });
    if right {
        return Ok(());
    }
    let shown = columns.iter().take(16).map(|column| {
        let name: String = column.name().chars().take(64).collect();
        format!("{name} ({})", column.physical_type())
    });
    Err(ShardError::Schema { found: shown.collect::<Vec<_>>().join(", ") })
}

fn check_sizes(metadata: &ParquetMetaData, bytes: &[u8]) -> Result<(), ShardError> {
    within(Bound::RowGroups, metadata.num_row_groups(), MAX_ROW_GROUPS)?;
    let mut rows = 0_usize;
    let mut unfolded_bytes = 0_usize;
    for group in metadata.row_groups() {
        rows = rows.saturating_add(group_rows(group)?);
        within(Bound::Rows, rows, MAX_ROWS)?;
        for column in group.columns() {
            let pages = pages::unfolded_bytes(chunk_bytes(column, bytes)?, compressed(column)?)?;
            unfolded_bytes = unfolded_bytes.saturating_add(pages);
            within(Bound::UncompressedBytes, unfolded_bytes, MAX_UNCOMPRESSED_BYTES)?;
        }
    }
    Ok(())
}

fn group_rows(group: &RowGroupMetaData) -> Result<usize, ShardError> {
    usize::try_from(group.num_rows()).map_err(|_| ShardError::Malformed("a negative number of rows".to_owned()))
}

fn compressed(column: &ColumnChunkMetaData) -> Result<bool, ShardError> {
    match column.compression() {
        Compression::ZSTD(_) => Ok(true),
        Compression::UNCOMPRESSED => Ok(false),
        other => Err(ShardError::Malformed(format!("compressed by {other}, not by zstd"))),
    }
}

/// The part of the file that holds a column of a row group.
fn chunk_bytes<'a>(column: &ColumnChunkMetaData, bytes: &'a [u8]) -> Result<&'a [u8], ShardError> {
    let outside = || ShardError::Malformed("a column lies outside the file".to_owned());
    let start = match column.dictionary_page_offset() {
        Some(dictionary) if dictionary > 0 => dictionary.min(column.data_page_offset()),
        _ => column.data_page_offset(),
    };
    let start = usize::try_from(start).map_err(|_| outside())?;
    let len = usize::try_from(column.compressed_size()).map_err(|_| outside())?;
    let end = start.checked_add(len).ok_or_else(outside)?;
    bytes.get(start..end).ok_or_else(outside)
}

/// What was read so far.
#[derive(Default)]
struct Read {
    records: Vec<Record>,
    /// Bytes of all cells: a page of few bytes names one long word of its dictionary as often as it likes.
    cell_bytes: usize,
}

impl Read {
    fn group(&mut self, reader: &SerializedFileReader<Bytes>, group: usize) -> Result<(), ShardError> {
        let row_group = reader.get_row_group(group)?;
        let mut rows_left = group_rows(row_group.metadata())?;
        let count = row_group.metadata().num_columns();
        let mut columns = Vec::with_capacity(count);
        for column in 0..count {
            columns.push(get_typed_column_reader::<ByteArrayType>(row_group.get_column_reader(column)?));
        }
        while rows_left > 0 {
            let wanted = rows_left.min(BATCH_ROWS);
            let mut cells = Vec::with_capacity(columns.len());
            for column in &mut columns {
                cells.push(read_cells(column, wanted)?);
            }
            // Before a cell is copied: until then, equal ones are one.
            self.cell_bytes += cells.iter().flatten().map(ByteArray::len).sum::<usize>();
            within(Bound::UncompressedBytes, self.cell_bytes, MAX_UNCOMPRESSED_BYTES)?;
            for row in 0..wanted {
                self.records.push(record(self.records.len(), row, &cells)?);
            }
            rows_left -= wanted;
        }
        Ok(())
    }
}

/// Exactly `wanted` cells of a column.
fn read_cells(column: &mut ColumnReaderImpl<ByteArrayType>, wanted: usize) -> Result<Vec<ByteArray>, ShardError> {
    let mut cells = Vec::new();
    let (read, _, _) = column.read_records(wanted, None, None, &mut cells)?;
    if read != wanted || cells.len() != wanted {
        return Err(ShardError::Malformed("a column has fewer cells than there are records".to_owned()));
    }
    Ok(cells)
}

/// The record in row `offset` of a batch, which is number `row` of the file.
fn record(row: usize, offset: usize, cells: &[Vec<ByteArray>]) -> Result<Record, ShardError> {
    let text = |column: usize| {
        let invalid = ShardError::Cell { row, column: COLUMNS[column] };
        std::str::from_utf8(cells[column][offset].data()).map_err(|_| invalid)
    };
    let (prompt, completion, licence) = (text(1)?, text(2)?, text(4)?);
    let messages = if cells.len() > PLAIN_COLUMNS { text(PLAIN_COLUMNS)? } else { "" };
    check_texts(prompt, completion, messages, licence)?;
    let messages = Some(messages).filter(|messages| !messages.is_empty());
    if messages.is_some_and(|messages| !is_conversation(messages, prompt, completion)) {
        return Err(ShardError::Cell { row, column: COLUMNS[PLAIN_COLUMNS] });
    }
    let claimed: Hash = text(0)?.parse().map_err(|_| ShardError::Cell { row, column: COLUMNS[0] })?;
    let contributor: AccountId = text(3)?.parse().map_err(|_| ShardError::Cell { row, column: COLUMNS[3] })?;
    let messages = messages.map(str::to_owned);
    let record = Record::of(prompt.to_owned(), completion.to_owned(), messages, contributor, licence.to_owned());
    if record.id != claimed {
        return Err(ShardError::WrongId { row, claimed, actual: record.id });
    }
    Ok(record)
}

/// Whether prompt and completion are those of the conversation.
fn is_conversation(messages: &str, prompt: &str, completion: &str) -> bool {
    Conversation::from_json(messages).is_ok_and(|read| read.prompt == prompt && read.completion == completion)
}
