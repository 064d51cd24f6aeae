//! A model's tensors and their file.
//!
//! Invariant: read weights are finite f32 of exactly the shapes the configuration calls for, products in (in, out);
//! the file has Hugging Face's names and (out, in).

use candle_core::{DType, Device, Tensor, Var};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};

use super::{Config, ModelError, Module};
use crate::ops::narrow;
use crate::random::{Stream, normal};

/// Number format of a weights file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightType {
    /// Half precision: half the size; values beyond 65504 are refused.
    F16,
    /// Single precision.
    F32,
}

/// The tensors of one block.
#[derive(Debug, Clone)]
pub struct BlockWeights {
    /// (hidden)
    pub attention_norm: Tensor,
    /// (hidden)
    pub mlp_norm: Tensor,
    /// In the order of [`Module::ALL`], each (in, out).
    pub linears: [Tensor; 7],
}

/// All tensors of a model.
#[derive(Debug, Clone)]
pub struct Weights {
    /// (vocabulary, hidden)
    pub embedding: Tensor,
    /// The blocks in order.
    pub blocks: Vec<BlockWeights>,
    /// (hidden)
    pub norm: Tensor,
    /// (hidden, vocabulary), unless tied to the embedding.
    pub head: Option<Tensor>,
}

/// What to make of one tensor while weights are built.
struct Request<'a> {
    name: String,
    /// As in the file.
    shape: &'a [usize],
    transposed: bool,
}

fn shape_error(name: &str, what: impl std::fmt::Display) -> ModelError {
    ModelError::Weights(format!("{name}: {what}"))
}

/// Reads one tensor as f32, checking type, shape and that every value is finite.
pub(crate) fn read(file: &SafeTensors<'_>, name: &str, shape: &[usize], device: &Device) -> Result<Tensor, ModelError> {
    let view = file.tensor(name).map_err(|_| shape_error(name, "missing"))?;
    if view.shape() != shape {
        return Err(shape_error(name, format!("shape {:?}, expected {shape:?}", view.shape())));
    }
    let kind = match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => return Err(shape_error(name, format!("type {other}, expected F32, F16 or BF16"))),
    };
    let tensor = Tensor::from_raw_buffer(view.data(), kind, shape, device)?.to_dtype(DType::F32)?;
    let finite = crate::ops::with_floats(&tensor, |values| values.iter().all(|value| value.is_finite()))?;
    if finite { Ok(tensor) } else { Err(shape_error(name, "a value is not finite")) }
}

/// The little-endian bytes of a tensor in the given type.
pub(crate) fn to_bytes(tensor: &Tensor, kind: DType) -> candle_core::Result<Vec<u8>> {
    let flat = tensor.flatten_all()?;
    match kind {
        DType::F16 => {
            let values = flat.to_dtype(DType::F16)?.to_vec1::<half::f16>()?;
            if values.iter().any(|value| !value.is_finite()) {
                candle_core::bail!("a value does not fit f16");
            }
            Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect())
        }
        _ => Ok(flat.to_vec1::<f32>()?.iter().flat_map(|value| value.to_le_bytes()).collect()),
    }
}

impl Weights {
    /// Builds every tensor through `make`, in a fixed order.
    fn build(
        config: &Config,
        make: &mut dyn FnMut(Request<'_>) -> Result<Tensor, ModelError>,
    ) -> Result<Self, ModelError> {
        let (hidden, vocab) = (config.hidden, config.vocab);
        let embedding =
            make(Request { name: "model.embed_tokens.weight".into(), shape: &[vocab, hidden], transposed: false })?;
        let mut blocks = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            let prefix = format!("model.layers.{layer}");
            let mut norm = |name: &str| {
                make(Request { name: format!("{prefix}.{name}.weight"), shape: &[hidden], transposed: false })
            };
            let (attention_norm, mlp_norm) = (norm("input_layernorm")?, norm("post_attention_layernorm")?);
            let mut linears = Vec::with_capacity(Module::ALL.len());
            for module in Module::ALL {
                let (inner, outer) = config.module_shape(module);
                let name = format!("{prefix}.{}.weight", module.path());
                linears.push(make(Request { name, shape: &[outer, inner], transposed: true })?);
            }
            let linears = linears.try_into().map_err(|_| shape_error(&prefix, "not seven products"))?;
            blocks.push(BlockWeights { attention_norm, mlp_norm, linears });
        }
        let norm = make(Request { name: "model.norm.weight".into(), shape: &[hidden], transposed: false })?;
        let head = match config.tied {
            true => None,
            false => Some(make(Request { name: "lm_head.weight".into(), shape: &[vocab, hidden], transposed: true })?),
        };
        Ok(Self { embedding, blocks, norm, head })
    }

    /// Reads `model.safetensors`. Nothing is allocated before the file proved large enough for it.
    ///
    /// # Errors
    /// When a tensor is missing, surplus, of another shape or type, or not finite.
    pub fn from_safetensors(config: &Config, bytes: &[u8]) -> Result<Self, ModelError> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| ModelError::Weights(error.to_string()))?;
        let mut taken = Vec::new();
        let weights = Self::build(config, &mut |request| {
            let tensor = read(&file, &request.name, request.shape, &Device::Cpu)?;
            taken.push(request.name);
            if request.transposed { Ok(tensor.t()?.contiguous()?) } else { Ok(tensor) }
        })?;
        let mut names = file.names();
        names.sort_unstable();
        // Some exporters store the tied head and the rotary frequencies although both follow from the rest.
        let derived = |name: &str| name.ends_with(".rotary_emb.inv_freq") || (config.tied && name == "lm_head.weight");
        match names.into_iter().find(|name| !derived(name) && !taken.iter().any(|taken| taken == name)) {
            Some(name) => Err(shape_error(name, "unexpected tensor")),
            None => Ok(weights),
        }
    }

    /// Writes `model.safetensors`; equal weights give equal bytes.
    ///
    /// # Errors
    /// When a value does not fit the type.
    pub fn to_safetensors(&self, config: &Config, kind: WeightType) -> Result<Vec<u8>, ModelError> {
        let (dtype, stored_as) = match kind {
            WeightType::F16 => (DType::F16, Dtype::F16),
            WeightType::F32 => (DType::F32, Dtype::F32),
        };
        let mut tensors = self.tensors();
        let mut stored = Vec::new();
        Self::build(config, &mut |request| {
            let tensor = tensors.next().ok_or_else(|| shape_error(&request.name, "missing"))?.detach();
            let written = if request.transposed { tensor.t()?.contiguous()? } else { tensor.clone() };
            stored.push((request.name, request.shape.to_vec(), to_bytes(&written, dtype)?));
            Ok(tensor)
        })?;
        let refused = |error: safetensors::SafeTensorError| ModelError::Weights(error.to_string());
        let mut views = Vec::new();
        for (name, shape, bytes) in &stored {
            views.push((name, TensorView::new(stored_as, shape.clone(), bytes).map_err(refused)?));
        }
        serialize(views, Some([("format".to_owned(), "pt".to_owned())].into())).map_err(refused)
    }

    /// Random weights for pretraining: normal(0, 0.02), the products that write to the residual stream divided by
    /// √(2 · layers) (GPT-2, section 2.3), norms one.
    ///
    /// # Errors
    /// When memory can't be had.
    pub fn random(config: &Config, seed: u64) -> Result<Self, ModelError> {
        let residual = 1.0 / (2.0 * config.layers as f64).sqrt();
        let mut index = 0_u32;
        Self::build(config, &mut |request| {
            index += 1;
            let count: usize = request.shape.iter().product();
            let writes_residual = request.name.contains("o_proj") || request.name.contains("down_proj");
            let deviation = if writes_residual { 0.02 * residual } else { 0.02 };
            let values = match request.shape {
                [_] => vec![1.0; count],
                _ => (0_u64..)
                    .take(count)
                    .map(|at| narrow(deviation * normal(seed, Stream::Initial, index, at)))
                    .collect(),
            };
            let tensor = Tensor::from_vec(values, request.shape, &Device::Cpu)?;
            if request.transposed { Ok(tensor.t()?.contiguous()?) } else { Ok(tensor) }
        })
    }

    /// The same weights as variables, and the variables in the order of [`Weights::tensors`].
    ///
    /// # Errors
    /// When memory can't be had.
    pub fn trainable(&self, config: &Config) -> Result<(Self, Vec<Var>), ModelError> {
        let mut tensors = self.tensors();
        let mut variables = Vec::new();
        let weights = Self::build(config, &mut |request| {
            let tensor = tensors.next().ok_or_else(|| shape_error(&request.name, "missing"))?;
            let variable = Var::from_tensor(&tensor.detach())?;
            variables.push(variable.clone());
            Ok(variable.as_tensor().clone())
        })?;
        Ok((weights, variables))
    }

    /// All tensors in canonical order.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let blocks = self
            .blocks
            .iter()
            .flat_map(|block| [&block.attention_norm, &block.mlp_norm].into_iter().chain(&block.linears));
        std::iter::once(&self.embedding).chain(blocks).chain(std::iter::once(&self.norm)).chain(&self.head)
    }
}
