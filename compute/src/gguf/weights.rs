//! A model's weights from GGUF's tensors.
//!
//! Invariant: every tensor of the file is used, has exactly the expected shape and only finite numbers. Products stay
//! in the file's blocks; what the file has in a floating-point type becomes f32.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::{Read, Seek};
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};

use super::{GgufError, GgufFile};
use crate::model::weights::{BlockWeights, Parts};
use crate::model::{Config, Family, Module, RopeScaling};
use crate::ops::{Precision, Table, Weight, with_floats};

/// The alignment that candle's blocks need at most.
const BLOCK_ALIGNMENT: usize = 4;

/// llama.cpp's name of a product within its block.
pub(crate) const fn stem(module: Module) -> &'static str {
    match module {
        Module::Query => "attn_q",
        Module::Key => "attn_k",
        Module::Value => "attn_v",
        Module::Output => "attn_output",
        Module::Gate => "ffn_gate",
        Module::Up => "ffn_up",
        Module::Down => "ffn_down",
    }
}

/// Reads everything, and completes `config` by the divisors of the rotary frequencies where the file has them.
///
/// # Errors
/// When a tensor is missing, surplus, of another shape or type, or not finite.
pub(crate) fn parts_of<R: Read + Seek>(file: &mut GgufFile<R>, config: &mut Config) -> Result<Parts, GgufError> {
    let mut reader = Reader { file, used: BTreeSet::new() };
    let (hidden, vocab) = (config.hidden, config.vocab);
    let stored = reader.any("token_embd.weight", &[vocab, hidden], None)?;
    let mut blocks = Vec::new();
    for layer in 0..config.layers {
        blocks.push(reader.block(config, layer)?);
    }
    let norm = reader.dense("output_norm.weight", &[hidden])?;
    let head = match (config.tied, &stored) {
        (false, _) => reader.product("output.weight", &[vocab, hidden], None)?,
        (true, Stored::Blocks(tensor)) => Weight::Quantised(tensor.clone(), Precision::Quantised),
        (true, Stored::Floats(tensor)) => Weight::new(tensor.t()?)?,
    };
    if reader.file.tensors().contains_key("rope_freqs.weight") {
        let divisors = reader.dense("rope_freqs.weight", &[config.head_dim / 2])?.to_vec1::<f32>()?;
        let scaling = RopeScaling::Divisors(divisors);
        scaling.check(config.head_dim).map_err(|error| GgufError::tensor("rope_freqs.weight", error))?;
        if config.rope_scaling != RopeScaling::None {
            return Err(GgufError::tensor("rope_freqs.weight", "beside another scaling"));
        }
        config.rope_scaling = scaling;
    }
    if let Some(name) = reader.file.tensors().keys().find(|name| !reader.used.contains(*name)) {
        return Err(GgufError::tensor(name, "unexpected"));
    }
    let embedding = match stored {
        Stored::Blocks(tensor) => Table::Quantised(tensor),
        Stored::Floats(tensor) => Table::Dense(tensor),
    };
    Ok(Parts { embedding, blocks, norm, head })
}

enum Stored {
    /// In the file's shape.
    Floats(Tensor),
    Blocks(Arc<QTensor>),
}

struct Reader<'a, R> {
    file: &'a mut GgufFile<R>,
    used: BTreeSet<String>,
}

impl<R: Read + Seek> Reader<'_, R> {
    fn block(&mut self, config: &Config, layer: usize) -> Result<BlockWeights<Weight>, GgufError> {
        let name = |stem: &str, kind: &str| format!("blk.{layer}.{stem}.{kind}");
        let attention_norm = self.dense(&name("attn_norm", "weight"), &[config.hidden])?;
        let mlp_norm = self.dense(&name("ffn_norm", "weight"), &[config.hidden])?;
        let width = [config.head_dim];
        let head_norms = match config.family.has_head_norms() {
            true => Some([
                self.dense(&name("attn_q_norm", "weight"), &width)?,
                self.dense(&name("attn_k_norm", "weight"), &width)?,
            ]),
            false => None,
        };
        let mut linears = Vec::with_capacity(Module::ALL.len());
        for module in Module::ALL {
            let (inner, outer) = config.module_shape(module);
            // llama.cpp rotates neighbouring dimensions in this family, so its converter reorders the rows of each head.
            let interleaved = config.family == Family::Llama && matches!(module, Module::Query | Module::Key);
            let heads = interleaved.then_some(config.head_dim);
            linears.push(self.product(&name(stem(module), "weight"), &[outer, inner], heads)?);
        }
        let linears = linears.try_into().map_err(|_| GgufError::tensor(&name("", ""), "not seven products"))?;
        let mut bias = |module: Module| self.dense(&name(stem(module), "bias"), &[config.module_shape(module).1]);
        let biases = match config.family.has_biases() {
            true => Some([bias(Module::Query)?, bias(Module::Key)?, bias(Module::Value)?]),
            false => None,
        };
        Ok(BlockWeights { attention_norm, mlp_norm, head_norms, linears, biases })
    }

    /// A norm, bias or list: in a floating-point type.
    fn dense(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, GgufError> {
        match self.any(name, shape, None)? {
            Stored::Floats(tensor) => Ok(tensor),
            Stored::Blocks(tensor) => Err(GgufError::tensor(name, format!("type {:?}", tensor.dtype()))),
        }
    }

    fn product(&mut self, name: &str, shape: &[usize], heads: Option<usize>) -> Result<Weight, GgufError> {
        Ok(match self.any(name, shape, heads)? {
            Stored::Floats(tensor) => Weight::new(tensor.t()?)?,
            Stored::Blocks(tensor) => Weight::Quantised(tensor, Precision::Quantised),
        })
    }

    /// Reads a tensor; `interleaved` is the width of heads whose rows are to be put back into order.
    fn any(&mut self, name: &str, shape: &[usize], interleaved: Option<usize>) -> Result<Stored, GgufError> {
        let info = self.file.tensors().get(name).ok_or_else(|| GgufError::tensor(name, "missing"))?.clone();
        if info.shape != shape {
            return Err(GgufError::tensor(name, format!("shape {:?}, expected {shape:?}", info.shape)));
        }
        let mut bytes = self.file.bytes(&info)?;
        if let Some(width) = interleaved {
            bytes = put_back(&bytes, shape[0], width);
        }
        if !(bytes.as_ptr() as usize).is_multiple_of(BLOCK_ALIGNMENT) {
            return Err(GgufError::tensor(name, "memory is not aligned"));
        }
        let infinite = || GgufError::tensor(name, "a value is not finite");
        let scales = scale_offsets(info.kind);
        if !scales_are_finite(&bytes, info.kind, scales) {
            return Err(infinite());
        }
        self.used.insert(name.to_owned());
        let tensor = QTensor::new(QStorage::from_data(Cow::Owned(bytes), &Device::Cpu, info.kind)?, shape)?;
        if !scales.is_empty() {
            return Ok(Stored::Blocks(Arc::new(tensor)));
        }
        let floats = tensor.dequantize(&Device::Cpu)?;
        match with_floats(&floats, |values| values.iter().all(|value| value.is_finite()))? {
            true => Ok(Stored::Floats(floats)),
            false => Err(infinite()),
        }
    }
}

/// Where a block has its half-precision scales; none for floating-point types. All else in a block are small integers, so
/// its numbers are finite exactly if its scales are.
const fn scale_offsets(kind: GgmlDType) -> &'static [usize] {
    match kind {
        GgmlDType::Q4_0 | GgmlDType::Q5_0 | GgmlDType::Q8_0 => &[0],
        GgmlDType::Q4K | GgmlDType::Q5K => &[0, 2],
        GgmlDType::Q6K => &[208],
        _ => &[],
    }
}

fn scales_are_finite(bytes: &[u8], kind: GgmlDType, offsets: &[usize]) -> bool {
    bytes
        .chunks_exact(kind.type_size())
        .all(|block| offsets.iter().all(|at| half::f16::from_le_bytes([block[*at], block[at + 1]]).is_finite()))
}

/// Rows of each head in halves again, where llama.cpp's converter laid the halves' rows alternately.
fn put_back(bytes: &[u8], rows: usize, width: usize) -> Vec<u8> {
    let row = bytes.len() / rows;
    let half = width / 2;
    let mut ordered = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact(row * width) {
        for part in 0..2 {
            for at in 0..half {
                ordered.extend_from_slice(&head[(2 * at + part) * row..][..row]);
            }
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::{Device, GgmlDType, QStorage, QTensor, Tensor, put_back, scale_offsets, scales_are_finite};

    #[test]
    fn a_scale_that_is_not_finite_is_found_in_every_kind() {
        let kinds = [GgmlDType::Q4_0, GgmlDType::Q5_0, GgmlDType::Q8_0, GgmlDType::Q4K, GgmlDType::Q5K, GgmlDType::Q6K];
        let x = Tensor::randn(0f32, 1.0, (2, 256), &Device::Cpu).unwrap();
        for kind in kinds {
            let good = QTensor::quantize(&x, kind).unwrap().data().unwrap().into_owned();
            let offsets = scale_offsets(kind);
            assert!(scales_are_finite(&good, kind, offsets), "{kind:?}");
            let last = good.len() - kind.type_size();
            for at in offsets {
                for bad in [half::f16::NAN, half::f16::INFINITY] {
                    let mut bytes = good.clone();
                    bytes[last + at..last + at + 2].copy_from_slice(&bad.to_le_bytes());
                    assert!(!scales_are_finite(&bytes, kind, offsets), "{kind:?} {at}");
                    // The same by expanding: these are the fields that decide.
                    let storage = QStorage::from_data(bytes.into(), &Device::Cpu, kind).unwrap();
                    let values = QTensor::new(storage, (2, 256)).unwrap().dequantize(&Device::Cpu).unwrap();
                    assert!(values.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().any(|v| !v.is_finite()));
                }
            }
        }
    }

    #[test]
    fn alternating_rows_become_halves() {
        // Two heads of width 4, one byte for each row.
        assert_eq!(put_back(&[0, 2, 1, 3, 10, 12, 11, 13], 8, 4), [0, 1, 2, 3, 10, 11, 12, 13]);
    }
}
