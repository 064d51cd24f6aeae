//! The LOCO-delta index of one released adapter: what each contributor's absence would have changed in its weights.
//!
//! Invariant: an index that exists has contributors in strictly ascending order, and for each one finite deltas of one
//! byte a number. Its commitment is a Merkle root that covers every row, so it is fixed before the first answer is
//! served, and one row is checked without the others.

use std::collections::BTreeMap;

use tributary_protocol::id::Hash;
use tributary_protocol::merkle;

use super::quantise::DeltaTensor;
use super::{AttributeError, by_tensor, codec};
use crate::lora::Adapter;
use crate::model::Config;

/// Contributors of an index, each with a row of their own: trained without them, estimated, or their part of a cluster's.
pub const MAX_CONTRIBUTORS: usize = 256;

const ROW: &str = "tributary 2026 attribution index row v3";
const COMMITMENT: &str = "tributary 2026 attribution index v3";

/// What one contributor's absence changes, tensor by tensor in the adapter's order.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) contributor: u32,
    /// The first contributor of the knowledge cluster that was left out together; of who was left out alone, it is themselves.
    pub(super) cluster: u32,
    pub(super) delta: Vec<DeltaTensor>,
}

impl Row {
    /// |δ|², as it was quantised.
    pub(super) fn squared_length(&self) -> f64 {
        self.delta.iter().map(DeltaTensor::squared_norm).sum()
    }

    fn hash(&self) -> Hash {
        Hash(blake3::derive_key(ROW, &codec::encode_row(self)))
    }
}

/// The rows of all contributors of one adapter.
#[derive(Debug, Clone)]
pub struct Index {
    adapter: Hash,
    commitment: Hash,
    rows: Vec<Row>,
    /// Positions of the rows, those of a cluster together; the longest deltas first.
    order: Vec<Vec<usize>>,
}

impl Index {
    /// Builds the index from the deployed adapter and, for each contributor, the adapter trained without it from
    /// the same seed and order. The order of `leave_out` doesn't matter.
    ///
    /// # Errors
    /// When there is no contributor or too many, one appears twice, shapes differ or a weight is not finite.
    pub fn build(adapter: &Adapter, leave_out: &[(u32, Adapter)]) -> Result<Self, AttributeError> {
        Self::build_with(adapter, leave_out, &[])
    }

    /// The same where contributors were left out together: those of each of `clusters`, whose leave-out adapters are their parts of
    /// what that changed.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn build_with(
        adapter: &Adapter,
        leave_out: &[(u32, Adapter)],
        clusters: &[Vec<u32>],
    ) -> Result<Self, AttributeError> {
        let mut rows = Vec::with_capacity(leave_out.len());
        for (contributor, without) in leave_out {
            let delta = delta_of(*contributor, adapter, without)?;
            let own = clusters.iter().find(|members| members.contains(contributor));
            let cluster = own.and_then(|members| members.iter().min()).copied().unwrap_or(*contributor);
            rows.push(Row { contributor: *contributor, cluster, delta });
        }
        rows.sort_by_key(|row| row.contributor);
        Self::of(adapter.hash()?, rows)
    }

    /// An index of what leaving each contributor out changes in the adapter's numbers, ascending: for measuring, where leave-out
    /// adapters would take four times the memory.
    pub(crate) fn of_deltas(
        adapter: &Adapter,
        deltas: impl IntoIterator<Item = (u32, Vec<f32>)>,
    ) -> Result<Self, AttributeError> {
        let row = |(contributor, delta): (u32, Vec<f32>)| {
            let tensors = by_tensor(adapter, &delta).map(|own| DeltaTensor::of(own).ok_or(AttributeError::NotFinite));
            Ok(Row { contributor, cluster: contributor, delta: tensors.collect::<Result<_, AttributeError>>()? })
        };
        let rows = deltas.into_iter().map(row).collect::<Result<Vec<_>, AttributeError>>()?;
        Self::of(adapter.hash()?, rows)
    }

    /// The hash of the adapter that this index is of.
    #[must_use]
    pub fn adapter(&self) -> Hash {
        self.adapter
    }

    /// Contributors, ascending.
    pub fn contributors(&self) -> impl Iterator<Item = u32> + '_ {
        self.rows.iter().map(|row| row.contributor)
    }

    /// What is published before any answer is served: the root over the adapter and all rows.
    #[must_use]
    pub fn commitment(&self) -> Hash {
        self.commitment
    }

    /// Refuses an adapter that the index is not of.
    pub(super) fn is_of(&self, adapter: &Adapter) -> Result<(), AttributeError> {
        let given = adapter.hash()?;
        if given != self.adapter {
            return Err(AttributeError::ForeignAdapter { index: self.adapter, given });
        }
        let lengths: Vec<usize> = adapter.tensors().map(candle_core::Tensor::elem_count).collect();
        let fits = |row: &Row| row.delta.iter().map(|tensor| tensor.values.len()).eq(lengths.iter().copied());
        match self.rows.iter().find(|row| !fits(row)) {
            Some(row) => Err(AttributeError::Shapes { contributor: row.contributor }),
            None => Ok(()),
        }
    }

    /// An index of rows that each are sound by themselves.
    pub(super) fn of(adapter: Hash, rows: Vec<Row>) -> Result<Self, AttributeError> {
        if rows.is_empty() || rows.len() > MAX_CONTRIBUTORS {
            return Err(AttributeError::Contributors { got: rows.len(), most: MAX_CONTRIBUTORS });
        }
        if let Some(pair) = rows.windows(2).find(|pair| pair[0].contributor >= pair[1].contributor) {
            return Err(AttributeError::Order { contributor: pair[1].contributor });
        }
        let is_first = |first: u32| rows.iter().any(|row| row.contributor == first && row.cluster == first);
        if !rows.iter().all(|row| row.cluster <= row.contributor && is_first(row.cluster)) {
            return Err(AttributeError::Malformed("a cluster without its first contributor"));
        }
        let hashes: Vec<Hash> = rows.iter().map(Row::hash).collect();
        let root = merkle::root(&hashes);
        let commitment = Hash(blake3::derive_key(COMMITMENT, &[adapter.0, root.0].concat()));
        let order = by_length(&rows);
        Ok(Self { adapter, commitment, rows, order })
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Positions of the `count` rows with the longest deltas, those of a cluster together as one; ties go to the lower contributor.
    pub(super) fn largest(&self, count: usize) -> &[Vec<usize>] {
        &self.order[..count.min(self.order.len())]
    }

    /// The adapter without the contributors of these rows, to half a level of each number of each.
    pub(super) fn leave_out(&self, model: &Config, adapter: &Adapter, at: &[usize]) -> Result<Adapter, AttributeError> {
        let deltas = summed(&self.rows, at);
        let values: Vec<f32> = adapter.values()?.iter().zip(deltas).map(|(value, delta)| value + delta).collect();
        Ok(Adapter::from_values(model, adapter.config(), &values)?)
    }
}

/// The sum of the deltas of these rows, as they were quantised.
fn summed(rows: &[Row], at: &[usize]) -> Vec<f32> {
    let numbers = |at: usize| rows[at].delta.iter().flat_map(DeltaTensor::numbers);
    let Some((first, others)) = at.split_first() else { return Vec::new() };
    let mut sum: Vec<f32> = numbers(*first).collect();
    for other in others {
        sum.iter_mut().zip(numbers(*other)).for_each(|(sum, number)| *sum += number);
    }
    sum
}

/// Positions of the rows, those of a cluster together, the longest deltas first: of a cluster it is the whole's length that counts.
fn by_length(rows: &[Row]) -> Vec<Vec<usize>> {
    let mut together: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        together.entry(row.cluster).or_default().push(at);
    }
    let squared_length = |own: &[usize]| match own {
        [only] => rows[*only].squared_length(),
        several => summed(rows, several).iter().map(|number| f64::from(*number).powi(2)).sum(),
    };
    let mut order: Vec<(f64, Vec<usize>)> = together.into_values().map(|own| (squared_length(&own), own)).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    order.into_iter().map(|(_, own)| own).collect()
}

/// The quantised difference that leaving the contributor out makes.
fn delta_of(contributor: u32, adapter: &Adapter, without: &Adapter) -> Result<Vec<DeltaTensor>, AttributeError> {
    let (with, without) = match adapter.config() == without.config() {
        true => (flatten(adapter)?, flatten(without)?),
        false => return Err(AttributeError::Shapes { contributor }),
    };
    if with.len() != without.len() {
        return Err(AttributeError::Shapes { contributor });
    }
    let tensors = with.iter().zip(&without).map(|(with, without)| {
        if with.len() != without.len() {
            return Err(AttributeError::Shapes { contributor });
        }
        let delta: Vec<f32> = with.iter().zip(without).map(|(with, without)| without - with).collect();
        DeltaTensor::of(&delta).ok_or(AttributeError::NotFinite)
    });
    tensors.collect()
}

/// The numbers of each tensor, in the adapter's canonical order.
pub(super) fn flatten(adapter: &Adapter) -> Result<Vec<Vec<f32>>, AttributeError> {
    adapter.tensors().map(|tensor| Ok(tensor.flatten_all()?.to_vec1()?)).collect()
}
