//! The sizes that a column's page headers claim, read before the decoder reserves them.
//!
//! Invariant: every page lies within its column and unfolds to at most what zstd could make of it in an honest file.
//!
//! A page header is a struct in Thrift's compact protocol (parquet.thrift, `PageHeader`): field 1 is the page type,
//! field 2 the unfolded size, field 3 the stored size; the rest is skipped.

use super::ShardError;

/// Bytes of one page once unfolded. The writer closes pages at 1 MiB plus one record; other tools stay below 16 MiB.
const MAX_PAGE_BYTES: usize = 32 * 1024 * 1024;

/// Structs within structs in a page header; honest ones have three levels.
const MAX_DEPTH: u8 = 8;

/// The sum of what the pages in `chunk` unfold to, in bytes.
pub(super) fn unfolded_bytes(chunk: &[u8], compressed: bool) -> Result<usize, ShardError> {
    let mut rest = chunk;
    let mut total = 0_usize;
    while !rest.is_empty() {
        let page = page_sizes(&mut rest).ok_or_else(|| malformed("a page header is broken"))?;
        if page.unfolded > MAX_PAGE_BYTES {
            return Err(malformed("a page is larger than it may be"));
        }
        if !compressed && page.unfolded != page.stored {
            return Err(malformed("a page's sizes do not match"));
        }
        rest = rest.get(page.stored..).ok_or_else(|| malformed("a page lies outside its column"))?;
        total = total.saturating_add(page.unfolded);
    }
    Ok(total)
}

fn malformed(what: &str) -> ShardError {
    ShardError::Malformed(what.to_owned())
}

struct PageSizes {
    unfolded: usize,
    stored: usize,
}

fn page_sizes(input: &mut &[u8]) -> Option<PageSizes> {
    let (mut unfolded, mut stored) = (None, None);
    let mut field = 0_i64;
    while let Some(kind) = field_header(input, &mut field)? {
        match (field, kind) {
            (2, INTEGER) => unfolded = Some(usize::try_from(zigzag(input)?).ok()?),
            (3, INTEGER) => stored = Some(usize::try_from(zigzag(input)?).ok()?),
            _ => skip(input, kind, MAX_DEPTH)?,
        }
    }
    Some(PageSizes { unfolded: unfolded?, stored: stored? })
}

/// The compact protocol's type of a 32-bit integer.
const INTEGER: u8 = 5;

/// The next field's type, with its number in `field`; `None` inside at the end of the struct.
fn field_header(input: &mut &[u8], field: &mut i64) -> Option<Option<u8>> {
    let byte = take_byte(input)?;
    if byte == 0 {
        return Some(None);
    }
    let step = i64::from(byte >> 4);
    *field = if step == 0 { zigzag(input)? } else { field.checked_add(step)? };
    Some(Some(byte & 0x0f))
}

fn skip(input: &mut &[u8], kind: u8, depth: u8) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    match kind {
        1 | 2 => Some(()),
        3 => take_byte(input).map(|_| ()),
        4..=6 => varint(input).map(|_| ()),
        7 => take(input, 8),
        8 => {
            let len = usize::try_from(varint(input)?).ok()?;
            take(input, len)
        }
        12 => {
            let mut field = 0;
            while let Some(kind) = field_header(input, &mut field)? {
                skip(input, kind, depth)?;
            }
            Some(())
        }
        // Lists, sets and maps do not occur in a page header.
        _ => None,
    }
}

fn take_byte(input: &mut &[u8]) -> Option<u8> {
    let (first, rest) = input.split_first()?;
    *input = rest;
    Some(*first)
}

fn take(input: &mut &[u8], len: usize) -> Option<()> {
    *input = input.get(len..)?;
    Some(())
}

fn varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(input)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn zigzag(input: &mut &[u8]) -> Option<i64> {
    let value = varint(input)?;
    Some((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::unfolded_bytes;

    /// A header with type 0, the two sizes (zigzag, below 64) and an empty inner struct.
    fn page(unfolded: u8, stored: u8) -> Vec<u8> {
        let mut bytes = vec![0x15, 0, 0x15, unfolded * 2, 0x15, stored * 2, 0x2c, 0x15, 2, 0, 0];
        bytes.extend(vec![7; usize::from(stored)]);
        bytes
    }

    #[test]
    fn sizes_of_all_pages_are_summed() {
        let chunk = [page(9, 3), page(20, 5)].concat();
        assert_eq!(unfolded_bytes(&chunk, true), Ok(29));
    }

    #[test]
    fn a_page_beyond_its_column_and_a_cut_header_are_refused() {
        let chunk = page(9, 3);
        assert!(unfolded_bytes(&chunk[..chunk.len() - 1], true).is_err());
        assert!(unfolded_bytes(&chunk[..4], true).is_err());
        assert!(unfolded_bytes(&[0xff; 40], true).is_err());
    }

    #[test]
    fn a_huge_page_is_refused_by_its_header() {
        let huge = [0x15, 0, 0x15, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0x15, 0, 0];
        assert!(unfolded_bytes(&huge, true).unwrap_err().to_string().contains("larger"));
        assert!(unfolded_bytes(&page(9, 3), false).is_err());
    }
}
