//! Writing GGUF, version 3.
//!
//! Invariant: equal input gives equal bytes, and [`super::GgufFile`] reads back what was written.

use std::io::Write;

use candle_core::quantized::{GgmlDType, QTensor};

use super::GgufError;
use super::file::MAGIC;
use super::value::{Value, Values};

/// Where tensors begin.
const ALIGNMENT: usize = 32;

/// A tensor to write.
pub struct GgufTensor {
    /// As llama.cpp names it.
    pub name: String,
    /// Its numbers.
    pub tensor: QTensor,
}

const fn code_of(kind: GgmlDType) -> u32 {
    match kind {
        GgmlDType::F32 => 0,
        GgmlDType::F16 => 1,
        GgmlDType::Q4_0 => 2,
        GgmlDType::Q4_1 => 3,
        GgmlDType::Q5_0 => 6,
        GgmlDType::Q5_1 => 7,
        GgmlDType::Q8_0 => 8,
        GgmlDType::Q8_1 => 9,
        GgmlDType::Q2K => 10,
        GgmlDType::Q3K => 11,
        GgmlDType::Q4K => 12,
        GgmlDType::Q5K => 13,
        GgmlDType::Q6K => 14,
        GgmlDType::Q8K => 15,
        GgmlDType::BF16 => 30,
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn put_value(bytes: &mut Vec<u8>, value: &Value) {
    let head = |bytes: &mut Vec<u8>, kind: u32| bytes.extend(kind.to_le_bytes());
    match value {
        // Most readers ask for 32 bits where a number fits.
        Value::Unsigned(value) => match u32::try_from(*value) {
            Ok(value) => {
                head(bytes, 4);
                bytes.extend(value.to_le_bytes());
            }
            Err(_) => {
                head(bytes, 10);
                bytes.extend(value.to_le_bytes());
            }
        },
        Value::Signed(value) => {
            head(bytes, 11);
            bytes.extend(value.to_le_bytes());
        }
        Value::Float(value) => {
            head(bytes, 6);
            bytes.extend(crate::ops::narrow(*value).to_le_bytes());
        }
        Value::Bool(value) => {
            head(bytes, 7);
            bytes.push(u8::from(*value));
        }
        Value::Text(text) => {
            head(bytes, 8);
            put_text(bytes, text);
        }
        Value::Array(values) => {
            head(bytes, 9);
            put_values(bytes, values);
        }
    }
}

fn put_values(bytes: &mut Vec<u8>, values: &Values) {
    let mut head = |kind: u32, count: usize| {
        bytes.extend(kind.to_le_bytes());
        bytes.extend((count as u64).to_le_bytes());
    };
    match values {
        Values::Whole(values) => {
            let small = values.iter().all(|value| i32::try_from(*value).is_ok());
            head(if small { 5 } else { 11 }, values.len());
            for value in values {
                match i32::try_from(*value) {
                    Ok(value) if small => bytes.extend(value.to_le_bytes()),
                    _ => bytes.extend(value.to_le_bytes()),
                }
            }
        }
        Values::Float(values) => {
            head(6, values.len());
            values.iter().for_each(|value| bytes.extend(crate::ops::narrow(*value).to_le_bytes()));
        }
        Values::Bool(values) => {
            head(7, values.len());
            bytes.extend(values.iter().map(|value| u8::from(*value)));
        }
        Values::Text(texts) => {
            head(8, texts.len());
            texts.iter().for_each(|text| put_text(bytes, text));
        }
    }
}

/// The bytes of a file with this metadata and these tensors.
///
/// # Errors
/// When a tensor's numbers can't be read.
pub fn write(metadata: &[(String, Value)], tensors: &[GgufTensor]) -> Result<Vec<u8>, GgufError> {
    let mut bytes = Vec::new();
    write_to(&mut bytes, metadata, tensors)?;
    Ok(bytes)
}

/// Writes a file with this metadata and these tensors; of the tensors, nothing is held twice.
///
/// # Errors
/// When a tensor's numbers can't be read or writing fails.
pub fn write_to(out: &mut impl Write, metadata: &[(String, Value)], tensors: &[GgufTensor]) -> Result<(), GgufError> {
    let mut header = MAGIC.to_vec();
    header.extend(3_u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_text(&mut header, key);
        put_value(&mut header, value);
    }
    let mut start = 0_usize;
    for GgufTensor { name, tensor } in tensors {
        put_text(&mut header, name);
        let dims = tensor.shape().dims();
        header.extend(u32::try_from(dims.len()).unwrap_or(u32::MAX).to_le_bytes());
        dims.iter().rev().for_each(|side| header.extend((*side as u64).to_le_bytes()));
        header.extend(code_of(tensor.dtype()).to_le_bytes());
        header.extend((start as u64).to_le_bytes());
        start += tensor.storage_size_in_bytes().next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
    out.write_all(&header)?;
    for GgufTensor { tensor, .. } in tensors {
        let data = tensor.data()?;
        out.write_all(&data)?;
        out.write_all(&[0; ALIGNMENT][..data.len().next_multiple_of(ALIGNMENT) - data.len()])?;
    }
    Ok(())
}
