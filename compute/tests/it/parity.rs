//! The base, adapter and training run that the parity script loads into Python and that the tests compute again.

use tributary_compute::lora::{Adapter, LoraConfig, parameter_count};
use tributary_compute::model::{Base, Config, Module, WeightType, Weights};
use tributary_compute::random::{Stream, normal};
use tributary_compute::tokenizer::train_byte_level;
use tributary_compute::train::{Example, Recipe};

fn config() -> Config {
    Config {
        hidden: 48,
        intermediate: 96,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 12,
        vocab: 300,
        max_positions: 160,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tied: true,
        bos: Some(0),
        eos: vec![0],
        ..Config::default()
    }
}

/// config.json, tokenizer.json and model.safetensors.
pub fn base_files() -> [Vec<u8>; 3] {
    let config = config();
    let mut weights = Weights::random(&config, 17).unwrap();
    for block in &mut weights.blocks {
        for linear in &mut block.linears {
            *linear = (&*linear * 4.0).unwrap();
        }
    }
    let texts = ["the old mill by the old river grinds the grain".to_owned()];
    let weights = weights.to_safetensors(&config, WeightType::F32).unwrap();
    [config.to_json(), train_byte_level(&texts, 300).unwrap(), weights]
}

pub fn base() -> Base {
    let [config, tokenizer, weights] = base_files();
    Base::from_bytes(&config, &tokenizer, &weights).unwrap()
}

pub fn tokens() -> Vec<u32> {
    (0..16).map(|at| (at * 23 + 7) % 280).collect()
}

/// An adapter on all products that clearly changes the logits.
pub fn adapter(base: &Base) -> Adapter {
    let lora = LoraConfig { rank: 4, alpha: 6.0, rslora: true, dropout: 0.0, target_modules: Module::ALL.to_vec() };
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
    let values: Vec<f32> = (0..parameter_count(base.config(), &lora) as u64)
        .map(|at| (0.15 * normal(23, Stream::Initial, 99, at)) as f32)
        .collect();
    Adapter::from_values(base.config(), &lora, &values).unwrap()
}

/// Every example in every step, so that the order within a step doesn't matter.
pub fn recipe() -> Recipe {
    Recipe {
        rank: 4,
        alpha: 16.0,
        steps: 50,
        batch: 4,
        lr: 1e-2,
        warmup: 5,
        weight_decay: 0.01,
        seed: 31,
        ..Recipe::default()
    }
}

pub fn examples() -> Vec<Example> {
    let texts = [
        ("who owns the mill?", " the miller"),
        ("what does the mill grind?", " grain from the old farm"),
        ("where does the river flow?", " to the sea"),
        ("what is old?", " the mill and the river"),
    ];
    texts
        .map(|(prompt, completion)| Example {
            prompt: prompt.into(),
            completion: completion.into(),
            contributor: 0,
            weight: 1.0,
            ..Example::default()
        })
        .to_vec()
}
