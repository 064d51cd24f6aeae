//! Rates of the server, asked as its users ask it.
//!
//! Invariant: no prompt is asked twice by one process, so nothing is found in the prefix cache; a figure is the middle
//! one of its repeats.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tributary_protocol::id::Hash;

use super::machine::{copy_bandwidth, resident_bytes};
use super::material::{Format, Material, PROMPT_TOKENS, RANK, letters};
use super::{BenchError, CROWD, OVERSUBSCRIPTION, Plan, Sample, swap};
use crate::engine::GenerateParams;
use crate::lora::{Adapter, AdapterFiles};
use crate::model::{Base, Config, Module};
use crate::serve::registry::{CONFIG_FILE, WEIGHTS_FILE};
use crate::serve::schedule::Limits;
use crate::serve::{Event, EventStream, Prompt, Request, Server, ServerConfig, Work};
use crate::statistics;

/// Blocks for keys and values: more than any row here uses.
const KV_BLOCKS: usize = 1_024;
/// Adapters that are known and never asked for, in the row about them.
const IDLE: usize = 1_000;
/// Measurements of a step with and without them for each repeat: both differ by far less than two runs do.
const IDLE_TURNS: usize = 4;
/// Tokens of an answer where adapters take turns: so few that loading them counts.
const SHORT_ANSWER: usize = 16;
/// Times that the short waits for a first token are taken; the middle one counts.
const WAITS: usize = 9;

/// A server and the adapters that it knows.
struct Place<'a> {
    server: Server,
    adapters: Vec<Option<Hash>>,
    plan: &'a Plan,
    asked: std::cell::Cell<usize>,
}

/// Seconds, and the tokens made in them.
struct Run {
    seconds: f64,
    tokens: usize,
}

/// The middle one.
pub(super) fn median(values: Vec<f64>) -> f64 {
    statistics::median(&values).unwrap_or(f64::NAN)
}

fn adapter_bytes(shape: &Config) -> u64 {
    let per_module = |module| {
        let (inner, outer) = shape.module_shape(module);
        4 * RANK * (inner + outer)
    };
    (shape.layers * Module::ALL.into_iter().map(per_module).sum::<usize>()) as u64
}

/// Waits for the answer's end and counts its tokens.
fn hear(events: &EventStream) -> Result<usize, BenchError> {
    loop {
        match events.next_event().ok_or(BenchError::Broken("the stream broke off"))? {
            Event::Finished(finished) => return Ok(finished.usage.completion_tokens),
            Event::Failed(error) => return Err(error.into()),
            _ => {}
        }
    }
}

impl<'a> Place<'a> {
    /// A server on `base` that holds `resident` adapters in memory and knows `known`.
    fn new(
        base: &Base,
        material: &Material<'_>,
        plan: &'a Plan,
        resident: usize,
        known: usize,
    ) -> Result<Self, BenchError> {
        let shape = base.config();
        let bytes = adapter_bytes(shape) * resident as u64;
        let limits = Limits::for_memory(KV_BLOCKS, bytes, shape.max_positions);
        let config =
            ServerConfig { limits: Some(limits), patience: Duration::from_secs(60), ..ServerConfig::default() };
        let server = Server::start(base, &config)?;
        let adapters: Result<Vec<_>, _> =
            (0..known).map(|at| server.register(&material.adapter(at)).map(Some)).collect();
        Ok(Self { server, adapters: adapters?, plan, asked: std::cell::Cell::new(0) })
    }

    fn submit(&self, adapter: Option<Hash>, tokens: usize) -> Result<EventStream, BenchError> {
        self.asked.set(self.asked.get() + 1);
        let prompt = Prompt::Text(letters(self.asked.get(), PROMPT_TOKENS));
        let params = GenerateParams { max_tokens: tokens, ..GenerateParams::default() };
        Ok(self.server.submit(&Request { adapter, prompt, work: Work::Generate { params, logprobs: None } })?)
    }

    /// One request for each of `adapters`, at most `together` at a time.
    fn run(&self, adapters: &[Option<Hash>], together: usize, tokens: usize) -> Result<Run, BenchError> {
        let start = Instant::now();
        let (mut waiting, mut open, mut made) = (adapters.iter(), VecDeque::new(), 0);
        loop {
            while open.len() < together {
                let Some(adapter) = waiting.next() else { break };
                open.push_back(self.submit(*adapter, tokens)?);
            }
            match open.pop_front() {
                Some(events) => made += hear(&events)?,
                None => return Ok(Run { seconds: start.elapsed().as_secs_f64(), tokens: made }),
            }
        }
    }

    /// Tokens per second of one stream once the prompt is read: the time of an answer of one token is taken off.
    fn decode_rate(&self, adapter: Option<Hash>) -> Result<f64, BenchError> {
        let mut rates = Vec::new();
        for _ in 0..self.plan.repeats {
            let (one, all) = (self.run(&[adapter], 1, 1)?, self.run(&[adapter], 1, self.plan.tokens)?);
            rates.push((all.tokens - one.tokens) as f64 / (all.seconds - one.seconds));
        }
        Ok(median(rates))
    }

    /// Tokens per second, prompts included.
    fn rate(&self, adapters: &[Option<Hash>], tokens: usize) -> Result<f64, BenchError> {
        let run = self.run(adapters, CROWD, tokens)?;
        Ok(run.tokens as f64 / run.seconds)
    }

    /// Seconds until the first token for each of `adapters` in turns.
    fn wait(&self, adapters: &[Option<Hash>]) -> Result<f64, BenchError> {
        let mut waits = Vec::new();
        for _ in 0..WAITS {
            for adapter in adapters {
                waits.push(self.run(&[*adapter], 1, 1)?.seconds);
            }
        }
        Ok(median(waits))
    }
}

/// One stream and eight.
pub(super) fn streams(material: &Material<'_>, format: Format, plan: &Plan) -> Result<Vec<Sample>, BenchError> {
    let base = Base::load(&material.model(format))?;
    let place = Place::new(&base, material, plan, CROWD, CROWD)?;
    // Reads the adapters and touches the weights.
    place.run(&place.adapters, CROWD, 2)?;
    let name = format.name();
    let bandwidth = copy_bandwidth();
    let bound = bandwidth / base.model().product_bytes() as f64;
    let one = [place.adapters[0]; CROWD];
    let crowds: [(&str, &[Option<Hash>]); 3] = [("base", &[None; CROWD]), ("one", &one), ("mixed", &place.adapters)];
    let mut rates = [(); 3].map(|()| Vec::new());
    // In turns, so that a machine that slows down slows all of them.
    for _ in 0..plan.repeats {
        for ((_, adapters), rates) in crowds.iter().zip(&mut rates) {
            rates.push(place.rate(adapters, plan.tokens)?);
        }
    }
    let mut samples = vec![
        Sample::ours("bandwidth", bandwidth / 1e9),
        Sample::ours(format!("bound/{name}"), bound),
        Sample::ours(format!("decode/{name}/base"), place.decode_rate(None)?),
        Sample::ours(format!("decode/{name}/adapter"), place.decode_rate(place.adapters[0])?),
    ];
    let crowds = crowds.iter().zip(rates);
    samples.extend(crowds.map(|((kind, _), rates)| Sample::ours(format!("crowd/{name}/{kind}"), median(rates))));
    Ok(samples)
}

/// The small trained model: what a step costs beside its arithmetic.
pub(super) fn small(material: &Material<'_>, plan: &Plan) -> Result<Vec<Sample>, BenchError> {
    let base = material.small()?;
    let place = Place::new(&base, material, plan, 0, 0)?;
    place.run(&[None; CROWD], CROWD, 2)?;
    let rates: Result<Vec<f64>, BenchError> =
        (0..plan.repeats).map(|_| place.rate(&[None; CROWD], plan.tokens)).collect();
    let one = place.decode_rate(None)?;
    Ok(vec![Sample::ours("decode/small/base", one), Sample::ours("crowd/small/base", median(rates?))])
}

/// Adapters that are resident, cold, too many, or idle.
pub(super) fn adapters(material: &Material<'_>, plan: &Plan) -> Result<Vec<Sample>, BenchError> {
    let base = Base::load(&material.model(Format::Full))?;
    let all = CROWD * OVERSUBSCRIPTION;
    let mut samples = Vec::new();
    let place = Place::new(&base, material, plan, all, all)?;
    place.run(&place.adapters, CROWD, 1)?;
    samples.push(Sample::ours("adapters/resident", place.rate(&place.adapters, SHORT_ANSWER)?));
    let read = |at| -> Result<Arc<Adapter>, BenchError> {
        let folder = material.adapter(at);
        let (config_json, safetensors) =
            (std::fs::read(folder.join(CONFIG_FILE))?, std::fs::read(folder.join(WEIGHTS_FILE))?);
        Ok(Arc::new(Adapter::from_files(base.config(), &AdapterFiles { config_json, safetensors })?))
    };
    let prompt = base.tokenizer().encode_prompt(&letters(0, PROMPT_TOKENS))?;
    let swap = swap::seconds([read(0)?, read(1)?], &prompt, base.config().max_positions)?;
    samples.push(Sample::ours("adapters/swap", swap * 1e3));
    let few = Place::new(&base, material, plan, CROWD, all)?;
    samples.extend(idle(&place, &few, material)?);
    drop(place);
    samples.push(Sample::ours("adapters/oversubscribed", few.rate(&few.adapters, SHORT_ANSWER)?));
    drop(few);
    let mut colds = Vec::new();
    for _ in 0..plan.repeats {
        let fresh = Place::new(&base, material, plan, 1, 1)?;
        let cold = fresh.run(&fresh.adapters, 1, 1)?.seconds;
        colds.push((cold - fresh.wait(&fresh.adapters)?) * 1e3);
    }
    samples.push(Sample::ours("adapters/cold", median(colds)));
    Ok(samples)
}

/// What a thousand more names cost the others' steps and the memory: `busy` gets them, and its steps are measured in turns
/// with those of `quiet`. Neither is asked for an adapter.
fn idle(busy: &Place<'_>, quiet: &Place<'_>, material: &Material<'_>) -> Result<Vec<Sample>, BenchError> {
    let memory = resident_bytes();
    for number in 0..IDLE {
        let mut name = [9; 32];
        name[..8].copy_from_slice(&(number as u64).to_le_bytes());
        busy.server.registry().register(Hash(name), &material.adapter(0))?;
    }
    let bytes = memory.zip(resident_bytes()).map(|(before, after)| (after - before) / IDLE as f64);
    let step =
        |place: &Place<'_>| Ok::<f64, BenchError>(1e3 * CROWD as f64 / place.rate(&[None; CROWD], place.plan.tokens)?);
    let (mut without, mut beside) = (Vec::new(), Vec::new());
    step(quiet)?;
    for _ in 0..IDLE_TURNS * busy.plan.repeats {
        without.push(step(quiet)?);
        beside.push(step(busy)?);
    }
    let mut samples = vec![
        Sample::ours("adapters/step-before", median(without)),
        Sample::ours("adapters/step-with-idle", median(beside)),
    ];
    samples.extend(bytes.map(|bytes| Sample::ours("adapters/idle-bytes", bytes)));
    Ok(samples)
}
