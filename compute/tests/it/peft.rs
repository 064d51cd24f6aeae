//! Adapters of Python's `peft` in our model, ours in theirs, and fifty steps of training beside theirs.

use tributary_compute::linear::Hook;
use tributary_compute::lora::{Adapter, AdapterFiles};
use tributary_compute::model::Mode;
use tributary_compute::train::Trainer;

use crate::golden::{Golden, TOLERANCE, assert_close, logits, safetensors};
use crate::parity;

/// Largest difference of a loss curve in nats.
const LOSS_TOLERANCE: f32 = 1e-3;

fn their_files(golden: &Golden) -> AdapterFiles {
    let tensors = golden.json::<Vec<(String, Vec<usize>)>>("adapter_tensors");
    let config_json = golden.text("adapter_config").as_bytes().to_vec();
    AdapterFiles { config_json, safetensors: safetensors(&tensors) }
}

#[test]
fn pefts_adapters_give_pefts_logits() {
    for (name, rslora) in [("peft-lora", false), ("peft-rslora", true)] {
        let golden = Golden::read(name);
        let (model, tokens) = (golden.model(), golden.json::<Vec<u32>>("tokens"));
        let adapter = Adapter::from_files(model.config(), &their_files(&golden)).unwrap();
        assert_eq!((adapter.config().rslora, adapter.config().target_modules.len()), (rslora, 7));
        let ours = logits(&model, Mode::Infer, &tokens, Hook::One(&adapter, None));
        assert_close(name, &ours, &golden.values("logits"), TOLERANCE);
        let plain = logits(&model, Mode::Infer, &tokens, Hook::Base);
        assert!(plain.iter().zip(&ours).any(|(a, b)| (a - b).abs() > 0.1), "{name} changes nothing");
    }
}

#[test]
fn dora_is_refused_by_name() {
    let golden = Golden::read("peft-dora");
    let refused = Adapter::from_files(&golden.config(), &their_files(&golden)).unwrap_err();
    assert!(refused.to_string().contains("DoRA"), "{refused}");
}

#[test]
fn our_adapters_give_the_same_logits_in_peft() {
    let golden = Golden::read("our-adapter");
    let base = parity::base();
    let adapter = parity::adapter(&base);
    assert_eq!(adapter.hash().unwrap().to_string(), golden.text("adapter"), "peft loaded other files than these");
    let ours = logits(base.model(), Mode::Infer, &parity::tokens(), Hook::One(&adapter, None));
    assert_close("our adapter", &ours, &golden.values("logits"), TOLERANCE);
}

#[test]
fn fifty_steps_follow_torch_and_peft() {
    let golden = Golden::read("training");
    let base = parity::base();
    let mut trainer = Trainer::new(&base, &parity::recipe(), &parity::examples()).unwrap();
    assert_eq!(trainer.adapter().unwrap().hash().unwrap().to_string(), golden.text("initial"));
    let theirs = golden.values("losses");
    assert_eq!(theirs.len(), 50);
    for (step, theirs) in theirs.iter().enumerate() {
        let ours = trainer.step().unwrap().loss;
        assert!((ours - theirs).abs() < LOSS_TOLERANCE, "step {step}: {ours}, theirs {theirs}");
    }
    assert!(theirs[49] < theirs[0] - 0.8, "nothing was learnt: {theirs:?}");
}
