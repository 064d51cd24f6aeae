//! A tiny random Qwen2 in a folder with two shards and as a GGUF file, and ways to break it.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use candle_core::quantized::{GgmlDType, QTensor};
use serde_json::{Value, json};
use tributary_compute::export::{Format, export};
use tributary_compute::gguf::{GgufFile, GgufTensor, write};
use tributary_compute::model::{Base, Config, Family, WeightType, Weights};
use tributary_compute::tokenizer::train_byte_level;

const TEMPLATE: &str = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}";
const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/// The model's files.
pub struct Small {
    pub folder: PathBuf,
    pub gguf: PathBuf,
}

fn config() -> Config {
    Config {
        family: Family::Qwen2,
        hidden: 64,
        intermediate: 96,
        layers: 1,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        vocab: 288,
        max_positions: 512,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tied: true,
        eos: vec![0],
        ..Config::default()
    }
}

impl Small {
    pub fn make(root: &Path) -> Self {
        let (folder, dense) = (root.join("folder"), root.join("dense"));
        for path in [&folder, &dense] {
            std::fs::create_dir_all(path).unwrap();
        }
        let config = config();
        let texts = ["the cat sat on the mat; the cats sat on the mats".to_owned()];
        let weights = Weights::random(&config, 7).unwrap().to_safetensors(&config, WeightType::F32).unwrap();
        let (first, second, index) = shards(&weights);
        for (name, bytes) in [
            ("config.json", config.to_json()),
            ("tokenizer.json", train_byte_level(&texts, 280).unwrap()),
            ("tokenizer_config.json", json!({"chat_template": TEMPLATE}).to_string().into_bytes()),
            (SHARDS[0], first),
            (SHARDS[1], second),
            ("model.safetensors.index.json", index),
            ("README.md", b"---\nlicense: apache-2.0\n---\n# Small".to_vec()),
        ] {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        let gguf = root.join("small.Q8_0.gguf");
        let base = Base::load(&folder).unwrap();
        export(&base, &folder, None, Format::Gguf, &dense).unwrap();
        std::fs::write(&gguf, quantised(&std::fs::read(dense.join("model.gguf")).unwrap(), &base)).unwrap();
        Self { folder, gguf }
    }

    /// What of the folder belongs to the base, in bytes.
    pub fn bytes(&self) -> u64 {
        let files = std::fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap());
        files.filter(|entry| entry.file_name() != "README.md").map(|entry| entry.metadata().unwrap().len()).sum()
    }

    /// A copy of the folder in which one file is another.
    pub fn with(&self, to: &Path, name: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> PathBuf {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(&self.folder).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        std::fs::write(to.join(name), change(std::fs::read(to.join(name)).unwrap())).unwrap();
        to.to_owned()
    }
}

/// A safetensors file as two, and their index.
fn shards(whole: &[u8]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let (length, rest) = whole.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
    let header: BTreeMap<String, Value> = serde_json::from_slice(header).unwrap();
    let mut parts = [(serde_json::Map::new(), Vec::new()), (serde_json::Map::new(), Vec::new())];
    let mut map = serde_json::Map::new();
    for (at, (name, info)) in header.iter().filter(|(name, _)| *name != "__metadata__").enumerate() {
        let offset = |end: usize| usize::try_from(info["data_offsets"][end].as_u64().unwrap()).unwrap();
        let (described, bytes) = &mut parts[at % 2];
        let start = bytes.len();
        bytes.extend_from_slice(&data[offset(0)..offset(1)]);
        let place = json!({"dtype": info["dtype"], "shape": info["shape"], "data_offsets": [start, bytes.len()]});
        described.insert(name.clone(), place);
        map.insert(name.clone(), SHARDS[at % 2].into());
    }
    let [first, second] = parts.map(|(described, bytes)| {
        let header = Value::Object(described).to_string().into_bytes();
        [&(header.len() as u64).to_le_bytes()[..], &header, &bytes].concat()
    });
    (first, second, json!({"weight_map": map}).to_string().into_bytes())
}

/// The model with every product in Q8_0, under the metadata of the dense file.
fn quantised(dense: &[u8], base: &Base) -> Vec<u8> {
    let weights = base.model().merged(None).unwrap();
    let block = &weights.blocks[0];
    let stored = |name: &str, tensor: &Tensor| {
        let kind = if tensor.rank() == 1 { GgmlDType::F32 } else { GgmlDType::Q8_0 };
        GgufTensor { name: name.into(), tensor: QTensor::quantize(&tensor.contiguous().unwrap(), kind).unwrap() }
    };
    let mut tensors = vec![
        stored("token_embd.weight", &weights.embedding),
        stored("output_norm.weight", &weights.norm),
        stored("blk.0.attn_norm.weight", &block.attention_norm),
        stored("blk.0.ffn_norm.weight", &block.mlp_norm),
    ];
    let stems = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    for (stem, linear) in stems.into_iter().zip(&block.linears) {
        tensors.push(stored(&format!("blk.0.{stem}.weight"), &linear.t().unwrap()));
    }
    for (stem, bias) in stems.into_iter().zip(block.biases.iter().flatten()) {
        tensors.push(stored(&format!("blk.0.{stem}.bias"), bias));
    }
    let metadata = GgufFile::open(Cursor::new(dense)).unwrap().metadata().clone();
    write(&metadata.into_iter().collect::<Vec<_>>(), &tensors).unwrap()
}

type Break = fn(&Small, &Path) -> PathBuf;

/// Bad models, and a word of what is said about each.
pub const BROKEN: [(&str, Break, &str); 10] = [
    (
        "broken-template",
        |small, to| {
            let broken = json!({"chat_template": "{{ bos_token }}\n{% for m in messages %}\n{{ m.content }\n"});
            small.with(to, "tokenizer_config.json", |_| broken.to_string().into_bytes())
        },
        ":3)",
    ),
    ("truncated-weights", |small, to| small.with(to, SHARDS[1], |bytes| bytes[..bytes.len() - 9].to_vec()), "bytes"),
    (
        "lying-header",
        |small, to| small.with(to, SHARDS[1], |bytes| [&u64::MAX.to_le_bytes(), &bytes[8..]].concat()),
        "header",
    ),
    ("not-finite", |small, to| small.with(to, SHARDS[1], nan), "finite"),
    (
        "tokenizer-of-another",
        |small, to| {
            small.with(to, "config.json", |bytes| replaced(&bytes, "\"vocab_size\": 288", "\"vocab_size\": 200"))
        },
        "vocabulary",
    ),
    (
        "wrong-shape",
        |small, to| {
            small.with(to, "config.json", |bytes| {
                replaced(&bytes, "\"intermediate_size\": 96", "\"intermediate_size\": 128")
            })
        },
        "shape",
    ),
    (
        "shard-missing",
        |small, to| {
            let folder = small.with(to, "config.json", |bytes| bytes);
            std::fs::remove_file(folder.join(SHARDS[1])).unwrap();
            folder
        },
        "missing",
    ),
    (
        "truncated-gguf",
        |small, to| {
            std::fs::create_dir_all(to).unwrap();
            let bytes = std::fs::read(&small.gguf).unwrap();
            std::fs::write(to.join("cut.gguf"), &bytes[..bytes.len() / 2]).unwrap();
            to.join("cut.gguf")
        },
        "beyond the file",
    ),
    (
        "mislabelled",
        |small, to| {
            std::fs::create_dir_all(to).unwrap();
            std::fs::copy(small.folder.join("config.json"), to.join("model.gguf")).unwrap();
            to.join("model.gguf")
        },
        "not a GGUF file",
    ),
    (
        "too-large",
        |small, to| small.with(to, SHARDS[1], |bytes| [bytes, vec![0; 50_000]].concat()),
        "this node takes at most",
    ),
];

/// The last number of the file becomes none.
fn nan(mut bytes: Vec<u8>) -> Vec<u8> {
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    bytes
}

fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    text.replace(from, to).into_bytes()
}
