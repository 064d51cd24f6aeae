//! Products of one input by several weights, with low-rank additions of many adapters to their rows.
//!
//! Invariant: nothing here is differentiable, and a row gets bitwise what [`super::product`] and [`super::lora_product`]
//! give it alone; rows of the base are not touched.

use std::ops::Range;

use candle_core::{Device, Result, Tensor, bail};

use super::portable::OnDevice;
use super::strips::{self, Strips};
use super::weight::Weight;
use super::{pool, portable, tensor, with_floats};

/// Multiplications below which other cores' shares cost more than they bring.
const THREAD_WORK: usize = 1 << 15;

/// Additions for each core from which none is divided between cores.
const ADDITIONS_EACH: usize = 2;

/// The two factors of an addition to one product.
#[derive(Debug)]
pub struct Factors {
    /// (in, rank)
    pub down: Strips,
    /// (rank, out)
    pub up: Strips,
    on_device: OnDevice,
}

impl Factors {
    /// The factors of one product.
    #[must_use]
    pub fn new(down: Strips, up: Strips) -> Self {
        Self { down, up, on_device: OnDevice::default() }
    }

    /// Both as tensors of `device`.
    pub(super) fn on(&self, device: &Device) -> Result<[Tensor; 2]> {
        self.on_device.on(device, || Ok([self.down.dense()?, self.up.dense()?]))
    }
}

/// What is added to some rows of the products.
#[derive(Debug, Clone)]
pub struct Addition<'a> {
    /// Which rows.
    pub rows: Range<usize>,
    /// For each product its factors, if it has any.
    pub factors: Vec<Option<&'a Factors>>,
    /// What the factors' product is scaled by.
    pub scale: f32,
}

/// x (rows, in) · each weight (in, out), and for each addition s·(x·down)·up on its rows. Weights that can be are read in
/// one go.
///
/// # Errors
/// When shapes don't fit.
pub fn products(x: &Tensor, weights: &[&Weight], additions: &[Addition<'_>]) -> Result<Vec<Tensor>> {
    if portable::is_portable(x) {
        return portable::products(x, weights, additions);
    }
    let x = x.contiguous()?;
    let (rows, terms) = x.dims2()?;
    if additions.iter().all(|addition| addition.factors.iter().all(Option::is_none)) {
        return Weight::products(&x, weights);
    }
    for addition in additions {
        addition.check(rows, terms, weights)?;
    }
    // Of many additions each is a core's own; of few, each product.
    let together = if additions.len() < ADDITIONS_EACH * pool::threads() { 1 } else { weights.len() };
    let places: Vec<Vec<(usize, usize)>> = additions.iter().enumerate().map(|(at, one)| one.places(at)).collect();
    let items: Vec<&[(usize, usize)]> = places.iter().flat_map(|places| places.chunks(together)).collect();
    let parts = with_floats(&x, |x| {
        let part = |item: usize| Addition::parts(additions, x, terms, items[item]);
        match additions.iter().map(Addition::work).sum::<usize>() < THREAD_WORK {
            true => (0..items.len()).map(part).collect::<Vec<_>>(),
            false => pool::share(items.len(), part),
        }
    })?;
    let (places, parts) = (places.concat(), parts.concat());
    let base = Weight::products(&x, weights)?.into_iter().enumerate();
    let sums = base.map(|(product, base)| {
        let columns = base.dim(1)?;
        let mut values = base.flatten_all()?.to_vec1::<f32>()?;
        let own = places.iter().zip(&parts).filter(|((_, of), _)| *of == product);
        for ((addition, _), part) in own {
            let Addition { rows, scale, .. } = &additions[*addition];
            for (value, part) in values[rows.start * columns..].iter_mut().zip(part) {
                *value += scale * part;
            }
        }
        tensor(values, (rows, columns))
    });
    sums.collect()
}

impl Addition<'_> {
    fn check(&self, rows: usize, terms: usize, weights: &[&Weight]) -> Result<()> {
        if self.rows.end > rows || self.factors.len() != weights.len() {
            bail!("{} additions to rows {:?} of {rows}", self.factors.len(), self.rows);
        }
        for (factors, weight) in self.factors.iter().zip(weights) {
            let Some(Factors { down, up, .. }) = factors else { continue };
            if (down.shape().0, up.shape()) != (terms, (down.shape().1, weight.shape()?.1)) {
                bail!("an addition of {:?} by {:?} to rows of {terms}", down.shape(), up.shape());
            }
        }
        Ok(())
    }

    fn work(&self) -> usize {
        let each = self.factors.iter().flatten().map(|factors| factors.down.bytes() + factors.up.bytes());
        self.rows.len() * each.sum::<usize>() / size_of::<f32>()
    }

    /// This addition's number `at` and each product that it has factors for.
    fn places(&self, at: usize) -> Vec<(usize, usize)> {
        let products = self.factors.iter().enumerate().filter(|(_, factors)| factors.is_some());
        products.map(move |(product, _)| (at, product)).collect()
    }

    /// (x·down)·up of one addition's rows of `x` (rows, terms), for each of its products in `places`.
    fn parts(all: &[Addition<'_>], x: &[f32], terms: usize, places: &[(usize, usize)]) -> Vec<Vec<f32>> {
        let Some(Addition { rows, factors, .. }) = places.first().map(|(at, _)| &all[*at]) else { return Vec::new() };
        let factors: Vec<&Factors> = places.iter().filter_map(|(_, product)| factors[*product]).collect();
        let downs: Vec<&Strips> = factors.iter().map(|factors| &factors.down).collect();
        let x = &x[rows.start * terms..rows.end * terms];
        let smalls = strips::multiply_beside(x, &downs).into_iter().zip(factors);
        smalls.map(|(small, factors)| strips::multiply(&small, &[&factors.up]).pop().unwrap_or_default()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};
    use rayon::iter::{IntoParallelIterator, ParallelIterator};

    use super::{Addition, Factors, Strips, Weight, products};
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
            Some(Factors { down, up, .. }) => {
                let (down, up) = (down.dense().unwrap(), up.dense().unwrap());
                lora_product(x, weight, &down, &up, addition.scale, None).unwrap()
            }
        }
    }

    #[test]
    fn together_gives_the_bits_of_one_by_one() {
        for kind in [None, Some(GgmlDType::Q4K), Some(GgmlDType::Q8_0), Some(GgmlDType::Q6K)] {
            let weights = weights(kind);
            let borrowed: Vec<&Weight> = weights.iter().collect();
            let strips = |rows: usize, columns: usize| Strips::new(&random(rows, columns)).unwrap();
            let pair = |w: &&Weight| Factors::new(strips(256, 4), strips(4, w.shape().unwrap().1));
            let pairs: Vec<Factors> = borrowed.iter().map(pair).collect();
            for rows in [1, 2, 9, 40, 70] {
                let (x, half) = (random(rows, 256), rows / 2);
                let factors = |at: usize| Some(&pairs[at]);
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

    #[test]
    fn a_step_and_trainings_beside_it_never_wait_in_a_circle() {
        let (ended, ends) = std::sync::mpsc::channel();
        let finished = ended.clone();
        // Rayon's threads, all of them, want to share products of few rows, as a training's do.
        std::thread::spawn(move || {
            let (x, weight) = (random(8, 256), Weight::new(random(256, 2048)).unwrap());
            (0..2000).into_par_iter().for_each(|_| {
                drop(weight.product(&x).unwrap());
                std::thread::sleep(Duration::from_micros(100));
            });
            finished.send(()).unwrap();
        });
        // Beside them a step shares additions of so many rows that their products go to rayon's threads elsewhere.
        std::thread::spawn(move || {
            let (x, weight) = (random(80, 256), Weight::new(random(256, 256)).unwrap());
            let strips = |rows: usize, columns: usize| Strips::new(&random(rows, columns)).unwrap();
            let factors = Factors::new(strips(256, 8), strips(8, 256));
            let addition = |rows| Addition { rows, factors: vec![Some(&factors)], scale: 1.0 };
            let additions = [addition(0..40), addition(40..80)];
            (0..1000).for_each(|_| drop(products(&x, &[&weight], &additions).unwrap()));
            ended.send(()).unwrap();
        });
        for _ in 0..2 {
            ends.recv_timeout(Duration::from_secs(300)).expect("both come to their end");
        }
    }
}
