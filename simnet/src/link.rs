//! Links: how long a message travels, whether it arrives, and how often.
//!
//! Invariant: a message that crosses a partition never arrives; all else is drawn from the world's chance.

use serde::{Deserialize, Serialize};

use crate::chance::Chance;

/// What every link of a world is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkModel {
    /// The least delay, in milliseconds.
    pub delay_min_ms: u64,
    /// The largest delay, in milliseconds; messages with different delays overtake each other.
    pub delay_max_ms: u64,
    /// Messages lost, in parts per million.
    pub loss_ppm: u32,
    /// Messages that arrive twice, in parts per million.
    pub duplicate_ppm: u32,
    /// Messages held up for [`HELD_UP_MS`] more, in parts per million.
    pub straggler_ppm: u32,
    /// Bytes a link carries in a millisecond.
    pub bytes_per_ms: u64,
}

/// How long a straggler is held up, in milliseconds: longer than a round of repeats.
pub const HELD_UP_MS: u64 = 5_000;

impl LinkModel {
    /// A network where nothing goes wrong.
    #[must_use]
    pub const fn perfect() -> Self {
        Self {
            delay_min_ms: 1,
            delay_max_ms: 20,
            loss_ppm: 0,
            duplicate_ppm: 0,
            straggler_ppm: 0,
            bytes_per_ms: 10_000,
        }
    }

    /// A bad one: 5 % lost, 2 % twice, 1 % seconds late.
    #[must_use]
    pub const fn bad() -> Self {
        Self {
            delay_min_ms: 5,
            delay_max_ms: 300,
            loss_ppm: 50_000,
            duplicate_ppm: 20_000,
            straggler_ppm: 10_000,
            bytes_per_ms: 1_000,
        }
    }

    fn delay_ms(&self, bytes: u64, chance: &mut Chance) -> u64 {
        let late = if chance.happens(self.straggler_ppm) { HELD_UP_MS } else { 0 };
        let travel = chance.between(self.delay_min_ms, self.delay_max_ms);
        travel + late + bytes / self.bytes_per_ms.max(1)
    }
}

/// A time in which some peers cannot reach the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// From when.
    pub from_ms: u64,
    /// Until when.
    pub until_ms: u64,
    /// For each peer, whether it is cut off from those on the other side.
    pub sides: Vec<bool>,
}

/// All links of a world.
#[derive(Debug, Clone)]
pub struct Links {
    model: LinkModel,
    partitions: Vec<Partition>,
    perfect_from_ms: u64,
}

impl Links {
    /// Links that are faulty until `faults_until_ms` and perfect after that.
    #[must_use]
    pub fn new(model: LinkModel, partitions: Vec<Partition>, faults_until_ms: u64) -> Self {
        Self { model, partitions, perfect_from_ms: faults_until_ms }
    }

    /// Whether a partition stands between two peers.
    #[must_use]
    pub fn is_cut(&self, now_ms: u64, from: usize, to: usize) -> bool {
        self.partitions.iter().any(|partition| {
            (partition.from_ms..partition.until_ms).contains(&now_ms)
                && partition.sides.get(from) != partition.sides.get(to)
        })
    }

    /// The delays after which a message arrives: none when it is lost, two when it is doubled.
    pub fn send(&self, now_ms: u64, from: usize, to: usize, bytes: usize, chance: &mut Chance) -> Vec<u64> {
        let size = u64::try_from(bytes).unwrap_or(u64::MAX);
        let model = self.model_at(now_ms);
        if self.is_cut(now_ms, from, to) || chance.happens(model.loss_ppm) {
            return Vec::new();
        }
        let mut delays = vec![model.delay_ms(size, chance)];
        if chance.happens(model.duplicate_ppm) {
            delays.push(model.delay_ms(size, chance));
        }
        delays
    }

    /// The delay of a transfer over a stream, which is reliable but may break.
    pub fn transfer(&self, now_ms: u64, from: usize, to: usize, bytes: u64, chance: &mut Chance) -> Option<u64> {
        let model = self.model_at(now_ms);
        let broken = self.is_cut(now_ms, from, to) || chance.happens(model.loss_ppm);
        (!broken).then(|| model.delay_ms(bytes, chance))
    }

    fn model_at(&self, now_ms: u64) -> LinkModel {
        if now_ms < self.perfect_from_ms { self.model } else { LinkModel::perfect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_stops_everything_between_its_sides_and_nothing_else() {
        let partition = Partition { from_ms: 10, until_ms: 20, sides: vec![true, false, true] };
        let links = Links::new(LinkModel::perfect(), vec![partition], 100);
        let mut chance = Chance::new(1, "test");
        assert!(links.send(10, 0, 1, 100, &mut chance).is_empty());
        assert_eq!(links.send(10, 0, 2, 100, &mut chance).len(), 1);
        assert_eq!(links.send(20, 0, 1, 100, &mut chance).len(), 1);
    }

    #[test]
    fn loss_is_about_what_was_asked_for() {
        let links = Links::new(LinkModel::bad(), Vec::new(), u64::MAX);
        let mut chance = Chance::new(2, "test");
        let lost = (0..10_000).filter(|_| links.send(0, 0, 1, 10, &mut chance).is_empty()).count();
        assert!((400..600).contains(&lost), "{lost} of 10000 lost");
    }
}
