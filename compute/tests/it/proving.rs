//! Fingerprint checks: an honest answer matches bit by bit, every kind of substitution is found.

use std::ops::ControlFlow;

use tributary_compute::device;
use tributary_compute::engine::{Engine, EngineError, GenerateParams, Generation};
use tributary_compute::lora::{Adapter, LoraConfig};
use tributary_compute::model::Base;
use tributary_compute::proof::{
    CannotCheck, Fingerprint, Mismatch, ProofVerdict, check_generation, check_in_class, fingerprint_root,
};

use crate::serving_base::{adapter, base, lora};

const PROMPT: &str = "where does the river flow?";

fn sampled() -> GenerateParams {
    GenerateParams { max_tokens: 75, temperature: 0.9, seed: 21, ..GenerateParams::default() }
}

fn greedy() -> GenerateParams {
    GenerateParams { max_tokens: 75, ..GenerateParams::default() }
}

fn answer(base: &Base, adapter: Option<&Adapter>, params: &GenerateParams) -> Generation {
    Engine::new().generate(base, adapter, PROMPT, params, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn check(base: &Base, adapter: Option<&Adapter>, claim: &Generation, params: &GenerateParams) -> ProofVerdict {
    check_generation(base, adapter, &claim.prompt_tokens, &claim.output_tokens, &claim.fingerprints, params).unwrap()
}

fn mismatch(verdict: ProofVerdict) -> Mismatch {
    match verdict {
        ProofVerdict::Mismatch { reason } => reason,
        other => panic!("expected a mismatch, got {other:?}"),
    }
}

/// The same weights under another alpha.
fn rescaled(base: &Base, adapter: &Adapter, factor: f64) -> Adapter {
    let config = LoraConfig { alpha: adapter.config().alpha * factor, ..adapter.config().clone() };
    Adapter::from_values(base.config(), &config, &adapter.values().unwrap()).unwrap()
}

#[test]
fn an_honest_answer_matches() {
    let base = base(1);
    let adapter = adapter(&base, 5, 8.0);
    for (chosen, params) in
        [(None, greedy()), (Some(&adapter), greedy()), (None, sampled()), (Some(&adapter), sampled())]
    {
        let claim = answer(&base, chosen, &params);
        assert_eq!(claim.fingerprints.len(), claim.output_tokens.len().div_ceil(32));
        assert_eq!(check(&base, chosen, &claim, &params), ProofVerdict::Match);
        let read: Vec<Fingerprint> =
            claim.fingerprints.iter().map(|one| Fingerprint::from_bytes(&one.to_bytes()).unwrap()).collect();
        assert_eq!(fingerprint_root(&read), fingerprint_root(&claim.fingerprints));
    }
}

#[test]
fn another_model_is_found() {
    let base = base(1);
    let (right, wrong) = (adapter(&base, 5, 8.0), adapter(&base, 6, 8.0));
    let stronger = rescaled(&base, &right, 1.1);
    let params = greedy();
    let used: [(&str, Option<&Adapter>); 3] = [("none", None), ("wrong", Some(&wrong)), ("scaled", Some(&stronger))];
    for (name, used) in used {
        // The worker runs something else than the adapter it was asked for, honestly fingerprinted.
        let claim = answer(&base, used, &params);
        let reason = mismatch(check(&base, Some(&right), &claim, &params));
        assert!(matches!(reason, Mismatch::Fingerprint { at: 0, .. }), "{name}: {reason}");
        // Forced onto the tokens of the right adapter, the states still give it away.
        let honest = answer(&base, Some(&right), &params);
        let reason = mismatch(check(&base, used, &honest, &params));
        assert!(matches!(reason, Mismatch::Fingerprint { at: 0, .. }), "{name}: {reason}");
    }
    let other = crate::serving_base::base(2);
    let claim = answer(&other, None, &params);
    assert!(matches!(mismatch(check(&base, None, &claim, &params)), Mismatch::Fingerprint { .. }));
}

#[test]
fn a_changed_token_prompt_or_seed_is_found() {
    let base = base(1);
    let params = sampled();
    let claim = answer(&base, None, &params);

    let mut changed = claim.clone();
    let last = changed.output_tokens.len() - 1;
    changed.output_tokens[last] = 1 + changed.output_tokens[last] % 300;
    let reason = mismatch(check(&base, None, &changed, &params));
    assert!(matches!(reason, Mismatch::Token { at, .. } if at == last), "{reason}");

    let mut changed = claim.clone();
    changed.output_tokens[3] = 1 + changed.output_tokens[3] % 300;
    assert!(matches!(mismatch(check(&base, None, &changed, &params)), Mismatch::Fingerprint { at: 0, .. }));

    let mut other_prompt = claim.clone();
    other_prompt.prompt_tokens[1] = 1 + other_prompt.prompt_tokens[1] % 300;
    assert!(matches!(mismatch(check(&base, None, &other_prompt, &params)), Mismatch::Fingerprint { at: 0, .. }));

    let other_seed = GenerateParams { seed: 22, ..params.clone() };
    assert!(matches!(mismatch(check(&base, None, &claim, &other_seed)), Mismatch::Token { .. }));
    let as_greedy = GenerateParams { temperature: 0.0, ..params };
    assert!(matches!(mismatch(check(&base, None, &claim, &as_greedy)), Mismatch::Token { .. }));
}

#[test]
fn malformed_claims_are_mismatches_and_never_panic() {
    let base = base(1);
    let params = greedy();
    let claim = answer(&base, None, &params);
    let broken: [&dyn Fn(&mut Generation); 5] = [
        &|claim| claim.output_tokens[0] = u32::MAX,
        &|claim| claim.prompt_tokens.clear(),
        &|claim| claim.fingerprints.truncate(1),
        &|claim| claim.output_tokens.truncate(70),
        &|claim| claim.prompt_tokens = vec![1; 500],
    ];
    for change in broken {
        let mut claim = claim.clone();
        change(&mut claim);
        assert!(matches!(mismatch(check(&base, None, &claim, &params)), Mismatch::Malformed(_)));
    }
    let shorter = GenerateParams { max_tokens: 40, ..params };
    let reason = mismatch(check(&base, None, &claim, &shorter));
    assert_eq!(reason, Mismatch::PastTheEnd { end: 40, claimed: 75 });
}

#[test]
fn a_machine_that_cannot_tell_abstains() {
    let base = base(1);
    let params = greedy();
    let claim = answer(&base, None, &params);
    let (prompt, output, prints) = (&claim.prompt_tokens, &claim.output_tokens, &claim.fingerprints);
    let verdict = check_in_class("gpu-h100", &base, None, prompt, output, prints, &params).unwrap();
    assert!(matches!(verdict, ProofVerdict::CannotCheck { reason: CannotCheck::OtherClass { .. } }));
    let verdict = check_in_class(&device::class(), &base, None, prompt, output, prints, &params).unwrap();
    assert_eq!(verdict, ProofVerdict::Match);
    let verdict = check_generation(&base, None, prompt, &[], &[], &params).unwrap();
    assert!(matches!(mismatch(verdict), Mismatch::Malformed(_)), "every text would go with no tokens");
    let mut narrow = base.config().clone();
    narrow.layers = 1;
    let foreign = Adapter::fresh(&narrow, &lora(8.0), 1).unwrap();
    let refused = check_generation(&base, Some(&foreign), prompt, output, prints, &params);
    assert!(matches!(refused, Err(EngineError::Adapter)));
}
