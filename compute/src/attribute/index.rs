//! The LOCO-delta index of one released adapter: what each contributor's absence would have changed in its weights.
//!
//! Invariant: an index that exists has contributors in strictly ascending order, and for each one finite deltas
//! and a leave-out adapter of the deployed adapter's shapes. Its commitment covers every byte, so it is fixed before
//! the first answer is served.

use tributary_protocol::id::Hash;

use super::quantise::DeltaTensor;
use super::{AttributeError, codec};
use crate::lora::Adapter;

/// Contributors with a leave-out adapter of their own; design: the largest 200, the rest pooled in clusters.
pub const MAX_CONTRIBUTORS: usize = 256;

const COMMITMENT_DOMAIN: &[u8] = b"tributary attribution index v1";

/// One contributor's row.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) contributor: u32,
    pub(super) delta: Vec<DeltaTensor>,
    pub(super) leave_out: Adapter,
}

impl Entry {
    /// |δ|², as it was quantised.
    pub(super) fn squared_length(&self) -> f64 {
        self.delta.iter().map(DeltaTensor::squared_norm).sum()
    }
}

/// Deltas and leave-out adapters of all contributors of one adapter.
#[derive(Debug, Clone)]
pub struct Index {
    adapter: Hash,
    commitment: Hash,
    entries: Vec<Entry>,
}

impl Index {
    /// Builds the index from the deployed adapter and, for each contributor, the adapter trained without it from
    /// the same seed and order. The order of `leave_out` doesn't matter.
    ///
    /// # Errors
    /// When there is no contributor or too many, one appears twice, shapes differ or a weight is not finite.
    pub fn build(adapter: &Adapter, leave_out: &[(u32, Adapter)]) -> Result<Self, AttributeError> {
        let mut entries = Vec::with_capacity(leave_out.len());
        for (contributor, without) in leave_out {
            let delta = delta_of(*contributor, adapter, without)?;
            entries.push(Entry { contributor: *contributor, delta, leave_out: without.clone() });
        }
        entries.sort_by_key(|entry| entry.contributor);
        let adapter = adapter.hash()?;
        let bytes = codec::encode(adapter, &entries)?;
        Self::of(adapter, entries, &bytes)
    }

    /// The hash of the adapter that this index is of.
    #[must_use]
    pub fn adapter(&self) -> Hash {
        self.adapter
    }

    /// Contributors, ascending.
    pub fn contributors(&self) -> impl Iterator<Item = u32> + '_ {
        self.entries.iter().map(|entry| entry.contributor)
    }

    /// What is published before any answer is served: the hash over the canonical bytes.
    #[must_use]
    pub fn commitment(&self) -> Hash {
        self.commitment
    }

    /// Recomputes every delta from the two adapters it stands for: an index that came over the network can't
    /// claim another one.
    ///
    /// # Errors
    /// [`AttributeError::ForeignAdapter`] or [`AttributeError::ForgedDelta`].
    pub fn verify(&self, adapter: &Adapter) -> Result<(), AttributeError> {
        self.is_of(adapter)?;
        for entry in &self.entries {
            if delta_of(entry.contributor, adapter, &entry.leave_out)? != entry.delta {
                return Err(AttributeError::ForgedDelta { contributor: entry.contributor });
            }
        }
        Ok(())
    }

    pub(super) fn is_of(&self, adapter: &Adapter) -> Result<(), AttributeError> {
        let given = adapter.hash()?;
        if given == self.adapter {
            return Ok(());
        }
        Err(AttributeError::ForeignAdapter { index: self.adapter, given })
    }

    /// An index of entries that each are sound by themselves; `bytes` is their encoding.
    pub(super) fn of(adapter: Hash, entries: Vec<Entry>, bytes: &[u8]) -> Result<Self, AttributeError> {
        if entries.is_empty() || entries.len() > MAX_CONTRIBUTORS {
            return Err(AttributeError::Contributors { got: entries.len(), most: MAX_CONTRIBUTORS });
        }
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].contributor >= pair[1].contributor) {
            return Err(AttributeError::Order { contributor: pair[1].contributor });
        }
        let commitment = *blake3::Hasher::new().update(COMMITMENT_DOMAIN).update(bytes).finalize().as_bytes();
        Ok(Self { adapter, commitment: Hash(commitment), entries })
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Positions of the `count` entries with the longest deltas; ties go to the lower contributor.
    pub(super) fn largest(&self, count: usize) -> Vec<usize> {
        let norm = |at: &usize| self.entries[*at].squared_length();
        let mut order: Vec<usize> = (0..self.entries.len()).collect();
        order.sort_by(|a, b| norm(b).total_cmp(&norm(a)).then(a.cmp(b)));
        order.truncate(count);
        order
    }
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
