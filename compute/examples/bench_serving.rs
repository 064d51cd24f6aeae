//! How fast the server is, on a Llama of about 110 million random parameters that is made on the fly.
//!
//!     cargo run --release -p tributary-compute --example bench_serving [-- TOKENS]
//!
//! Figures mean something on an idle machine only; ratios within one run are steadier than the figures themselves.

use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tributary_compute::engine::GenerateParams;
use tributary_compute::lora::{Adapter, LoraConfig};
use tributary_compute::model::{Base, Config, Module, WeightType, Weights};
use tributary_compute::serve::registry::{CONFIG_FILE, WEIGHTS_FILE};
use tributary_compute::serve::schedule::Limits;
use tributary_compute::serve::{Event, EventStream, Prompt, Request, Server, ServerConfig, Work};
use tributary_compute::tokenizer::train_byte_level;
use tributary_protocol::id::Hash;

type Outcome<T> = Result<T, Box<dyn Error>>;

const PROMPT_TOKENS: u32 = 32;
const CROWD: usize = 8;
const RANK: usize = 16;

fn config() -> Config {
    let text = r#"{"model_type": "llama", "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
        "num_attention_heads": 12, "num_key_value_heads": 4, "vocab_size": 32000, "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true, "bos_token_id": 0,
        "eos_token_id": 31999}"#;
    Config::from_json(text.as_bytes()).expect("invariant: a valid configuration")
}

fn base() -> Outcome<Base> {
    let config = config();
    let weights = Weights::random(&config, 1)?.to_safetensors(&config, WeightType::F32)?;
    let tokenizer = train_byte_level(&["the river flows past the old mill".to_owned()], 300)?;
    Ok(Base::from_bytes(&config.to_json(), &tokenizer, &weights)?)
}

/// Bytes of the weights that one token reads: all but the rows of the embedding, whose table is the output product too.
fn bytes_per_token(config: &Config) -> f64 {
    let of = |module| {
        let (inner, outer) = config.module_shape(module);
        inner * outer
    };
    let block: usize = Module::ALL.into_iter().map(of).sum();
    (4 * (config.layers * block + config.vocab * config.hidden)) as f64
}

/// Bytes per second that two threads copy, read and written counted once each.
fn copy_bandwidth() -> f64 {
    const BYTES: usize = 256 << 20;
    let from = vec![1_u8; BYTES];
    let mut into = vec![0_u8; BYTES];
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for (into, from) in into.chunks_mut(BYTES / 2).zip(from.chunks(BYTES / 2)) {
                scope.spawn(move || black_box(into).copy_from_slice(black_box(from)));
            }
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    2.0 * BYTES as f64 / best
}

fn save_adapter(base: &Base, seed: u64, folder: &Path) -> Outcome<()> {
    let lora =
        LoraConfig { rank: RANK, alpha: 32.0, rslora: false, dropout: 0.0, target_modules: Module::ALL.to_vec() };
    let files = Adapter::fresh(base.config(), &lora, seed)?.to_files()?;
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(CONFIG_FILE), &files.config_json)?;
    Ok(std::fs::write(folder.join(WEIGHTS_FILE), &files.safetensors)?)
}

fn request(adapter: Option<Hash>, seed: u32, tokens: usize) -> Request {
    let prompt = (0..PROMPT_TOKENS).map(|at| 1 + (seed * 7_919 + at * 104_729) % 31_000).collect();
    let params = GenerateParams { max_tokens: tokens, ..GenerateParams::default() };
    Request { adapter, prompt: Prompt::Tokens(prompt), work: Work::Generate { params, logprobs: None } }
}

/// When the first text came and when the answer ended. (Random weights give text that breaks characters, so the end is
/// what is timed.)
fn hear(events: &EventStream) -> Outcome<usize> {
    loop {
        match events.next_event().ok_or("the stream broke off")? {
            Event::Finished(finished) => return Ok(finished.usage.completion_tokens),
            Event::Failed(error) => return Err(error.into()),
            _ => {}
        }
    }
}

/// Seconds and tokens of requests that run together, `together` at a time.
fn run(server: &Server, adapters: &[Option<Hash>], together: usize, tokens: usize) -> Outcome<(f64, usize)> {
    let start = Instant::now();
    let (mut waiting, mut open, mut made) = (adapters.iter().zip(0_u32..), std::collections::VecDeque::new(), 0);
    loop {
        while open.len() < together {
            let Some((adapter, seed)) = waiting.next() else { break };
            open.push_back(server.submit(&request(*adapter, seed, tokens))?);
        }
        match open.pop_front() {
            Some(events) => made += hear(&events)?,
            None => return Ok((start.elapsed().as_secs_f64(), made)),
        }
    }
}

/// Tokens per second after the prompts are read and the first tokens picked: the time of runs of one token each is taken
/// off. The best of two.
fn decode_rate(server: &Server, adapters: &[Option<Hash>], together: usize, tokens: usize) -> Outcome<f64> {
    let (mut first, mut whole) = ((f64::INFINITY, 0), (f64::INFINITY, 0));
    for _ in 0..2 {
        let (one, all) = (run(server, adapters, together, 1)?, run(server, adapters, together, tokens)?);
        first = if one.0 < first.0 { one } else { first };
        whole = if all.0 < whole.0 { all } else { whole };
    }
    Ok((whole.1 - first.1) as f64 / (whole.0 - first.0))
}

/// Tokens per second with the prompts' time in it, the better of two runs.
fn rate(server: &Server, adapters: &[Option<Hash>], together: usize, tokens: usize) -> Outcome<f64> {
    let mut best = 0.0_f64;
    for _ in 0..2 {
        let (seconds, made) = run(server, adapters, together, tokens)?;
        best = best.max(made as f64 / seconds);
    }
    Ok(best)
}

/// Seconds of one token after a 32-token prompt, the best of five.
fn latency(server: &Server, adapters: &[Option<Hash>]) -> Outcome<f64> {
    let mut best = f64::INFINITY;
    for round in 0..5 {
        for adapter in adapters {
            let start = Instant::now();
            hear(&server.submit(&request(*adapter, 1_000 + round, 1))?)?;
            best = best.min(start.elapsed().as_secs_f64());
        }
    }
    Ok(best)
}

fn server(base: &Base, resident: usize, folders: &TempDir, adapters: usize) -> Outcome<(Server, Vec<Option<Hash>>)> {
    let shape = base.config();
    let per_module = |module| {
        let (inner, outer) = shape.module_shape(module);
        4 * RANK * (inner + outer)
    };
    let bytes: usize = shape.layers * Module::ALL.into_iter().map(per_module).sum::<usize>();
    let limits = Limits::for_memory(1_024, (bytes * resident) as u64, shape.max_positions);
    let config = ServerConfig { limits: Some(limits), patience: Duration::from_secs(60), ..ServerConfig::default() };
    let server = Server::start(base, &config)?;
    let hashes: Result<Vec<_>, _> =
        (0..adapters).map(|at| server.register(&folders.path().join(at.to_string())).map(Some)).collect();
    Ok((server, hashes?))
}

fn row(name: &str, figure: f64, unit: &str, beside: &str) {
    println!("{name:<58} {figure:>10.2} {unit:<8} {beside}");
}

fn single(server: &Server, adapter: Option<Hash>, base: &Base, tokens: usize) -> Outcome<f64> {
    let bandwidth = copy_bandwidth();
    let bound = bandwidth / bytes_per_token(base.config());
    row("copy bandwidth, two threads", bandwidth / 1e9, "GB/s", "");
    let alone = decode_rate(server, &[None], 1, tokens)?;
    row("one stream, base", alone, "tok/s", &format!("{:.2} of the bandwidth bound {bound:.1}", alone / bound));
    let adapted = decode_rate(server, &[adapter], 1, tokens)?;
    row("one stream, adapter", adapted, "tok/s", &format!("{:.2} of base", adapted / alone));
    Ok(alone)
}

fn crowd(server: &Server, adapters: &[Option<Hash>], tokens: usize) -> Outcome<()> {
    let base = decode_rate(server, &[None; CROWD], CROWD, tokens)?;
    row("8 streams, base", base, "tok/s", "");
    let one = decode_rate(server, &[adapters[0]; CROWD], CROWD, tokens)?;
    row("8 streams, one adapter", one, "tok/s", &format!("{:.2} of base", one / base));
    let mixed = decode_rate(server, &adapters[..CROWD], CROWD, tokens)?;
    row("8 streams, 8 adapters", mixed, "tok/s", &format!("{:.2} of one adapter's", mixed / one));
    let after = decode_rate(server, &adapters[..CROWD], 1, tokens)?;
    row("8 adapters one after another", after, "tok/s", &format!("mixed is {:.2} times that", mixed / after));
    Ok(())
}

fn swaps(server: &Server, adapters: &[Option<Hash>]) -> Outcome<()> {
    let same = latency(server, &adapters[..1])?;
    let other = latency(server, &adapters[..2])?;
    row("first token, same adapter again", same * 1e3, "ms", "");
    row("first token, two resident in turns", other * 1e3, "ms", &format!("swap {:.2} ms", (other - same) * 1e3));
    Ok(())
}

fn oversubscribed(base: &Base, folders: &TempDir, tokens: usize) -> Outcome<()> {
    let (all, adapters) = server(base, 10 * CROWD, folders, 10 * CROWD)?;
    run(&all, &adapters, CROWD, 1)?;
    let resident = rate(&all, &adapters, CROWD, tokens)?;
    row("80 adapters, all resident, 8 streams", resident, "tok/s", "");
    drop(all);
    let (few, adapters) = server(base, CROWD, folders, 10 * CROWD)?;
    let swapped = rate(&few, &adapters, CROWD, tokens)?;
    row("80 adapters, 8 resident, 8 streams", swapped, "tok/s", &format!("{:.2} of all resident", swapped / resident));
    let (queued, made) = run(&few, &adapters, 8 * CROWD, tokens)?;
    let queued = made as f64 / queued;
    row("80 adapters, 8 resident, 64 asked at once", queued, "tok/s", &format!("{:.2}", queued / resident));
    drop(few);
    let mut cold = f64::INFINITY;
    for _ in 0..3 {
        let (fresh, adapters) = server(base, CROWD, folders, 1)?;
        let start = Instant::now();
        hear(&fresh.submit(&request(adapters[0], 1, 1))?)?;
        let first = start.elapsed().as_secs_f64();
        cold = cold.min(first - latency(&fresh, &adapters)?);
    }
    row("cold adapter of 10 MB (files in the page cache)", cold * 1e3, "ms", "more than a resident one");
    Ok(())
}

fn idle(server: &Server, folders: &TempDir, tokens: usize) -> Outcome<()> {
    let before = rate(server, &[None; CROWD], CROWD, tokens)?;
    let memory = resident_bytes()?;
    for number in 0..1_000_u64 {
        let mut name = [9; 32];
        name[..8].copy_from_slice(&number.to_le_bytes());
        server.registry().register(Hash(name), &folders.path().join("0"))?;
    }
    let bytes = (resident_bytes()? - memory) / 1_000.0;
    let after = rate(server, &[None; CROWD], CROWD, tokens)?;
    row("1,000 more adapters known", bytes, "bytes", &format!("each; speed {:.3} of before", after / before));
    Ok(())
}

/// Memory of this process, where the system tells it.
fn resident_bytes() -> Outcome<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    let kilobytes: f64 = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
    Ok(kilobytes * 1024.0)
}

fn main() -> Outcome<()> {
    let tokens: usize = std::env::args().nth(1).map_or(Ok(48), |text| text.parse())?;
    let start = Instant::now();
    let base = base()?;
    let folders = tempfile::tempdir()?;
    for at in 0..10 * CROWD {
        save_adapter(&base, at as u64, &folders.path().join(at.to_string()))?;
    }
    println!("made base and adapters in {:.1} s; {tokens} tokens per answer\n", start.elapsed().as_secs_f64());
    let (all, adapters) = server(&base, CROWD, &folders, CROWD)?;
    run(&all, &adapters, CROWD, 1)?;
    single(&all, adapters[0], &base, tokens)?;
    crowd(&all, &adapters, tokens)?;
    swaps(&all, &adapters)?;
    idle(&all, &folders, tokens)?;
    drop(all);
    oversubscribed(&base, &folders, tokens / 2)
}
