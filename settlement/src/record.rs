//! The fixed-width, big-endian records this crate keeps on disk.
//!
//! Invariant: the encodings are ours and no other crate's types are serialised, so an upgrade of revm or alloy
//! cannot make an old file unreadable. Reading never panics and never allocates more than the input is long.

/// Why stored bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The record ends before its fields do.
    #[error("record ends early")]
    Short,
    /// The record goes on after its last field.
    #[error("record has {0} bytes too many")]
    Trailing(usize),
    /// The record was written by another version.
    #[error("record has version {got}, this program reads version {expected}")]
    Version {
        /// Version found.
        got: u8,
        /// Version this program writes.
        expected: u8,
    },
    /// A field holds a value outside its range.
    #[error("record holds an impossible {0}")]
    Value(&'static str),
}

/// Appends fields to one record.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new(version: u8) -> Self {
        Self(vec![version])
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.fixed(&value.to_be_bytes())
    }

    pub(crate) fn u128(&mut self, value: u128) -> &mut Self {
        self.fixed(&value.to_be_bytes())
    }

    /// Bytes whose number the format fixes.
    pub(crate) fn fixed(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Bytes of any number, after their length.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u64(bytes.len() as u64).fixed(bytes)
    }

    pub(crate) fn finish(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.0)
    }
}

/// Takes fields off the front of one record.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], version: u8) -> Result<Self, RecordError> {
        let (&got, rest) = bytes.split_first().ok_or(RecordError::Short)?;
        if got != version {
            return Err(RecordError::Version { got, expected: version });
        }
        Ok(Self(rest))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(RecordError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(RecordError::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, RecordError> {
        self.fixed::<1>().map(|[byte]| byte)
    }

    pub(crate) fn bool(&mut self) -> Result<bool, RecordError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(RecordError::Value("flag")),
        }
    }

    pub(crate) fn u64(&mut self) -> Result<u64, RecordError> {
        self.fixed().map(u64::from_be_bytes)
    }

    pub(crate) fn u128(&mut self) -> Result<u128, RecordError> {
        self.fixed().map(u128::from_be_bytes)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], RecordError> {
        let length = usize::try_from(self.u64()?).map_err(|_| RecordError::Short)?;
        self.take(length)
    }

    pub(crate) fn end(self) -> Result<(), RecordError> {
        if self.0.is_empty() { Ok(()) } else { Err(RecordError::Trailing(self.0.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_and_damage_is_an_error() {
        let record = Writer::new(3).u8(1).u64(7).u128(u128::MAX).bytes(b"abc").fixed(&[9; 4]).finish();
        let mut reader = Reader::new(&record, 3).unwrap();
        assert!(reader.bool().unwrap());
        assert_eq!(reader.u64().unwrap(), 7);
        assert_eq!(reader.u128().unwrap(), u128::MAX);
        assert_eq!(reader.bytes().unwrap(), b"abc");
        assert_eq!(reader.fixed::<4>().unwrap(), [9; 4]);
        reader.end().unwrap();

        assert_eq!(Reader::new(&record, 4).err(), Some(RecordError::Version { got: 3, expected: 4 }));
        assert_eq!(Reader::new(&[], 3).err(), Some(RecordError::Short));
        let mut huge = Writer::new(3).u64(u64::MAX).finish();
        assert_eq!(Reader::new(&huge, 3).unwrap().bytes(), Err(RecordError::Short));
        huge.push(0);
        let mut reader = Reader::new(&huge, 3).unwrap();
        reader.u64().unwrap();
        assert_eq!(reader.end(), Err(RecordError::Trailing(1)));
    }
}
