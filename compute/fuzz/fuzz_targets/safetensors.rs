//! `model.safetensors` for a small model.

#![no_main]

use tributary_compute::model::{Config, Weights};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let config = Config {
        hidden: 2,
        intermediate: 2,
        layers: 1,
        heads: 1,
        kv_heads: 1,
        head_dim: 2,
        vocab: 2,
        max_positions: 4,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tied: true,
        ..Config::default()
    };
    let _ = Weights::from_safetensors(&config, data);
});
