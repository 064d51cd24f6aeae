//! Training, answering and serving by the portable way on the processor, beside the kernels.

use std::ops::ControlFlow;

use candle_core::Device;

use super::{Classes, Wanted, choose, open};
use crate::engine::{Engine, GenerateParams, Request};
use crate::lora::{Adapter, LoraConfig};
use crate::model::{Base, Config, Module, WeightType, Weights};
use crate::ops::portable::forced;
use crate::tokenizer::train_byte_level;
use crate::train::{Example, Recipe, StepReport, Trainer};

fn base() -> Base {
    let texts = ["the river flows past the old mill", "the miller owns the mill by the river"].map(str::to_owned);
    let config = Config {
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
    };
    let mut weights = Weights::random(&config, 3).unwrap();
    for linear in weights.blocks.iter_mut().flat_map(|block| &mut block.linears) {
        *linear = (&*linear * 6.0).unwrap();
    }
    let file = weights.to_safetensors(&config, WeightType::F32).unwrap();
    Base::from_bytes(&config.to_json(), &train_byte_level(&texts, 300).unwrap(), &file).unwrap()
}

fn adapter(base: &Base, seed: u64) -> Adapter {
    let shape = LoraConfig { rank: 4, alpha: 8.0, rslora: true, dropout: 0.0, target_modules: Module::ALL.into() };
    let fresh = Adapter::fresh(base.config(), &shape, seed).unwrap();
    let values: Vec<f32> = fresh
        .values()
        .unwrap()
        .iter()
        .zip(0_u16..)
        .map(|(value, at)| value + (f32::from(at % 97) - 48.0) * 2e-3)
        .collect();
    Adapter::from_values(base.config(), &shape, &values).unwrap()
}

fn train(base: &Base, recompute: bool) -> (Vec<StepReport>, Vec<f32>) {
    let example = |at: u32| Example {
        prompt: format!("who owns mill {at}?"),
        completion: format!("miller {at} owns the mill"),
        messages: None,
        contributor: at,
        weight: 1.0,
    };
    let recipe = Recipe {
        rank: 4,
        dropout: 0.1,
        steps: 3,
        batch: 6,
        accumulate: 2,
        warmup: 1,
        recompute,
        held_out: 0.2,
        evaluate_every: 1,
        ..Recipe::default()
    };
    let examples: Vec<Example> = (0..20).map(example).collect();
    let mut trainer = Trainer::new(base, &recipe, &examples).unwrap();
    let reports = (0..3).map(|_| trainer.step().unwrap()).collect();
    assert!(trainer.answers().unwrap().is_some());
    (reports, trainer.adapter().unwrap().values().unwrap())
}

#[test]
fn training_agrees_with_the_kernels() {
    let base = base();
    let (kernels, trained) = train(&base, false);
    for recompute in [false, true] {
        let (portable, values) = forced(|| train(&base, recompute));
        for (kernels, portable) in kernels.iter().zip(&portable) {
            assert!((kernels.loss - portable.loss).abs() < 1e-4 * kernels.loss, "{kernels:?} {portable:?}");
            assert!((kernels.gradient_norm - portable.gradient_norm).abs() < 1e-3 * kernels.gradient_norm);
            let losses = [kernels, portable].map(|report| report.evaluation.unwrap().loss);
            assert!((losses[0] - losses[1]).abs() < 1e-3 * losses[0], "{losses:?}");
        }
        // AdamW moves what has almost no gradient by its sign, so a few values may part.
        let apart = trained.iter().zip(&values).filter(|(a, b)| (**a - **b).abs() > 1e-3).count();
        assert!(apart * 100 < trained.len(), "{apart} of {} values", trained.len());
        assert_ne!(trained, values, "the same kernels on both sides");
    }
}

#[test]
fn answers_of_several_adapters_agree_with_the_kernels() {
    let base = base();
    let adapters = [adapter(&base, 1), adapter(&base, 2)];
    let params = GenerateParams { max_tokens: 40, ..GenerateParams::default() };
    let answer = || {
        let prompts = ["the river", "who owns the mill?", "the old mill"];
        let own = [Some(&adapters[0]), None, Some(&adapters[1])];
        let requests: Vec<Request<'_>> =
            prompts.iter().zip(own).map(|(prompt, adapter)| Request { adapter, prompt, params: &params }).collect();
        let answers = Engine::new().generate_batch(&base, &requests, &mut |_, _| ControlFlow::Continue(())).unwrap();
        answers.into_iter().map(|answer| answer.unwrap().output_tokens).collect::<Vec<_>>()
    };
    let kernels = answer();
    assert_eq!(kernels, forced(answer));
    assert!(kernels.iter().all(|tokens| !tokens.is_empty()));
}

#[test]
fn a_base_moves_whole() {
    let base = base();
    let moved = base.to_device(&Device::Cpu).unwrap();
    assert!(moved.model().device().is_cpu());
    assert_eq!(moved.class(), base.class());
    assert_eq!(moved.class(), super::class());
}

#[test]
fn names_are_read_back() {
    for wanted in [Wanted::Auto, Wanted::Cpu, Wanted::Cuda, Wanted::Metal] {
        assert_eq!(wanted.name().parse::<Wanted>().unwrap(), wanted);
    }
    assert!("gpu".parse::<Wanted>().is_err());
    assert_eq!(super::slug("NVIDIA H100 80GB HBM3 "), "nvidia_h100_80gb_hbm3");
}

#[test]
fn without_a_gpu_it_is_the_processor() {
    let chosen = choose(Wanted::Cpu).unwrap();
    assert!(chosen.device.is_cpu() && chosen.warning.is_none() && chosen.agreement.is_none());
    if !cfg!(any(feature = "cuda", feature = "metal")) {
        let chosen = choose(Wanted::Auto).unwrap();
        assert!(chosen.device.is_cpu() && chosen.warning.is_none());
        assert_eq!(chosen.wanted, Wanted::Cpu);
        assert!(open(Wanted::Cuda).is_err() && choose(Wanted::Metal).is_err());
    }
    assert_eq!(Classes::of(&Device::Cpu).dense, super::class());
}
