//! The methods that are compared: simple rules, similarity of texts and of states, gradients, and leave-one-out deltas.
//!
//! Invariant: each sees the deployed run and the records, the last ones also the leave-out adapters; none sees a truth.

mod curvature;
mod gradient;
mod loco;
mod simple;
mod text;
mod unrolled;

pub(super) use curvature::{DataInf, EkFac};
pub(super) use gradient::{GradCos, GradDot, Less, TracInCp};
pub(super) use loco::{ByRecord, LocoDelta, Part, PartlyTrained, scored};
pub(super) use simple::{EqualSplit, RecordCount, RepSim, TrainingLoss, Triage};
pub(super) use text::{Bm25, TfIdf};
pub use unrolled::unrolled;
