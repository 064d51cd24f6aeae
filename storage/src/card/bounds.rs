//! How many operations a change's bytes unfold to, counted before automerge unfolds them.
//!
//! Invariant: a change passes only when none of its columns has more values than the limit. Columns are run-length
//! encoded, so 20 bytes may claim 2⁶⁰ operations, and the library walks them all.
//!
//! The layout is the change chunk of the automerge binary format: magic, checksum, chunk type, length; then the
//! changes it builds on, actor, sequence, first operation, time, message, other actors, and the operations' columns.

use super::CardError;

const MAGIC: &[u8] = &[0x85, 0x6f, 0x4a, 0x83];

/// A change chunk that is not deflated; a deflated one could unfold to any size.
const CHUNK_CHANGE: u8 = 1;

/// Columns of a change: the format knows fewer than twenty.
const MAX_COLUMNS: u64 = 64;

/// Refuses a change with a column of more than `limit` values.
pub(super) fn check_operations(change: &[u8], limit: u64) -> Result<(), CardError> {
    let broken = || CardError::Malformed("its layout is broken".to_owned());
    let mut input = Input { bytes: change };
    let columns = input.change_columns().ok_or_else(broken)?;
    for column in columns {
        let found = column.values(limit).ok_or_else(broken)?;
        if found > limit {
            return Err(CardError::TooLarge { what: "a change in operations", found, limit });
        }
    }
    Ok(())
}

struct Column<'a> {
    kind: u32,
    bytes: &'a [u8],
}

impl Column<'_> {
    /// How many values the column has, counted no further than just past `limit`.
    fn values(&self, limit: u64) -> Option<u64> {
        let mut input = Input { bytes: self.bytes };
        match self.kind & 7 {
            // Group sizes, actors, integers, deltas and value lengths: runs of one number.
            0..=3 | 6 => input.run_values(limit, |input| input.number().map(|_| ())),
            4 => input.switch_values(limit),
            5 => input.run_values(limit, Input::prefixed),
            // The values' own bytes; their lengths were counted above.
            _ => Some(0),
        }
    }
}

struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    fn change_columns(&mut self) -> Option<Vec<Column<'a>>> {
        self.bytes = self.bytes.strip_prefix(MAGIC)?;
        self.skip(4)?;
        let kind = self.take(1)?;
        let len = self.len()?;
        if kind != [CHUNK_CHANGE] || len != self.bytes.len() {
            return None;
        }
        let parents = self.len()?;
        self.skip(parents.checked_mul(32)?)?;
        self.prefixed()?;
        // Sequence number, first operation and time.
        for _ in 0..3 {
            self.number()?;
        }
        self.prefixed()?;
        for _ in 0..self.number()? {
            self.prefixed()?;
        }
        let count = self.number()?;
        if count > MAX_COLUMNS {
            return None;
        }
        let mut headers = Vec::new();
        for _ in 0..count {
            headers.push((u32::try_from(self.number()?).ok()?, self.len()?));
        }
        headers.into_iter().map(|(kind, len)| Some(Column { kind, bytes: self.take(len)? })).collect()
    }

    /// Values in runs: `n > 0` repeats one value, `n < 0` has that many of its own, 0 is a run of absent ones.
    fn run_values(&mut self, limit: u64, value: impl Fn(&mut Self) -> Option<()>) -> Option<u64> {
        let mut total = 0_u64;
        while !self.bytes.is_empty() && total <= limit {
            let run = self.signed()?;
            let count = match run {
                0 => self.number()?,
                run => run.unsigned_abs(),
            };
            total = total.saturating_add(count);
            let own = if run > 0 { 1 } else { count.min(limit.saturating_add(1)) };
            for _ in 0..(if run == 0 { 0 } else { own }) {
                value(self)?;
            }
        }
        Some(total)
    }

    /// Booleans: the lengths of runs that take turns.
    fn switch_values(&mut self, limit: u64) -> Option<u64> {
        let mut total = 0_u64;
        while !self.bytes.is_empty() && total <= limit {
            total = total.saturating_add(self.number()?);
        }
        Some(total)
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        Some(taken)
    }

    fn skip(&mut self, len: usize) -> Option<()> {
        self.take(len).map(|_| ())
    }

    fn len(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }

    fn prefixed(&mut self) -> Option<()> {
        let len = self.len()?;
        self.skip(len)
    }

    /// An unsigned LEB128 number; also passes over a signed one, which has as many bytes.
    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.take(1)? else { return None };
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let before = self.bytes;
        let value = self.number()?.cast_signed();
        let used = before.len() - self.bytes.len();
        let negative = before.get(used - 1).is_some_and(|last| last & 0x40 != 0);
        let bits = u32::try_from(used * 7).ok()?;
        Some(if negative && bits < 64 { value | (-1_i64 << bits) } else { value })
    }
}

#[cfg(test)]
mod tests {
    use super::{Column, Input, check_operations};

    #[test]
    fn runs_of_each_kind_are_counted() {
        // 3 × 5, then 2 own values, then 4 absent ones.
        let integers = Column { kind: 2, bytes: &[3, 5, 0x7e, 1, 2, 0, 4] };
        assert_eq!(integers.values(100), Some(9));
        let booleans = Column { kind: 4, bytes: &[2, 7, 1] };
        assert_eq!(booleans.values(100), Some(10));
        let texts = Column { kind: 5, bytes: &[2, 1, b'a', 0x7f, 2, b'b', b'c'] };
        assert_eq!(texts.values(100), Some(3));
    }

    #[test]
    fn a_claim_of_a_billion_billion_is_seen_at_once() {
        let column = Column { kind: 2, bytes: &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10, 1] };
        assert!(column.values(1000).unwrap() > 1000);
        let absent = Column { kind: 2, bytes: &[0, 0xff, 0xff, 0xff, 0xff, 0x0f] };
        assert!(absent.values(1000).unwrap() > 1000);
    }

    #[test]
    fn signed_numbers_follow_leb128() {
        for (bytes, value) in [(&[0x7f_u8][..], -1), (&[0x3f], 63), (&[0x80, 0x7f], -128), (&[0xc0, 0x00], 64)] {
            assert_eq!(Input { bytes }.signed(), Some(value));
        }
    }

    #[test]
    fn deflated_and_broken_chunks_are_refused() {
        let deflated = [0x85, 0x6f, 0x4a, 0x83, 0, 0, 0, 0, 2, 0];
        assert!(check_operations(&deflated, 10).is_err());
        assert!(check_operations(b"no change", 10).is_err());
        assert!(check_operations(&[], 10).is_err());
    }
}
