//! How fast a device runs a model that is made for it on the spot.
//!
//! Invariant: every figure ends with numbers read back, so that nothing measured is still under way.

use std::time::Instant;

use candle_core::Device;

use super::{DeviceError, guarded};
use crate::kv::Cache;
use crate::linear::Hook;
use crate::lora::{Adapter, FrozenAdapter, LoraConfig};
use crate::loss::completion_gradient;
use crate::model::{Config, Feed, LogitRows, Mode, Model, ModelError, Module, Packed, Weights};

/// Tokens of the prompt that is read.
const PROMPT: u16 = 256;
/// Tokens that are decoded.
const DECODED: u16 = 32;

/// Tokens each second of one sequence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Reading a prompt.
    pub prompt: f64,
    /// Decoding with an adapter, token by token.
    pub decoding: f64,
    /// Loss and gradient of an adapter of all products.
    pub training: f64,
}

/// About 15 million parameters: made in seconds, and large enough that a GPU has something to do.
fn config() -> Config {
    Config {
        hidden: 512,
        intermediate: 1536,
        layers: 4,
        heads: 8,
        kv_heads: 4,
        head_dim: 64,
        vocab: 4096,
        max_positions: 512,
        ..Config::default()
    }
}

/// Measures a device.
///
/// # Errors
/// When it can't compute.
pub fn measure(device: &Device) -> Result<Speed, DeviceError> {
    guarded(|| speed(device).map_err(candle_core::Error::wrap))
}

fn speed(device: &Device) -> Result<Speed, ModelError> {
    let config = config();
    let model = Model::new(&config, Weights::random(&config, 1)?)?.to_device(device)?;
    let shape = LoraConfig { rank: 16, alpha: 32.0, rslora: false, dropout: 0.0, target_modules: Module::ALL.into() };
    let adapter = Adapter::fresh(&config, &shape, 1).and_then(|adapter| adapter.to_device(device));
    let adapter = adapter.map_err(|error| ModelError::Input(error.to_string()))?;
    let frozen = FrozenAdapter::new(&adapter)?;
    let tokens: Vec<u32> = (0..PROMPT).map(|at| u32::from(at) * 7 % 4096).collect();
    let packed = Packed::new(&[&tokens])?;
    Ok(Speed {
        prompt: rate(PROMPT, || {
            let hidden = model.hidden(Mode::Infer, &packed, Hook::One(&adapter, None))?;
            model.logits(&hidden)?.to_vec2::<f32>()?;
            Ok(())
        })?,
        decoding: rate(DECODED, || decode(&model, &frozen, &tokens[..8]))?,
        training: rate(PROMPT, || completion_gradient(&model, &adapter, &tokens[..1], &tokens[1..]).map(drop))?,
    })
}

fn decode(model: &Model, adapter: &FrozenAdapter, prompt: &[u32]) -> Result<(), ModelError> {
    let mut cache = Cache::new(model.config().layers, model.config().kv_width());
    let mut next = prompt.to_vec();
    for at in 0..DECODED {
        let mut feeds = [Feed { tokens: &next, adapter: Some(adapter), cache: &mut cache }];
        let stepped = model.step(&mut feeds, LogitRows::Last)?;
        stepped.logits.map(|logits| logits.to_vec2::<f32>()).transpose()?;
        next = vec![u32::from(at)];
    }
    Ok(())
}

/// Tokens each second of the better of two runs; the first also loads what is only loaded once.
fn rate(tokens: u16, mut work: impl FnMut() -> Result<(), ModelError>) -> Result<f64, ModelError> {
    work()?;
    let mut best = f64::INFINITY;
    for _ in 0..2 {
        let began = Instant::now();
        work()?;
        best = best.min(began.elapsed().as_secs_f64());
    }
    Ok(f64::from(tokens) / best)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_processor_is_measured() {
        let speed = super::measure(&candle_core::Device::Cpu).unwrap();
        assert!(speed.prompt > 0.0 && speed.decoding > 0.0 && speed.training > 0.0);
    }
}
