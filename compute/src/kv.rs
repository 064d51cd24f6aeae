//! Keys and values of one sequence, in blocks.
//!
//! Invariant: position p of a layer is row p % 32 of block p / 32, and a written row never moves or changes: growth
//! takes a new block, so an answer's memory is what it used, and attention reads the rows in order of position.

use crate::ops::Run;

/// Positions of one block: small enough that short answers waste little, large enough that a run is a long read.
const BLOCK_POSITIONS: usize = 32;

#[derive(Debug, Clone)]
struct Block {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Keys (already rotated) and values of one layer, rows of `width` values.
#[derive(Debug, Clone)]
pub struct LayerCache {
    width: usize,
    blocks: Vec<Block>,
}

/// What one sequence remembers of the tokens it has seen.
#[derive(Debug, Clone)]
pub struct Cache {
    layers: Vec<LayerCache>,
}

impl Cache {
    /// An empty memory for `layers` layers whose keys are `width` wide.
    #[must_use]
    pub fn new(layers: usize, width: usize) -> Self {
        Self { layers: vec![LayerCache { width, blocks: Vec::new() }; layers] }
    }

    /// Positions that every layer holds.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.layers.last().map_or(0, LayerCache::positions)
    }

    /// One layer, for the forward pass that fills it.
    pub fn layer_mut(&mut self, at: usize) -> &mut LayerCache {
        &mut self.layers[at]
    }
}

impl LayerCache {
    /// Positions held.
    #[must_use]
    pub fn positions(&self) -> usize {
        match self.blocks.split_last() {
            Some((last, full)) => full.len() * BLOCK_POSITIONS + last.keys.len() / self.width,
            None => 0,
        }
    }

    /// Adds whole rows; `keys` and `values` are equally long.
    pub fn append(&mut self, keys: &[f32], values: &[f32]) {
        for (keys, values) in keys.chunks_exact(self.width).zip(values.chunks_exact(self.width)) {
            let block = self.open_block();
            block.keys.extend_from_slice(keys);
            block.values.extend_from_slice(values);
        }
    }

    /// All rows in order of position.
    #[must_use]
    pub fn runs(&self) -> Vec<Run<'_>> {
        self.blocks.iter().map(|block| Run { keys: &block.keys, values: &block.values }).collect()
    }

    fn open_block(&mut self) -> &mut Block {
        let room = BLOCK_POSITIONS * self.width;
        if self.blocks.last().is_none_or(|block| block.keys.len() >= room) {
            self.blocks.push(Block { keys: Vec::with_capacity(room), values: Vec::with_capacity(room) });
        }
        self.blocks.last_mut().expect("invariant: a block was just ensured")
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK_POSITIONS, Cache};
    use crate::ops::{HeadShape, attend_cached};

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
        let at_once = attend_cached(&queries, &whole.layer_mut(0).runs(), rows, shape);
        let mut growing = Cache::new(1, 12);
        for row in 0..rows {
            let layer = growing.layer_mut(0);
            layer.append(&keys[row * 12..][..12], &vals[row * 12..][..12]);
            let one = attend_cached(&queries[row * 24..][..24], &layer.runs(), row + 1, shape);
            assert_eq!(one, at_once[row * 24..][..24], "row {row}");
        }
    }
}
