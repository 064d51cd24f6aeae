//! How fast serving and training are: what `tributary eval serving` measures, and the table it prints.
//!
//! Invariant: measuring gives [`Sample`]s and nothing else; every ratio and verdict is made from samples by [`table`],
//! whoever measured them, so that a peer's figures count like our own. Each part is meant for a process of its own.

mod machine;
pub mod material;
mod serving;
mod swap;
pub mod table;
mod training;

use serde::{Deserialize, Serialize};

use crate::gguf::GgufError;
use crate::lora::LoraError;
use crate::model::ModelError;
use crate::serve::ServeError;
use crate::serve::registry::RegistryError;
use crate::train::TrainError;

pub use machine::load_average;
pub use material::{Format, Material, Shape, SmallBase};

/// Who measured our own samples.
pub const OURS: &str = "tributary";
/// Requests that run at once.
pub const CROWD: usize = 8;
/// Adapters for each that fits into memory.
pub const OVERSUBSCRIPTION: usize = 10;

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A file can't be read or written.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// The model can't be made or run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An adapter can't be made.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// An adapter can't be registered.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A request failed.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// Training failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The model can't be written as GGUF.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A tensor operation failed.
    #[error("tensor operation: {0}")]
    Compute(#[from] candle_core::Error),
    /// Something that always holds did not.
    #[error("{0}")]
    Broken(&'static str),
}

/// One figure, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What was measured, as the rows of [`table`] name it.
    pub measure: String,
    /// Who was measured, with its version.
    pub who: String,
    /// The figure, in the unit of the row.
    #[serde(default)]
    pub value: Option<f64>,
    /// Why there is none.
    #[serde(default)]
    pub missing: Option<String>,
}

impl Sample {
    fn ours(measure: impl Into<String>, value: f64) -> Self {
        Self { measure: measure.into(), who: OURS.into(), value: Some(value), missing: None }
    }
}

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Tokens of an answer.
    pub tokens: usize,
    /// Times that each figure is taken; the middle one counts.
    pub repeats: usize,
    /// Training steps that are timed.
    pub steps: u32,
}

impl Default for Plan {
    /// Figures that repeat within a few percent on an idle machine.
    fn default() -> Self {
        Self { tokens: 64, repeats: 3, steps: 4 }
    }
}

/// What one process measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// One stream and eight, with and without adapters.
    Serve(Format),
    /// Adapters that come, go and wait.
    Adapters,
    /// The small trained model, one stream and eight.
    Small,
    /// LoRA training that keeps activations or computes them again.
    Train(Format, Activations),
}

/// What training does with a block's activations until their gradient is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activations {
    /// Holds them in memory.
    Kept,
    /// Computes them again.
    Recomputed,
}

impl Part {
    /// All, in the order in which they are measured.
    pub const ALL: [Self; 9] = [
        Self::Serve(Format::Full),
        Self::Serve(Format::Q8),
        Self::Serve(Format::Q4),
        Self::Adapters,
        Self::Small,
        Self::Train(Format::Full, Activations::Kept),
        Self::Train(Format::Full, Activations::Recomputed),
        Self::Train(Format::Q4, Activations::Kept),
        Self::Train(Format::Q4, Activations::Recomputed),
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Serve(format) => format!("serve-{}", format.name()),
            Self::Adapters => "adapters".into(),
            Self::Small => "small".into(),
            Self::Train(format, Activations::Kept) => format!("train-{}", format.name()),
            Self::Train(format, Activations::Recomputed) => format!("train-{}-recomputed", format.name()),
        }
    }

    /// The part of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.name() == name)
    }

    /// Measures it.
    ///
    /// # Errors
    /// When the model can't be read or a request fails.
    pub fn measure(self, material: &Material<'_>, plan: &Plan) -> Result<Vec<Sample>, BenchError> {
        match self {
            Self::Serve(format) => serving::streams(material, format, plan),
            Self::Adapters => serving::adapters(material, plan),
            Self::Small => serving::small(material, plan),
            Self::Train(format, activations) => training::lora(material, format, activations, plan),
        }
    }
}
