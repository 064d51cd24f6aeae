//! Adapters merged into their base: what is written reads back and says the same.

use tributary_compute::linear::Hook;
use tributary_compute::lora::Adapter;
use tributary_compute::model::{Config, Mode, Model, WeightType, Weights};
use tributary_compute::ops::Precision;

use crate::golden::{Golden, assert_close, logits};
use crate::serving_base::adapter_of;

/// Merging rounds each weight once, where the adapter's own path rounds its small product.
const ROUNDING: f32 = 2e-4;

fn written(config: &Config, weights: &Weights) -> Model {
    let file = weights.to_safetensors(config, WeightType::F32).unwrap();
    let read = Config::from_json(&config.to_json()).unwrap();
    Model::new(&read, Weights::from_safetensors(&read, &file).unwrap()).unwrap()
}

fn check(name: &str, model: &Model, tokens: &[u32]) {
    let plain = logits(model, Mode::Infer, tokens, Hook::Base);
    let again = written(model.config(), &model.merged(None).unwrap());
    assert_close(name, &logits(&again, Mode::Infer, tokens, Hook::Base), &plain, ROUNDING);
    let adapter = adapter_of(model.config(), 5, 0.5);
    let adapted = logits(model, Mode::Infer, tokens, Hook::One(&adapter, None));
    assert!(adapted.iter().zip(&plain).any(|(a, b)| (a - b).abs() > 0.1), "{name}: the adapter changes nothing");
    let merged = written(model.config(), &model.merged(Some(&adapter)).unwrap());
    assert_close(name, &logits(&merged, Mode::Infer, tokens, Hook::Base), &adapted, ROUNDING);
}

#[test]
fn every_family_says_merged_what_it_says_with_the_adapter() {
    for name in ["llama", "llama-tied-linear", "mistral-window", "qwen2", "qwen3"] {
        let golden = Golden::read(name);
        check(name, &golden.model(), &golden.json::<Vec<u32>>("tokens"));
    }
}

#[test]
fn quantised_weights_merge_as_what_they_mean() {
    for case in ["gguf-llama-q4k", "gguf-qwen2-q6k", "gguf-qwen3-q8"] {
        let (golden, base) = crate::gguf::golden_base(case);
        let exact = base.with_precision(Precision::Exact);
        check(case, exact.model(), &golden.json::<Vec<u32>>("tokens"));
    }
}

#[test]
fn an_adapter_of_another_shape_is_refused() {
    let (llama, qwen) = (Golden::read("llama").model(), Golden::read("qwen3").model());
    let adapter: Adapter = adapter_of(qwen.config(), 5, 1.0);
    assert!(llama.merged(Some(&adapter)).is_err());
}
