//! What leaving contributors out really changes in an answer: its loss under the adapters that were trained without them.
//!
//! Invariant: a pure function of base, adapter, leave-out adapters and tokens, bitwise equal within a determinism class.

use super::{AttributeError, Credit, differences, mean_over, to_micro};
use crate::lora::Adapter;
use crate::loss::Target;
use crate::model::Base;

/// The credits of those of whom an adapter was trained without each, for an answer of `adapter`: mean nats for each answer
/// token, in the order of `leave_out`.
///
/// # Errors
/// When the tokens can't run or a number is not finite.
pub fn true_credits(
    base: &Base,
    adapter: &Adapter,
    leave_out: &[(u32, Adapter)],
    (prompt, output): (&[u32], &[u32]),
) -> Result<Vec<Credit>, AttributeError> {
    true_credits_of(base, adapter, &leave_out.iter().collect::<Vec<_>>(), &Target::new(prompt, output))
}

/// The same for whatever is scored of a text.
pub(super) fn true_credits_of(
    base: &Base,
    adapter: &Adapter,
    leave_out: &[&(u32, Adapter)],
    answer: &Target,
) -> Result<Vec<Credit>, AttributeError> {
    let nats = differences(base, adapter, None, leave_out.len(), |at| Ok(leave_out[at].1.clone()), answer)?;
    let tokens = mean_over(answer);
    let credit = |((contributor, _), nats): (&&(u32, Adapter), f64)| {
        Ok(Credit { contributor: *contributor, micro_nats: to_micro(nats / tokens)?, exact: true })
    };
    leave_out.iter().zip(nats).map(credit).collect()
}
