//! Every operation used in training against finite differences, and the whole model against one written with candle's
//! own slow operations.

use std::sync::Arc;

use candle_core::{D, Device, Tensor, Var};
use tributary_compute::linear::Hook;
use tributary_compute::lora::{Adapter, LoraConfig};
use tributary_compute::loss::{Target, completion_loss, token_losses};
use tributary_compute::model::{Base, Config, Family, Mode, Model, Module, Packed, RopeScaling, Weights};
use tributary_compute::ops;
use tributary_compute::random::{Stream, normal};

use crate::serving_base::{adapter, base, config, lora};

fn random(seed: u64, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
    let values: Vec<f32> = (0..count as u64).map(|at| normal(seed, Stream::Initial, 7, at) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Σ output · weights, in f64.
fn objective(output: &Tensor, weights: &[f32]) -> f64 {
    let output = output.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    output.iter().zip(weights).map(|(value, weight)| f64::from(*value) * f64::from(*weight)).sum()
}

/// Compares the gradient along random directions of each input with central differences.
fn check(name: &str, inputs: &[Tensor], operation: &dyn Fn(&[Tensor]) -> candle_core::Result<Tensor>) {
    let variables: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(input).unwrap()).collect();
    let tracked: Vec<Tensor> = variables.iter().map(|variable| variable.as_tensor().clone()).collect();
    let output = operation(&tracked).unwrap();
    let weights = random(99, output.dims());
    let gradients = (&output * &weights).unwrap().sum_all().unwrap().backward().unwrap();
    let weights = weights.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (index, variable) in variables.iter().enumerate() {
        let gradient = gradients.get(variable).unwrap_or_else(|| panic!("{name}: input {index} has no gradient"));
        for direction in 0..4 {
            let direction = random(1000 + direction, variable.dims());
            let along = |step: f64| {
                let mut moved = inputs.to_vec();
                moved[index] = (&inputs[index] + (&direction * step).unwrap()).unwrap();
                objective(&operation(&moved).unwrap(), &weights)
            };
            let step = 4e-3;
            let measured = (along(step) - along(-step)) / (2.0 * step);
            let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let told: f64 =
                flat(gradient).iter().zip(flat(&direction)).map(|(a, b)| f64::from(*a) * f64::from(b)).sum();
            let size = measured.abs().max(told.abs()).max(1.0);
            assert!(
                (measured - told).abs() / size < 5e-3,
                "{name}, input {index}: {measured} but gradient says {told}"
            );
        }
    }
}

#[test]
fn product() {
    check("product", &[random(1, &[5, 12]), random(2, &[12, 9])], &|x| ops::product(&x[0], &x[1]));
    check("product of one row", &[random(1, &[1, 12]), random(2, &[12, 9])], &|x| ops::product(&x[0], &x[1]));
    check("product in blocks", &[random(1, &[3, 1100]), random(2, &[1100, 5])], &|x| ops::product(&x[0], &x[1]));
}

#[test]
fn lora_product() {
    let weight = ops::Weight::Dense(random(4, &[12, 9]));
    let mask = random(5, &[6, 12]).ge(0.0).unwrap().to_dtype(candle_core::DType::F32).unwrap();
    let mask = (mask * 2.0).unwrap();
    let inputs = [random(1, &[6, 12]), random(2, &[12, 3]), random(3, &[3, 9])];
    check("lora", &inputs, &|x| ops::lora_product(&x[0], &weight, &x[1], &x[2], 1.5, None));
    check("lora with dropout", &inputs, &|x| ops::lora_product(&x[0], &weight, &x[1], &x[2], 1.5, Some(&mask)));
    let one = [random(1, &[1, 12]), random(2, &[12, 3]), random(3, &[3, 9])];
    check("lora of one row", &one, &|x| ops::lora_product(&x[0], &weight, &x[1], &x[2], 1.5, None));
}

#[test]
fn rms_norm() {
    check("rms norm", &[random(1, &[7, 20]), random(2, &[20])], &|x| ops::rms_norm(&x[0], &x[1], 1e-5));
}

#[test]
fn rotary_positions() {
    let table = Arc::new(ops::RopeTable::new(&RopeScaling::None.frequencies(8, 10_000.0), 40));
    let positions: Arc<[u32]> = [0, 1, 2, 0, 39].into();
    check("rotate", &[random(1, &[5, 24])], &|x| ops::rotate(&x[0], &table, &positions));
    assert!(ops::rotate(&random(1, &[1, 24]), &table, &[40].into()).is_err());
}

#[test]
fn swiglu() {
    check("swiglu", &[random(1, &[5, 13]), random(2, &[5, 13])], &|x| ops::swiglu(&x[0], &x[1]));
}

#[test]
fn attention() {
    let sequences: Arc<[std::ops::Range<usize>]> = [0..5, 5..6, 6..13].into();
    let inputs = [random(1, &[13, 40]), random(2, &[13, 20]), random(3, &[13, 20])];
    let shape = ops::HeadShape { heads: 4, kv_heads: 2, width: 10, window: None };
    for window in [None, Some(1), Some(3), Some(100)] {
        let shape = ops::HeadShape { window, ..shape };
        check("attention", &inputs, &|x| ops::attend(&x[0], &x[1], &x[2], shape, &sequences));
    }
    let gap: Arc<[std::ops::Range<usize>]> = [0..5, 6..13].into();
    assert!(ops::attend(&inputs[0], &inputs[1], &inputs[2], shape, &gap).is_err());
}

#[test]
fn cross_entropy() {
    check("likelihood", &[random(1, &[6, 30])], &|x| ops::negative_log_likelihood(&x[0], &[0, 29, 3, 3, 11, 7]));
    assert!(ops::negative_log_likelihood(&random(1, &[1, 30]), &[30]).is_err());
}

#[test]
fn embedding() {
    let ids = Tensor::new(&[3_u32, 0, 3, 9], &Device::Cpu).unwrap();
    check("embedding", &[random(1, &[10, 6])], &|x| x[0].index_select(&ids, 0));
}

/// The Llama forward of one sequence with candle's differentiable operations, LoRA written out.
fn reference(model: &Model, weights: &Weights, adapter: &Adapter, tokens: &[u32]) -> candle_core::Result<Tensor> {
    let config = model.config();
    let (rows, width) = (tokens.len(), config.head_dim);
    let linear = |layer: usize, module: Module, x: &Tensor| -> candle_core::Result<Tensor> {
        let dense = x.matmul(&weights.blocks[layer].linears[module.index()])?;
        match adapter.pair(layer, module) {
            None => Ok(dense),
            Some(pair) => {
                let scale = f64::from(adapter.config().scale());
                dense + (x.matmul(&pair.down)?.matmul(&pair.up)? * scale)?
            }
        }
    };
    let positions: Vec<f32> = (0..rows).map(|row| row as f32).collect();
    let frequencies: Vec<f32> = (0..width / 2).map(|at| 10_000_f32.powf(-2.0 * at as f32 / width as f32)).collect();
    let angles = Tensor::from_vec(positions, (rows, 1), &Device::Cpu)?.matmul(&Tensor::from_vec(
        frequencies,
        (1, width / 2),
        &Device::Cpu,
    )?)?;
    let (cosines, sines) = (angles.cos()?, angles.sin()?);
    let ahead: Vec<f32> = (0..rows * rows).map(|at| if at % rows > at / rows { -1e9 } else { 0.0 }).collect();
    let ahead = Tensor::from_vec(ahead, (rows, rows), &Device::Cpu)?;
    let eps = 1e-5;
    let mut x = weights.embedding.index_select(&Tensor::new(tokens, &Device::Cpu)?, 0)?;
    for (layer, block) in weights.blocks.iter().enumerate() {
        let normed = candle_nn::ops::rms_norm_slow(&x, &block.attention_norm, eps)?;
        let heads = |module, count: usize| -> candle_core::Result<Tensor> {
            linear(layer, module, &normed)?.reshape((1, rows, count, width))?.transpose(1, 2)?.contiguous()
        };
        let group = config.heads / config.kv_heads;
        let spread = |x: Tensor| -> candle_core::Result<Tensor> {
            x.unsqueeze(2)?.repeat((1, 1, group, 1, 1))?.reshape((1, config.heads, rows, width))
        };
        let q = candle_nn::rotary_emb::rope_slow(&heads(Module::Query, config.heads)?, &cosines, &sines)?;
        let k = spread(candle_nn::rotary_emb::rope_slow(&heads(Module::Key, config.kv_heads)?, &cosines, &sines)?)?;
        let v = spread(heads(Module::Value, config.kv_heads)?)?;
        let scores = (q.matmul(&k.t()?)? * (1.0 / (width as f64).sqrt()))?.broadcast_add(&ahead)?;
        let mixed = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
        let mixed = mixed.transpose(1, 2)?.reshape((rows, config.query_width()))?;
        x = (x + linear(layer, Module::Output, &mixed)?)?;
        let normed = candle_nn::ops::rms_norm_slow(&x, &block.mlp_norm, eps)?;
        let inner = (linear(layer, Module::Gate, &normed)?.silu()? * linear(layer, Module::Up, &normed)?)?;
        x = (x + linear(layer, Module::Down, &inner)?)?;
    }
    candle_nn::ops::rms_norm_slow(&x, &weights.norm, eps)?.matmul(&weights.embedding.t()?)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn largest_difference(left: &Tensor, right: &Tensor) -> f32 {
    assert_eq!(left.dims(), right.dims());
    values(left).iter().zip(values(right)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// A base's weights again, for the reference.
fn weights_of(base: &Base) -> Weights {
    let mut weights = Weights::random(base.config(), 3).unwrap();
    for block in &mut weights.blocks {
        for linear in &mut block.linears {
            *linear = (&*linear * 6.0).unwrap();
        }
    }
    weights
}

#[test]
fn logits_and_gradients_follow_the_reference() {
    let base = base(3);
    let weights = weights_of(&base);
    let (adapter, variables) = adapter(&base, 8, 4.0).trainable().unwrap();
    let tokens: Vec<u32> = (0..23).map(|at| (at * 37 + 5) % 300).collect();
    let expected = reference(base.model(), &weights, &adapter, &tokens).unwrap();
    let packed = Packed::new(&[&tokens]).unwrap();
    let hidden = base.model().hidden(Mode::Train, &packed, Hook::One(&adapter, None)).unwrap();
    let logits = base.model().logits(&hidden).unwrap();
    assert!(largest_difference(&logits, &expected) < 1e-4);
    let inferred = base.model().hidden(Mode::Infer, &packed, Hook::One(&adapter, None)).unwrap();
    assert!(!inferred.track_op());
    assert!(largest_difference(&base.model().logits(&inferred).unwrap(), &logits) < 1e-5);

    let losses = |logits: &Tensor| {
        let logits = logits.narrow(0, 0, tokens.len() - 1).unwrap();
        ops::negative_log_likelihood(&logits, &tokens[1..]).unwrap().sum_all().unwrap()
    };
    let (ours, theirs) = (losses(&logits).backward().unwrap(), losses(&expected).backward().unwrap());
    for (index, variable) in variables.iter().enumerate() {
        let (ours, theirs) = (ours.get(variable).unwrap(), theirs.get(variable).unwrap());
        let size = values(theirs).iter().map(|value| value.abs()).fold(0.0, f32::max);
        assert!(largest_difference(ours, theirs) <= 1e-3 * size.max(1e-3), "variable {index}");
    }
}

#[test]
fn every_adapter_variable_gets_a_gradient() {
    let base = base(3);
    let lora = LoraConfig { dropout: 0.1, ..lora(8.0) };
    let (adapter, variables) = Adapter::fresh(base.config(), &lora, 1).unwrap().trainable().unwrap();
    assert_eq!(variables.len(), base.config().layers * 7 * 2);
    let loss = completion_loss(base.model(), Mode::Train, Some(&adapter), &[0, 5, 9], &[7, 8, 11]).unwrap();
    let gradients = loss.backward().unwrap();
    for (index, variable) in variables.iter().enumerate() {
        let gradient = gradients.get(variable).unwrap_or_else(|| panic!("variable {index} has no gradient"));
        // Up factors start at zero, so only down factors may have a zero gradient.
        let moved = values(gradient).iter().any(|value| *value != 0.0);
        assert!(moved || index % 2 == 0, "variable {index} has a zero gradient");
    }
}

#[test]
fn every_base_variable_gets_a_gradient() {
    for (tied, family) in [false, true].into_iter().flat_map(|tied| Family::ALL.map(|family| (tied, family))) {
        let config = Config { tied, family, ..config(64) };
        let (weights, variables) = Weights::random(&config, 5).unwrap().trainable(&config).unwrap();
        let model = Model::new(&config, weights.clone()).unwrap();
        let tokens: Vec<u32> = (0..20).collect();
        let targets = [Target::new(&tokens[..1], &tokens[1..])];
        let losses = token_losses(&model, Mode::Train, Hook::Base, &targets).unwrap();
        let gradients = losses.sum_all().unwrap().backward().unwrap();
        for (index, variable) in variables.iter().enumerate() {
            let gradient = gradients.get(variable).unwrap_or_else(|| panic!("variable {index} has no gradient"));
            assert!(values(gradient).iter().any(|value| *value != 0.0), "variable {index}, tied {tied}, {family:?}");
        }
    }
}

#[test]
fn packing_changes_no_bit_of_a_sequence() {
    let base = base(3);
    let adapter = adapter(&base, 8, 4.0);
    let sequences: [Vec<u32>; 3] = [vec![5], (0..30).collect(), (40..57).collect()];
    let all = Packed::new(&sequences).unwrap();
    let hidden = base.model().hidden(Mode::Infer, &all, Hook::One(&adapter, None)).unwrap();
    for (sequence, rows) in sequences.iter().zip(all.sequences()) {
        let alone = Packed::new(&[sequence]).unwrap();
        let alone = base.model().hidden(Mode::Infer, &alone, Hook::One(&adapter, None)).unwrap();
        assert_eq!(values(&alone), values(&hidden.narrow(0, rows.start, rows.len()).unwrap()));
    }
}
