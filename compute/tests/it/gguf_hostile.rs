//! GGUF from strangers: an error that says what is wrong, never a panic, and nothing allocated on a file's word.

use std::io::Cursor;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use proptest::prelude::{ProptestConfig, any, proptest};
use tributary_compute::gguf::{GgufFile, GgufTensor, Value, Values, write};
use tributary_compute::model::Base;

use crate::gguf::metadata;
use crate::golden::folder;

fn dense(name: &str, shape: &[usize], value: f32) -> GgufTensor {
    let tensor = Tensor::full(value, shape, &Device::Cpu).unwrap();
    GgufTensor { name: name.into(), tensor: QTensor::quantize(&tensor, GgmlDType::F32).unwrap() }
}

fn tensors() -> Vec<GgufTensor> {
    let squares = ["attn_q", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    let mut all: Vec<GgufTensor> =
        squares.iter().map(|name| dense(&format!("blk.0.{name}.weight"), &[32, 32], 0.1)).collect();
    all.extend(["attn_k", "attn_v"].map(|name| dense(&format!("blk.0.{name}.weight"), &[16, 32], 0.1)));
    all.extend(["blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"].map(|name| dense(name, &[32], 1.0)));
    all.extend([dense("output_norm.weight", &[32], 1.0), dense("token_embd.weight", &[16, 32], 0.5)]);
    all
}

fn good() -> Vec<(String, Value)> {
    metadata("llama", 32, 8, 16)
}

fn refusal(file: Vec<u8>) -> String {
    Base::from_gguf(Cursor::new(file), None).expect_err("accepted").to_string()
}

#[test]
fn hostile_metadata_are_refused() {
    assert!(Base::from_gguf(Cursor::new(write(&good(), &tensors()).unwrap()), None).is_ok());
    let number = |value: u64| Value::Unsigned(value);
    let texts = |texts: &[&str]| Value::Array(Values::Text(texts.iter().map(ToString::to_string).collect()));
    let edits: Vec<(&str, Value)> = vec![
        ("general.architecture", Value::Text("gpt2".into())),
        ("general.architecture", number(1)),
        ("split.count", number(3)),
        ("general.alignment", number(0)),
        ("general.alignment", number(24)),
        ("general.alignment", number(1 << 40)),
        ("llama.block_count", number(0)),
        ("llama.block_count", number(2)),
        ("llama.block_count", number(u64::MAX)),
        ("llama.embedding_length", number(64)),
        ("llama.embedding_length", number(u64::MAX)),
        ("llama.attention.head_count", number(0)),
        ("llama.attention.head_count", number(3)),
        ("llama.attention.head_count_kv", number(3)),
        ("llama.attention.key_length", number(7)),
        ("llama.attention.value_length", number(16)),
        ("llama.context_length", number(u64::MAX)),
        ("llama.attention.layer_norm_rms_epsilon", Value::Float(f64::NAN)),
        ("llama.rope.freq_base", Value::Text("much".into())),
        ("llama.rope.scaling.type", Value::Text("longrope".into())),
        ("llama.rope.scaling.type", Value::Text("linear".into())),
        ("tokenizer.ggml.model", Value::Text("unigram".into())),
        ("tokenizer.ggml.pre", Value::Text("none-we-know".into())),
        ("tokenizer.ggml.tokens", texts(&[])),
        ("tokenizer.ggml.tokens", texts(&["a", "a"])),
        ("tokenizer.ggml.tokens", Value::Array(Values::Text((0..17).map(|at| format!("t{at}")).collect()))),
        ("tokenizer.ggml.tokens", texts(&["x".repeat(5_000).as_str()])),
        ("tokenizer.ggml.tokens", number(3)),
        ("tokenizer.ggml.merges", texts(&["nothing"])),
        ("tokenizer.ggml.merges", texts(&["no such"])),
        ("tokenizer.ggml.token_type", Value::Array(Values::Whole(vec![1]))),
        ("tokenizer.ggml.eos_token_id", number(16)),
        ("tokenizer.ggml.add_bos_token", number(1)),
        ("tokenizer.chat_template", number(1)),
    ];
    for (key, value) in edits {
        let mut metadata = good();
        metadata.retain(|(had, _)| had != key);
        metadata.push((key.to_owned(), value.clone()));
        refusal(write(&metadata, &tensors()).unwrap());
    }
    let twice = [good(), good()].concat();
    assert!(refusal(write(&twice, &tensors()).unwrap()).contains("twice"));
    for (key, _) in good().iter().filter(|(key, _)| !key.contains("rope") && !key.ends_with("pre")) {
        let metadata: Vec<_> = good().into_iter().filter(|(had, _)| had != key).collect();
        let optional = key.ends_with("head_count_kv") || key.ends_with("key_length");
        let read = Base::from_gguf(Cursor::new(write(&metadata, &tensors()).unwrap()), None);
        assert!(optional || read.is_err(), "{key} is needed");
    }
}

#[test]
fn a_sentence_piece_model_without_its_scores_is_refused() {
    let mut metadata = good();
    metadata.retain(|(key, _)| key != "tokenizer.ggml.model");
    metadata.push(("tokenizer.ggml.model".into(), Value::Text("llama".into())));
    assert!(refusal(write(&metadata, &tensors()).unwrap()).contains("scores"));
    metadata.push(("tokenizer.ggml.scores".into(), Value::Array(Values::Float(vec![f64::NAN; 16]))));
    assert!(refusal(write(&metadata, &tensors()).unwrap()).contains("scores"));
}

#[test]
fn hostile_tensors_are_refused() {
    let with = |change: &dyn Fn(&mut Vec<GgufTensor>)| {
        let mut tensors = tensors();
        change(&mut tensors);
        refusal(write(&good(), &tensors).unwrap())
    };
    assert!(with(&|tensors| drop(tensors.remove(0))).contains("missing"));
    assert!(with(&|tensors| tensors.push(dense("more", &[2], 1.0))).contains("unexpected"));
    assert!(with(&|tensors| tensors.push(dense("blk.0.attn_q.weight", &[32, 32], 0.1))).contains("twice"));
    assert!(with(&|tensors| tensors[0] = dense("blk.0.attn_q.weight", &[32, 16], 0.1)).contains("shape"));
    assert!(with(&|tensors| tensors[0] = dense("blk.0.attn_q.weight", &[1024], 0.1)).contains("shape"));
    assert!(with(&|tensors| tensors[0] = dense("blk.0.attn_q.weight", &[32, 32], f32::NAN)).contains("finite"));
    assert!(with(&|tensors| tensors.push(dense("rope_freqs.weight", &[4], 0.0))).contains("rope"));
    let quantised_norm = |tensors: &mut Vec<GgufTensor>| {
        let norm = tensors.iter_mut().find(|tensor| tensor.name == "output_norm.weight").unwrap();
        let ones = Tensor::ones(32, candle_core::DType::F32, &Device::Cpu).unwrap();
        norm.tensor = QTensor::quantize(&ones, GgmlDType::Q8_0).unwrap();
    };
    assert!(with(&quantised_norm).contains("type"));
}

/// Where the description of the first tensor stands behind its name.
fn description(file: &[u8]) -> usize {
    let name = b"blk.0.attn_q.weight";
    file.windows(name.len()).position(|window| window == name).unwrap() + name.len()
}

#[test]
fn hostile_headers_are_refused() {
    let file = write(&good(), &tensors()).unwrap();
    let patched = |at: usize, bytes: &[u8]| {
        let mut file = file.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        refusal(file)
    };
    let huge = u64::MAX.to_le_bytes();
    assert!(patched(0, b"GGML").contains("not a GGUF"));
    for version in [0_u32, 1, 4, 3_u32.swap_bytes()] {
        assert!(patched(4, &version.to_le_bytes()).contains("version"));
    }
    assert!(patched(8, &huge).contains("tensors"), "number of tensors");
    assert!(patched(16, &huge).contains("metadata entries"), "number of entries");
    assert!(patched(24, &huge).contains("text"), "length of a key");
    let tokens = file.windows(21).position(|window| window == b"tokenizer.ggml.tokens").unwrap() + 21;
    assert!(patched(tokens, &99_u32.to_le_bytes()).contains("type 99"));
    assert!(patched(tokens + 4, &9_u32.to_le_bytes()).contains("array of type 9"), "an array of arrays");
    assert!(patched(tokens + 8, &huge).contains("array elements"));
    assert!(patched(tokens + 8, &900_000_u64.to_le_bytes()).contains("900000"), "more elements than bytes");
    let at = description(&file);
    assert!(patched(at, &0_u32.to_le_bytes()).contains("dimensions"));
    assert!(patched(at, &5_u32.to_le_bytes()).contains("dimensions"));
    assert!(patched(at + 4, &huge).contains("shape"));
    // The second tensor's own place is behind the first's 4,096 bytes.
    let second = file.windows(22).position(|window| window == b"blk.0.attn_output.weig").unwrap() + 24 + 24;
    assert_eq!(file[second..second + 8], 4096_u64.to_le_bytes());
    for (offset, what) in [(0_u64, "the same bytes"), (4064, "overlapping"), (4128, "a gap"), (8192, "out of order")] {
        assert!(patched(second, &offset.to_le_bytes()).contains("follows"), "{what}");
    }
    assert!(patched(at + 4, &(1_u64 << 40).to_le_bytes()).contains("beyond"), "a terabyte");
    assert!(patched(at + 4, &0_u64.to_le_bytes()).contains("shape"));
    assert!(patched(at + 20, &77_u32.to_le_bytes()).contains("type 77"));
    assert!(patched(at + 24, &7_u64.to_le_bytes()).contains("offset"));
    assert!(patched(at + 24, &(u64::MAX - 31).to_le_bytes()).contains("follows"));
    for length in (0..file.len()).step_by(97) {
        refusal(file[..length].to_vec());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_damaged_gguf_makes_the_reader_panic(damages in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4)) {
        for name in ["spm.gguf", "bpe.gguf"] {
            let mut file = std::fs::read(folder().join(name)).unwrap();
            let header = file.len() / 2;
            for (at, value) in &damages {
                file[at.index(header)] = *value;
            }
            let _ = GgufFile::open(Cursor::new(&file));
            let _ = Base::from_gguf(Cursor::new(&file), None);
        }
    }
}
