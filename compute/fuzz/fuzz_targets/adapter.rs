//! PEFT's two files, divided at the first zero byte.

#![no_main]

use tributary_compute::lora::{Adapter, AdapterFiles};
use tributary_compute::model::Config;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (config_json, safetensors) = (data[..at].to_vec(), data[at..].to_vec());
    let model = Config {
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
        ..Config::default()
    };
    let _ = Adapter::from_files(&model, &AdapterFiles { config_json, safetensors });
});
