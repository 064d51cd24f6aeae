//! GGUF: files of Python's `gguf`, quantised models against `transformers`, training over quantised weights.

use std::io::Cursor;
use std::ops::ControlFlow;

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use tributary_compute::chat::Conversation;
use tributary_compute::device;
use tributary_compute::engine::{Engine, GenerateParams};
use tributary_compute::gguf::{GgufFile, GgufTensor, Value, Values, write};
use tributary_compute::kv::Cache;
use tributary_compute::linear::Hook;
use tributary_compute::lora::{Adapter, FrozenAdapter};
use tributary_compute::loss::{Target, target_gradient, token_losses};
use tributary_compute::model::{Base, Feed, LogitRows, Mode, Model};
use tributary_compute::ops::Precision;
use tributary_compute::proof::{ProofVerdict, check_in_class};
use tributary_compute::train::{Recipe, Trainer};

use crate::golden::{Golden, TOLERANCE, assert_close, element, folder, logits, word};
use crate::parity;
use crate::serving_base::{adapter_of, lora};

/// Elements and bytes of a block, and its half-precision scales at their offsets.
type BlockLayout = (usize, usize, &'static [(usize, f32)]);

/// As in `parity/ggufs.py`.
fn block(kind: GgmlDType) -> Option<BlockLayout> {
    match kind {
        GgmlDType::Q4K => Some((256, 144, &[(0, 1.0 / 4096.0), (2, 1.0 / 512.0)])),
        GgmlDType::Q6K => Some((256, 210, &[(208, 1.0 / 16384.0)])),
        GgmlDType::Q8_0 => Some((32, 34, &[(0, 1.0 / 1024.0)])),
        _ => None,
    }
}

/// The generated tensor of that name.
fn tensor(name: &str, shape: &[usize], kind: GgmlDType) -> QTensor {
    let count: usize = shape.iter().product();
    let floats = || (0..count as u64).map(|at| element(name, at));
    let bytes: Vec<u8> = match (shape.len(), block(kind)) {
        (1, _) => floats().flat_map(f32::to_le_bytes).collect(),
        (_, None) => floats().flat_map(|value| half::f16::from_f32(value).to_le_bytes()).collect(),
        (_, Some((elements, length, scales))) => {
            let total = count / elements * length;
            let words = (0..total.div_ceil(8) as u64).flat_map(|at| word(name, at).to_le_bytes());
            let mut bytes: Vec<u8> = words.take(total).collect();
            for block in bytes.chunks_exact_mut(length) {
                for (offset, scale) in scales {
                    block[*offset..offset + 2].copy_from_slice(&half::f16::from_f32(*scale).to_le_bytes());
                }
            }
            bytes
        }
    };
    let kind = if shape.len() == 1 { GgmlDType::F32 } else { kind };
    QTensor::new(QStorage::from_data(bytes.into(), &Device::Cpu, kind).unwrap(), shape).unwrap()
}

fn kind_of(name: &str) -> GgmlDType {
    match name {
        "Q4_K" => GgmlDType::Q4K,
        "Q6_K" => GgmlDType::Q6K,
        "Q8_0" => GgmlDType::Q8_0,
        "F16" => GgmlDType::F16,
        other => panic!("{other}"),
    }
}

/// Metadata of a one-block model with a vocabulary of `vocab` words that mean nothing.
pub fn metadata(architecture: &str, hidden: u64, head: u64, vocab: usize) -> Vec<(String, Value)> {
    let own = |key: &str, value: Value| (format!("{architecture}.{key}"), value);
    let number = |value: u64| Value::Unsigned(value);
    vec![
        ("general.architecture".into(), Value::Text(architecture.into())),
        own("context_length", number(64)),
        own("embedding_length", number(hidden)),
        own("block_count", number(1)),
        own("feed_forward_length", number(hidden)),
        own("attention.head_count", number(4)),
        own("attention.head_count_kv", number(2)),
        own("attention.key_length", number(head)),
        own("attention.layer_norm_rms_epsilon", Value::Float(1e-5)),
        own("rope.freq_base", Value::Float(10_000.0)),
        ("tokenizer.ggml.model".into(), Value::Text("gpt2".into())),
        ("tokenizer.ggml.pre".into(), Value::Text("gpt-2".into())),
        ("tokenizer.ggml.merges".into(), Value::Array(Values::Text(Vec::new()))),
        ("tokenizer.ggml.tokens".into(), Value::Array(Values::Text((0..vocab).map(|at| format!("t{at}")).collect()))),
    ]
}

/// The file of a golden case.
fn file(golden: &Golden) -> Vec<u8> {
    let kinds: Vec<String> = golden.json("kinds");
    let tensors: Vec<(String, Vec<usize>)> = golden.json("tensors");
    let architecture = golden.text("architecture");
    let head = if architecture == "qwen3" { 128 } else { 64 };
    let tensors: Vec<GgufTensor> = tensors
        .into_iter()
        .map(|(name, shape)| {
            let table = name.contains("embd") || name == "output.weight";
            let kind = kind_of(&kinds[usize::from(table)]);
            GgufTensor { tensor: tensor(&name, &shape, kind), name }
        })
        .collect();
    write(&metadata(architecture, 256, head, 64), &tensors).unwrap()
}

pub fn golden_base(case: &str) -> (Golden, Base) {
    let golden = Golden::read(case);
    let base = Base::from_gguf(Cursor::new(file(&golden)), None).unwrap();
    (golden, base)
}

/// One block of width 32 that computes nothing of interest.
pub fn small_tensors(vocab: usize) -> Vec<GgufTensor> {
    let dense =
        |name: &str, shape: &[usize]| GgufTensor { name: name.into(), tensor: tensor(name, shape, GgmlDType::F16) };
    let block = |stem: &str, shape: &[usize]| dense(&format!("blk.0.{stem}.weight"), shape);
    let mut all: Vec<GgufTensor> =
        ["attn_q", "attn_output", "ffn_gate", "ffn_up", "ffn_down"].map(|stem| block(stem, &[32, 32])).into();
    all.extend(["attn_k", "attn_v"].map(|stem| block(stem, &[16, 32])));
    all.extend(["attn_norm", "ffn_norm"].map(|stem| block(stem, &[32])));
    all.extend([dense("output_norm.weight", &[32]), dense("token_embd.weight", &[vocab, 32])]);
    all
}

const CASES: [&str; 4] = ["gguf-llama-q4k", "gguf-qwen2-q6k", "gguf-qwen3-q8", "gguf-llama-f16"];

/// Largest difference that rounding a row to eight bits may make to these logits, whose own size is about five.
const ROUNDING: f32 = 0.25;

#[test]
fn quantised_models_have_transformers_logits() {
    for case in CASES {
        let (golden, base) = golden_base(case);
        let tokens: Vec<u32> = golden.json("tokens");
        let theirs = golden.values("logits");
        assert!(theirs.iter().any(|logit| logit.abs() > 1.0), "{case} says nothing");
        let exact = base.with_precision(Precision::Exact);
        assert_close(case, &logits(exact.model(), Mode::Infer, &tokens, Hook::Base), &theirs, TOLERANCE);
        assert_close(case, &logits(base.model(), Mode::Infer, &tokens, Hook::Base), &theirs, ROUNDING);
        assert_eq!(base.model().is_quantised(), case != "gguf-llama-f16");
        assert!(!exact.model().is_quantised());
        assert_eq!(exact.hash(), base.hash());
    }
}

/// Logits of every position, fed in pieces of that length.
fn cached(model: &Model, tokens: &[u32], piece: usize, adapter: Option<&FrozenAdapter>) -> Vec<f32> {
    let mut cache = Cache::new(model.config().layers, model.config().kv_width());
    let steps = tokens.chunks(piece).flat_map(|tokens| {
        let feed = Feed { tokens, adapter, cache: &mut cache };
        model.step(&mut [feed], LogitRows::All).unwrap().logits.unwrap().flatten_all().unwrap().to_vec1().unwrap()
    });
    steps.collect()
}

#[test]
fn decoding_over_quantised_weights_repeats_a_prefill_bitwise() {
    for case in CASES {
        let (_, base) = golden_base(case);
        let tokens: Vec<u32> = (0..50).map(|at| (at * 31 + 3) % 64).collect();
        let adapter = Adapter::fresh(base.config(), &lora(8.0), 3).unwrap();
        for adapter in [None, Some(&adapter)] {
            let hook = adapter.map_or(Hook::Base, |adapter| Hook::One(adapter, None));
            let whole = logits(base.model(), Mode::Infer, &tokens, hook);
            let frozen = adapter.map(|adapter| FrozenAdapter::new(adapter).unwrap());
            for piece in [1, 7, 33] {
                assert!(cached(base.model(), &tokens, piece, frozen.as_ref()) == whole, "{case} by {piece}");
            }
        }
    }
}

#[test]
fn adapters_of_one_step_over_quantised_weights_do_not_disturb_each_other() {
    for case in CASES {
        let (_, base) = golden_base(case);
        let frozen = |seed: u64| FrozenAdapter::new(&adapter_of(base.config(), seed, 4.0)).unwrap();
        let adapters: Vec<FrozenAdapter> = (0..3).map(frozen).collect();
        let sequences: [Vec<u32>; 4] = [vec![5], (0..20).collect(), vec![9, 3], (30..37).collect()];
        let of = |at: usize| adapters.get(at);
        let alone: Vec<Vec<f32>> =
            sequences.iter().enumerate().map(|(at, s)| cached(base.model(), s, 64, of(at))).collect();
        let cache = || Cache::new(base.config().layers, base.config().kv_width());
        let mut caches: Vec<Cache> = sequences.iter().map(|_| cache()).collect();
        let feeds = sequences.iter().zip(&mut caches).enumerate();
        let mut feeds: Vec<Feed<'_>> =
            feeds.map(|(at, (tokens, cache))| Feed { tokens, adapter: of(at), cache }).collect();
        let together = base.model().step(&mut feeds, LogitRows::All).unwrap().logits.unwrap();
        assert!(together.flatten_all().unwrap().to_vec1::<f32>().unwrap() == alone.concat(), "{case}");
    }
}

#[test]
fn answers_over_quantised_weights_are_proven_bitwise() {
    let params = GenerateParams { max_tokens: 40, temperature: 0.8, seed: 5, ..GenerateParams::default() };
    for name in ["spm", "bpe"] {
        let base = Base::load(&folder().join(format!("{name}.gguf"))).unwrap();
        let adapter = adapter_of(base.config(), 3, 8.0);
        let mut said = String::new();
        let mut hear = |piece: &str| {
            said.push_str(piece);
            ControlFlow::Continue(())
        };
        let claim = Engine::new().generate(&base, Some(&adapter), "the old mill", &params, &mut hear).unwrap();
        assert_eq!(said, claim.text);
        let check = |class: &str, adapter: &Adapter| {
            let (prompt, output) = (&claim.prompt_tokens, &claim.output_tokens);
            check_in_class(class, &base, Some(adapter), prompt, output, &claim.fingerprints, &params).unwrap()
        };
        assert_eq!(check(&base.class(), &adapter), ProofVerdict::Match, "{name}");
        let other = check(&base.class(), &adapter_of(base.config(), 4, 8.0));
        assert!(matches!(other, ProofVerdict::Mismatch { .. }), "{name}: {other:?}");
        let dense = check(&device::class(), &adapter);
        assert!(matches!(dense, ProofVerdict::CannotCheck { .. }), "f32 and quantised are two classes: {dense:?}");
    }
}

/// Loss and its gradient with respect to every number of the adapter.
fn gradient(model: &Model, adapter: &Adapter) -> (f64, Vec<f32>) {
    let (adapter, variables) = adapter.trainable().unwrap();
    let tokens: Vec<u32> = (0..20).map(|at| (at * 7 + 1) % 64).collect();
    let targets = [Target::new(&tokens[..5], &tokens[5..])];
    let loss = token_losses(model, Mode::Train, Hook::One(&adapter, None), &targets).unwrap();
    let loss = loss.sum_all().unwrap();
    let gradients = loss.backward().unwrap();
    let mut values = Vec::new();
    for (index, variable) in variables.iter().enumerate() {
        let gradient = gradients.get(variable).unwrap_or_else(|| panic!("variable {index} has no gradient"));
        values.extend(gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    }
    (f64::from(loss.to_scalar::<f32>().unwrap()), values)
}

fn dot(left: &[f32], right: &[f32]) -> f64 {
    left.iter().zip(right).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The loss rises along a random direction as its gradient says; gives the gradient.
fn assert_gradient(case: &str, model: &Model, adapter: &Adapter) -> Vec<f32> {
    let (_, told) = gradient(model, adapter);
    let direction: Vec<f32> = (0..told.len() as u64).map(|at| element("direction", at)).collect();
    let values = adapter.values().unwrap();
    let along = |step: f32| {
        let moved: Vec<f32> = values.iter().zip(&direction).map(|(value, way)| value + way * step).collect();
        gradient(model, &Adapter::from_values(model.config(), adapter.config(), &moved).unwrap()).0
    };
    let measured = (along(1e-3) - along(-1e-3)) / 2e-3;
    let expected = dot(&told, &direction);
    assert!((measured - expected).abs() < 0.02 * expected.abs().max(1.0), "{case}: {measured}, {expected}");
    told
}

#[test]
fn gradients_of_every_family_follow_the_loss() {
    for case in ["llama-yarn", "mistral-window", "qwen2-window", "qwen3-tied-window"] {
        let model = Golden::read(case).model();
        assert_gradient(case, &model, &adapter_of(model.config(), 5, 1.0));
    }
}

/// Where an answer's gradient is needed anyway, attribution takes the answer's losses from that pass and those without a
/// contributor from others: they must be comparable to the bit.
#[test]
fn the_pass_of_a_gradient_has_the_losses_of_any_other_bitwise() {
    let dense = ["llama-yarn", "qwen3-tied-window"].map(|case| (case, Golden::read(case).model()));
    let quantised = ["gguf-llama-q4k", "gguf-qwen2-q6k", "gguf-qwen3-q8"];
    let quantised = quantised.map(|case| (case, golden_base(case).1.model().clone()));
    let tokens: Vec<u32> = (0..20).map(|at| (at * 7 + 1) % 64).collect();
    let target = Target::new(&tokens[..5], &tokens[5..]);
    for (case, model) in dense.into_iter().chain(quantised) {
        let adapter = adapter_of(model.config(), 5, 1.0);
        let (_, losses) = target_gradient(&model, &adapter, &target).unwrap();
        let frozen = FrozenAdapter::new(&adapter).unwrap();
        let segments = [(0..target.fed(), Some(&frozen))];
        let pass = token_losses(&model, Mode::Infer, Hook::Segments(&segments), std::slice::from_ref(&target));
        assert_eq!(losses, pass.unwrap().to_vec1::<f32>().unwrap(), "{case}");
    }
}

#[test]
fn gradients_flow_through_quantised_weights() {
    for case in ["gguf-llama-q4k", "gguf-qwen2-q6k", "gguf-qwen3-q8"] {
        let (_, base) = golden_base(case);
        let exact = base.with_precision(Precision::Exact);
        let adapter = adapter_of(base.config(), 5, 1.0);
        let told = assert_gradient(case, exact.model(), &adapter);
        // Rounding activations in the forward changes the gradient's direction little.
        let (_, rounded) = gradient(base.model(), &adapter);
        let cosine = dot(&told, &rounded) / (dot(&told, &told) * dot(&rounded, &rounded)).sqrt();
        assert!(cosine > 0.99, "{case}: {cosine}");
    }
}

/// A model of the parity base's shape in blocks of Q8_0, whose width no K-quant divides. Rows of queries and keys keep
/// their order, so it is not the same model.
fn quantised_parity_base() -> Base {
    let source = parity::base();
    let [_, tokenizer, weights] = parity::base_files();
    let file = safetensors::SafeTensors::deserialize(&weights).unwrap();
    let names = [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.norm.weight", "output_norm.weight"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("model.layers", "blk"),
    ];
    let tensors = file.iter().map(|(name, view)| {
        let name = names.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to));
        let device = Device::Cpu;
        let dense =
            candle_core::Tensor::from_raw_buffer(view.data(), candle_core::DType::F32, view.shape(), &device).unwrap();
        // 48 columns divide into no block of 32 but those of the down product.
        let wide = view.shape().len() == 2 && view.shape()[1].is_multiple_of(32);
        let kind = if wide { GgmlDType::Q8_0 } else { GgmlDType::F32 };
        GgufTensor { name, tensor: QTensor::quantize(&dense, kind).unwrap() }
    });
    let tensors: Vec<GgufTensor> = tensors.collect();
    let mut metadata = metadata("llama", 48, 12, 300);
    for (key, value) in &mut metadata {
        match key.as_str() {
            "llama.block_count" => *value = Value::Unsigned(2),
            "llama.feed_forward_length" => *value = Value::Unsigned(96),
            "llama.context_length" => *value = Value::Unsigned(160),
            _ => {}
        }
    }
    metadata.push(("tokenizer.ggml.eos_token_id".into(), Value::Unsigned(0)));
    metadata.push(("tokenizer.ggml.bos_token_id".into(), Value::Unsigned(0)));
    metadata.push(("tokenizer.ggml.add_bos_token".into(), Value::Bool(true)));
    let base = Base::from_gguf(Cursor::new(write(&metadata, &tensors).unwrap()), Some(&tokenizer)).unwrap();
    assert_eq!(base.config().layers, source.config().layers);
    base
}

#[test]
fn qlora_learns_and_resumes_bitwise() {
    let base = quantised_parity_base();
    assert!(base.class().contains("gguf"), "{}", base.class());
    let recipe = Recipe { steps: 30, ..parity::recipe() };
    let examples = parity::examples();
    let mut trainer = Trainer::new(&base, &recipe, &examples).unwrap();
    let mut losses = Vec::new();
    let mut middle = Vec::new();
    while !trainer.is_done() {
        losses.push(trainer.step().unwrap().loss);
        if trainer.steps_done() == 12 {
            middle = trainer.checkpoint();
        }
    }
    assert!(losses[29] < losses[0] - 0.3, "{losses:?}");
    let mut resumed = Trainer::resume(&base, &recipe, &examples, &middle).unwrap();
    while !resumed.is_done() {
        resumed.step().unwrap();
    }
    assert!(resumed.checkpoint() == trainer.checkpoint());
}

#[test]
fn blocks_take_a_fraction_of_the_memory() {
    let bytes = |case: &str| golden_base(case).1.model().product_bytes();
    assert!(bytes("gguf-llama-q4k") * 5 < bytes("gguf-llama-f16"));
}

#[test]
fn files_of_pythons_gguf_are_read_with_their_tokenizers() {
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(folder().join("gguf.json")).unwrap()).unwrap();
    for name in ["spm", "bpe"] {
        let base = Base::load(&folder().join(format!("{name}.gguf"))).unwrap();
        let list = |key: &str| told[name][key].as_array().unwrap().clone();
        for ((text, ids), decoded) in list("texts").iter().zip(list("ids")).zip(list("decoded")) {
            let text = text.as_str().unwrap();
            let ids: Vec<u32> = serde_json::from_value(ids).unwrap();
            assert_eq!(base.tokenizer().encode(text).unwrap(), ids, "{name}: {text:?}");
            assert_eq!(base.tokenizer().decode(&ids).unwrap(), decoded.as_str().unwrap(), "{name}: {text:?}");
        }
        let tokens: Vec<u32> = serde_json::from_value(told[name]["tokens"].clone()).unwrap();
        let theirs: Vec<f32> = serde_json::from_value(told[name]["logits"].clone()).unwrap();
        let ours = logits(base.with_precision(Precision::Exact).model(), Mode::Infer, &tokens, Hook::Base);
        assert_close(name, &ours[ours.len() - theirs.len()..], &theirs, TOLERANCE);
    }
}

#[test]
fn every_known_pre_tokenizer_splits_and_joins() {
    // Bytes and what Python's tokenizers learnt, split in each of the known ways.
    let bytes = std::fs::read(folder().join("bpe.gguf")).unwrap();
    let file = GgufFile::open(Cursor::new(&bytes)).unwrap();
    let own = |key: &str| file.get(key).unwrap().clone();
    let vocab = own("tokenizer.ggml.tokens").texts().unwrap().len();
    for pre in ["llama-bpe", "qwen2", "tekken", "smollm", "gpt-2", "default", "deepseek-r1-qwen"] {
        let mut metadata = metadata("llama", 32, 8, vocab);
        metadata.retain(|(key, _)| !key.starts_with("tokenizer.") || key.ends_with("model"));
        for key in ["tokens", "merges", "token_type"] {
            let key = format!("tokenizer.ggml.{key}");
            metadata.push((key.clone(), own(&key)));
        }
        metadata.push(("tokenizer.ggml.pre".into(), Value::Text(pre.into())));
        let base = Base::from_gguf(Cursor::new(write(&metadata, &small_tensors(vocab)).unwrap()), None).unwrap();
        for text in ["Hello've world 1234\n\n  foo\t!", "Zoë's mill, 李雷 🦀", "ÀÉ they'RE", "", "<|im_end|>x"] {
            let ids = base.tokenizer().encode(text).unwrap();
            assert_eq!(base.tokenizer().decode(&ids).unwrap(), text.replace("<|im_end|>", ""), "{pre}: {text:?}");
        }
        let digits = base.tokenizer().encode("123").unwrap().len();
        let single = matches!(pre, "qwen2" | "tekken" | "smollm" | "deepseek-r1-qwen");
        assert!(if single { digits == 3 } else { digits < 3 }, "{pre}: {digits}");
    }
}

#[test]
fn gguf_says_where_texts_begin_and_end() {
    let spm = Base::load(&folder().join("spm.gguf")).unwrap();
    assert_eq!(spm.tokenizer().encode_prompt("the").unwrap(), [1, 261]);
    assert!(spm.tokenizer().is_end(2));
    let talk = Conversation::of(&[("user", "the mill"), ("assistant", "old")]);
    let text = spm.chat().unwrap().render(&talk, true, 0).unwrap();
    assert_eq!(text, "<s>[user] the mill</s>[assistant] old</s>");
    assert_eq!(spm.tokenizer().encode(&text).unwrap().iter().filter(|id| **id == 2).count(), 2);
    let bpe = Base::load(&folder().join("bpe.gguf")).unwrap();
    assert_eq!(bpe.tokenizer().encode_prompt("the").unwrap(), bpe.tokenizer().encode("the").unwrap());
    let last = u32::try_from(bpe.config().vocab - 1).unwrap();
    assert!(bpe.tokenizer().is_end(last), "the metadata's end token");
    assert!(bpe.tokenizer().is_end(last - 1), "<|endoftext|> by its text");
    assert!(!bpe.tokenizer().is_end(last - 2));
    assert!(bpe.chat().is_err());
}
