//! `tokenizer_config.json` and `generation_config.json` beside a small model, divided at the first zero byte.

#![no_main]

use std::sync::OnceLock;

use tributary_compute::model::{Base, Config, Extras, WeightType, Weights};
use tributary_compute::tokenizer::train_byte_level;

/// Configuration, tokenizer and weights.
static FILES: OnceLock<(Vec<u8>, Vec<u8>, Vec<u8>)> = OnceLock::new();

fn files() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let config = Config {
        hidden: 4,
        intermediate: 4,
        layers: 1,
        heads: 1,
        kv_heads: 1,
        head_dim: 4,
        vocab: 300,
        max_positions: 8,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tied: true,
        ..Config::default()
    };
    let tokenizer = train_byte_level(&["the cat sat on the mat".to_owned()], 280).expect("a tokenizer");
    let weights = Weights::random(&config, 1).expect("weights");
    (config.to_json(), tokenizer, weights.to_safetensors(&config, WeightType::F32).expect("a file"))
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (config, tokenizer, weights) = FILES.get_or_init(files);
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let extras = Extras {
        tokenizer_config: Some(&data[..at]),
        generation_config: data.get(at + 1..).filter(|rest| !rest.is_empty()),
        chat_template: None,
    };
    let _ = Base::from_bytes_with(config, tokenizer, weights, extras);
});
