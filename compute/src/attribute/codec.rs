//! Canonical bytes of an index, and reading them from anyone.
//!
//! Layout, integers little-endian: magic, adapter hash (32), number of rows (u32); for each row contributor (u32), first
//! contributor of its cluster (u32), number of tensors (u32), for each tensor scale (f32 bits), length (u32), values (i8).
//!
//! Invariant: every length is checked against the bytes that are left before anything is allocated, and bytes
//! that decode encode back to themselves.

use tributary_protocol::id::Hash;

use super::AttributeError;
use super::index::{Index, MAX_CONTRIBUTORS, Row};
use super::quantise::DeltaTensor;

const MAGIC: &[u8; 8] = b"TRIBLOC3";
/// The longest index read: 256 rows of eight million numbers are this.
pub const MAX_INDEX_BYTES: usize = 2 << 30;
/// Tensors of one adapter: two for each of seven products in 256 layers.
const MAX_TENSORS: usize = 2 * 7 * 256;

impl Index {
    /// Canonical bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.adapter().as_bytes());
        put_length(&mut bytes, self.rows().len());
        self.rows().iter().for_each(|row| bytes.extend(encode_row(row)));
        bytes
    }

    /// Reads an index from bytes of any origin.
    ///
    /// # Errors
    /// When the bytes are not a canonical index.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AttributeError> {
        if bytes.len() > MAX_INDEX_BYTES {
            return Err(AttributeError::TooLong { got: bytes.len(), most: MAX_INDEX_BYTES });
        }
        let mut reader = Reader { left: bytes };
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(AttributeError::Malformed("magic"));
        }
        let adapter = Hash(reader.array()?);
        let count = reader.count(MAX_CONTRIBUTORS)?;
        let rows: Vec<Row> = (0..count).map(|_| reader.row()).collect::<Result<_, _>>()?;
        if !reader.left.is_empty() {
            return Err(AttributeError::Malformed("bytes after the end"));
        }
        Self::of(adapter, rows)
    }
}

/// A row's bytes, which its place in the index does not change.
pub(super) fn encode_row(row: &Row) -> Vec<u8> {
    let mut bytes = [row.contributor, row.cluster].map(u32::to_le_bytes).concat();
    put_length(&mut bytes, row.delta.len());
    for tensor in &row.delta {
        bytes.extend(tensor.scale.to_bits().to_le_bytes());
        put_length(&mut bytes, tensor.values.len());
        bytes.extend(tensor.values.iter().map(|value| value.to_le_bytes()[0]));
    }
    bytes
}

fn put_length(bytes: &mut Vec<u8>, length: usize) {
    let length = u32::try_from(length).expect("invariant: adapters are bounded far below 4 GiB");
    bytes.extend(length.to_le_bytes());
}

struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], AttributeError> {
        let (taken, left) = self.left.split_at_checked(length).ok_or(AttributeError::Malformed("ends early"))?;
        self.left = left;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], AttributeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn length(&mut self) -> Result<usize, AttributeError> {
        usize::try_from(u32::from_le_bytes(self.array()?)).map_err(|_| AttributeError::Malformed("length"))
    }

    /// A number of items, each of which takes at least one byte of what is left.
    fn count(&mut self, most: usize) -> Result<usize, AttributeError> {
        let count = self.length()?;
        if count > most || count > self.left.len() {
            return Err(AttributeError::Malformed("count"));
        }
        Ok(count)
    }

    fn tensor(&mut self) -> Result<DeltaTensor, AttributeError> {
        let scale = f32::from_bits(u32::from_le_bytes(self.array()?));
        if !scale.is_finite() || scale.is_sign_negative() {
            return Err(AttributeError::Malformed("scale"));
        }
        let length = self.length()?;
        let values = self.take(length)?.iter().map(|&byte| i8::from_le_bytes([byte])).collect();
        Ok(DeltaTensor { scale, values })
    }

    fn row(&mut self) -> Result<Row, AttributeError> {
        let [contributor, cluster] = [u32::from_le_bytes(self.array()?), u32::from_le_bytes(self.array()?)];
        let tensors = self.count(MAX_TENSORS)?;
        let delta = (0..tensors).map(|_| self.tensor()).collect::<Result<_, _>>()?;
        Ok(Row { contributor, cluster, delta })
    }
}
