//! Our logits against those of `transformers` and `peft`, from the files that `cargo xtask parity` wrote.
//!
//! The weights are not stored: both sides make them from each tensor's name (`parity/weights.py`).

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tributary_compute::kv::Cache;
use tributary_compute::linear::Hook;
use tributary_compute::model::{Config, Family, Feed, LogitRows, Mode, Model, Packed, RopeScaling, Weights};

/// What the project promises.
pub const TOLERANCE: f32 = 1e-4;

pub struct Golden {
    bytes: Vec<u8>,
    texts: serde_json::Value,
}

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

impl Golden {
    pub fn read(name: &str) -> Self {
        let bytes = std::fs::read(folder().join(format!("{name}.safetensors"))).unwrap();
        let metadata = SafeTensors::read_metadata(&bytes).unwrap().1;
        let texts = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["golden"]).unwrap();
        Self { bytes, texts }
    }

    pub fn text(&self, name: &str) -> &str {
        self.texts[name].as_str().unwrap()
    }

    pub fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> T {
        serde_json::from_value(self.texts[name].clone()).unwrap()
    }

    pub fn values(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let data = file.tensor(name).unwrap().data();
        data.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
    }

    pub fn config(&self) -> Config {
        Config::from_json(self.texts["config"].to_string().as_bytes()).unwrap()
    }

    pub fn model(&self) -> Model {
        let config = self.config();
        let file = safetensors(&self.json::<Vec<(String, Vec<usize>)>>("tensors"));
        Model::new(&config, Weights::from_safetensors(&config, &file).unwrap()).unwrap()
    }
}

/// 64 random bits of one element.
pub fn word(name: &str, at: u64) -> u64 {
    let seed =
        name.bytes().fold(0xCBF2_9CE4_8422_2325, |seed, byte| (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
    let mut state: u64 = (at + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(seed);
    state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ (state >> 31)
}

/// As `values` in `parity/weights.py`.
pub fn element(name: &str, at: u64) -> f32 {
    let unit = (word(name, at) >> 40) as f64 / 16_777_216.0 - 0.5;
    #[expect(clippy::cast_possible_truncation, reason = "every value is exact in f32")]
    match (name.contains("norm"), name.contains("embed")) {
        (true, _) => (1.0 + unit * 0.5) as f32,
        (_, true) => unit as f32,
        _ => (unit * 0.5) as f32,
    }
}

/// A file with the generated values of the named tensors.
pub fn safetensors(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let stored: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, shape)| {
            let count = shape.iter().product::<usize>() as u64;
            (name, shape, (0..count).flat_map(|at| element(name, at).to_le_bytes()).collect())
        })
        .collect();
    let views =
        stored.iter().map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

pub fn assert_close(what: &str, ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{what}: logits differ by {worst}");
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Logits of every position by one pass in the given mode.
pub fn logits(model: &Model, mode: Mode, tokens: &[u32], hook: Hook<'_>) -> Vec<f32> {
    let hidden = model.hidden(mode, &Packed::new(&[tokens]).unwrap(), hook).unwrap();
    flat(&model.logits(&hidden).unwrap())
}

/// Logits of every position while the cache grows by pieces of these lengths, again and again.
fn cached_logits(model: &Model, tokens: &[u32], pieces: &[usize]) -> Vec<f32> {
    let mut cache = Cache::new(model.config().layers, model.config().kv_width());
    let mut logits = Vec::new();
    let mut rest = tokens;
    for piece in pieces.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at((*piece).min(rest.len()));
        rest = later;
        let feed = Feed { tokens: now, adapter: None, cache: &mut cache };
        logits.extend(flat(&model.step(&mut [feed], LogitRows::All).unwrap().logits.unwrap()));
    }
    logits
}

fn families() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".safetensors").map(str::to_owned))
        .filter(|name| Family::ALL.iter().any(|family| name.starts_with(family.name())))
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn logits_of_every_family_are_those_of_transformers() {
    let names = families();
    assert!(names.len() >= 11, "{names:?}");
    for name in names {
        let golden = Golden::read(&name);
        let (model, tokens) = (golden.model(), golden.json::<Vec<u32>>("tokens"));
        let theirs = golden.values("logits");
        let whole = logits(&model, Mode::Infer, &tokens, Hook::Base);
        assert_close(&name, &whole, &theirs, TOLERANCE);
        let trained = logits(&model, Mode::Train, &tokens, Hook::Base);
        assert!(trained == whole, "{name}: training computes otherwise");
        for pieces in [&[1][..], &[7, 1, 3]] {
            assert!(cached_logits(&model, &tokens, pieces) == whole, "{name}: decoding computes otherwise");
        }
    }
}

#[test]
fn configurations_survive_the_round_trip() {
    for name in families() {
        let config = Golden::read(&name).config();
        let again = Config::from_json(&config.to_json()).unwrap();
        assert_eq!(again.frequencies(), config.frequencies(), "{name}");
        // The last bit of a float may change in JSON's decimals; the frequencies above don't.
        let plain = |config: Config| Config { rope_scaling: RopeScaling::None, ..config };
        assert_eq!(plain(again), plain(config), "{name}");
    }
}
