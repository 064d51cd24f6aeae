//! Measuring what a training made of its records, and ranking them; and which of them say what others' say.
//!
//! Invariant: a record that the training never saw is not measured; the time is bounded whatever the records are, and what
//! was measured by then is what is told of.

use std::time::{Duration, Instant};

use tributary_compute::attribute::echoes::{Echo, echoes, readings};
use tributary_compute::lora::Adapter;
use tributary_compute::loss::Target;
use tributary_compute::model::Base;
use tributary_compute::statistics::median;
use tributary_compute::train::{Recipe, adapter_at};
use tributary_compute::triage::{Curve, Doubt, MAX_POINTS, Reason, doubts, measure, points};

use super::super::context::JobContext;
use super::super::triage::{DoubtFrame, EchoFrame, TriageAsk, Triaged, Why};
use super::super::{Done, micro};
use super::training::examples_of;
use super::{adapter_on, handed, handed_bytes, text};

/// How long it is measured. The base may have to be loaded before, and a process whose job takes longer than it may is
/// ended with everything else it does.
const MEASURE_TIME: Duration = Duration::from_secs(6 * 60);
/// How long records are then read to be compared.
const COMPARE_TIME: Duration = Duration::from_secs(2 * 60);

pub(super) fn triage(context: &JobContext, ask: &TriageAsk) -> Result<Done, String> {
    let base = context.shelf.base(ask.base)?;
    let recipe: Recipe =
        serde_json::from_str(&ask.recipe).map_err(|error| format!("the recipe is refused: {error}"))?;
    let end = adapter_on(&base, ask.base, &handed(context, ask.adapter)?)?;
    if ask.checkpoints.len() > MAX_POINTS {
        return Err(format!("{} checkpoints, at most {MAX_POINTS}", ask.checkpoints.len()));
    }
    let (mut steps, mut between) = (Vec::new(), Vec::new());
    for checkpoint in &ask.checkpoints {
        let (step, adapter) = adapter_at(&base, &recipe, &handed_bytes(context, *checkpoint)?).map_err(text)?;
        steps.push(step);
        between.push(adapter);
    }
    let deadline = Instant::now() + MEASURE_TIME;
    let goes_on = || !context.is_stopped() && Instant::now() < deadline;
    let Material { places, targets, held_out, unusable } = Material::of(&base, &recipe, ask, &goes_on);
    let owners = places.iter().map(|place| ask.examples[*place as usize].contributor);
    let records: Vec<(u32, Target)> = owners.zip(targets.iter().cloned()).collect();
    let points = points(&base, &between, &end).map_err(text)?;
    let curves = measure(&base, &points, &targets, &goes_on).map_err(text)?;
    if context.is_stopped() {
        return Err("stopped".into());
    }
    if curves.is_empty() {
        return Err(format!(
            "no record could be measured within {} s: {held_out} were held out from the training, {unusable} have \
             nothing to learn",
            MEASURE_TIME.as_secs()
        ));
    }
    let all = doubts(&curves);
    let usual = gradients(&curves);
    let wanted = usize::try_from(ask.wanted).unwrap_or(usize::MAX);
    let frame = |doubt: &Doubt| frame_of(doubt, &curves[doubt.place], places[doubt.place], usual);
    let (compared, echoes) = compared(context, &base, &end, &records[..curves.len()])?;
    Ok(Done::Triaged(Triaged {
        measured: count(curves.len()),
        held_out,
        unusable,
        steps,
        usual_micro_nats: usual_losses(&curves, points.len()),
        doubtful: count(all.iter().filter(|doubt| doubt.reason.is_some()).count()),
        doubts: all.iter().take(wanted).map(frame).collect(),
        compared,
        echoing: count(echoes.len()),
        echoes: echoes.iter().take(wanted).map(|echo| echo_of(echo, &places)).collect(),
    }))
}

/// How many records were compared, and the pairs that say the same.
fn compared(
    context: &JobContext,
    base: &Base,
    adapter: &Adapter,
    records: &[(u32, Target)],
) -> Result<(u32, Vec<Echo>), String> {
    let deadline = Instant::now() + COMPARE_TIME;
    let goes_on = || !context.is_stopped() && Instant::now() < deadline;
    let readings = readings(base, adapter, records, &goes_on).map_err(text)?;
    Ok((count(readings.len()), echoes(&readings)))
}

fn echo_of(echo: &Echo, places: &[u32]) -> EchoFrame {
    let permille = |cosine: f64| count(usize::try_from(micro(cosine) / 1_000).unwrap_or(usize::MAX));
    EchoFrame {
        places: [places[echo.place], places[echo.of]],
        taught_permille: permille(echo.taught),
        read_permille: permille(echo.read),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The records as the training saw them.
struct Material {
    /// Of each target, its place among the examples.
    places: Vec<u32>,
    targets: Vec<Target>,
    held_out: u32,
    unusable: u32,
}

impl Material {
    /// Of the first records, as far as it goes on.
    fn of(base: &Base, recipe: &Recipe, ask: &TriageAsk, goes_on: &dyn Fn() -> bool) -> Self {
        let mut material = Self { places: Vec::new(), targets: Vec::new(), held_out: 0, unusable: 0 };
        for (place, example) in (0..).zip(&examples_of(&ask.examples)) {
            if !goes_on() {
                break;
            }
            match example.learned(base, recipe) {
                Ok(Some(target)) => {
                    material.places.push(place);
                    material.targets.push(target);
                }
                Ok(None) => material.held_out += 1,
                Err(_) => material.unusable += 1,
            }
        }
        material
    }
}

/// The middle of the gradients' norms at both ends.
fn gradients(curves: &[Curve]) -> [f64; 2] {
    let norms = |end: usize| curves.iter().map(|curve| f64::from(curve.gradients[end])).collect::<Vec<_>>();
    [0, 1].map(|end| median(&norms(end)).unwrap_or(0.0))
}

fn usual_losses(curves: &[Curve], points: usize) -> Vec<u64> {
    let at = |point: usize| curves.iter().map(|curve| f64::from(curve.losses[point])).collect::<Vec<_>>();
    (0..points).map(|point| micro(median(&at(point)).unwrap_or(0.0))).collect()
}

fn frame_of(doubt: &Doubt, curve: &Curve, place: u32, usual: [f64; 2]) -> DoubtFrame {
    let permille = |end: usize| match usual[end] > 0.0 {
        true => micro(f64::from(curve.gradients[end]) / usual[end]) / 1_000,
        false => 1_000,
    };
    let milli = i64::try_from(micro(doubt.score.abs()) / 1_000).unwrap_or(i64::MAX);
    DoubtFrame {
        place,
        score_milli: if doubt.score < 0.0 { -milli } else { milli },
        why: doubt.reason.map(|reason| match reason {
            Reason::NeverLearned => Why::NeverLearned,
            Reason::LearnedEarly => Why::LearnedEarly,
        }),
        losses_micro_nats: curve.losses.iter().map(|loss| micro(f64::from(*loss))).collect(),
        gradients_permille: [permille(0), permille(1)],
    }
}
