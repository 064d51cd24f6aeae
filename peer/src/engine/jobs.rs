//! The engine's jobs, one function each: train, replay, index, answer, check.

use std::ops::ControlFlow;
use std::time::Instant;

use tributary_compute::attribute::{self, Index};
use tributary_compute::device;
use tributary_compute::engine::{Engine, EngineError, GenerateParams, Generation, replay_finish};
use tributary_compute::lora::Adapter;
use tributary_compute::model::Base;
use tributary_compute::proof::{self, ProofVerdict, fingerprint_root};
use tributary_compute::train::{Example, Recipe, Trainer};
use tributary_protocol::id::Hash;

use super::child::{JobContext, Served};
use super::{Ask, Done, ExampleFrame, Reply, Run};
use crate::bundle::{self, Transcript};

fn text<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

pub(super) fn perform(context: &JobContext, ask: Ask) -> Result<Done, String> {
    match ask {
        Ask::Train { run, resume, .. } => train(context, &run, resume.as_deref()),
        Ask::Replay { run, start, to_step, .. } => replay(context, &run, start.as_deref(), to_step),
        Ask::Index { base, id, adapter, leave_out, .. } => index(context, base, id, &adapter, &leave_out),
        Ask::Answer { base, adapter, prompt, max_tokens, temperature_milli, seed, .. } => {
            let params = params(max_tokens, temperature_milli, seed)?;
            answer(context, base, adapter, &prompt, &params)
        }
        Ask::Check { base, adapter, class, prompt, transcript, max_tokens, temperature_milli, seed, .. } => {
            let params = params(max_tokens, temperature_milli, seed)?;
            check(context, base, adapter, &Claim { class, prompt, transcript, params })
        }
        Ask::Base { .. } | Ask::Stop { .. } => Err("not a job".into()),
    }
}

fn params(max_tokens: u32, temperature_milli: u32, seed: u64) -> Result<GenerateParams, String> {
    let thousandths = u16::try_from(temperature_milli).map_err(|_| "the temperature is beyond 65".to_owned())?;
    let params = GenerateParams {
        max_tokens: usize::try_from(max_tokens).map_err(text)?,
        temperature: f32::from(thousandths) / 1_000.0,
        seed,
        ..GenerateParams::default()
    };
    params.check().map_err(text)?;
    Ok(params)
}

fn recipe_of(run: &Run) -> Result<Recipe, String> {
    let recipe: Recipe =
        serde_json::from_str(&run.recipe).map_err(|error| format!("the recipe is refused: {error}"))?;
    recipe.check().map_err(text)?;
    if recipe.steps != run.steps {
        return Err(format!("the recipe says {} steps, the offer {}", recipe.steps, run.steps));
    }
    Ok(recipe)
}

fn examples_of(frames: &[ExampleFrame]) -> Vec<Example> {
    frames
        .iter()
        .map(|frame| Example {
            prompt: frame.prompt.clone(),
            completion: frame.completion.clone(),
            contributor: frame.contributor,
            weight: if frame.left_out { 0.0 } else { 1.0 },
        })
        .collect()
}

/// Nats to whole millionths; a loss that is no number shows as the largest.
fn micro(nats: f64) -> u64 {
    let micro = nats * 1e6;
    if micro.is_finite() && micro >= 0.0 { format!("{micro:.0}").parse().unwrap_or(u64::MAX) } else { u64::MAX }
}

fn adapter_bytes(adapter: &Adapter) -> Result<Vec<u8>, String> {
    Ok(bundle::adapter_to_bytes(adapter.to_files().map_err(text)?))
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

fn train(context: &JobContext, run: &Run, resume: Option<&[u8]>) -> Result<Done, String> {
    let base = context.shelf.base(run.base)?;
    let (mut trainer, recipe) = trainer(&base, run, resume)?;
    let job = context.job;
    if resume.is_none() {
        context.reply(Reply::Checkpoint { job, step: 0, bytes: trainer.checkpoint() });
    }
    let mut loss_micro_nats = 0;
    let (mut since, mut tokens) = (Instant::now(), 0_u64);
    while !trainer.is_done() {
        if context.is_stopped() {
            return Err("stopped".into());
        }
        let report = trainer.step().map_err(text)?;
        loss_micro_nats = micro(f64::from(report.loss));
        tokens += u64::try_from(report.tokens).unwrap_or(0);
        if report.step % recipe.checkpoint_every == 0 || trainer.is_done() {
            context.reply(Reply::Checkpoint { job, step: report.step, bytes: trainer.checkpoint() });
        }
        if since.elapsed().as_millis() >= 250 || trainer.is_done() {
            let elapsed_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
            let tokens_per_s = u32::try_from(tokens.saturating_mul(1_000) / elapsed_ms).unwrap_or(u32::MAX);
            let (step, steps) = (report.step, recipe.steps);
            context.reply(Reply::Progress { job, step, steps, loss_micro_nats, tokens_per_s });
            (since, tokens) = (Instant::now(), 0);
        }
    }
    let adapter = adapter_bytes(&trainer.adapter().map_err(text)?)?;
    Ok(Done::Trained { adapter, steps: recipe.steps, loss_micro_nats })
}

fn replay(context: &JobContext, run: &Run, start: Option<&[u8]>, to_step: u32) -> Result<Done, String> {
    let base = context.shelf.base(run.base)?;
    let (mut trainer, _) = trainer(&base, run, start)?;
    while trainer.steps_done() < to_step && !trainer.is_done() {
        if context.is_stopped() {
            return Err("stopped".into());
        }
        trainer.step().map_err(text)?;
    }
    let adapter = adapter_bytes(&trainer.adapter().map_err(text)?)?;
    Ok(Done::Replayed { end: trainer.checkpoint(), adapter })
}

fn index(
    context: &JobContext,
    base: Hash,
    id: Hash,
    adapter: &[u8],
    leave_out: &[(u32, Vec<u8>)],
) -> Result<Done, String> {
    let base = context.shelf.base(base)?;
    let read = |bytes: &[u8]| {
        let files = bundle::adapter_from_bytes(bytes).map_err(text)?;
        Adapter::from_files(base.config(), &files).map_err(text)
    };
    let adapter = read(adapter)?;
    let without = leave_out
        .iter()
        .map(|(contributor, bytes)| {
            let adapter = if bytes.is_empty() { untrained(&base, &adapter)? } else { read(bytes)? };
            Ok((*contributor, adapter))
        })
        .collect::<Result<Vec<_>, String>>()?;
    let index = Index::build(&adapter, &without).map_err(text)?;
    let commitment = index.commitment();
    context.shelf.serve(id, Served { adapter, index });
    Ok(Done::Indexed { commitment })
}

/// An adapter of the same shape that changes nothing of the base: its second factors are zero, as before training.
fn untrained(base: &Base, adapter: &Adapter) -> Result<Adapter, String> {
    let mut values = Vec::new();
    for (place, tensor) in adapter.tensors().enumerate() {
        let numbers: Vec<f32> = tensor.flatten_all().and_then(|flat| flat.to_vec1()).map_err(text)?;
        let is_up = place % 2 == 1;
        values.extend(numbers.into_iter().map(|number| if is_up { 0.0 } else { number }));
    }
    Adapter::from_values(base.config(), adapter.config(), &values).map_err(text)
}

fn transcript_of(generation: &Generation) -> Transcript {
    Transcript {
        prompt_tokens: generation.prompt_tokens.clone(),
        output_tokens: generation.output_tokens.clone(),
        fingerprints: generation.fingerprints.iter().map(proof::Fingerprint::to_bytes).collect(),
    }
}

fn answer(
    context: &JobContext,
    base: Hash,
    adapter: Option<Hash>,
    prompt: &str,
    params: &GenerateParams,
) -> Result<Done, String> {
    let base = context.shelf.base(base)?;
    let served = adapter.map(|id| context.shelf.served(id)).transpose()?;
    let job = context.job;
    let mut on_text = |piece: &str| {
        context.reply(Reply::Text { job, text: piece.to_owned() });
        if context.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let own = served.as_ref().map(|served| &served.adapter);
    let generation = match Engine::new().generate(&base, own, prompt, params, &mut on_text) {
        Err(EngineError::PromptTooLong { tokens, context }) => {
            let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
            return Ok(Done::PromptTooLong { tokens: count(tokens), context: count(context) });
        }
        ended => ended.map_err(text)?,
    };
    let credits = match &served {
        Some(served) if !generation.output_tokens.is_empty() => {
            credits(&base, served, &generation.prompt_tokens, &generation.output_tokens)?
        }
        _ => Vec::new(),
    };
    Ok(Done::Answered {
        transcript: transcript_of(&generation).to_bytes(),
        fingerprints: fingerprint_root(&generation.fingerprints),
        text: generation.text,
        credits,
    })
}

fn credits(base: &Base, served: &Served, prompt: &[u32], output: &[u32]) -> Result<Vec<(u32, i64)>, String> {
    let credits = attribute::credits(base, &served.adapter, &served.index, prompt, output).map_err(text)?;
    Ok(credits.into_iter().map(|credit| (credit.contributor, credit.micro_nats)).collect())
}

struct Claim {
    class: String,
    prompt: String,
    transcript: Vec<u8>,
    params: GenerateParams,
}

fn check(context: &JobContext, base: Hash, adapter: Hash, claim: &Claim) -> Result<Done, String> {
    let base = context.shelf.base(base)?;
    let served = context.shelf.served(adapter)?;
    let transcript = Transcript::from_bytes(&claim.transcript).map_err(text)?;
    let fingerprints = transcript.fingerprints()?;
    let (prompt, output) = (&transcript.prompt_tokens, &transcript.output_tokens);
    let mut done = Checked { root: fingerprint_root(&fingerprints), ..Checked::default() };
    let count = u32::try_from(fingerprints.len()).unwrap_or(u32::MAX);
    if claim.class != device::class() {
        done.abstained = Some(format!("computed in class {}, this machine is {}", claim.class, device::class()));
    } else if base.tokenizer().encode_prompt(&claim.prompt).map_err(text)? != *prompt {
        done.fault = Some("the prompt's tokens are others".into());
    } else {
        let verdict =
            proof::check_generation(&base, Some(&served.adapter), prompt, output, &fingerprints, &claim.params)
                .map_err(text)?;
        match verdict {
            ProofVerdict::Match if is_cut_short(&base, &claim.params, prompt.len(), output)? => {
                done.fault = Some("the answer was cut short".into());
            }
            ProofVerdict::Match => {
                done.credits = credits(&base, &served, prompt, output)?;
                let visible: Vec<u32> =
                    output.iter().copied().filter(|token| !base.tokenizer().is_end(*token)).collect();
                done.text = base.tokenizer().decode(&visible).map_err(text)?;
            }
            ProofVerdict::Mismatch { reason } => done.fault = Some(reason.to_string()),
            ProofVerdict::CannotCheck { reason } => done.abstained = Some(reason.to_string()),
        }
    }
    Ok(done.into_done(count))
}

/// Whether the worker ended an answer that could have gone on.
fn is_cut_short(base: &Base, params: &GenerateParams, prompt: usize, output: &[u32]) -> Result<bool, String> {
    let (finish, at) = replay_finish(base, params, prompt, output).map_err(text)?;
    Ok(finish.is_none() || at != output.len())
}

#[derive(Default)]
struct Checked {
    fault: Option<String>,
    abstained: Option<String>,
    credits: Vec<(u32, i64)>,
    text: String,
    root: Hash,
}

impl Checked {
    fn into_done(self, fingerprints: u32) -> Done {
        let Self { fault, abstained, credits, text, root } = self;
        Done::Checked { fault, abstained, fingerprints, credits, text, root }
    }
}
