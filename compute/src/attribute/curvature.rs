//! How a loss is curved: in a direction in which many records pull at the weights, a step changes much, and training without some
//! of them moves little.
//!
//! Each tensor's curvature is the Kronecker product of two factors, the two sides of the records' own gradients (as Shampoo takes
//! them: Gupta et al., arXiv 1802.09568), damped each by itself (K-FAC: Martens and Grosse, arXiv 1503.05671, section 6.3). Of a
//! side longer than [`SIDE`] only blocks along the diagonal are kept, so that memory grows with the adapter alone.
//!
//! Invariant: a pure function of gradients and weights in their order, and the same bits on any number of threads.

use rayon::iter::{IntoParallelRefMutIterator, ParallelIterator};

use crate::ops::narrow;

/// Rows of a side that are told apart from each other in all directions.
const SIDE: usize = 128;
/// What is added to a factor, whose mean eigenvalue is one: together a tenth of the mean curvature, as DataInf's authors chose it.
const DAMPING: f64 = 0.316;

/// One side of a tensor's gradients: Σ l·lᵀ over their lines l, in blocks along the diagonal, later the inverse.
struct Side {
    size: usize,
    blocks: Vec<Vec<f64>>,
}

impl Side {
    fn new(size: usize) -> Self {
        let length = |from: usize| SIDE.min(size - from);
        Self { size, blocks: (0..size).step_by(SIDE).map(|from| vec![0.0; length(from) * length(from)]).collect() }
    }

    fn add(&mut self, line: &[f32], weight: f64) {
        for (block, part) in self.blocks.iter_mut().zip(line.chunks(SIDE)) {
            for (sums, own) in block.chunks_exact_mut(part.len()).zip(part) {
                let own = f64::from(*own) * weight;
                sums.iter_mut().zip(part).for_each(|(sum, other)| *sum += own * f64::from(*other));
            }
        }
    }

    /// The sum of the diagonal.
    fn trace(&self) -> f64 {
        let of = |block: &Vec<f64>| block.iter().step_by(line_of(block) + 1).sum::<f64>();
        self.blocks.iter().map(of).sum()
    }

    /// The inverse of what is left when the mean eigenvalue is one and the damping is added.
    fn invert(&mut self, trace: f64) {
        let mean = trace / self.size as f64;
        for block in &mut self.blocks {
            let line = line_of(block);
            block.iter_mut().for_each(|value| *value /= mean);
            block.iter_mut().step_by(line + 1).for_each(|value| *value += DAMPING);
            invert(block, line);
        }
    }

    /// The product with each line of `lines`.
    fn turn(&self, lines: &mut [f64]) {
        for line in lines.chunks_exact_mut(self.size) {
            for (block, part) in self.blocks.iter().zip(line.chunks_mut(SIDE)) {
                let product = |row: &[f64]| row.iter().zip(&*part).map(|(one, other)| one * other).sum();
                let turned: Vec<f64> = block.chunks_exact(part.len()).map(product).collect();
                part.copy_from_slice(&turned);
            }
        }
    }
}

/// The side of a square.
fn line_of(square: &[f64]) -> usize {
    square.len().isqrt()
}

/// The inverse in place, by Gauss and Jordan: what is damped is far from singular, so the diagonal serves as pivots.
fn invert(square: &mut [f64], line: usize) {
    for at in 0..line {
        let pivot = square[at * line + at];
        square[at * line + at] = 1.0;
        square[at * line..(at + 1) * line].iter_mut().for_each(|value| *value /= pivot);
        let own = square[at * line..(at + 1) * line].to_vec();
        for (_, row) in square.chunks_exact_mut(line).enumerate().filter(|(other, _)| *other != at) {
            let factor = std::mem::replace(&mut row[at], 0.0);
            row.iter_mut().zip(&own).for_each(|(value, own)| *value -= factor * own);
        }
    }
}

/// (rows, columns), row after row, to (columns, rows).
fn transposed<T: Copy>(values: &[T], columns: usize) -> Vec<T> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns).copied()).collect()
}

struct Factors {
    from: usize,
    rows: usize,
    columns: usize,
    left: Side,
    right: Side,
    /// What a weighed step is multiplied by.
    scale: f64,
}

impl Factors {
    fn range(&self) -> std::ops::Range<usize> {
        self.from..self.from + self.rows * self.columns
    }

    fn add(&mut self, gradient: &[f32], weight: f64) {
        let gradient = &gradient[self.range()];
        gradient.chunks_exact(self.columns).for_each(|row| self.right.add(row, weight));
        transposed(gradient, self.columns).chunks_exact(self.rows).for_each(|column| self.left.add(column, weight));
    }

    fn invert(&mut self, weights: f64) {
        let trace = self.right.trace();
        if trace > 0.0 && weights > 0.0 {
            self.right.invert(trace);
            self.left.invert(trace);
            self.scale = weights * (self.rows * self.columns) as f64 / trace;
        }
    }

    fn weigh(&self, gradient: &mut [f32]) {
        let own = &mut gradient[self.range()];
        let mut turned: Vec<f64> = own.iter().map(|value| f64::from(*value)).collect();
        self.right.turn(&mut turned);
        turned = transposed(&turned, self.columns);
        self.left.turn(&mut turned);
        turned = transposed(&turned, self.rows);
        // Where nothing pulls at the tensor, nothing was inverted.
        own.iter_mut().zip(turned).for_each(|(value, turned)| {
            *value = if self.scale > 0.0 { narrow(turned * self.scale) } else { 0.0 };
        });
    }
}

/// The second moments of records' gradients, while they come in.
pub(super) struct Moments {
    tensors: Vec<Factors>,
    weights: f64,
}

impl Moments {
    /// Of an adapter with tensors of these (rows, columns).
    pub(super) fn new(shapes: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut from = 0;
        let factors = |(rows, columns): (usize, usize)| {
            let (left, right) = (Side::new(rows), Side::new(columns));
            let own = Factors { from, rows, columns, left, right, scale: 0.0 };
            from += rows * columns;
            own
        };
        Self { tensors: shapes.into_iter().map(factors).collect(), weights: 0.0 }
    }

    /// Adds gradients of the whole adapter, each by its weight.
    pub(super) fn add(&mut self, gradients: &[(Vec<f32>, f64)]) {
        self.weights += gradients.iter().map(|(_, weight)| weight).sum::<f64>();
        self.tensors
            .par_iter_mut()
            .for_each(|tensor| gradients.iter().for_each(|(gradient, weight)| tensor.add(gradient, *weight)));
    }

    /// What they come to.
    pub(super) fn curvature(mut self) -> Curvature {
        let weights = self.weights;
        self.tensors.par_iter_mut().for_each(|tensor| tensor.invert(weights));
        Curvature { tensors: self.tensors }
    }
}

/// The inverse of the curvature.
pub(super) struct Curvature {
    tensors: Vec<Factors>,
}

impl Curvature {
    /// What a gradient of the whole adapter is worth where the loss is curved; nothing where no record has a gradient.
    pub(super) fn weigh(&self, gradient: &mut [f32]) {
        self.tensors.iter().for_each(|tensor| tensor.weigh(gradient));
    }
}

#[cfg(test)]
mod tests {
    use super::{DAMPING, Moments, SIDE, invert};

    /// Numbers that look like chance.
    fn noise(seed: u64, count: usize) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            f32::from(i16::try_from(state >> 49).unwrap()) / 16_384.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn an_inverse_times_its_matrix_is_one() {
        let line = 7;
        let lines: Vec<Vec<f32>> = (0..5).map(|seed| noise(seed + 1, line)).collect();
        let at = |row: usize, column: usize| {
            let sum: f64 = lines.iter().map(|own| f64::from(own[row]) * f64::from(own[column])).sum();
            sum + if row == column { 0.3 } else { 0.0 }
        };
        let square: Vec<f64> = (0..line * line).map(|place| at(place / line, place % line)).collect();
        let mut inverse = square.clone();
        invert(&mut inverse, line);
        for row in 0..line {
            for column in 0..line {
                let sum: f64 = (0..line).map(|k| square[row * line + k] * inverse[k * line + column]).sum();
                assert!((sum - f64::from(u8::from(row == column))).abs() < 1e-12, "{row} {column} {sum}");
            }
        }
    }

    #[test]
    fn a_direction_in_which_many_pull_is_worth_less_and_alike_in_all_directions_nothing_changes() {
        // One tensor of 2 by 3: every record pulls at the first number, one at the last.
        let mut moments = Moments::new([(2, 3)]);
        let pull = |place: usize| (0..6).map(|at| f32::from(u8::from(at == place))).collect::<Vec<f32>>();
        moments.add(&[(pull(0), 9.0), (pull(5), 1.0)]);
        let curvature = moments.curvature();
        let worth = |place: usize| {
            let mut gradient = pull(place);
            curvature.weigh(&mut gradient);
            assert!(gradient.iter().enumerate().all(|(at, value)| at == place || *value == 0.0), "{gradient:?}");
            f64::from(gradient[place])
        };
        // Factors (2 · .9, 2 · .1) and (3 · .9, 0, 3 · .1), each damped; the mean square of a number is a sixth.
        for (place, left, right) in [(0, 1.8, 2.7), (5, 0.2, 0.3), (1, 1.8, 0.0)] {
            let expected = 6.0 / (left + DAMPING) / (right + DAMPING);
            assert!((worth(place) / expected - 1.0).abs() < 1e-6, "{place}: {} {expected}", worth(place));
        }
    }

    #[test]
    fn long_sides_are_kept_in_blocks_and_a_tensor_that_nothing_pulls_at_is_worth_nothing() {
        let (rows, columns) = (SIDE + 3, 2);
        let mut moments = Moments::new([(rows, columns), (1, 4)]);
        let gradients: Vec<(Vec<f32>, f64)> = (0..40)
            .map(|seed| {
                let mut gradient = noise(seed + 1, rows * columns);
                gradient.extend([0.0; 4]);
                (gradient, 1.0)
            })
            .collect();
        moments.add(&gradients);
        let curvature = moments.curvature();
        let mut first = gradients[0].0.clone();
        first[rows * columns] = 1.0;
        curvature.weigh(&mut first);
        assert!(first[..rows * columns].iter().all(|value| value.is_finite() && *value != 0.0));
        assert_eq!(first[rows * columns..], [0.0; 4]);
        // What is added is added: the product with a sum is the sum of the products.
        let [mut one, mut two] = [1, 2].map(|at| gradients[at].0.clone());
        let mut both: Vec<f32> = one.iter().zip(&two).map(|(one, two)| one + two).collect();
        [&mut one, &mut two, &mut both].into_iter().for_each(|gradient| curvature.weigh(gradient));
        for ((one, two), both) in one.iter().zip(&two).zip(&both) {
            assert!((one + two - both).abs() < 1e-4, "{one} {two} {both}");
        }
    }
}
