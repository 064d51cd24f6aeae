//! A model's tensors and their file.
//!
//! Invariant: read weights are finite f32 of exactly the shapes the configuration calls for, products in (in, out);
//! the files have Hugging Face's names and (out, in).

mod source;

use std::io::{Cursor, Read, Seek};

use candle_core::{DType, Device, Tensor, Var};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};

use super::{Config, ModelError, Module};
use crate::ops::{Table, Weight, narrow};
use crate::random::{Stream, normal};

pub(crate) use source::TensorFiles;

/// Number format of a weights file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightType {
    /// Half precision: half the size; values beyond 65504 are refused.
    F16,
    /// Single precision.
    F32,
}

/// The tensors of one block, with products of kind `L`.
#[derive(Debug, Clone)]
pub struct BlockWeights<L = Tensor> {
    /// (hidden)
    pub attention_norm: Tensor,
    /// (hidden)
    pub mlp_norm: Tensor,
    /// Norms of a head's queries and of its keys, (head width) each, in the families that have them.
    pub head_norms: Option<[Tensor; 2]>,
    /// In the order of [`Module::ALL`], each (in, out).
    pub linears: [L; 7],
    /// Of queries, keys and values, each (out), in the families that have them.
    pub biases: Option<[Tensor; 3]>,
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

/// What a model is put together from, dense or quantised.
pub(crate) struct Parts {
    pub(crate) embedding: Table,
    pub(crate) blocks: Vec<BlockWeights<Weight>>,
    /// (hidden)
    pub(crate) norm: Tensor,
    pub(crate) head: Weight,
}

/// What a tensor is for, which decides how it is laid out and initialised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The embedding, (rows, width) in the file and in memory.
    Table,
    /// A norm's weight.
    Norm,
    /// A bias.
    Bias,
    /// A product: (out, in) in the file, (in, out) in memory.
    Product,
}

/// What to make of one tensor while weights are built.
pub(crate) struct Request<'a> {
    pub(crate) name: String,
    /// As in the file.
    pub(crate) shape: &'a [usize],
    pub(crate) role: Role,
}

fn shape_error(name: &str, what: impl std::fmt::Display) -> ModelError {
    ModelError::Weights(format!("{name}: {what}"))
}

/// One tensor as f32 from its little-endian bytes, checking type, shape and that every value is finite.
pub(crate) fn decode(
    name: &str,
    (kind, stored, bytes): (Dtype, &[usize], &[u8]),
    shape: &[usize],
) -> Result<Tensor, ModelError> {
    if stored != shape {
        return Err(shape_error(name, format!("shape {stored:?}, expected {shape:?}")));
    }
    let kind = match kind {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => return Err(shape_error(name, format!("type {other}, expected F32, F16 or BF16"))),
    };
    let tensor = Tensor::from_raw_buffer(bytes, kind, shape, &Device::Cpu)?.to_dtype(DType::F32)?;
    finite(name, tensor)
}

/// The tensor, unless a value in it is NaN or infinite.
pub(crate) fn finite(name: &str, tensor: Tensor) -> Result<Tensor, ModelError> {
    let finite = crate::ops::with_floats(&tensor, |values| values.iter().all(|value| value.is_finite()))?;
    if finite { Ok(tensor) } else { Err(shape_error(name, "a value is not finite")) }
}

/// Reads one tensor of a file in memory as f32.
pub(crate) fn read(file: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
    let view = file.tensor(name).map_err(|_| shape_error(name, "missing"))?;
    decode(name, (view.dtype(), view.shape(), view.data()), shape)
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
        let table = Request { name: "model.embed_tokens.weight".into(), shape: &[vocab, hidden], role: Role::Table };
        let embedding = make(table)?;
        let blocks = (0..config.layers).map(|layer| BlockWeights::build(config, layer, make));
        let blocks = blocks.collect::<Result<_, _>>()?;
        let norm = make(Request { name: "model.norm.weight".into(), shape: &[hidden], role: Role::Norm })?;
        let head = match config.tied {
            true => None,
            false => {
                Some(make(Request { name: "lm_head.weight".into(), shape: &[vocab, hidden], role: Role::Product })?)
            }
        };
        Ok(Self { embedding, blocks, norm, head })
    }

    /// Reads a `model.safetensors` in memory.
    ///
    /// # Errors
    /// When a tensor is missing, surplus, of another shape or type, or not finite.
    pub fn from_safetensors(config: &Config, bytes: &[u8]) -> Result<Self, ModelError> {
        Self::from_files(config, &mut TensorFiles::open(vec![("model.safetensors".into(), Cursor::new(bytes))])?)
    }

    /// Reads files tensor by tensor. Nothing is allocated before a file proved large enough for it.
    pub(crate) fn from_files<R: Read + Seek>(config: &Config, files: &mut TensorFiles<R>) -> Result<Self, ModelError> {
        let weights = Self::build(config, &mut |request| {
            let tensor = files.take(&request.name, request.shape)?;
            if request.role == Role::Product { Ok(tensor.t()?.contiguous()?) } else { Ok(tensor) }
        })?;
        // Some exporters store the tied head and the rotary frequencies although both follow from the rest.
        let derived = |name: &str| name.ends_with(".rotary_emb.inv_freq") || (config.tied && name == "lm_head.weight");
        match files.names().find(|name| !derived(name)) {
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
            let written = if request.role == Role::Product { tensor.t()?.contiguous()? } else { tensor.clone() };
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
            let values = match request.role {
                Role::Norm => vec![1.0; count],
                Role::Bias => vec![0.0; count],
                Role::Table | Role::Product => (0_u64..)
                    .take(count)
                    .map(|at| narrow(deviation * normal(seed, Stream::Initial, index, at)))
                    .collect(),
            };
            let tensor = Tensor::from_vec(values, request.shape, &Device::Cpu)?;
            if request.role == Role::Product { Ok(tensor.t()?.contiguous()?) } else { Ok(tensor) }
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

    /// The parts of a dense model. What is no variable is stored for multiplying, and each tensor freed once it is.
    pub(crate) fn into_parts(self) -> candle_core::Result<Parts> {
        let head = match self.head {
            Some(head) => head,
            None => self.embedding.t()?,
        };
        let blocks = self.blocks.into_iter().map(|block| {
            let linears: Vec<Weight> =
                block.linears.into_iter().map(Weight::new).collect::<candle_core::Result<_>>()?;
            let linears = linears.try_into().map_err(|_| candle_core::Error::msg("invariant: as many as before"))?;
            let (attention_norm, mlp_norm) = (block.attention_norm, block.mlp_norm);
            Ok(BlockWeights { attention_norm, mlp_norm, head_norms: block.head_norms, linears, biases: block.biases })
        });
        let blocks = blocks.collect::<candle_core::Result<_>>()?;
        let (embedding, norm) = (Table::Dense(self.embedding), self.norm);
        Ok(Parts { embedding, blocks, norm, head: Weight::new(head)? })
    }

    /// All tensors in canonical order.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let blocks = self.blocks.iter().flat_map(|block| {
            let norms = [&block.attention_norm, &block.mlp_norm].into_iter().chain(block.head_norms.iter().flatten());
            norms.chain(&block.linears).chain(block.biases.iter().flatten())
        });
        std::iter::once(&self.embedding).chain(blocks).chain(std::iter::once(&self.norm)).chain(&self.head)
    }
}

impl BlockWeights {
    fn build(
        config: &Config,
        layer: usize,
        make: &mut dyn FnMut(Request<'_>) -> Result<Tensor, ModelError>,
    ) -> Result<Self, ModelError> {
        let prefix = format!("model.layers.{layer}");
        let mut norm = |name: &str, width: usize| {
            make(Request { name: format!("{prefix}.{name}.weight"), shape: &[width], role: Role::Norm })
        };
        let attention_norm = norm("input_layernorm", config.hidden)?;
        let mlp_norm = norm("post_attention_layernorm", config.hidden)?;
        let head_norms = match config.family.has_head_norms() {
            true => Some([norm("self_attn.q_norm", config.head_dim)?, norm("self_attn.k_norm", config.head_dim)?]),
            false => None,
        };
        let mut linears = Vec::with_capacity(Module::ALL.len());
        for module in Module::ALL {
            let (inner, outer) = config.module_shape(module);
            let name = format!("{prefix}.{}.weight", module.path());
            linears.push(make(Request { name, shape: &[outer, inner], role: Role::Product })?);
        }
        let linears = linears.try_into().map_err(|_| shape_error(&prefix, "not seven products"))?;
        let mut bias = |module: Module| {
            let name = format!("{prefix}.{}.bias", module.path());
            make(Request { name, shape: &[config.module_shape(module).1], role: Role::Bias })
        };
        let biases = match config.family.has_biases() {
            true => Some([bias(Module::Query)?, bias(Module::Key)?, bias(Module::Value)?]),
            false => None,
        };
        Ok(Self { attention_norm, mlp_norm, head_norms, linears, biases })
    }
}
