//! Gradients of single records and answers in the adapter's weights.
//!
//! Invariant: row i is the gradient of the mean token loss of target i, in the order of the adapter's values, whatever is
//! computed beside it.

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::StudyError;
use super::matrix::Matrix;
use crate::linear::Hook;
use crate::lora::Adapter;
use crate::loss::{Target, token_losses};
use crate::model::{Base, Mode, ModelError};

/// (targets, adapter's numbers).
pub(super) fn gradients(base: &Base, adapter: &Adapter, targets: &[Target]) -> Result<Matrix, StudyError> {
    let (adapter, variables) = adapter.trainable()?;
    let gradient = |target: &Target| -> Result<Vec<f32>, StudyError> {
        let hook = Hook::One(&adapter, None);
        let losses = token_losses(base.model(), Mode::Train, hook, std::slice::from_ref(target))?;
        let gradients = losses.mean_all()?.backward()?;
        let mut values = Vec::new();
        for variable in &variables {
            let lacks = || ModelError::Input("a variable lacks a gradient".into());
            values.extend(gradients.get(variable).ok_or_else(lacks)?.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(values)
    };
    Matrix::from_rows(targets.par_iter().map(gradient).collect::<Result<_, _>>()?)
}
