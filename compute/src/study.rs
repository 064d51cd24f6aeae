//! Whether attribution is right: contributors are really left out, and methods are judged by what really changed.
//!
//! Invariant: the truth is the product's own training from the committed seed and order; every figure follows from journalled
//! outcomes, scores and a seed, and no method sees the trainings that it is judged by, but for leave-one-out on the run
//! that it explains.

pub mod attacks;
pub mod attributor;
mod audit;
mod bootstrap;
mod clustered;
mod cost;
pub mod dataset;
pub mod deal;
pub mod echoing;
pub mod economy;
pub mod exchange;
mod gradients;
mod journal;
mod judge;
mod laboratory;
mod matrix;
pub mod methods;
mod peers;
pub mod redundancy;
mod shrinkage;
pub mod stability;
pub mod table;
mod truth;

pub use attributor::{Attributor, Case, Scores, all};
pub use bootstrap::{DRAWS, Figure};
pub use cost::{CostPlan, cost};
pub use journal::{Journal, Outcome};
pub use judge::{Judgement, MEASURES, judge};
pub use laboratory::{Laboratory, OnTraining, Training, recipe};
pub use matrix::Matrix;
pub use peers::unrolled;
pub use truth::{Plan, Truth};

use tributary_protocol::attribution::audit::AuditError;

use crate::attribute::AttributeError;
use crate::lora::LoraError;
use crate::model::ModelError;
use crate::train::TrainError;
use crate::triage::TriageError;

/// Why a study can't be made.
#[derive(Debug, thiserror::Error)]
pub enum StudyError {
    /// The dataset can't be studied.
    #[error("dataset: {0}")]
    Dataset(String),
    /// The plan asks for what can't be.
    #[error("plan: {0}")]
    Plan(String),
    /// Numbers that belong together don't fit.
    #[error("shape: {0}")]
    Shape(String),
    /// The journal can't be used.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// A training failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// An adapter was refused.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// The model refused the input.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The index refused.
    #[error(transparent)]
    Attribute(#[from] AttributeError),
    /// The records could not be triaged.
    #[error(transparent)]
    Triage(#[from] TriageError),
    /// The audit was refused.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A tensor operation failed.
    #[error("tensor operation: {0}")]
    Compute(#[from] candle_core::Error),
}
