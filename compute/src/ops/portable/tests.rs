//! The portable way beside the kernels, on the processor: forward and gradients.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Result, Tensor, Var};

use super::super::{
    Addition, Factors, HeadShape, Precision, RopeTable, Strips, Weight, attend, lora_product, negative_log_likelihood,
    product, products, rms_norm, rotate, swiglu,
};
use super::forced;
use crate::model::Frequencies;

/// Largest difference, relative to the largest number.
const ROUNDING: f32 = 1e-4;

fn random(rows: usize, columns: usize) -> Tensor {
    Tensor::randn(0f32, 1.0, (rows, columns), &Device::Cpu).unwrap()
}

fn assert_close(kernels: &Tensor, portable: &Tensor, what: &str) {
    assert_eq!(kernels.dims(), portable.dims(), "{what}");
    let worst = (kernels - portable).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    let size = kernels.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(worst < ROUNDING * size.max(1e-3), "{what}: {worst} of {size}");
}

/// Runs `op` both ways over variables of these values; compares results and, of a fixed weighting of them, gradients.
fn compare(what: &str, inputs: &[Tensor], op: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let run = || {
        let variables: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(input).unwrap()).collect();
        let tensors: Vec<Tensor> = variables.iter().map(|variable| variable.as_tensor().clone()).collect();
        let result = op(&tensors).unwrap();
        let count = result.elem_count();
        let weights: Vec<f32> = (0..count).map(|at| (at as f32 * 0.61).cos()).collect();
        let weights = Tensor::from_vec(weights, result.shape().clone(), &Device::Cpu).unwrap();
        let gradients = (&result * weights).unwrap().sum_all().unwrap().backward().unwrap();
        let gradients: Vec<Tensor> = variables.iter().map(|own| gradients.get(own).unwrap().clone()).collect();
        (result.detach(), gradients)
    };
    let (kernels, portable) = (run(), forced(run));
    assert_close(&kernels.0, &portable.0, what);
    for (at, (kernels, portable)) in kernels.1.iter().zip(&portable.1).enumerate() {
        assert_close(kernels, portable, &format!("{what}, gradient of input {at}"));
    }
}

fn table(half: usize, positions: usize) -> Arc<RopeTable> {
    let each = (0..half).map(|at| 1.0 / 10_000_f32.powf(at as f32 / half as f32)).collect();
    Arc::new(RopeTable::new(&Frequencies { each, amplitude: 1.1 }, positions))
}

fn blocks(columns: usize, terms: usize, kind: GgmlDType, precision: Precision) -> Weight {
    Weight::Quantised(Arc::new(QTensor::quantize(&random(columns, terms), kind).unwrap()), precision)
}

#[test]
fn row_wise_kernels_agree() {
    let norm = Tensor::randn(1f32, 0.3, 96, &Device::Cpu).unwrap();
    compare("norm", &[random(7, 96), norm], |x| rms_norm(&x[0], &x[1], 1e-5));
    compare("swiglu", &[random(5, 40), random(5, 40)], |x| swiglu(&x[0], &x[1]));
    compare("likelihood", &[(random(4, 50) * 6.0).unwrap()], |x| negative_log_likelihood(&x[0], &[3, 49, 0, 3]));
    let (table, positions): (_, Arc<[u32]>) = (table(4, 20), [0, 1, 2, 19, 0].into());
    compare("rotation", &[random(5, 24)], |x| rotate(&x[0], &table, &positions));
}

#[test]
fn attention_agrees_over_packed_sequences_groups_and_windows() {
    for (heads, kv_heads) in [(4, 4), (6, 2), (4, 1)] {
        for window in [None, Some(1), Some(3), Some(100)] {
            let shape = HeadShape { heads, kv_heads, width: 8, window };
            let sequences: Arc<[std::ops::Range<usize>]> = [0..1, 1..10, 10..14].into();
            let inputs = [random(14, heads * 8), random(14, kv_heads * 8), random(14, kv_heads * 8)];
            compare(&format!("{shape:?}"), &inputs, |x| attend(&x[0], &x[1], &x[2], shape, &sequences));
        }
    }
}

#[test]
fn products_agree_and_frozen_weights_get_no_gradient() {
    compare("product", &[random(9, 70), random(70, 33)], |x| product(&x[0], &x[1]));
    compare("product of one row", &[random(1, 600), random(600, 5)], |x| product(&x[0], &x[1]));
    let frozen = random(64, 32);
    compare("frozen", &[random(3, 64)], |x| product(&x[0], &frozen));
    let x = Var::from_tensor(&random(3, 64)).unwrap();
    let sum = forced(|| product(x.as_tensor(), &frozen).unwrap().sum_all().unwrap());
    assert!(forced(|| sum.backward().unwrap()).get(&frozen).is_none());
    for precision in [Precision::Quantised, Precision::Exact] {
        let weight = blocks(48, 256, GgmlDType::Q4K, precision);
        compare(&format!("{precision:?}"), &[random(5, 256)], |x| weight.product(&x[0]));
    }
}

#[test]
fn adapters_agree_with_masks_and_quantised_weights() {
    let keep: Vec<f32> = (0..6 * 256).map(|at| if at % 3 == 0 { 0.0 } else { 1.5 }).collect();
    let mask = Tensor::from_vec(keep, (6, 256), &Device::Cpu).unwrap();
    let kinds = [Weight::new(random(256, 40)).unwrap(), blocks(40, 256, GgmlDType::Q8_0, Precision::Quantised)];
    for weight in kinds {
        for mask in [None, Some(&mask)] {
            let inputs = [random(6, 256), random(256, 4), random(4, 40)];
            compare("adapter", &inputs, |x| lora_product(&x[0], &weight, &x[1], &x[2], 0.7, mask));
        }
    }
}

#[test]
fn segments_of_several_adapters_agree() {
    let weights = [24, 16].map(|out| Weight::new(random(64, out)).unwrap());
    let weights: Vec<&Weight> = weights.iter().collect();
    let strips = |rows: usize, columns: usize| Strips::new(&random(rows, columns)).unwrap();
    let pairs = [(3, 24), (2, 16), (5, 24)].map(|(rank, out)| Factors::new(strips(64, rank), strips(rank, out)));
    let factors = |at: usize| Some(&pairs[at]);
    let additions = [
        Addition { rows: 1..4, factors: vec![factors(0), factors(1)], scale: 0.5 },
        Addition { rows: 6..7, factors: vec![factors(2), None], scale: 2.0 },
    ];
    let x = random(9, 64);
    let run = || products(&x, &weights, &additions).unwrap();
    for (kernels, portable) in run().iter().zip(&forced(run)) {
        assert_close(kernels, portable, "segments");
    }
    let overlapping = [additions[1].clone(), additions[0].clone()];
    assert!(forced(|| products(&x, &weights, &overlapping)).is_err());
}
