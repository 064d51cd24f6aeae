//! Who taught an answer: each contributor's share of the answer's loss, by the LOCO-delta index.
//!
//! A contributor's credit is how much worse the answer would have scored had the adapter been trained without it
//! (mean nats for each answer token; positive means it helped). Few contributors, and of many those with the longest
//! deltas, get the true difference, from a forward pass with their leave-out adapter to the byte a number that the index
//! keeps of it; the others the first-order estimate g·δ with g the answer's gradient in the adapter's weights, quantised.
//!
//! Invariant: credits are a pure function of base, adapter, index and tokens, bitwise equal within a determinism
//! class; every contributor of the index has exactly one credit, in ascending order.

pub mod clusters;
mod coalitions;
mod codec;
mod curvature;
pub mod echoes;
mod estimate;
mod fit;
mod index;
mod noise;
mod quality;
mod quantise;
mod truth;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use tributary_protocol::id::Hash;

pub use coalitions::coalition_losses;
pub use codec::MAX_INDEX_BYTES;
pub use estimate::{Estimates, Estimator, Learned};
pub use index::{Index, MAX_CONTRIBUTORS};
pub use noise::{NOISE_SPREADS, noise, spread};
pub use quality::{QUALITY_ANSWERS, quality};
pub use truth::true_credits;

use crate::linear::Hook;
use crate::lora::{Adapter, FrozenAdapter, LoraError};
use crate::loss::{Target, target_gradient, token_losses};
use crate::model::{Base, Mode, ModelError};
use fit::Bend;
use quantise::{GradientTensor, dot};

/// Of many contributors, how many are scored by a true forward pass: the measured knee, after which more change little
/// (pilot: payout correlation .95 with four, .97 with eight).
pub const EXACT_CONTRIBUTORS: usize = 8;

/// Contributors who are all scored by forward passes: these cost no more than eight of them and a gradient.
pub const FEW_CONTRIBUTORS: usize = 11;

/// Tokens of one multi-adapter forward pass; bounds the memory of its logits.
const BATCH_TOKENS: usize = 4_096;

/// Why an answer can't be attributed.
#[derive(Debug, thiserror::Error)]
pub enum AttributeError {
    /// No contributor or more than an index holds.
    #[error("{got} contributors, allowed 1 to {most}")]
    Contributors {
        /// Contributors given.
        got: usize,
        /// Most allowed.
        most: usize,
    },
    /// A contributor appears twice or out of order.
    #[error("contributor {contributor} appears twice or out of order")]
    Order {
        /// The contributor.
        contributor: u32,
    },
    /// A leave-out adapter has another shape than the deployed one.
    #[error("the leave-out adapter of contributor {contributor} has another shape")]
    Shapes {
        /// The contributor.
        contributor: u32,
    },
    /// Whoever wanted it wants it no more.
    #[error("stopped")]
    Stopped,
    /// No leave-out adapter was trained that estimates of the others could be fitted to.
    #[error("no training without a contributor tells how far estimates reach: at least one must be trained")]
    Unfitted,
    /// A weight, gradient or loss is NaN or infinite.
    #[error("a number is not finite")]
    NotFinite,
    /// The index was built for another adapter.
    #[error("the index is of adapter {index}, not of {given}")]
    ForeignAdapter {
        /// The adapter of the index.
        index: Hash,
        /// The adapter given.
        given: Hash,
    },
    /// More bytes than any index has.
    #[error("{got} bytes, an index has at most {most}")]
    TooLong {
        /// Bytes given.
        got: usize,
        /// Most allowed.
        most: usize,
    },
    /// The bytes are no canonical index.
    #[error("malformed index: {0}")]
    Malformed(&'static str),
    /// A leave-out adapter was refused.
    #[error(transparent)]
    Adapter(#[from] LoraError),
    /// The forward pass failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A tensor operation failed.
    #[error(transparent)]
    Compute(#[from] candle_core::Error),
}

/// What one contributor changed in one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit {
    /// The contributor, as numbered in training.
    pub contributor: u32,
    /// Loss of the answer without the contributor less the loss with it: millionths of a nat for each answer token.
    pub micro_nats: i64,
    /// Whether a forward pass measured it; otherwise it is the first-order estimate.
    pub exact: bool,
}

/// How credits are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Contributors scored by a forward pass, those with the longest deltas; a knowledge cluster takes one for all of it.
    pub exact: usize,
    /// Whether the others' estimates are bent by what the estimates of these miss.
    pub bent: bool,
}

impl Rule {
    /// What pays, with so many contributors.
    #[must_use]
    pub const fn of(contributors: usize) -> Self {
        let exact = if contributors <= FEW_CONTRIBUTORS { contributors } else { EXACT_CONTRIBUTORS };
        Self { exact, bent: false }
    }

    /// First-order estimates alone.
    pub const LINEAR: Self = Self { exact: 0, bent: false };
}

/// The credit of every contributor for an answer of `adapter`.
///
/// # Errors
/// When the index is of another adapter, the tokens can't run, or a number is not finite.
pub fn credits(
    base: &Base,
    adapter: &Adapter,
    index: &Index,
    prompt_tokens: &[u32],
    output_tokens: &[u32],
) -> Result<Vec<Credit>, AttributeError> {
    credits_by(Rule::of(index.rows().len()), base, adapter, index, (prompt_tokens, output_tokens))
}

/// The same by a rule of one's own, given prompt and output.
///
/// # Errors
/// As [`credits`].
pub fn credits_by(
    rule: Rule,
    base: &Base,
    adapter: &Adapter,
    index: &Index,
    (prompt, output): (&[u32], &[u32]),
) -> Result<Vec<Credit>, AttributeError> {
    credits_of(rule, base, adapter, index, &Target::new(prompt, output))
}

/// The same for whatever is scored of a text.
fn credits_of(
    rule: Rule,
    base: &Base,
    adapter: &Adapter,
    index: &Index,
    answer: &Target,
) -> Result<Vec<Credit>, AttributeError> {
    index.is_of(adapter)?;
    let rows = index.rows();
    let exact = index.largest(rule.exact);
    let leave_out = |at: usize| index.leave_out(base.config(), adapter, &exact[at]);
    let (mut nats, mut with_all) = (vec![0.0; rows.len()], None);
    // Also where all are measured but some together.
    if exact.len() < rows.len() {
        let (gradient, loss) = gradient(base, adapter, answer)?;
        (nats, with_all) = (scan(index, &gradient), Some(loss));
    }
    let measured = differences(base, adapter, with_all, exact.len(), leave_out, answer)?;
    let measured: Vec<(usize, f64)> =
        exact.iter().zip(measured).flat_map(|(own, one)| divided(own, one, &nats)).collect();
    if rule.bent {
        let known = measured.iter();
        let bend = Bend::of(known.map(|(at, true_one)| (rows[*at].squared_length(), true_one - nats[*at])));
        nats.iter_mut().zip(rows).for_each(|(nats, row)| *nats += bend.missed(row.squared_length()));
    }
    measured.iter().for_each(|(at, measured)| nats[*at] = *measured);
    let tokens = mean_over(answer);
    let credit = |(at, nats): (usize, &f64)| {
        let (contributor, exact) = (rows[at].contributor, measured.iter().any(|(one, _)| *one == at));
        Ok(Credit { contributor, micro_nats: to_micro(nats / tokens)?, exact })
    };
    nats.iter().enumerate().map(credit).collect()
}

/// What was measured without all of a cluster, for each of its rows: evenly, and as first-order estimates say that they differ. Of
/// who is alone it is what was measured.
fn divided(own: &[usize], measured: f64, nats: &[f64]) -> Vec<(usize, f64)> {
    let count = own.len().max(1) as f64;
    let mean = own.iter().map(|at| nats[*at]).sum::<f64>() / count;
    match own {
        [only] => vec![(*only, measured)],
        several => several.iter().map(|at| (*at, nats[*at] - mean + measured / count)).collect(),
    }
}

/// The quantised gradient of the answer's summed loss in the adapter's weights, tensor by tensor, and that loss.
pub(crate) fn gradient(
    base: &Base,
    adapter: &Adapter,
    answer: &Target,
) -> Result<(Vec<GradientTensor>, f64), AttributeError> {
    let (values, losses) = target_gradient(base.model(), adapter, answer)?;
    let quantised = by_tensor(adapter, &values).map(|own| GradientTensor::of(own).ok_or(AttributeError::NotFinite));
    Ok((quantised.collect::<Result<_, _>>()?, summed(&losses)))
}

fn summed(losses: &[f32]) -> f64 {
    losses.iter().map(|loss| f64::from(*loss)).sum()
}

/// The numbers of each of the adapter's tensors, one after another.
fn by_tensor<'a>(adapter: &'a Adapter, values: &'a [f32]) -> impl Iterator<Item = &'a [f32]> {
    adapter.tensors().scan(values, |rest, tensor| {
        let (own, others) = rest.split_at(tensor.elem_count());
        *rest = others;
        Some(own)
    })
}

/// The first-order estimate of each row, in nats of the whole answer.
pub(crate) fn scan(index: &Index, gradient: &[GradientTensor]) -> Vec<f64> {
    index.rows().par_iter().map(|row| dot(gradient, &row.delta)).collect()
}

/// Summed loss with each of the `count` adapters that `leave_out` gives less that with `adapter`, which is `with_all` where it is
/// known already, all in multi-adapter batches.
fn differences(
    base: &Base,
    adapter: &Adapter,
    with_all: Option<f64>,
    count: usize,
    leave_out: impl Fn(usize) -> Result<Adapter, AttributeError>,
    target: &Target,
) -> Result<Vec<f64>, AttributeError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let fed = target.fed().max(1);
    let unknown = with_all.is_none().then_some(None);
    let measured: Vec<Option<usize>> = unknown.into_iter().chain((0..count).map(Some)).collect();
    let frozen = |place: &Option<usize>| -> Result<FrozenAdapter, AttributeError> {
        Ok(match place {
            None => FrozenAdapter::new(adapter)?,
            Some(place) => FrozenAdapter::new(&leave_out(*place)?)?,
        })
    };
    let mut losses: Vec<f64> = with_all.into_iter().collect();
    for places in measured.chunks((BATCH_TOKENS / fed).max(1)) {
        let frozen: Vec<FrozenAdapter> = places.iter().map(frozen).collect::<Result<_, _>>()?;
        let segments: Vec<_> =
            frozen.iter().enumerate().map(|(at, adapter)| (at * fed..(at + 1) * fed, Some(adapter))).collect();
        let targets = vec![target.clone(); places.len()];
        let all = token_losses(base.model(), Mode::Infer, Hook::Segments(&segments), &targets)?.to_vec1::<f32>()?;
        losses.extend(all.chunks_exact(target.predicted()).map(summed));
    }
    let (with_all, without) = losses.split_first().ok_or(AttributeError::NotFinite)?;
    Ok(without.iter().map(|without| without - with_all).collect())
}

fn mean_over(answer: &Target) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "answers are far shorter than 2^53 tokens")]
    let tokens = answer.predicted().max(1) as f64;
    tokens
}

fn to_micro(nats: f64) -> Result<i64, AttributeError> {
    let micro = (nats * 1e6).round();
    // 2^53 millionths: beyond any loss of finite logits, and exact in both types.
    if micro.is_nan() || micro.abs() >= 9_007_199_254_740_992.0 {
        return Err(AttributeError::NotFinite);
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked to be a whole number within 2^53")]
    let micro = micro as i64;
    Ok(micro)
}
