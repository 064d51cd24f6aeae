//! Training and its replay.
//!
//! Invariant: a run ends where its offer says, or before where its recipe's rule does, for who trains and for who checks
//! alike; what is measured for people on the way decides nothing.

use std::time::{Duration, Instant};

use tributary_compute::device::repeats_bits;
use tributary_compute::loss::Target;
use tributary_compute::model::Base;
use tributary_compute::train::{
    Answers, Evaluation, Example, Prefix, Recipe, StepReport, TrainError, Trainer, targets,
};
use tributary_protocol::id::Hash;
use tributary_protocol::limits::CURVE_POINTS_MAX;
use tributary_protocol::message::{HeldOut, Measurement};

use super::super::context::JobContext;
use super::super::{Done, ExampleFrame, Reply, Run, micro};
use super::{adapter_bytes, text};

/// Examples that are trained on between two comparisons of answers, which are slow beside training: a recipe that evaluates
/// after every step must not cost its worker many times what it pays for.
const ANSWERS_AFTER: u64 = 128;
/// How much an example counts that is not left out.
const FULL_WEIGHT: f32 = 1.0;
/// Time between reports of progress.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);

fn read(recipe: &str) -> Result<Recipe, String> {
    let recipe: Recipe = serde_json::from_str(recipe).map_err(|error| format!("the recipe is refused: {error}"))?;
    recipe.check().map_err(text)?;
    Ok(recipe)
}

/// The recipe of a run. The offer may end before the recipe does, as leave-out runs of a run that ended early do.
fn recipe_of(run: &Run) -> Result<Recipe, String> {
    let recipe = read(&run.recipe)?;
    if run.steps == 0 || run.steps > recipe.steps {
        return Err(format!("the recipe says {} steps, the offer {}", recipe.steps, run.steps));
    }
    Ok(recipe)
}

pub(super) fn examples_of(frames: &[ExampleFrame]) -> Vec<Example> {
    frames
        .iter()
        .map(|frame| Example {
            prompt: frame.prompt.clone(),
            completion: frame.completion.clone(),
            messages: frame.messages.clone(),
            contributor: frame.contributor,
            weight: if frame.left_out { 0.0 } else { FULL_WEIGHT },
        })
        .collect()
}

/// What was learned of each record, with whose it is, of `most` tokens at most; one from which nothing can be learned taught
/// nothing. An error where that can't be told on this machine.
pub(super) fn learned_from(base: &Base, frames: &[ExampleFrame], most: usize) -> Result<Vec<(u32, Target)>, String> {
    let mut learned = Vec::with_capacity(frames.len());
    for example in examples_of(frames) {
        match targets(base, std::slice::from_ref(&example), most) {
            Ok(own) => learned.extend(own.into_iter().map(|target| (example.contributor, target))),
            Err(error @ TrainError::Ended(_)) => return Err(text(error)),
            Err(_) => {}
        }
    }
    Ok(learned)
}

fn trainer(base: &Base, run: &Run, start: Option<&[u8]>) -> Result<(Trainer, Recipe), String> {
    let recipe = recipe_of(run)?;
    let examples = examples_of(&run.examples);
    let trainer = match start {
        Some(checkpoint) => Trainer::resume(base, &recipe, &examples, checkpoint),
        None => Trainer::new(base, &recipe, &examples),
    };
    Ok((trainer.map_err(text)?, recipe))
}

fn is_over(trainer: &Trainer, run: &Run) -> bool {
    trainer.is_done() || trainer.steps_done() >= run.steps
}

pub(super) fn train(context: &JobContext, run: &Run, resume: Option<&[u8]>) -> Result<Done, String> {
    let base = context.shelf.base(run.base)?;
    let (mut trainer, recipe) = trainer(&base, run, resume)?;
    let job = context.job;
    if resume.is_none() {
        context.reply(Reply::Checkpoint { job, step: 0, bytes: trainer.checkpoint() });
    }
    let mut told = Told::new(run.steps);
    let mut unanswered = 0_u64;
    while !is_over(&trainer, run) {
        if context.is_stopped() {
            context.reply(Reply::Saved { job, step: trainer.steps_done(), bytes: trainer.checkpoint() });
            return Err("stopped".into());
        }
        let report = trainer.step().map_err(text)?;
        let is_last = is_over(&trainer, run);
        if report.step.is_multiple_of(recipe.checkpoint_every) || is_last {
            context.reply(Reply::Checkpoint { job, step: report.step, bytes: trainer.checkpoint() });
        }
        unanswered += u64::from(recipe.batch);
        let answers = match report.evaluation {
            Some(_) if is_last || unanswered >= ANSWERS_AFTER => {
                unanswered = 0;
                trainer.answers().map_err(text)?
            }
            _ => None,
        };
        told.hear(&report, answers);
        if is_last || told.is_due() {
            context.reply(told.progress(job, is_last));
        }
    }
    let (adapter, kept_step) = kept(&trainer, run.base)?;
    Ok(Done::Trained { adapter, steps: trainer.steps_done(), kept_step, loss_micro_nats: told.loss_micro_nats })
}

/// A checkpoint of the run of the recipe `whole` that leaves nobody out, as one of this run.
pub(super) fn adopt(context: &JobContext, run: &Run, whole: &str, checkpoint: &[u8]) -> Result<Done, String> {
    let base = context.shelf.base(run.base)?;
    let (recipe, whole, examples) = (recipe_of(run)?, read(whole)?, examples_of(&run.examples));
    let all: Vec<Example> = examples.iter().map(|example| Example { weight: FULL_WEIGHT, ..example.clone() }).collect();
    let prefix = Prefix::of(&base, &recipe, &examples, (&whole, &all));
    let adopted = prefix.and_then(|prefix| prefix.adopt(checkpoint)).map_err(text);
    match context.is_stopped() {
        true => Err("stopped".into()),
        false => Ok(Done::Adopted(adopted)),
    }
}

pub(super) fn replay(context: &JobContext, run: &Run, start: Option<&[u8]>, to_step: u32) -> Result<Done, String> {
    let base = context.shelf.base(run.base)?;
    if !repeats_bits(base.model().device()) {
        return Err(format!("kernels of class {} don't repeat a training's bits", base.class()));
    }
    let (mut trainer, _) = trainer(&base, run, start)?;
    while trainer.steps_done() < to_step && !is_over(&trainer, run) {
        if context.is_stopped() {
            return Err("stopped".into());
        }
        trainer.step().map_err(text)?;
    }
    let (adapter, kept_step) = kept(&trainer, run.base)?;
    Ok(Done::Replayed { end: trainer.checkpoint(), adapter, kept_step, is_over: is_over(&trainer, run) })
}

/// The blob of the adapter that the run is told by, and the step after which it was.
fn kept(trainer: &Trainer, base: Hash) -> Result<(Vec<u8>, u32), String> {
    let (adapter, step) = trainer.kept().map_err(text)?;
    Ok((adapter_bytes(&adapter, base)?, step))
}

/// What was measured and not told yet.
struct Told {
    began: Instant,
    since: Instant,
    tokens: u64,
    step: u32,
    steps: u32,
    loss_micro_nats: u64,
    /// Steps that one point of the curve stands for: the curve has a bounded number of points.
    stride: u32,
    point: Point,
    curve: Vec<Measurement>,
}

/// A point of the curve in the making.
struct Point {
    since: Instant,
    losses: f64,
    steps: u32,
    tokens: u64,
    held_out: Option<HeldOut>,
}

impl Point {
    fn new() -> Self {
        Self { since: Instant::now(), losses: 0.0, steps: 0, tokens: 0, held_out: None }
    }
}

impl Told {
    fn new(steps: u32) -> Self {
        let points = u32::try_from(CURVE_POINTS_MAX).unwrap_or(u32::MAX);
        let (now, point) = (Instant::now(), Point::new());
        let stride = steps.div_ceil(points).max(1);
        let (tokens, step, loss_micro_nats, curve) = (0, 0, 0, Vec::new());
        Self { began: now, since: now, tokens, step, steps, loss_micro_nats, stride, point, curve }
    }

    fn hear(&mut self, report: &StepReport, answers: Option<Answers>) {
        let tokens = u64::try_from(report.tokens).unwrap_or(0);
        self.tokens += tokens;
        self.step = report.step;
        self.loss_micro_nats = micro(f64::from(report.loss));
        self.point.tokens += tokens;
        self.point.losses += f64::from(report.loss);
        self.point.steps += 1;
        if let Some(evaluation) = report.evaluation {
            self.point.held_out = Some(held_out(evaluation, answers));
        }
        if report.step.is_multiple_of(self.stride) {
            self.end_point();
        }
    }

    fn end_point(&mut self) {
        if self.point.steps == 0 {
            return;
        }
        let point = std::mem::replace(&mut self.point, Point::new());
        self.curve.push(Measurement {
            step: self.step,
            elapsed_ms: millis(self.began.elapsed()),
            loss_micro_nats: micro(point.losses / f64::from(point.steps)),
            tokens_per_s: rate(point.tokens, point.since.elapsed()),
            held_out: point.held_out,
        });
    }

    fn is_due(&self) -> bool {
        self.since.elapsed() >= REPORT_INTERVAL
    }

    fn progress(&mut self, job: Hash, is_last: bool) -> Reply {
        if is_last {
            self.end_point();
        }
        let tokens_per_s = rate(self.tokens, self.since.elapsed());
        (self.since, self.tokens) = (Instant::now(), 0);
        let (step, steps, loss_micro_nats) = (self.step, self.steps, self.loss_micro_nats);
        let curve = std::mem::take(&mut self.curve);
        Reply::Progress { job, step, steps, loss_micro_nats, tokens_per_s, curve }
    }
}

fn held_out(evaluation: Evaluation, answers: Option<Answers>) -> HeldOut {
    let millionths = |part: f32| u32::try_from(micro(f64::from(part))).unwrap_or(u32::MAX);
    HeldOut {
        loss_micro_nats: micro(f64::from(evaluation.loss)),
        exact_match_millionths: answers.and_then(|answers| answers.exact_match).map(millionths),
        rouge_l_millionths: answers.and_then(|answers| answers.rouge_l).map(millionths),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn rate(tokens: u64, time: Duration) -> u32 {
    u32::try_from(tokens.saturating_mul(1_000) / millis(time).max(1)).unwrap_or(u32::MAX)
}
