//! A small random base and random adapters: what the serving, proof and index tests run on.

use tributary_compute::lora::{Adapter, LoraConfig, parameter_count};
use tributary_compute::model::{Base, Config, Module, WeightType, Weights};
use tributary_compute::random::{Stream, normal};
use tributary_compute::tokenizer::train_byte_level;

/// Texts the tokenizer learns its merges from; some characters stay split over several byte tokens.
const TEXTS: [&str; 4] = [
    "the river flows past the old mill and the old mill grinds the grain",
    "where does the river flow? the river flows to the sea",
    "who owns the mill? the miller owns the old mill by the river",
    "names: Zoë, Jürgen, 李雷 and a crab 🦀",
];

pub fn config(vocab: usize) -> Config {
    Config {
        hidden: 48,
        intermediate: 96,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 12,
        vocab,
        max_positions: 160,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tied: true,
        bos: Some(0),
        eos: vec![0],
        ..Config::default()
    }
}

/// A base with random weights, far enough from uniform that greedy decoding wanders over many tokens.
pub fn base(seed: u64) -> Base {
    let texts: Vec<String> = TEXTS.iter().map(ToString::to_string).collect();
    let config = config(320);
    let mut weights = Weights::random(&config, seed).unwrap();
    for block in &mut weights.blocks {
        for linear in &mut block.linears {
            *linear = (&*linear * 6.0).unwrap();
        }
    }
    let file = weights.to_safetensors(&config, WeightType::F32).unwrap();
    Base::from_bytes(&config.to_json(), &train_byte_level(&texts, 320).unwrap(), &file).unwrap()
}

pub fn lora(alpha: f64) -> LoraConfig {
    LoraConfig { rank: 4, alpha, rslora: false, dropout: 0.0, target_modules: Module::ALL.to_vec() }
}

/// An adapter that clearly changes what the base says.
pub fn adapter(base: &Base, seed: u64, alpha: f64) -> Adapter {
    adapter_of(base.config(), seed, alpha)
}

pub fn adapter_of(config: &Config, seed: u64, alpha: f64) -> Adapter {
    let lora = lora(alpha);
    let count = parameter_count(config, &lora);
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
    let values: Vec<f32> = (0..count as u64).map(|at| (0.25 * normal(seed, Stream::Initial, 99, at)) as f32).collect();
    Adapter::from_values(config, &lora, &values).unwrap()
}
