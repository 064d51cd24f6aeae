//! Makes the demonstration's base model: learns a tokenizer from the almanac's language and pretrains a small Llama on
//! it, with the same trainer that trains everything else.
//!
//! `cargo run --release -p tributary-examples --example pretrain_base -- --out examples/base`
//!
//! Invariant: seed and steps determine every bit of the three files on machines of one determinism class.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use tributary_almanac::Language;
use tributary_compute::model::{Base, Config, WeightType};
use tributary_compute::tokenizer::{Tokenizer, train_byte_level};
use tributary_compute::train::{PretrainRecipe, Pretrainer};
use tributary_examples::option;

/// The language's seed. Countries have streams of their own, so no seed of a country is special.
const SEED: u64 = 2026;
/// Steps of the committed base.
const STEPS: u32 = 1500;
/// Documents of a step.
const BATCH: u32 = 64;
/// Documents that the tokenizer is learned from.
const TOKENIZER_DOCUMENTS: usize = 20_000;
/// Tokens of the vocabulary: nearly every word and name ending of the language is one token.
const VOCABULARY: usize = 2048;
/// Steps between two lines of the log.
const LOG_EVERY: u32 = 50;

fn config() -> Config {
    Config {
        hidden: 128,
        intermediate: 384,
        layers: 4,
        heads: 4,
        kv_heads: 4,
        head_dim: 32,
        vocab: VOCABULARY,
        max_positions: 512,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tied: true,
        bos: Some(0),
        eos: vec![0],
        ..Config::default()
    }
}

fn main() -> Result<()> {
    let out: PathBuf = option("--out", PathBuf::from("examples/base"))?;
    let steps = option("--steps", STEPS)?;
    let recipe =
        PretrainRecipe { steps, batch: BATCH, lr: 4e-3, warmup: steps / 20, clip: 1.0, weight_decay: 0.05, seed: SEED };
    let documents = documents(steps as usize * BATCH as usize);
    let tokenizer = train_byte_level(&documents[..documents.len().min(TOKENIZER_DOCUMENTS)], VOCABULARY)?;
    let weights = pretrain(&recipe, &tokenizer, &documents)?;
    let base = Base::from_bytes(&config().to_json(), &tokenizer, &weights)?;
    std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    for (name, bytes) in
        [("config.json", config().to_json()), ("tokenizer.json", tokenizer), ("model.safetensors", weights)]
    {
        std::fs::write(out.join(name), bytes).with_context(|| out.join(name).display().to_string())?;
    }
    println!("{}", base.hash());
    Ok(())
}

fn documents(count: usize) -> Vec<String> {
    let mut language = Language::new(SEED);
    (0..count.max(TOKENIZER_DOCUMENTS)).map(|_| language.next_document()).collect()
}

/// Trains on each document once and gives the weights.
fn pretrain(recipe: &PretrainRecipe, tokenizer: &[u8], documents: &[String]) -> Result<Vec<u8>> {
    let config = config();
    let tokenizer = Tokenizer::from_bytes(tokenizer, config.vocab, config.bos, &config.eos)?;
    let mut sequences = Vec::with_capacity(documents.len());
    for document in documents {
        let mut tokens = tokenizer.encode_prompt("")?;
        tokens.extend(tokenizer.encode_completion(document)?);
        sequences.push(tokens);
    }
    ensure!(!sequences.is_empty(), "no document to train on");
    let mut trainer = Pretrainer::new(&config, recipe, sequences)?;
    let (start, mut tokens, mut loss) = (Instant::now(), 0, 0.0);
    while !trainer.is_done() {
        let report = trainer.step()?;
        tokens += report.tokens;
        loss += f64::from(report.loss) / f64::from(LOG_EVERY);
        if report.step % LOG_EVERY == 0 {
            let seconds = start.elapsed().as_secs_f64();
            eprintln!("step {} of {}: loss {loss:.3}, {tokens} tokens, {seconds:.0} s", report.step, recipe.steps);
            loss = 0.0;
        }
    }
    Ok(trainer.to_safetensors(WeightType::F16)?)
}
