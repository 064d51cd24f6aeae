//! Sums of products of whole numbers: the same on every machine, in whatever order.

/// Numbers whose products' sum fits 32 bits, of which processors add many at a time: each product is at most 2^15 · 2^7.
const FITTING: usize = 511;

/// The inner product of as many numbers as both have.
pub(crate) fn integer_product(one: &[i16], other: &[i8]) -> i64 {
    let parts = one.chunks(FITTING).zip(other.chunks(FITTING));
    vectorised!(parts.clone().map(|(one, other)| i64::from(part(one, other))).sum())
}

#[inline(always)]
fn part(one: &[i16], other: &[i8]) -> i32 {
    // It can't wrap, as there are no more than fit; a check of every addition would keep them from running side by side.
    let product = |(&one, &other): (&i16, &i8)| i32::from(one).wrapping_mul(i32::from(other));
    one.iter().zip(other).map(product).fold(0, i32::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::{FITTING, integer_product};

    #[test]
    fn the_largest_products_of_the_longest_part_are_summed_exactly() {
        let count = 3 * FITTING + 5;
        for (value, product) in [(i8::MIN, 1_i64 << 22), (i8::MAX, -127 << 15)] {
            let expected = product * i64::try_from(count).unwrap();
            assert_eq!(integer_product(&vec![i16::MIN; count], &vec![value; count]), expected);
        }
    }

    #[test]
    fn every_number_counts_once() {
        for count in [0, 1, 31, FITTING, FITTING + 1, 4 * FITTING + 37] {
            let number = |at: usize| i16::try_from(at * 7_919 % 65_521).unwrap_or(i16::MIN);
            let one: Vec<i16> = (0..count).map(number).collect();
            let other: Vec<i8> = (0..count).map(|at| i8::try_from(at * 31 % 255).unwrap_or(i8::MIN)).collect();
            let expected: i64 = one.iter().zip(&other).map(|(&one, &other)| i64::from(one) * i64::from(other)).sum();
            assert_eq!(integer_product(&one, &other), expected);
        }
    }
}
