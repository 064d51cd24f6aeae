//! The fuzz targets' body for a model's small files in a bounded run: changed at random places, the same each time, they
//! are refused or read, and nothing panics.

use tributary_compute::model::{Base, Config, Extras, WeightType, Weights};
use tributary_compute::tokenizer::{Tokenizer, train_byte_level};

const CHANGES: usize = 150;
const VOCAB: usize = 300;

/// Draws from a seeded stream: no two runs differ.
struct Draws(blake3::OutputReader);

impl Draws {
    fn new(purpose: &str) -> Self {
        Self(blake3::Hasher::new_derive_key(purpose).finalize_xof())
    }

    fn below(&mut self, limit: usize) -> usize {
        let mut word = [0; 4];
        self.0.fill(&mut word);
        usize::try_from(u32::from_le_bytes(word)).expect("32 bits fit") % limit.max(1)
    }

    /// One to three changes: a bit, a digit, a removal or a cut.
    fn changed(&mut self, whole: &[u8]) -> Vec<u8> {
        let mut bytes = whole.to_vec();
        for _ in 0..=self.below(2) {
            let place = self.below(bytes.len());
            match self.below(8) {
                0 => bytes.truncate(place),
                1 | 2 if !bytes.is_empty() => {
                    bytes.remove(place);
                }
                3 | 4 if !bytes.is_empty() => bytes[place] ^= 1 << self.below(8),
                _ if !bytes.is_empty() => bytes[place] = b"0129-\"[]{}:,"[self.below(12)],
                _ => {}
            }
        }
        bytes
    }
}

struct Files {
    config: Vec<u8>,
    tokenizer: Vec<u8>,
    weights: Vec<u8>,
}

fn files() -> Files {
    let config = Config {
        hidden: 4,
        intermediate: 4,
        layers: 1,
        heads: 1,
        kv_heads: 1,
        head_dim: 4,
        vocab: VOCAB,
        max_positions: 8,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tied: true,
        ..Config::default()
    };
    let tokenizer = train_byte_level(&["the cat sat on the mat".to_owned()], 280).unwrap();
    let weights = Weights::random(&config, 1).unwrap().to_safetensors(&config, WeightType::F32).unwrap();
    Files { config: config.to_json(), tokenizer, weights }
}

#[test]
fn changed_small_files_are_refused_or_read() {
    let Files { config, tokenizer, weights } = files();
    let told = br#"{"add_bos_token":true,"bos_token":{"content":"<|endoftext|>"},"eos_token":"<|endoftext|>","chat_template":[{"name":"default","template":"{{ messages[0].content }}"}]}"#;
    let generation = br#"{"eos_token_id":[0,1],"temperature":0.7}"#;
    let mut draws = Draws::new("tributary small files v1");
    let (mut read, mut refused) = (0, 0);
    for _ in 0..CHANGES {
        let changed = draws.changed(&tokenizer);
        if let Ok(tokenizer) = Tokenizer::from_bytes(&changed, VOCAB, None, &[]) {
            let tokens = tokenizer.encode("the cat, 12 mats\n").unwrap_or_default();
            assert!(tokens.iter().all(|token| usize::try_from(*token).unwrap() < VOCAB));
        }
        let (told, generation) = (draws.changed(told), draws.changed(generation));
        let extras =
            Extras { tokenizer_config: Some(&told), generation_config: Some(&generation), chat_template: None };
        match Base::from_bytes_with(&config, &tokenizer, &weights, extras) {
            Ok(base) => {
                assert!(base.tokenizer().ends().iter().all(|end| usize::try_from(*end).unwrap() < VOCAB));
                read += 1;
            }
            Err(_) => refused += 1,
        }
        if let Ok(config) = Config::from_json(&draws.changed(&config)) {
            Config::from_json(&config.to_json()).expect("what we wrote is read");
        }
    }
    assert!(read > 0 && refused > 0, "{read} read, {refused} refused");
}

#[test]
fn every_parser_of_files_has_a_fuzz_target() {
    let manifest = include_str!("../../fuzz/Cargo.toml");
    let parsers =
        ["adapter", "attribution", "chat", "config", "extras", "fingerprint", "gguf", "safetensors", "tokenizer"];
    for name in parsers {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "no fuzz target for {name}");
    }
}
