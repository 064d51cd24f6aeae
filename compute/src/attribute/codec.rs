//! Canonical bytes of an index, and reading them from anyone.
//!
//! Layout, integers little-endian: magic, adapter hash (32), number of entries (u32); for each entry contributor
//! (u32), number of tensors (u32), for each tensor scale (f32 bits), length (u32), values (i8); then the leave-out
//! adapter as two length-prefixed files (u32, PEFT's config and safetensors).
//!
//! Invariant: every length is checked against the bytes that are left before anything is allocated, and bytes
//! that decode encode back to themselves.

use candle_core::Tensor;
use tributary_protocol::id::Hash;

use super::AttributeError;
use super::index::{Entry, Index, MAX_CONTRIBUTORS};
use super::quantise::DeltaTensor;
use crate::lora::{Adapter, AdapterFiles};
use crate::model::Config;

const MAGIC: &[u8; 8] = b"TRIBLOC1";
/// The longest index read: 256 leave-out adapters of eight million parameters with deltas are about this.
pub const MAX_INDEX_BYTES: usize = 2 << 30;
/// Tensors of one adapter: two for each of seven products in 256 layers.
const MAX_TENSORS: usize = 2 * 7 * 256;

impl Index {
    /// Canonical bytes.
    ///
    /// # Errors
    /// When an adapter's numbers can't be read.
    pub fn to_bytes(&self) -> Result<Vec<u8>, AttributeError> {
        encode(self.adapter(), self.entries())
    }

    /// Reads an index for a base of shape `config` from bytes of any origin.
    ///
    /// # Errors
    /// When the bytes are not a canonical index or hold an adapter that doesn't fit the base.
    pub fn from_bytes(config: &Config, bytes: &[u8]) -> Result<Self, AttributeError> {
        if bytes.len() > MAX_INDEX_BYTES {
            return Err(AttributeError::TooLong { got: bytes.len(), most: MAX_INDEX_BYTES });
        }
        let mut reader = Reader { left: bytes };
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(AttributeError::Malformed("magic"));
        }
        let adapter = Hash(reader.array()?);
        let count = reader.count(MAX_CONTRIBUTORS)?;
        let entries: Vec<Entry> = (0..count).map(|_| reader.entry(config)).collect::<Result<_, _>>()?;
        if !reader.left.is_empty() {
            return Err(AttributeError::Malformed("bytes after the end"));
        }
        if encode(adapter, &entries)? != bytes {
            return Err(AttributeError::Malformed("not canonical"));
        }
        Self::of(adapter, entries, bytes)
    }
}

pub(super) fn encode(adapter: Hash, entries: &[Entry]) -> Result<Vec<u8>, AttributeError> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(adapter.as_bytes());
    put_length(&mut bytes, entries.len());
    for entry in entries {
        bytes.extend(entry.contributor.to_le_bytes());
        put_length(&mut bytes, entry.delta.len());
        for tensor in &entry.delta {
            bytes.extend(tensor.scale.to_bits().to_le_bytes());
            put_length(&mut bytes, tensor.values.len());
            bytes.extend(tensor.values.iter().map(|value| value.to_le_bytes()[0]));
        }
        let files = entry.leave_out.to_files()?;
        put_length(&mut bytes, files.config_json.len());
        bytes.extend(files.config_json);
        put_length(&mut bytes, files.safetensors.len());
        bytes.extend(files.safetensors);
    }
    Ok(bytes)
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

    fn file(&mut self) -> Result<Vec<u8>, AttributeError> {
        let length = self.length()?;
        Ok(self.take(length)?.to_vec())
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

    fn entry(&mut self, config: &Config) -> Result<Entry, AttributeError> {
        let contributor = u32::from_le_bytes(self.array()?);
        let tensors = self.count(MAX_TENSORS)?;
        let delta: Vec<DeltaTensor> = (0..tensors).map(|_| self.tensor()).collect::<Result<_, _>>()?;
        let files = AdapterFiles { config_json: self.file()?, safetensors: self.file()? };
        let leave_out = Adapter::from_files(config, &files)?;
        let lengths: Vec<usize> = leave_out.tensors().map(Tensor::elem_count).collect();
        if lengths != delta.iter().map(|tensor| tensor.values.len()).collect::<Vec<_>>() {
            return Err(AttributeError::Shapes { contributor });
        }
        Ok(Entry { contributor, delta, leave_out })
    }
}
