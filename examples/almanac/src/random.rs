//! Seeded choice without a dependency: SplitMix64 (Steele, Lea and Flood 2014, `java.util.SplittableRandom`).
//!
//! Invariant: a stream's numbers depend only on its seed and its label, never on the machine, the time or on how much
//! another stream has drawn; so adding a draw to one part of the almanac leaves every other part as it was.

/// One independent stream of numbers.
#[derive(Clone, Debug)]
pub struct Stream {
    state: u64,
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

impl Stream {
    /// The stream of `seed` named `label`.
    pub fn new(seed: u64, label: &str) -> Self {
        let hash = label.bytes().fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
        let mut stream = Self { state: seed ^ hash };
        // One draw mixes seeds that differ in few bits.
        stream.state = stream.next_u64() ^ hash.rotate_left(32);
        stream
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when `bound` is 0. The bias is below `bound` / 2^64.
    pub fn below(&mut self, bound: usize) -> usize {
        let wide = u128::from(self.next_u64()) * bound as u128;
        usize::try_from(wide >> 64).expect("invariant: the high half is below `bound`, which is a usize")
    }

    /// One item of `items`, which is not empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Puts `items` into a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Stream;

    #[test]
    fn equal_seed_and_label_give_equal_numbers() {
        let draw = |seed, label| {
            let mut stream = Stream::new(seed, label);
            [stream.next_u64(), stream.next_u64()]
        };
        assert_eq!(draw(7, "facts"), draw(7, "facts"));
        assert_ne!(draw(7, "facts"), draw(8, "facts"));
        assert_ne!(draw(7, "facts"), draw(7, "noise"));
    }

    #[test]
    fn shuffle_keeps_every_item() {
        let mut items: Vec<usize> = (0..100).collect();
        Stream::new(1, "order").shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn below_reaches_every_value_and_no_other() {
        let mut stream = Stream::new(3, "range");
        let mut seen = [false; 5];
        for _ in 0..200 {
            seen[stream.below(5)] = true;
        }
        assert_eq!(seen, [true; 5]);
    }
}
