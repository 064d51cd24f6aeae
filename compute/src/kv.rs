//! Keys and values of one sequence, in blocks that sequences can share.
//!
//! Invariant: position p of a layer is row p % 32 of block p / 32, and a written row never changes: growth takes a new
//! block, a full block is sealed and can then belong to several sequences whose tokens and adapter agree up to its end.
//! Attention reads the rows in order of position, whoever wrote them. A layer holds its rows where its first ones came
//! from: in blocks on the processor, or on a device.

mod device;

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use crate::ops::Run;
use device::{DeviceBlock, DeviceRows};

/// Positions of one block: small enough that short answers waste little, large enough that a run is a long read.
pub const BLOCK_POSITIONS: usize = 32;

#[derive(Debug, Clone)]
struct Block {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// One full block of every layer. Cloning shares it.
#[derive(Debug, Clone)]
pub struct SealedBlock(Sealed);

#[derive(Debug, Clone)]
enum Sealed {
    Host(Arc<[Arc<Block>]>),
    Device(Arc<[Arc<DeviceBlock>]>),
}

/// Keys (already rotated) and values of one layer, rows of `width` values.
#[derive(Debug, Clone)]
pub struct LayerCache {
    width: usize,
    sealed: Vec<Arc<Block>>,
    /// Fewer than [`BLOCK_POSITIONS`] rows.
    open: Block,
    /// What it holds on a device, and then there is nothing in the two above.
    device: Option<DeviceRows>,
}

/// What one sequence remembers of the tokens it has seen.
#[derive(Debug, Clone)]
pub struct Cache {
    layers: Vec<LayerCache>,
}

/// Bytes of one block of all layers.
#[must_use]
pub const fn block_bytes(layers: usize, width: usize) -> usize {
    layers * width * BLOCK_POSITIONS * 2 * size_of::<f32>()
}

impl Cache {
    /// An empty memory for `layers` layers whose keys are `width` wide.
    #[must_use]
    pub fn new(layers: usize, width: usize) -> Self {
        Self::with_prefix(layers, width, &[])
    }

    /// A memory that begins with blocks of another sequence.
    ///
    /// # Panics
    /// When a block is of a model with fewer layers.
    #[must_use]
    pub fn with_prefix(layers: usize, width: usize, prefix: &[SealedBlock]) -> Self {
        let layer = |at: usize| {
            let (mut sealed, mut on_device) = (Vec::new(), Vec::new());
            for block in prefix {
                match &block.0 {
                    Sealed::Host(layers) => sealed.push(layers[at].clone()),
                    Sealed::Device(layers) => on_device.push(layers[at].clone()),
                }
            }
            let device = (!on_device.is_empty()).then(|| DeviceRows::with_prefix(on_device));
            LayerCache { width, sealed, open: Block { keys: Vec::new(), values: Vec::new() }, device }
        };
        Self { layers: (0..layers).map(layer).collect() }
    }

    /// Positions that every layer holds.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.layers.last().map_or(0, LayerCache::positions)
    }

    /// One layer.
    #[must_use]
    pub fn layer(&self, at: usize) -> &LayerCache {
        &self.layers[at]
    }

    /// One layer, for the forward pass that fills it.
    pub fn layer_mut(&mut self, at: usize) -> &mut LayerCache {
        &mut self.layers[at]
    }

    /// The block at `index`, once it is full in every layer.
    #[must_use]
    pub fn sealed(&self, index: usize) -> Option<SealedBlock> {
        if self.layers.first()?.device.is_some() {
            let blocks = self.layers.iter().map(|layer| layer.device.as_ref()?.sealed(index));
            return Some(SealedBlock(Sealed::Device(blocks.collect::<Option<_>>()?)));
        }
        let blocks: Option<Vec<_>> = self.layers.iter().map(|layer| layer.sealed.get(index).cloned()).collect();
        blocks.map(|blocks| SealedBlock(Sealed::Host(blocks.into())))
    }

    /// Forgets every position from `positions` on: after a step that failed halfway.
    pub fn truncate(&mut self, positions: usize) {
        for layer in &mut self.layers {
            layer.truncate(positions);
        }
    }
}

impl LayerCache {
    /// Positions held.
    #[must_use]
    pub fn positions(&self) -> usize {
        match &self.device {
            Some(rows) => rows.positions(),
            None => self.sealed.len() * BLOCK_POSITIONS + self.open.keys.len() / self.width,
        }
    }

    /// Adds rows, (kv_heads, rows, head width) each, and gives all of them where they are.
    ///
    /// # Errors
    /// When the layer holds rows of the processor, or the device has no memory left.
    pub fn append_on_device(&mut self, keys: &Tensor, values: &Tensor) -> Result<(Tensor, Tensor)> {
        if self.device.is_none() && self.positions() > 0 {
            bail!("rows of a device behind rows of the processor");
        }
        let rows = self.device.get_or_insert_default();
        rows.append(keys, values)?;
        match rows.rows()? {
            Some(rows) => Ok(rows),
            None => bail!("invariant: rows were added"),
        }
    }

    /// Adds whole rows; `keys` and `values` are equally long.
    pub fn append(&mut self, keys: &[f32], values: &[f32]) {
        let room = BLOCK_POSITIONS * self.width;
        let (mut keys, mut values) = (keys, values);
        while !keys.is_empty() {
            if self.open.keys.capacity() == 0 {
                self.open = Block { keys: Vec::with_capacity(room), values: Vec::with_capacity(room) };
            }
            let now = (room - self.open.keys.len()).min(keys.len());
            let (now_keys, later_keys) = keys.split_at(now);
            let (now_values, later_values) = values.split_at(now);
            self.open.keys.extend_from_slice(now_keys);
            self.open.values.extend_from_slice(now_values);
            (keys, values) = (later_keys, later_values);
            if self.open.keys.len() == room {
                let full = std::mem::replace(&mut self.open, Block { keys: Vec::new(), values: Vec::new() });
                self.sealed.push(Arc::new(full));
            }
        }
    }

    /// All rows in order of position.
    #[must_use]
    pub fn runs(&self) -> Vec<Run<'_>> {
        let blocks = self.sealed.iter().map(AsRef::as_ref).chain(std::iter::once(&self.open));
        let runs = blocks.map(|block| Run { keys: &block.keys, values: &block.values });
        runs.filter(|run| !run.keys.is_empty()).collect()
    }

    fn truncate(&mut self, positions: usize) {
        if let Some(rows) = &mut self.device {
            return rows.truncate(positions);
        }
        if positions >= self.positions() {
            return;
        }
        let (full, rest) = (positions / BLOCK_POSITIONS, positions % BLOCK_POSITIONS * self.width);
        if full < self.sealed.len() {
            self.open = Block::clone(&self.sealed[full]);
            self.sealed.truncate(full);
        }
        self.open.keys.truncate(rest);
        self.open.values.truncate(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK_POSITIONS, Cache};
    use crate::ops::{HeadShape, Seen, attend_cached};

    fn values(count: usize, seed: f32) -> Vec<f32> {
        (0..count).map(|at| (at as f32 * 0.7 + seed).sin()).collect()
    }

    #[test]
    fn rows_come_back_in_order_across_blocks() {
        let mut cache = Cache::new(2, 3);
        let rows = BLOCK_POSITIONS * 2 + 5;
        let (keys, vals) = (values(rows * 3, 0.0), values(rows * 3, 1.0));
        let (first, second) = (7 * 3, 40 * 3);
        for range in [0..first, first..second, second..rows * 3] {
            for layer in 0..2 {
                cache.layer_mut(layer).append(&keys[range.clone()], &vals[range.clone()]);
            }
        }
        assert_eq!(cache.positions(), rows);
        let runs = cache.layer_mut(1).runs();
        assert_eq!(runs.len(), 3);
        assert_eq!(runs.iter().flat_map(|run| run.keys).copied().collect::<Vec<_>>(), keys);
        assert_eq!(runs.iter().flat_map(|run| run.values).copied().collect::<Vec<_>>(), vals);
    }

    #[test]
    fn one_row_at_a_time_attends_like_all_at_once() {
        let shape = HeadShape { heads: 4, kv_heads: 2, width: 6, window: Some(20) };
        let rows = BLOCK_POSITIONS + 9;
        let queries = values(rows * 24, 3.0);
        let (keys, vals) = (values(rows * 12, 0.0), values(rows * 12, 1.0));
        let mut whole = Cache::new(1, 12);
        whole.layer_mut(0).append(&keys, &vals);
        let at_once = attend_cached(&queries, &[Seen { runs: whole.layer_mut(0).runs(), rows }], shape);
        let mut growing = Cache::new(1, 12);
        for row in 0..rows {
            let layer = growing.layer_mut(0);
            layer.append(&keys[row * 12..][..12], &vals[row * 12..][..12]);
            let one = attend_cached(&queries[row * 24..][..24], &[Seen { runs: layer.runs(), rows: 1 }], shape);
            assert_eq!(one, at_once[row * 24..][..24], "row {row}");
        }
    }

    #[test]
    fn a_shared_prefix_reads_like_rows_of_ones_own() {
        let rows = BLOCK_POSITIONS * 2 + 7;
        let (keys, vals) = (values(rows * 3, 0.0), values(rows * 3, 1.0));
        let mut first = Cache::new(2, 3);
        for layer in 0..2 {
            first.layer_mut(layer).append(&keys, &vals);
        }
        assert!(first.sealed(2).is_none(), "the third block is not full");
        let prefix: Vec<_> = (0..2).map(|at| first.sealed(at).unwrap()).collect();
        let mut second = Cache::with_prefix(2, 3, &prefix);
        assert_eq!(second.positions(), 2 * BLOCK_POSITIONS);
        let own = 2 * BLOCK_POSITIONS * 3;
        for layer in 0..2 {
            second.layer_mut(layer).append(&keys[own..], &vals[own..]);
            let read: Vec<f32> = second.layer_mut(layer).runs().iter().flat_map(|run| run.keys).copied().collect();
            assert_eq!(read, keys);
        }
    }

    #[test]
    fn truncating_forgets_exactly_the_end() {
        let rows = BLOCK_POSITIONS * 3 + 4;
        let (keys, vals) = (values(rows * 3, 0.0), values(rows * 3, 1.0));
        for left in [0, 1, BLOCK_POSITIONS - 1, BLOCK_POSITIONS, BLOCK_POSITIONS * 2 + 5, rows, rows + 9] {
            let mut cache = Cache::new(1, 3);
            cache.layer_mut(0).append(&keys, &vals);
            let other = cache.clone();
            cache.truncate(left);
            assert_eq!(cache.positions(), left.min(rows));
            cache.layer_mut(0).append(&keys[left.min(rows) * 3..], &vals[left.min(rows) * 3..]);
            let read: Vec<f32> = cache.layer_mut(0).runs().iter().flat_map(|run| run.values).copied().collect();
            assert_eq!(read, vals);
            assert_eq!(other.positions(), rows, "a sharer keeps its rows");
        }
    }
}
