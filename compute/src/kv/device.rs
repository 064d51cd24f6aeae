//! Keys and values of one layer in the memory of a GPU: one tensor that grows, read as it lies.
//!
//! Invariant: as on the processor, position p has one row that never changes while anybody reads it: rows are written
//! behind those held, and into a tensor that nobody else has. A block that others share is a copy, so a shared prefix
//! spares its computation here, not its memory.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::BLOCK_POSITIONS;

/// Positions by which capacity grows at least.
const LEAST_GROWTH: usize = 2 * BLOCK_POSITIONS;

/// Keys and values, (kv_heads, positions, head width) each.
#[derive(Debug)]
pub(super) struct DeviceBlock {
    keys: Tensor,
    values: Tensor,
}

/// One layer's rows. Cloning shares them until one of the two grows.
#[derive(Debug, Clone, Default)]
pub(super) struct DeviceRows {
    /// What the rows begin with; nothing once the first are written.
    prefix: Vec<Arc<DeviceBlock>>,
    held: Option<Arc<DeviceBlock>>,
    positions: usize,
}

impl DeviceRows {
    pub(super) fn with_prefix(prefix: Vec<Arc<DeviceBlock>>) -> Self {
        Self { positions: prefix.len() * BLOCK_POSITIONS, prefix, held: None }
    }

    pub(super) const fn positions(&self) -> usize {
        self.positions
    }

    /// Adds rows (kv_heads, rows, head width).
    pub(super) fn append(&mut self, keys: &Tensor, values: &Tensor) -> Result<()> {
        let (_, rows, _) = keys.dims3()?;
        let needed = self.positions + rows;
        let has_room = match self.held.as_mut().and_then(Arc::get_mut) {
            Some(held) => held.keys.dim(1)? >= needed,
            None => false,
        };
        if !has_room {
            self.move_to((needed + needed / 8).next_multiple_of(LEAST_GROWTH), keys)?;
        }
        let Some(held) = &self.held else { bail!("invariant: rows have a place") };
        held.keys.slice_set(keys, 1, self.positions)?;
        held.values.slice_set(values, 1, self.positions)?;
        self.positions = needed;
        Ok(())
    }

    /// Copies what is held into new tensors with room for `capacity` positions of rows like `like`.
    fn move_to(&mut self, capacity: usize, like: &Tensor) -> Result<()> {
        let (heads, _, width) = like.dims3()?;
        let new = || Tensor::zeros((heads, capacity, width), like.dtype(), like.device());
        let moved = DeviceBlock { keys: new()?, values: new()? };
        let mut at = 0;
        for block in self.prefix.iter().chain(&self.held) {
            let now = block.keys.dim(1)?.min(self.positions - at);
            if now > 0 {
                moved.keys.slice_set(&block.keys.narrow(1, 0, now)?.contiguous()?, 1, at)?;
                moved.values.slice_set(&block.values.narrow(1, 0, now)?.contiguous()?, 1, at)?;
            }
            at += now;
        }
        self.prefix.clear();
        self.held = Some(Arc::new(moved));
        Ok(())
    }

    /// All rows, (kv_heads, positions, head width) each; `None` before the first was written.
    pub(super) fn rows(&self) -> Result<Option<(Tensor, Tensor)>> {
        let Some(held) = &self.held else { return Ok(None) };
        Ok(Some((held.keys.narrow(1, 0, self.positions)?, held.values.narrow(1, 0, self.positions)?)))
    }

    /// A copy of the full block at `index`; `None` when it is not full or there is no memory for it.
    pub(super) fn sealed(&self, index: usize) -> Option<Arc<DeviceBlock>> {
        let start = index * BLOCK_POSITIONS;
        if start + BLOCK_POSITIONS > self.positions {
            return None;
        }
        let Some(held) = &self.held else { return self.prefix.get(index).cloned() };
        let copy = |from: &Tensor| from.narrow(1, start, BLOCK_POSITIONS).and_then(|block| block.force_contiguous());
        Some(Arc::new(DeviceBlock { keys: copy(&held.keys).ok()?, values: copy(&held.values).ok()? }))
    }

    pub(super) fn truncate(&mut self, positions: usize) {
        self.positions = self.positions.min(positions);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::{BLOCK_POSITIONS, DeviceRows};

    fn rows(from: usize, to: usize) -> Tensor {
        let rows: Vec<f32> = (0..2).flat_map(|head| (from..to).map(move |at| (head * 10_000 + at) as f32)).collect();
        Tensor::from_vec(rows, (2, to - from, 1), &Device::Cpu).unwrap()
    }

    fn append(into: &mut DeviceRows, from: usize, to: usize) {
        let keys = rows(from, to);
        into.append(&keys, &keys.neg().unwrap()).unwrap();
    }

    fn assert_holds(held: &DeviceRows, positions: usize) {
        let (keys, values) = held.rows().unwrap().unwrap();
        let expected = rows(0, positions).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(held.positions(), positions);
        assert_eq!(keys.flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected);
        assert_eq!(values.neg().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected);
    }

    #[test]
    fn rows_grow_in_order_and_clones_part() {
        let mut held = DeviceRows::default();
        assert!(held.rows().unwrap().is_none());
        for (from, to) in [(0, 5), (5, 6), (6, 200), (200, 201)] {
            append(&mut held, from, to);
            assert_holds(&held, to);
        }
        let before = held.clone();
        append(&mut held, 201, 230);
        let mut other = before.clone();
        other.truncate(100);
        append(&mut other, 100, 140);
        assert_holds(&before, 201);
        assert_holds(&other, 140);
        assert_holds(&held, 230);
    }

    #[test]
    fn a_prefix_reads_like_rows_of_ones_own() {
        let mut first = DeviceRows::default();
        append(&mut first, 0, 2 * BLOCK_POSITIONS + 3);
        assert!(first.sealed(2).is_none());
        let blocks = vec![first.sealed(0).unwrap(), first.sealed(1).unwrap()];
        let mut second = DeviceRows::with_prefix(blocks);
        assert_eq!(second.positions(), 2 * BLOCK_POSITIONS);
        assert!(second.sealed(1).is_some());
        append(&mut second, 2 * BLOCK_POSITIONS, 90);
        assert_holds(&second, 90);
        let mut cut = DeviceRows::with_prefix(vec![first.sealed(0).unwrap(), first.sealed(1).unwrap()]);
        cut.truncate(40);
        append(&mut cut, 40, 41);
        assert_holds(&cut, 41);
        append(&mut first, 2 * BLOCK_POSITIONS + 3, 500);
        assert_holds(&second, 90);
    }
}
