//! Products of one input by several weights, with low-rank additions of many adapters to their rows.
//!
//! Invariant: nothing here is differentiable, and a row gets bitwise what [`super::product`] and [`super::lora_product`]
//! give it alone; rows of the base are not touched.

use std::ops::Range;

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};

use super::product::{multiply_padded, products_of_few};
use super::weight::Weight;
use super::{pool, tensor};

/// Multiplications below which other cores' shares cost more than they bring.
const THREAD_WORK: usize = 1 << 15;

/// The two factors of an addition to one product.
#[derive(Debug, Clone, Copy)]
pub struct Factors<'a> {
    /// (in, rank)
    pub down: &'a Tensor,
    /// (rank, out)
    pub up: &'a Tensor,
}

/// What is added to some rows of the products.
#[derive(Debug, Clone)]
pub struct Addition<'a> {
    /// Which rows.
    pub rows: Range<usize>,
    /// For each product its factors, if it has any.
    pub factors: Vec<Option<Factors<'a>>>,
    /// What the factors' product is scaled by.
    pub scale: f32,
}

/// x (rows, in) · each weight (in, out), and for each addition s·(x·down)·up on its rows. Weights that can be are read in
/// one go.
///
/// # Errors
/// When shapes don't fit.
pub fn products(x: &Tensor, weights: &[&Weight], additions: &[Addition<'_>]) -> Result<Vec<Tensor>> {
    let x = x.contiguous()?;
    let (rows, terms) = x.dims2()?;
    let base = Weight::products(&x, weights)?;
    if additions.iter().all(|addition| addition.factors.iter().all(Option::is_none)) {
        return Ok(base);
    }
    let parts = super::with_floats(&x, |x| {
        let part = |at: usize| {
            let addition: &Addition<'_> = &additions[at];
            match x.get(addition.rows.start * terms..addition.rows.end * terms) {
                Some(x) => addition.parts(x, terms),
                None => bail!("an addition to rows {:?} of {rows}", addition.rows),
            }
        };
        match additions.iter().map(Addition::work).sum::<usize>() < THREAD_WORK {
            true => (0..additions.len()).map(part).collect::<Result<Vec<_>>>(),
            false => pool::share(additions.len(), part).into_iter().collect(),
        }
    })??;
    let sums = base.iter().enumerate().map(|(product, base)| {
        let columns = base.dim(1)?;
        let mut values = super::with_floats(base, <[f32]>::to_vec)?;
        for (addition, parts) in additions.iter().zip(&parts) {
            let Some(Some(part)) = parts.get(product) else { continue };
            let own = &mut values[addition.rows.start * columns..addition.rows.end * columns];
            if own.len() != part.len() {
                bail!("an addition of {} values to {}", part.len(), own.len());
            }
            for (value, part) in own.iter_mut().zip(part) {
                *value += addition.scale * part;
            }
        }
        tensor(values, (rows, columns))
    });
    sums.collect()
}

impl Addition<'_> {
    fn work(&self) -> usize {
        let each = self.factors.iter().flatten().map(|factors| factors.down.elem_count() + factors.up.elem_count());
        self.rows.len() * each.sum::<usize>()
    }

    /// For each product (x·down)·up of the rows `x`.
    fn parts(&self, x: &[f32], terms: usize) -> Result<Vec<Option<Vec<f32>>>> {
        let downs: Vec<&Tensor> = self.factors.iter().flatten().map(|factors| factors.down).collect();
        let mut smalls = multiply_all(x, (self.rows.len(), terms), &downs)?.into_iter();
        let parts = self.factors.iter().map(|factors| {
            let Some((factors, small)) = factors.as_ref().and_then(|factors| Some((factors, smalls.next()?))) else {
                return Ok(None);
            };
            let rank = factors.up.dim(0)?;
            Ok(multiply_all(&small, (self.rows.len(), rank), &[factors.up])?.pop())
        });
        parts.collect()
    }
}

/// x (rows, terms) · each weight.
fn multiply_all(x: &[f32], (rows, terms): (usize, usize), weights: &[&Tensor]) -> Result<Vec<Vec<f32>>> {
    if let Some(products) = products_of_few(x, rows, weights)? {
        return Ok(products);
    }
    let x = CpuStorage::F32(x.to_vec());
    let products = weights.iter().map(|weight| {
        let (weight, weight_at) = weight.storage_and_layout();
        let Storage::Cpu(weight) = &*weight else { bail!("kernel runs on the processor only") };
        match multiply_padded(&x, &Layout::contiguous((rows, terms)), weight, weight_at)? {
            CpuStorage::F32(product) => Ok(product),
            _ => bail!("product is not f32"),
        }
    });
    products.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};

    use super::{Addition, Factors, Weight, products};
    use crate::ops::{Precision, lora_product};

    fn random(rows: usize, columns: usize) -> Tensor {
        Tensor::randn(0f32, 1.0, (rows, columns), &Device::Cpu).unwrap()
    }

    fn weights(kind: Option<GgmlDType>) -> Vec<Weight> {
        let weight = |columns: usize| match kind {
            None => Weight::new(random(256, columns)).unwrap(),
            Some(kind) => {
                let blocks = QTensor::quantize(&random(columns, 256), kind).unwrap();
                Weight::Quantised(Arc::new(blocks), Precision::Quantised)
            }
        };
        [1024, 48, 272].map(weight).into()
    }

    fn bits(tensor: &Tensor) -> Vec<u32> {
        tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    }

    /// One product of an addition's rows.
    fn alone(x: &Tensor, weight: &Weight, addition: &Addition<'_>, at: usize) -> Tensor {
        match addition.factors[at] {
            None => weight.product(x).unwrap(),
            Some(Factors { down, up }) => lora_product(x, weight, down, up, addition.scale, None).unwrap(),
        }
    }

    #[test]
    fn together_gives_the_bits_of_one_by_one() {
        for kind in [None, Some(GgmlDType::Q4K), Some(GgmlDType::Q8_0), Some(GgmlDType::Q6K)] {
            let weights = weights(kind);
            let borrowed: Vec<&Weight> = weights.iter().collect();
            let pairs: Vec<(Tensor, Tensor)> =
                borrowed.iter().map(|w| (random(256, 4), random(4, w.dense().unwrap().dim(1).unwrap()))).collect();
            for rows in [1, 2, 9, 40, 70] {
                let (x, half) = (random(rows, 256), rows / 2);
                let factors = |at: usize| Some(Factors { down: &pairs[at].0, up: &pairs[at].1 });
                let additions = [
                    Addition { rows: 0..half, factors: vec![factors(0), None, factors(2)], scale: 0.5 },
                    Addition { rows: half..rows, factors: vec![None, factors(1), None], scale: 2.0 },
                ];
                let additions = &additions[usize::from(half == 0)..];
                let together = products(&x, &borrowed, additions).unwrap();
                for (at, addition) in (0..weights.len()).flat_map(|at| additions.iter().map(move |one| (at, one))) {
                    let (start, length) = (addition.rows.start, addition.rows.len());
                    let expected = alone(&x.narrow(0, start, length).unwrap(), &weights[at], addition, at);
                    let part = together[at].narrow(0, start, length).unwrap();
                    assert!(bits(&part) == bits(&expected), "{kind:?}, {rows} rows, product {at}");
                }
            }
        }
    }
}
