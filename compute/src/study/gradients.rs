//! Gradients of single records and answers in the adapter's weights.
//!
//! Invariant: row i is the gradient of the mean token loss of target i, in the order of the adapter's values, whatever is
//! computed beside it.

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::StudyError;
use super::matrix::Matrix;
use crate::lora::Adapter;
use crate::loss::{Target, mean_gradient};
use crate::model::Base;

/// (targets, adapter's numbers).
pub(super) fn gradients(base: &Base, adapter: &Adapter, targets: &[Target]) -> Result<Matrix, StudyError> {
    let (adapter, variables) = adapter.trainable()?;
    let gradient = |target: &Target| Ok(mean_gradient(base.model(), &adapter, &variables, target)?);
    Matrix::from_rows(targets.par_iter().map(gradient).collect::<Result<_, StudyError>>()?)
}
