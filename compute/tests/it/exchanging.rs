//! A study's run for other programs: what is written is the deployed run, and scores come back into the same judgement.

use serde_json::Value;
use tributary_compute::linear::Hook;
use tributary_compute::lora::{Adapter, AdapterFiles};
use tributary_compute::loss::{Target, token_losses};
use tributary_compute::model::{Base, Mode};
use tributary_compute::study::deal::Setting;
use tributary_compute::study::{Case, Plan, Scores, Truth, all, judge};

use crate::serving_base::base;
use crate::studying::{dealt, laboratory};

fn targets(told: &Value) -> Vec<(Target, f64)> {
    let number = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
    let of = |one: &Value| {
        let tokens = one["tokens"].as_array().unwrap().iter().map(|token| u32::try_from(number(token)).unwrap());
        let scored = one["scored"].as_array().unwrap().iter().map(|ends| number(&ends[0])..number(&ends[1]));
        (Target { tokens: tokens.collect(), scored: scored.collect() }, one["loss"].as_f64().unwrap())
    };
    told.as_array().unwrap().iter().map(of).collect()
}

#[test]
fn what_is_written_is_the_deployed_run() {
    let base = base(1);
    let dealt = dealt(Setting::Differing, 8);
    let laboratory = laboratory(&base, &dealt, None, 1);
    let case = Case::prepare(&laboratory, 1, &|_, _| {}).unwrap();
    let folder = tempfile::tempdir().unwrap();
    case.export(folder.path()).unwrap();
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let run: Value = serde_json::from_slice(&read("run.json")).unwrap();
    assert_eq!(run["identity"].as_str().unwrap(), case.identity().unwrap());
    let written = Base::load(&folder.path().join("base")).unwrap();
    let adapter = |at: &str| {
        let file = |name: &str| read(&format!("{at}/{name}"));
        let files =
            AdapterFiles { config_json: file("adapter_config.json"), safetensors: file("adapter_model.safetensors") };
        Adapter::from_files(written.config(), &files).unwrap()
    };
    let deployed = laboratory.train(&[laboratory.without(1, &[])], &|_, _| {}).unwrap().remove(0);
    assert_eq!(adapter("adapter").values().unwrap(), deployed.values);
    let checkpoints = run["checkpoints"].as_array().unwrap();
    let last = adapter(checkpoints.last().unwrap()["folder"].as_str().unwrap());
    // This recipe averages nothing: the last point is the run's end.
    assert_eq!((checkpoints.len(), last.values().unwrap()), (6, deployed.values));
    let (records, questions) = (targets(&run["records"]), targets(&run["questions"]));
    assert_eq!((records.len(), questions.len()), case.shape());
    assert_eq!(run["paid"].as_u64().unwrap(), dealt.queries.len() as u64);
    for (record, example) in run["records"].as_array().unwrap().iter().zip(&dealt.examples) {
        assert_eq!(record["contributor"].as_u64().unwrap(), u64::from(example.contributor));
    }
    let adapter = adapter("adapter");
    for (target, loss) in records.iter().chain(&questions) {
        let hook = Hook::One(&adapter, None);
        let losses = token_losses(written.model(), Mode::Infer, hook, std::slice::from_ref(target)).unwrap();
        let mean = f64::from(losses.mean_all().unwrap().to_scalar::<f32>().unwrap());
        assert!((mean - loss).abs() < 1e-5, "{mean} {loss}");
    }
    // Another seed is another run.
    let other = Case::prepare(&laboratory, 2, &|_, _| {}).unwrap();
    assert_ne!(other.identity().unwrap(), case.identity().unwrap());
}

#[test]
fn scores_of_others_are_judged_as_ours_are() {
    let base = base(1);
    let dealt = dealt(Setting::Differing, 8);
    let laboratory = laboratory(&base, &dealt, None, 1);
    let plan = Plan { subsets: 4, ..Plan::quick(1) };
    let truth = Truth::measure(&laboratory, &plan, &|_, _| {}).unwrap();
    let mut case = Case::prepare(&laboratory, 1, &|_, _| {}).unwrap();
    let cosines = all().into_iter().find(|method| method.name() == "GradCos").unwrap();
    let ours = cosines.scores(&case).unwrap();
    case.forget();
    assert_eq!(cosines.scores(&case).unwrap(), ours);
    let foreign = Scores::of_records(ours.records.clone().unwrap(), &case);
    assert_eq!(judge(&truth, &foreign).unwrap(), judge(&truth, &ours).unwrap());
    let cost = case.index_cost(usize::MAX).unwrap();
    assert_eq!(cost.map(|(measure, _)| measure), ["build-seconds", "bytes-per-contributor"]);
    assert!(cost.iter().all(|(_, figure)| figure.value > 0.0), "{cost:?}");
}
