//! An attribution index for a small model: what is read has exactly one encoding.

#![no_main]

use tributary_compute::attribute::Index;
use tributary_compute::model::Config;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
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
    if let Ok(index) = Index::from_bytes(&model, data) {
        assert_eq!(index.to_bytes().expect("what was read is written"), data);
    }
});
