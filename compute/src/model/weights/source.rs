//! Tensors of one or several safetensors files, read one at a time.
//!
//! Invariant: a header is measured before it is read, and a tensor is allocated only after its file proved to hold
//! every byte of it; so memory beyond the finished tensors is one tensor and the headers.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

use candle_core::Tensor;
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::decode;
use crate::model::ModelError;

/// The longest header read: ten thousand tensors with long names need about two megabytes.
const MAX_HEADER_BYTES: u64 = 16 << 20;
/// Bytes before the header that give its length.
const LENGTH_BYTES: u64 = 8;

struct Place {
    file: usize,
    kind: Dtype,
    shape: Vec<usize>,
    start: u64,
    length: usize,
}

/// Open files and the tensors in them that were not taken yet.
pub(crate) struct TensorFiles<R> {
    files: Vec<(String, R)>,
    tensors: BTreeMap<String, Place>,
}

fn refused(file: &str, what: impl std::fmt::Display) -> ModelError {
    ModelError::Weights(format!("{file}: {what}"))
}

impl<R: Read + Seek> TensorFiles<R> {
    /// Reads the headers of named files.
    pub(crate) fn open(mut files: Vec<(String, R)>) -> Result<Self, ModelError> {
        let mut tensors = BTreeMap::new();
        for (index, (name, file)) in files.iter_mut().enumerate() {
            for (tensor, place) in read_header(index, name, file)? {
                if tensors.insert(tensor.clone(), place).is_some() {
                    return Err(refused(&tensor, "stored twice"));
                }
            }
        }
        Ok(Self { files, tensors })
    }

    /// Reads a tensor of that shape as f32 and takes it from the list.
    pub(crate) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let place = self.tensors.remove(name).ok_or_else(|| refused(name, "missing"))?;
        if place.shape != shape {
            return Err(refused(name, format!("shape {:?}, expected {shape:?}", place.shape)));
        }
        let (file_name, file) = &mut self.files[place.file];
        let failed = |source| ModelError::File { file: file_name.clone(), source };
        let mut bytes = vec![0; place.length];
        file.seek(SeekFrom::Start(place.start)).map_err(failed)?;
        file.read_exact(&mut bytes).map_err(failed)?;
        decode(name, (place.kind, &place.shape, &bytes), shape)
    }

    /// The number format that most of the files' bytes are in.
    pub(crate) fn most_stored(&self) -> String {
        let mut bytes: BTreeMap<String, usize> = BTreeMap::new();
        for place in self.tensors.values() {
            *bytes.entry(format!("{:?}", place.kind)).or_default() += place.length;
        }
        bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(kind, _)| kind).unwrap_or_default()
    }

    /// Names of the tensors not taken, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }
}

fn read_header<R: Read + Seek>(index: usize, name: &str, file: &mut R) -> Result<Vec<(String, Place)>, ModelError> {
    let failed = |source| ModelError::File { file: name.to_owned(), source };
    let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut length = [0; 8];
    if size < LENGTH_BYTES {
        return Err(refused(name, "shorter than a header"));
    }
    file.read_exact(&mut length).map_err(failed)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES || length > size - LENGTH_BYTES {
        return Err(refused(name, format!("a header of {length} bytes in a file of {size}")));
    }
    let data = LENGTH_BYTES + length;
    let mut header = vec![0; usize::try_from(length).map_err(|_| refused(name, "header too long"))?];
    file.read_exact(&mut header).map_err(failed)?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| refused(name, error))?;
    let stored = metadata.data_len();
    if (stored as u64).checked_add(data) != Some(size) {
        return Err(refused(name, format!("{stored} bytes of tensors in a file of {size}")));
    }
    let mut places = Vec::new();
    for tensor in metadata.offset_keys() {
        let info = metadata.info(&tensor).ok_or_else(|| refused(&tensor, "no description"))?;
        let (start, end) = info.data_offsets;
        let elements = info.shape.iter().try_fold(1_usize, |product, side| product.checked_mul(*side));
        let bits = elements.and_then(|elements| elements.checked_mul(info.dtype.bitsize()));
        let length = end.checked_sub(start).filter(|length| length.checked_mul(8) == bits && end <= stored);
        let length = length.ok_or_else(|| refused(&tensor, "offsets that don't fit its shape"))?;
        let place =
            Place { file: index, kind: info.dtype, shape: info.shape.clone(), start: data + start as u64, length };
        places.push((tensor, place));
    }
    Ok(places)
}
