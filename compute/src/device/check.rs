//! What a device computes with a small model, beside what the processor does.
//!
//! Invariant: every kind of kernel takes part: norms, rotary positions, grouped and windowed attention over rows and over a
//! cache, adapters, their gradient, products dense and quantised.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Result as TensorResult, Tensor};
use serde::{Deserialize, Serialize};

use super::{DeviceError, guarded};
use crate::kv::Cache;
use crate::linear::Hook;
use crate::lora::{Adapter, FrozenAdapter, LoraConfig};
use crate::loss::completion_gradient;
use crate::model::weights::{BlockWeights, Parts};
use crate::model::{
    Config, Family, Feed, LogitRows, Mode, Model, ModelError, Module, Packed, RopeScaling, SlidingWindow, Weights,
};
use crate::ops::{Precision, Table, Weight, narrow};

/// Largest difference that is taken for rounding, relative to the largest number: sums of f32 in another order.
pub const LARGEST_DIFFERENCE: f32 = 1e-3;
/// The same of quantised products, whose inputs are rounded to eight bits here and there in other groups.
pub const LARGEST_QUANTISED_DIFFERENCE: f32 = 5e-2;
/// Seed of the model's numbers.
const SEED: u64 = 7;

/// How far results of a device are from the processor's, each relative to the largest of its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Logits of whole sequences with an adapter.
    pub logits: f32,
    /// Logits of tokens fed one by one.
    pub decoded: f32,
    /// The gradient of an adapter.
    pub gradient: f32,
    /// Logits of quantised weights.
    pub quantised: f32,
}

impl Agreement {
    /// What is beyond rounding, in words.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let all = [
            ("logits", self.logits, LARGEST_DIFFERENCE),
            ("decoded logits", self.decoded, LARGEST_DIFFERENCE),
            ("gradients", self.gradient, LARGEST_DIFFERENCE),
            ("quantised logits", self.quantised, LARGEST_QUANTISED_DIFFERENCE),
        ];
        // No number is within any limit if it is none.
        let mut beyond = all
            .into_iter()
            .filter(|(_, difference, limit)| !matches!(difference.partial_cmp(limit), Some(std::cmp::Ordering::Less)));
        beyond.next().map(|(what, difference, limit)| format!("{what} differ by {difference:.1e}, allowed {limit:.0e}"))
    }
}

/// Compares and judges.
pub(super) fn agree(device: &Device) -> Result<Agreement, DeviceError> {
    let agreement = compare(device)?;
    match agreement.fault() {
        None => Ok(agreement),
        Some(fault) => Err(DeviceError::Disagrees(fault)),
    }
}

/// Computes the same on `device` and on the processor.
///
/// # Errors
/// When one of them can't.
pub fn compare(device: &Device) -> Result<Agreement, DeviceError> {
    let refused = |error: ModelError| DeviceError::Refused(error.to_string());
    let ours = Results::of(&Device::Cpu).map_err(refused)?;
    let theirs = guarded(|| Results::of(device).map_err(candle_core::Error::wrap))?;
    Ok(ours.agreement(&theirs))
}

/// Everything that is compared.
#[derive(Debug)]
pub(super) struct Results {
    logits: Vec<f32>,
    decoded: Vec<f32>,
    gradient: Vec<f32>,
    quantised: Vec<f32>,
}

fn config() -> Config {
    Config {
        family: Family::Qwen3,
        hidden: 256,
        intermediate: 512,
        layers: 2,
        heads: 8,
        kv_heads: 2,
        head_dim: 32,
        vocab: 512,
        max_positions: 128,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        window: Some(SlidingWindow { positions: 9, layers: vec![false, true] }),
        tied: true,
        bos: None,
        eos: Vec::new(),
    }
}

/// The model's products in GGUF's blocks, of two kinds.
fn quantised(config: &Config, weights: &Weights) -> TensorResult<Model> {
    let parts = weights.clone().into_parts()?;
    let blocks = |weight: &Weight, kind: GgmlDType| -> TensorResult<Weight> {
        let tensor = QTensor::quantize(&weight.dense()?.t()?.contiguous()?, kind)?;
        Ok(Weight::Quantised(Arc::new(tensor), Precision::Quantised))
    };
    let kinds = [GgmlDType::Q8_0, GgmlDType::Q4K];
    let layers = parts.blocks.into_iter().zip(kinds).map(|(block, kind)| {
        let mut linears = block.linears.clone();
        for linear in &mut linears {
            *linear = blocks(linear, kind)?;
        }
        Ok(BlockWeights { linears, ..block })
    });
    let head = blocks(&parts.head, GgmlDType::Q6K)?;
    let embedding = match &head {
        Weight::Quantised(tensor, _) => Table::Quantised(tensor.clone()),
        Weight::Dense(_) | Weight::Strips(_) => parts.embedding,
    };
    let parts = Parts { embedding, blocks: layers.collect::<TensorResult<_>>()?, norm: parts.norm, head };
    Ok(Model::assemble(config, parts))
}

/// An adapter of all products that changes something.
fn adapter(config: &Config) -> Result<Adapter, ModelError> {
    let shape = LoraConfig { rank: 4, alpha: 8.0, rslora: false, dropout: 0.0, target_modules: Module::ALL.into() };
    let refused = |error: crate::lora::LoraError| ModelError::Input(error.to_string());
    let fresh = Adapter::fresh(config, &shape, SEED).map_err(refused)?;
    let values = fresh.values().map_err(refused)?;
    let moved: Vec<f32> =
        (0..values.len()).zip(values).map(|(at, value)| value + narrow((at as f64 * 0.37).sin() * 0.05)).collect();
    Adapter::from_values(config, &shape, &moved).map_err(refused)
}

impl Results {
    pub(super) fn of(device: &Device) -> Result<Self, ModelError> {
        let config = config();
        let weights = Weights::random(&config, SEED)?;
        let model = Model::new(&config, weights.clone())?.to_device(device)?;
        let small = quantised(&config, &weights)?.to_device(device)?;
        let adapter = adapter(&config)?.to_device(device).map_err(|error| ModelError::Input(error.to_string()))?;
        let frozen = FrozenAdapter::new(&adapter)?;
        let tokens: Vec<u32> = (0..30).map(|at| (at * 37 + 5) % 512).collect();
        let packed = Packed::new(&[&tokens[..], &tokens[3..20]])?;
        let flat = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
        let logits = |model: &Model, hook: Hook<'_>| -> Result<Vec<f32>, ModelError> {
            Ok(flat(&model.logits(&model.hidden(Mode::Infer, &packed, hook)?)?)?)
        };
        Ok(Self {
            logits: logits(&model, Hook::One(&adapter, None))?,
            decoded: decode(&model, &frozen, &tokens)?,
            gradient: completion_gradient(&model, &adapter, &tokens[..12], &tokens[12..])?.0,
            quantised: logits(&small, Hook::One(&adapter, None))?,
        })
    }

    pub(super) fn agreement(&self, other: &Self) -> Agreement {
        Agreement {
            logits: difference(&self.logits, &other.logits),
            decoded: difference(&self.decoded, &other.decoded),
            gradient: difference(&self.gradient, &other.gradient),
            quantised: difference(&self.quantised, &other.quantised),
        }
    }
}

/// Logits of two sequences fed piece by piece in the same steps, one with the adapter.
fn decode(model: &Model, adapter: &FrozenAdapter, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
    let shape = model.config();
    let mut caches = [Cache::new(shape.layers, shape.kv_width()), Cache::new(shape.layers, shape.kv_width())];
    let mut logits = Vec::new();
    for piece in [&tokens[..11], &tokens[11..12], &tokens[12..20], &tokens[20..21]] {
        let [first, second] = &mut caches;
        let mut feeds = [
            Feed { tokens: piece, adapter: Some(adapter), cache: first },
            Feed { tokens: piece, adapter: None, cache: second },
        ];
        let stepped = model.step(&mut feeds, LogitRows::All)?;
        let found = stepped.logits.ok_or_else(|| ModelError::Input("invariant: logits were asked for".into()))?;
        logits.extend(found.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(logits)
}

/// The largest difference relative to the largest number; infinite where one is no number.
fn difference(ours: &[f32], theirs: &[f32]) -> f32 {
    let finite = ours.iter().chain(theirs).all(|value| value.is_finite());
    if !finite || ours.len() != theirs.len() {
        return f32::INFINITY;
    }
    let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    worst / ours.iter().map(|value| value.abs()).fold(f32::MIN_POSITIVE, f32::max)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::{Results, difference};
    use crate::ops::portable::forced;

    #[test]
    fn the_portable_way_agrees_with_the_kernels() {
        let kernels = Results::of(&Device::Cpu).unwrap();
        let portable = forced(|| Results::of(&Device::Cpu)).unwrap();
        let agreement = kernels.agreement(&portable);
        assert_eq!(agreement.fault(), None);
        assert!(agreement.logits < 1e-4 && agreement.decoded < 1e-4 && agreement.gradient < 1e-4, "{agreement:?}");
        assert!(agreement.logits > 0.0, "the same kernels on both sides");
    }

    #[test]
    fn what_is_off_is_found() {
        let kernels = Results::of(&Device::Cpu).unwrap();
        let mut other = Results::of(&Device::Cpu).unwrap();
        assert_eq!(kernels.agreement(&other).fault(), None);
        other.gradient[3] = f32::NAN;
        assert!(kernels.agreement(&other).fault().is_some_and(|fault| fault.contains("gradients")));
        other.logits.truncate(5);
        assert!(kernels.agreement(&other).fault().is_some_and(|fault| fault.starts_with("logits")));
        assert!((difference(&[1.0, -4.0], &[1.0, -3.0]) - 0.25).abs() < 1e-6);
    }
}
