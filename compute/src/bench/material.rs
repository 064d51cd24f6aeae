//! What is measured on: a Llama of random weights in three number formats, adapters for it, and prompts.
//!
//! Invariant: everything follows from a shape and fixed seeds, is made once in a cache folder and appears there whole or
//! not at all; the GGUF files hold the weights of `model.safetensors`.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use serde_json::{Value as Json, json};

use super::{BenchError, CROWD, OVERSUBSCRIPTION};
use crate::gguf::{write_adapter, write_model};
use crate::lora::{Adapter, LoraConfig, parameter_count};
use crate::model::{Base, Config, ModelError, Module, WeightType, Weights};
use crate::ops::narrow;
use crate::random::{Stream, uniform};
use crate::serve::registry::{CONFIG_FILE, WEIGHTS_FILE};
use crate::tokenizer::train_byte_level;

/// Rank of the adapters, on all seven products: 10 MB for [`Shape::SPEED`].
pub const RANK: usize = 16;
/// Numerator of their scale.
const ALPHA: f64 = 32.0;
/// Sequences of a training step.
pub const BATCH: usize = 4;
/// Tokens fed of each.
pub const SEQUENCE_TOKENS: usize = 128;
/// Tokens of a prompt.
pub const PROMPT_TOKENS: usize = 32;
/// Prompts that peers find in `prompts.json`: more than one run of theirs asks.
const PROMPTS: usize = 256;
/// Seed of the weights; adapter n has seed n.
const SEED: u64 = 1;
/// Changes whenever anything here makes other files of the same shape.
const REVISION: u32 = 2;
/// Tokens that the tokenizer knows; the model's table is larger, which changes no figure.
const TOKENIZER_VOCAB: usize = 300;

/// A number format of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// f32, in Hugging Face's files.
    Full,
    /// Q8_0, in GGUF.
    Q8,
    /// Q4_K, in GGUF.
    Q4,
}

impl Format {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Full, Self::Q8, Self::Q4];

    /// Its usual name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "f32",
            Self::Q8 => "q8_0",
            Self::Q4 => "q4_k",
        }
    }

    const fn kind(self) -> GgmlDType {
        match self {
            Self::Full => GgmlDType::F32,
            Self::Q8 => GgmlDType::Q8_0,
            Self::Q4 => GgmlDType::Q4K,
        }
    }
}

/// What a model is made of.
struct Parts {
    config_json: String,
    config: Config,
    weights: Weights,
    tokenizer: Vec<u8>,
}

/// The shape of a model to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Width; a multiple of 256, as Q4_K asks.
    pub hidden: usize,
    /// Width of the MLP; a multiple of 256.
    pub intermediate: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads of 64, a third as many of keys as of queries.
    pub heads: usize,
    /// Rows of the table.
    pub vocab: usize,
}

impl Shape {
    /// About 100 million parameters: beyond every cache in f32.
    pub const SPEED: Self = Self { hidden: 768, intermediate: 2048, layers: 12, heads: 12, vocab: 32_000 };

    fn config_json(&self) -> Json {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads / 3,
            "head_dim": 64,
            "vocab_size": self.vocab,
            "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": true,
            "bos_token_id": 0,
            "eos_token_id": self.vocab - 1,
            "torch_dtype": "float32",
        })
    }

    fn parts(&self) -> Result<Parts, ModelError> {
        let config_json = format!("{:#}\n", self.config_json());
        let config = Config::from_json(config_json.as_bytes())?;
        let weights = Weights::random(&config, SEED)?;
        let tokenizer = train_byte_level(&["the river flows past the old mill".to_owned()], TOKENIZER_VOCAB)?;
        Ok(Parts { config_json, config, weights, tokenizer })
    }

    /// The model in memory, in f32.
    pub(crate) fn base(&self) -> Result<Base, ModelError> {
        let Parts { config_json, config, weights, tokenizer } = self.parts()?;
        let weights = weights.to_safetensors(&config, WeightType::F32)?;
        Base::from_bytes(config_json.as_bytes(), &tokenizer, &weights)
    }

    fn name(&self) -> String {
        let Self { hidden, intermediate, layers, heads, vocab } = self;
        format!("llama-{hidden}-{intermediate}-{layers}-{heads}-{vocab}-r{REVISION}")
    }
}

/// A text of `count` capital letters, each of which is one token; texts of different seeds begin differently.
pub(super) fn letters(seed: usize, count: usize) -> String {
    let letter = |at: usize| match at {
        0 => seed % 26,
        1 => seed / 26 % 26,
        2 => seed / 676 % 26,
        _ => (seed * 7 + at * at * 11 + at * 5) % 26,
    };
    (0..count).filter_map(|at| u8::try_from(letter(at)).ok()).map(|letter| char::from(b'A' + letter)).collect()
}

/// The three files of a small trained model, which is measured beside the large random one.
#[derive(Debug, Clone, Copy)]
pub struct SmallBase<'a> {
    /// `config.json`.
    pub config_json: &'a [u8],
    /// `tokenizer.json`.
    pub tokenizer_json: &'a [u8],
    /// `model.safetensors`.
    pub safetensors: &'a [u8],
}

/// The files.
#[derive(Debug, Clone)]
pub struct Material<'a> {
    folder: PathBuf,
    small: SmallBase<'a>,
}

impl<'a> Material<'a> {
    /// Finds the files in `cache`, or makes them there: 1.9 GB for [`Shape::SPEED`].
    ///
    /// # Errors
    /// When they can't be written.
    pub fn prepare(cache: &Path, shape: &Shape, small: SmallBase<'a>) -> Result<Self, BenchError> {
        let folder = cache.join(shape.name());
        if !folder.exists() {
            let partial = cache.join(format!("{}.{}", shape.name(), std::process::id()));
            make(&partial, shape)?;
            std::fs::rename(&partial, &folder)?;
        }
        Ok(Self { folder, small })
    }

    /// The folder of all files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The model in that format, as [`crate::model::Base::load`] takes it.
    #[must_use]
    pub fn model(&self, format: Format) -> PathBuf {
        match format {
            Format::Full => self.folder.join("hf"),
            Format::Q8 | Format::Q4 => gguf_path(&self.folder, format),
        }
    }

    /// The small trained model.
    pub(super) fn small(&self) -> Result<Base, BenchError> {
        let SmallBase { config_json, tokenizer_json, safetensors } = self.small;
        Ok(Base::from_bytes(config_json, tokenizer_json, safetensors)?)
    }

    /// The folder of an adapter.
    #[must_use]
    pub fn adapter(&self, at: usize) -> PathBuf {
        adapter_path(&self.folder, at)
    }
}

fn adapter_path(folder: &Path, at: usize) -> PathBuf {
    folder.join("adapters").join(at.to_string())
}

fn gguf_path(folder: &Path, format: Format) -> PathBuf {
    folder.join("gguf").join(format!("{}.gguf", format.name()))
}

fn make(folder: &Path, shape: &Shape) -> Result<(), BenchError> {
    let (hf, gguf) = (folder.join("hf"), folder.join("gguf"));
    std::fs::create_dir_all(&hf)?;
    std::fs::create_dir_all(&gguf)?;
    let Parts { config_json, config, weights, tokenizer } = shape.parts()?;
    std::fs::write(hf.join("config.json"), config_json)?;
    std::fs::write(hf.join("model.safetensors"), weights.to_safetensors(&config, WeightType::F32)?)?;
    for place in [&hf, &gguf] {
        std::fs::write(place.join("tokenizer.json"), &tokenizer)?;
    }
    let base = Base::load(&hf)?;
    for format in Format::ALL {
        let mut file = BufWriter::new(File::create(gguf_path(folder, format))?);
        write_model(&mut file, &config, &weights, base.tokenizer(), None, format.kind())?;
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    }
    make_adapters(&config, folder)?;
    let texts: Vec<Json> = (0..PROMPTS).map(|seed| letters(seed, PROMPT_TOKENS).into()).collect();
    Ok(std::fs::write(folder.join("prompts.json"), format!("{:#}\n", Json::from(texts)))?)
}

/// Adapters none of whose numbers are zero, so that nobody can leave them out; llama.cpp gets as many as run at once.
fn make_adapters(config: &Config, folder: &Path) -> Result<(), BenchError> {
    let target_modules = Module::ALL.to_vec();
    let lora = LoraConfig { rank: RANK, alpha: ALPHA, rslora: false, dropout: 0.0, target_modules };
    let for_llama = folder.join("adapters-gguf");
    std::fs::create_dir_all(&for_llama)?;
    for at in 0..CROWD * OVERSUBSCRIPTION {
        let number = |index: u64| narrow((uniform(at as u64, Stream::Initial, 0, index) - 0.5) * 0.02);
        let values: Vec<f32> = (0_u64..).take(parameter_count(config, &lora)).map(number).collect();
        let adapter = Adapter::from_values(config, &lora, &values)?;
        let (files, place) = (adapter.to_files()?, adapter_path(folder, at));
        std::fs::create_dir_all(&place)?;
        std::fs::write(place.join(CONFIG_FILE), &files.config_json)?;
        std::fs::write(place.join(WEIGHTS_FILE), &files.safetensors)?;
        if at < CROWD {
            let mut file = BufWriter::new(File::create(for_llama.join(format!("{at}.gguf")))?);
            write_adapter(&mut file, config, &adapter)?;
            file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        }
    }
    Ok(())
}
