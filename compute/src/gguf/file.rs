//! The header: metadata and where each tensor lies.
//!
//! Invariant: a [`TensorInfo`] that exists describes bytes that the file holds, in whole blocks of a type we read, and
//! that no other tensor of the file has.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek, SeekFrom};

use candle_core::quantized::GgmlDType;

use super::GgufError;
use super::value::{Value, Values};

/// The longest header read: vocabularies of 262,144 tokens with merges and scores need about twenty megabytes.
pub const MAX_HEADER_BYTES: u64 = 64 << 20;
/// Most tensors: 256 layers of fourteen and some more.
pub const MAX_TENSORS: u64 = 4_096;
/// Most metadata entries; real files have about forty.
const MAX_ENTRIES: u64 = 4_096;
/// The longest name of an entry or tensor.
const MAX_NAME_BYTES: u64 = 256;
/// The longest text of the metadata: chat templates reach twenty kilobytes.
const MAX_TEXT_BYTES: u64 = 1 << 20;
/// Most elements of an array: four merges for each token of the largest vocabulary.
const MAX_ELEMENTS: u64 = 1 << 20;
/// Dimensions of a tensor, as ggml has.
const MAX_DIMENSIONS: u32 = 4;
/// Where tensors begin unless the file says otherwise.
const USUAL_ALIGNMENT: u64 = 32;
/// The largest alignment.
const MAX_ALIGNMENT: u64 = 1 << 16;

pub(super) const MAGIC: [u8; 4] = *b"GGUF";

/// Where a tensor lies and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// How its numbers are stored.
    pub kind: GgmlDType,
    /// Slowest dimension first, as everywhere here; the file has them the other way round.
    pub shape: Vec<usize>,
    pub(super) start: u64,
    pub(super) length: usize,
}

/// An open file.
#[derive(Debug)]
pub struct GgufFile<R> {
    reader: R,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
}

/// ggml's numbers of the types we read.
pub(super) const fn kind_of(code: u32) -> Option<GgmlDType> {
    Some(match code {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        6 => GgmlDType::Q5_0,
        8 => GgmlDType::Q8_0,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}

impl<R: Read + Seek> GgufFile<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// When the file is no GGUF, truncated or out of bounds.
    pub fn open(mut reader: R) -> Result<Self, GgufError> {
        let size = reader.seek(SeekFrom::End(0))?;
        reader.seek(SeekFrom::Start(0))?;
        let mut header = Header { reader: BufReader::new(reader), left: size.min(MAX_HEADER_BYTES), read: 0 };
        if header.bytes::<4>()? != MAGIC {
            return Err(GgufError::Header("not a GGUF file".into()));
        }
        let version = header.u32()?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Header(format!("version {version}, allowed 2 and 3")));
        }
        let tensor_count = header.count("tensors", MAX_TENSORS)?;
        let entry_count = header.count("metadata entries", MAX_ENTRIES)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..entry_count {
            let key = header.text(MAX_NAME_BYTES)?;
            let kind = header.u32()?;
            let value = header.value(kind)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(GgufError::metadata(&key, "stored twice"));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => USUAL_ALIGNMENT,
            Some(value) => value.unsigned().unwrap_or(0),
        };
        if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
            return Err(GgufError::metadata("general.alignment", alignment));
        }
        let mut described = Vec::new();
        for _ in 0..tensor_count {
            described.push(header.tensor(alignment)?);
        }
        let data = header.read.next_multiple_of(alignment);
        let mut tensors = BTreeMap::new();
        let mut expected = 0_u64;
        for (name, mut tensor) in described {
            // As llama.cpp wants it. Bytes that several tensors share would take memory that the file's size doesn't
            // tell of.
            if tensor.start != expected {
                let what = format!("offset {}, where {expected} follows on the tensor before", tensor.start);
                return Err(GgufError::tensor(&name, what));
            }
            expected = (tensor.length as u64)
                .checked_next_multiple_of(alignment)
                .map_or(u64::MAX, |length| expected.saturating_add(length));
            tensor.start = tensor.start.saturating_add(data);
            if tensor.start.checked_add(tensor.length as u64).is_none_or(|end| end > size) {
                return Err(GgufError::tensor(&name, format!("lies beyond the file's {size} bytes")));
            }
            if tensors.insert(name.clone(), tensor).is_some() {
                return Err(GgufError::tensor(&name, "stored twice"));
            }
        }
        Ok(Self { reader: header.reader.into_inner(), metadata, tensors })
    }

    /// A metadata entry.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// All metadata, in order of the keys.
    #[must_use]
    pub const fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// All tensors, in order of their names.
    #[must_use]
    pub const fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// Bytes that the weights take once read: blocks stay as they are, what has a floating-point type becomes f32.
    #[must_use]
    pub fn bytes_in_memory(&self) -> u64 {
        let bytes = |tensor: &TensorInfo| match tensor.kind.block_size() {
            1 => tensor.shape.iter().fold(4_u64, |bytes, side| bytes.saturating_mul(*side as u64)),
            _ => tensor.length as u64,
        };
        self.tensors.values().map(bytes).fold(0, u64::saturating_add)
    }

    /// The number format that most of the file's bytes are in, as llama.cpp writes it.
    pub(crate) fn most_stored(&self) -> String {
        let mut bytes: BTreeMap<String, usize> = BTreeMap::new();
        for tensor in self.tensors.values() {
            *bytes.entry(format!("{:?}", tensor.kind)).or_default() += tensor.length;
        }
        let most = bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(kind, _)| kind).unwrap_or_default();
        most.strip_suffix('K').map_or_else(|| most.clone(), |stem| format!("{stem}_K"))
    }

    /// The whole file from its beginning, to be hashed.
    pub(crate) fn whole(&mut self) -> Result<&mut R, GgufError> {
        self.reader.seek(SeekFrom::Start(0))?;
        Ok(&mut self.reader)
    }

    /// The bytes of a tensor.
    pub(super) fn bytes(&mut self, info: &TensorInfo) -> Result<Vec<u8>, GgufError> {
        let mut bytes = vec![0; info.length];
        self.reader.seek(SeekFrom::Start(info.start))?;
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// A metadata entry that must be there.
    pub(super) fn need<'a, T>(&'a self, key: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<T, GgufError> {
        self.optional(key, read)?.ok_or_else(|| GgufError::metadata(key, "missing"))
    }

    /// A metadata entry that must be of the right type if it is there.
    pub(super) fn optional<'a, T>(
        &'a self,
        key: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| GgufError::metadata(key, "of another type")),
        }
    }
}

/// Reads forward, never beyond what a header may have.
struct Header<R> {
    reader: BufReader<R>,
    left: u64,
    read: u64,
}

impl<R: Read> Header<R> {
    fn take(&mut self, bytes: u64) -> Result<(), GgufError> {
        self.left = self
            .left
            .checked_sub(bytes)
            .ok_or_else(|| GgufError::Header(format!("{bytes} bytes wanted, {} left", self.left)))?;
        self.read += bytes;
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        self.take(N as u64)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn count(&mut self, what: &str, most: u64) -> Result<u64, GgufError> {
        match self.u64()? {
            count if count > most => Err(GgufError::Header(format!("{count} {what}, at most {most}"))),
            count => Ok(count),
        }
    }

    fn text(&mut self, most: u64) -> Result<String, GgufError> {
        let length = self.count("bytes of text", most)?;
        self.take(length)?;
        let length = usize::try_from(length).map_err(|_| GgufError::Header("text too long".into()))?;
        let mut bytes = vec![0; length];
        self.reader.read_exact(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| GgufError::Header("text that is not UTF-8".into()))
    }

    fn value(&mut self, kind: u32) -> Result<Value, GgufError> {
        Ok(match kind {
            0 => Value::Unsigned(u64::from(self.bytes::<1>()?[0])),
            1 => Value::Signed(i64::from(i8::from_le_bytes(self.bytes()?))),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.bytes()?))),
            3 => Value::Signed(i64::from(i16::from_le_bytes(self.bytes()?))),
            4 => Value::Unsigned(u64::from(self.u32()?)),
            5 => Value::Signed(i64::from(i32::from_le_bytes(self.bytes()?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.bytes()?))),
            7 => match self.bytes::<1>()? {
                [truth @ 0..=1] => Value::Bool(truth == 1),
                [other] => return Err(GgufError::Header(format!("a truth value of {other}"))),
            },
            8 => Value::Text(self.text(MAX_TEXT_BYTES)?),
            9 => Value::Array(self.array()?),
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.bytes()?)),
            12 => Value::Float(f64::from_le_bytes(self.bytes()?)),
            other => return Err(GgufError::Header(format!("a value of type {other}"))),
        })
    }

    fn array(&mut self) -> Result<Values, GgufError> {
        let kind = self.u32()?;
        let count = self.count("array elements", MAX_ELEMENTS)?;
        // The smallest elements are measured against what is left before room is made for any.
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            other => return Err(GgufError::Header(format!("an array of type {other}"))),
        };
        if count * least > self.left {
            return Err(GgufError::Header(format!("an array of {count} elements in {} bytes", self.left)));
        }
        let mut elements = (0..count).map(|_| self.value(kind));
        let mixed = || GgufError::Header("an array element out of range".into());
        Ok(match kind {
            6 | 12 => Values::Float(elements.map(|value| value?.float().ok_or_else(mixed)).collect::<Result<_, _>>()?),
            7 => Values::Bool(elements.map(|value| value?.truth().ok_or_else(mixed)).collect::<Result<_, _>>()?),
            8 => {
                let mut texts = Vec::new();
                elements.try_for_each(|value| match value? {
                    Value::Text(text) => {
                        texts.push(text);
                        Ok(())
                    }
                    _ => Err(mixed()),
                })?;
                Values::Text(texts)
            }
            _ => Values::Whole(
                elements
                    .map(|value| match value? {
                        Value::Signed(value) => Ok(value),
                        Value::Unsigned(value) => i64::try_from(value).map_err(|_| mixed()),
                        _ => Err(mixed()),
                    })
                    .collect::<Result<_, _>>()?,
            ),
        })
    }

    fn tensor(&mut self, alignment: u64) -> Result<(String, TensorInfo), GgufError> {
        let name = self.text(MAX_NAME_BYTES)?;
        let refused = |what: String| GgufError::tensor(&name, what);
        let dimensions = self.u32()?;
        if dimensions == 0 || dimensions > MAX_DIMENSIONS {
            return Err(refused(format!("{dimensions} dimensions, allowed 1 to {MAX_DIMENSIONS}")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(usize::try_from(self.u64()?).map_err(|_| refused("too large".into()))?);
        }
        let (code, start) = (self.u32()?, self.u64()?);
        let kind = kind_of(code).ok_or_else(|| {
            refused(format!("type {code}, read are F32, F16, BF16, Q4_0, Q5_0, Q8_0, Q4_K, Q5_K, Q6_K"))
        })?;
        if !start.is_multiple_of(alignment) {
            return Err(refused(format!("offset {start} with an alignment of {alignment}")));
        }
        let row = shape.first().copied().unwrap_or(0);
        if shape.contains(&0) || !row.is_multiple_of(kind.block_size()) {
            return Err(refused(format!("shape {shape:?} in blocks of {}", kind.block_size())));
        }
        let elements = shape.iter().try_fold(1_usize, |product, side| product.checked_mul(*side));
        let length = elements.and_then(|elements| (elements / kind.block_size()).checked_mul(kind.type_size()));
        let length = length.ok_or_else(|| refused(format!("shape {shape:?}")))?;
        shape.reverse();
        Ok((name, TensorInfo { kind, shape, start, length }))
    }
}
