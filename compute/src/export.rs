//! A model written for other programs: PEFT's two files, a merged folder in Hugging Face's layout, or one GGUF file.
//!
//! Invariant: [`export`] says that a model was written only after it read the files again and they gave the tokens and
//! logits that base and adapter give; what it leaves behind otherwise is the caller's folder to remove.

mod files;
mod probe;

use std::path::{Path, PathBuf};

use crate::gguf::GgufError;
use crate::linear::Hook;
use crate::lora::{Adapter, AdapterFiles, LoraError};
use crate::model::{Base, ModelError};
use crate::ops::Precision;
use probe::Probe;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `adapter_config.json` and `adapter_model.safetensors`.
    Peft,
    /// Base and adapter as one model, in single precision.
    Merged,
    /// The same as one GGUF file in half precision.
    Gguf,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Peft, Self::Merged, Self::Gguf];

    /// As the command line calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Peft => "peft",
            Self::Merged => "merged",
            Self::Gguf => "gguf",
        }
    }

    /// The format of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// By how much of the largest logit the written model may differ: nothing where the numbers are the same, the
    /// rounding of one merge in single precision, the rounding of every weight to eleven bits.
    const fn tolerance(self) -> f32 {
        match self {
            Self::Peft => 0.0,
            Self::Merged => 1e-3,
            Self::Gguf => 2e-2,
        }
    }
}

/// Why a model was not exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// PEFT's files are an adapter's.
    #[error("there is no adapter to write as PEFT's files")]
    NoAdapter,
    /// The format cannot express the model.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The model cannot be computed or read back.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The adapter cannot be written or read back.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// A tensor operation failed.
    #[error("tensor operation: {0}")]
    Compute(#[from] candle_core::Error),
    /// A file cannot be written or read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What was written computes something else.
    #[error("what was written gives other logits: they differ by {worst}, allowed is {allowed}")]
    Logits {
        /// The largest difference.
        worst: f32,
        /// The most there may be.
        allowed: f32,
    },
    /// What was written makes other tokens of a text, or ends answers elsewhere.
    #[error("what was written reads texts otherwise: {0}")]
    Tokens(&'static str),
}

/// What was written and compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    /// The files with their sizes in bytes.
    pub files: Vec<(String, u64)>,
    /// The largest difference between two logits.
    pub worst: f32,
    /// The largest logit.
    pub largest: f32,
    /// Positions whose logits were compared.
    pub positions: usize,
}

/// Writes base and adapter into the empty folder `into`, reads what was written and compares. `source` is the folder or
/// file the base was loaded from: what it has besides weights and shape goes along.
///
/// # Errors
/// When the format can't express the model, the disk refuses, or what was written says something else.
pub fn export(
    base: &Base,
    source: &Path,
    adapter: Option<&Adapter>,
    format: Format,
    into: &Path,
) -> Result<Exported, ExportError> {
    // A merge means the file's numbers, so that is what quantised products are compared by.
    let base = base.with_precision(Precision::Exact);
    let probe = Probe::of(&base);
    let expected = probe.logits(base.model(), hook(adapter))?;
    let written = match format {
        Format::Peft => {
            let adapter = adapter.ok_or(ExportError::NoAdapter)?;
            let read = write_peft(&base, adapter, into)?;
            probe.logits(base.model(), hook(Some(&read)))?
        }
        Format::Merged => {
            files::write_merged(&base, source, adapter, into)?;
            let read = Base::load(into)?;
            probe.compare_texts(&base, &read)?;
            probe.logits(read.model(), Hook::Base)?
        }
        Format::Gguf => {
            let file = files::write_gguf(&base, adapter, into)?;
            let read = Base::load(&file)?;
            probe.compare_texts(&base, &read)?;
            probe.logits(read.model(), Hook::Base)?
        }
    };
    let (worst, largest) = probe::difference(&expected, &written);
    let allowed = format.tolerance() * largest;
    if worst > allowed {
        return Err(ExportError::Logits { worst, allowed });
    }
    Ok(Exported { files: files::list(into)?, worst, largest, positions: probe.positions() })
}

fn hook(adapter: Option<&Adapter>) -> Hook<'_> {
    adapter.map_or(Hook::Base, |adapter| Hook::One(adapter, None))
}

fn write_peft(base: &Base, adapter: &Adapter, into: &Path) -> Result<Adapter, ExportError> {
    let AdapterFiles { config_json, safetensors } = adapter.to_files()?;
    let config = files::put(into, "adapter_config.json", &config_json)?;
    let weights = files::put(into, "adapter_model.safetensors", &safetensors)?;
    let read = AdapterFiles { config_json: files::get(&config)?, safetensors: files::get(&weights)? };
    Ok(Adapter::from_files(base.config(), &read)?)
}
