//! Files from strangers: what we write is read back, anything else is refused with an error, never a panic.

use proptest::prelude::{ProptestConfig, any, proptest};
use safetensors::SafeTensors;
use tributary_compute::lora::{Adapter, AdapterFiles, LoraConfig};
use tributary_compute::model::{Base, Config, Module, WeightType, Weights};
use tributary_compute::tokenizer::{Tokenizer, train_byte_level};

use crate::serving_base::{adapter, base, config};

fn tokenizer() -> Vec<u8> {
    train_byte_level(&["the old mill by the old river".to_owned()], 300).unwrap()
}

fn weights(config: &Config, kind: WeightType) -> Vec<u8> {
    Weights::random(config, 1).unwrap().to_safetensors(config, kind).unwrap()
}

#[test]
fn adapters_have_pefts_layout() {
    let base = base(1);
    let adapter = adapter(&base, 4, 8.0);
    let files = adapter.to_files().unwrap();
    assert_eq!(files, adapter.to_files().unwrap());
    let stored = SafeTensors::deserialize(&files.safetensors).unwrap();
    assert_eq!(stored.len(), 2 * 7 * 2);
    let shape = |name: &str| stored.tensor(name).unwrap().shape().to_vec();
    let prefix = "base_model.model.model.layers";
    assert_eq!(shape(&format!("{prefix}.0.self_attn.q_proj.lora_A.weight")), [4, 48]);
    assert_eq!(shape(&format!("{prefix}.1.self_attn.k_proj.lora_B.weight")), [24, 4]);
    assert_eq!(shape(&format!("{prefix}.1.mlp.down_proj.lora_A.weight")), [4, 96]);
    assert_eq!(shape(&format!("{prefix}.0.mlp.gate_proj.lora_B.weight")), [96, 4]);
    let (names, _) =
        SafeTensors::read_metadata(&files.safetensors).map(|(_, meta)| (meta.metadata().clone(), ())).unwrap();
    assert_eq!(names.unwrap()["format"], "pt");
    let config: serde_json::Value = serde_json::from_slice(&files.config_json).unwrap();
    assert_eq!(config["peft_type"], "LORA");
    assert_eq!(config["task_type"], "CAUSAL_LM");
    assert_eq!((config["r"].as_u64(), config["lora_alpha"].as_f64()), (Some(4), Some(8.0)));
    assert_eq!(config["bias"], "none");
    assert_eq!(config["target_modules"].as_array().unwrap().len(), 7);
    // lora_A is the transpose of our down factor, value by value.
    let pair = adapter.pair(0, Module::Query).unwrap();
    let ours = pair.down.t().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let bytes = stored.tensor(&format!("{prefix}.0.self_attn.q_proj.lora_A.weight")).unwrap().data();
    let theirs: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
    assert_eq!(ours, theirs);
}

#[test]
fn adapters_survive_the_round_trip() {
    let base = base(1);
    let some = LoraConfig {
        rank: 3,
        alpha: 6.0,
        rslora: true,
        dropout: 0.05,
        target_modules: vec![Module::Down, Module::Query],
    };
    for adapter in [adapter(&base, 4, 8.0), Adapter::fresh(base.config(), &some, 9).unwrap()] {
        let read = Adapter::from_files(base.config(), &adapter.to_files().unwrap()).unwrap();
        assert_eq!(read.config(), adapter.config());
        assert_eq!(read.values().unwrap(), adapter.values().unwrap());
        assert_eq!(read.hash().unwrap(), adapter.hash().unwrap());
    }
}

#[test]
fn pefts_own_spelling_is_read() {
    let base = base(1);
    let files = adapter(&base, 4, 8.0).to_files().unwrap();
    let text = String::from_utf8(files.config_json.clone()).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["lora_alpha"] = 8.into();
    config["target_modules"] = "all-linear".into();
    config["layers_pattern"] = serde_json::Value::Null;
    config["auto_mapping"] = serde_json::Value::Null;
    let files = AdapterFiles { config_json: serde_json::to_vec(&config).unwrap(), ..files };
    assert!(Adapter::from_files(base.config(), &files).is_ok());
}

#[test]
fn hostile_adapters_are_refused() {
    let base = base(1);
    let good = adapter(&base, 4, 8.0).to_files().unwrap();
    let refused = |what: &str, files: AdapterFiles| {
        assert!(Adapter::from_files(base.config(), &files).is_err(), "{what} was accepted");
    };
    let edits: [(&str, &str, serde_json::Value); 12] = [
        ("over-rank", "r", 100_000.into()),
        ("rank zero", "r", 0.into()),
        ("another rank", "r", 5.into()),
        ("an absurd rank", "r", u64::MAX.into()),
        ("a negative alpha", "lora_alpha", (-1).into()),
        ("dora", "use_dora", true.into()),
        ("bias", "bias", "all".into()),
        ("modules to save", "modules_to_save", serde_json::json!(["lm_head"])),
        ("a rank pattern", "rank_pattern", serde_json::json!({"q_proj": 8})),
        ("an unknown module", "target_modules", serde_json::json!(["q_proj", "lm_head"])),
        ("no module", "target_modules", serde_json::json!([])),
        ("fewer modules", "target_modules", serde_json::json!(["q_proj"])),
    ];
    for (what, field, value) in edits {
        let mut config: serde_json::Value = serde_json::from_slice(&good.config_json).unwrap();
        config[field] = value;
        refused(what, AdapterFiles { config_json: serde_json::to_vec(&config).unwrap(), ..good.clone() });
    }
    refused("a huge configuration", AdapterFiles { config_json: vec![b' '; 1 << 20], ..good.clone() });
    refused("no weights", AdapterFiles { safetensors: Vec::new(), ..good.clone() });
    let cut = good.safetensors[..good.safetensors.len() - 4].to_vec();
    refused("cut weights", AdapterFiles { safetensors: cut, ..good.clone() });
    let padded = [good.safetensors.clone(), vec![0; 100_000]].concat();
    refused("padded weights", AdapterFiles { safetensors: padded, ..good.clone() });
    let mut huge_header = good.safetensors.clone();
    huge_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    refused("an absurd header", AdapterFiles { safetensors: huge_header, ..good.clone() });
    let mut nan = good.safetensors.clone();
    let last = nan.len() - 4;
    nan[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    refused("a NaN", AdapterFiles { safetensors: nan, ..good.clone() });
    let header =
        String::from_utf8_lossy(&good.safetensors).replace("\"F32\",\"shape\":[4,48]", "\"F32\",\"shape\":[8,24]");
    refused("another shape", AdapterFiles { safetensors: header.into_bytes(), ..good });
}

#[test]
fn adapters_of_another_base_are_refused() {
    let files = adapter(&base(1), 4, 8.0).to_files().unwrap();
    let config = config(320);
    let deeper = Config { layers: 3, ..config.clone() };
    let shallower = Config { layers: 1, ..config.clone() };
    let wider = Config { hidden: 96, ..config.clone() };
    let other_heads = Config { kv_heads: 4, ..config };
    for (model, why) in [(deeper, "tensors"), (shallower, "bytes"), (wider, "shape"), (other_heads, "shape")] {
        let refused = Adapter::from_files(&model, &files).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn bases_of_every_type_load_and_have_one_hash() {
    let config = config(300);
    let tokenizer = tokenizer();
    let (half, single) = (weights(&config, WeightType::F16), weights(&config, WeightType::F32));
    let first = Base::from_bytes(&config.to_json(), &tokenizer, &half).unwrap();
    assert_eq!(first.hash(), Base::from_bytes(&config.to_json(), &tokenizer, &half).unwrap().hash());
    assert_ne!(first.hash(), Base::from_bytes(&config.to_json(), &tokenizer, &single).unwrap().hash());
    assert_eq!(first.config(), &config);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_json()).unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), &tokenizer).unwrap();
    assert!(Base::load(dir.path()).unwrap_err().to_string().contains("model.safetensors"));
    std::fs::write(dir.path().join("model.safetensors"), &half).unwrap();
    assert_eq!(Base::load(dir.path()).unwrap().hash(), first.hash());
}

#[test]
fn bf16_weights_are_read() {
    let config = config(300);
    let single = weights(&config, WeightType::F32);
    let file = SafeTensors::deserialize(&single).unwrap();
    let halves: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .iter()
        .map(|(name, view)| {
            let high = view.data().as_chunks::<4>().0.iter().flat_map(|word| [word[2], word[3]]).collect();
            (name.to_owned(), view.shape().to_vec(), high)
        })
        .collect();
    let views = halves.iter().map(|(name, shape, bytes)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, shape.clone(), bytes).unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    assert!(Base::from_bytes(&config.to_json(), &tokenizer(), &bytes).is_ok());
}

#[test]
fn hostile_configurations_are_refused() {
    let good: serde_json::Value = serde_json::from_slice(&config(300).to_json()).unwrap();
    assert!(Config::from_json(&serde_json::to_vec(&good).unwrap()).is_ok());
    let edits: [(&str, serde_json::Value); 24] = [
        ("hidden_size", 0.into()),
        ("hidden_size", u64::MAX.into()),
        ("intermediate_size", 1_000_000_000_u64.into()),
        ("num_hidden_layers", 1_000_000.into()),
        ("num_attention_heads", 0.into()),
        ("num_attention_heads", 5.into()),
        ("num_key_value_heads", 3.into()),
        ("head_dim", 13.into()),
        ("head_dim", u64::MAX.into()),
        ("vocab_size", u64::MAX.into()),
        ("max_position_embeddings", u64::MAX.into()),
        ("rms_norm_eps", (-1.0).into()),
        ("rope_theta", 0.into()),
        ("rope_scaling", serde_json::json!({"type": "dynamic", "factor": 2.0})),
        ("rope_scaling", serde_json::json!({"type": "linear"})),
        ("rope_scaling", serde_json::json!({"type": "linear", "factor": 0.0})),
        ("rope_scaling", serde_json::json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 0})),
        ("rope_scaling", serde_json::json!({"type": "llama3", "factor": 8.0})),
        ("rope_parameters", serde_json::json!({"rope_type": "longrope", "factor": 8.0})),
        ("partial_rotary_factor", 0.5.into()),
        ("model_type", "gpt2".into()),
        ("hidden_act", "gelu".into()),
        ("attention_bias", true.into()),
        ("eos_token_id", 300.into()),
    ];
    for (field, value) in edits {
        let mut config = good.clone();
        config[field] = value.clone();
        assert!(Config::from_json(&serde_json::to_vec(&config).unwrap()).is_err(), "{field} {value} was accepted");
    }
    assert!(Config::from_json(b"").is_err());
    assert!(Config::from_json(&vec![b'['; 60_000]).is_err());
    assert!(Config::from_json(&vec![b' '; 1 << 20]).is_err());
}

#[test]
fn hostile_weights_are_refused() {
    let config = config(300);
    let good = weights(&config, WeightType::F32);
    let refused = |what: &str, bytes: &[u8]| {
        assert!(Base::from_bytes(&config.to_json(), &tokenizer(), bytes).is_err(), "{what} was accepted");
    };
    refused("nothing", &[]);
    for keep in [4, 8, 100, good.len() / 2, good.len() - 1] {
        refused("a cut file", &good[..keep]);
    }
    let mut infinite = good.clone();
    let last = infinite.len() - 4;
    infinite[last..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    refused("an infinite weight", &infinite);
    for kind in [WeightType::F16, WeightType::F32] {
        refused("another width", &weights(&Config { hidden: 24, ..config.clone() }, kind));
        refused("fewer layers", &weights(&Config { layers: 1, ..config.clone() }, kind));
        refused("more layers", &weights(&Config { layers: 3, ..config.clone() }, kind));
    }
    let untied = weights(&Config { tied: false, ..config.clone() }, WeightType::F32);
    assert!(Base::from_bytes(&config.to_json(), &tokenizer(), &untied).is_ok(), "a stored tied head is harmless");
    let huge = Config { hidden: 65_536, intermediate: 65_536, vocab: 262_144, head_dim: 512, ..config.clone() };
    assert!(Base::from_bytes(&huge.to_json(), &tokenizer(), &good).is_err(), "absurd shapes were accepted");
}

#[test]
fn hostile_tokenizers_are_refused() {
    let good: serde_json::Value = serde_json::from_slice(&tokenizer()).unwrap();
    let read =
        |value: &serde_json::Value| Tokenizer::from_bytes(&serde_json::to_vec(value).unwrap(), 300, Some(0), &[0]);
    let ours = read(&good).unwrap();
    let text = "the old mill, Zoë & 🦀\n\t!";
    assert_eq!(ours.decode(&ours.encode(text).unwrap()).unwrap(), text);
    assert!(Tokenizer::from_bytes(&tokenizer(), 200, Some(0), &[0]).is_err(), "ids beyond the vocabulary");
    assert!(Tokenizer::from_bytes(b"{}", 300, None, &[]).is_err());
    assert!(Tokenizer::from_bytes(b"\xff\xfe", 300, None, &[]).is_err());
    assert!(Tokenizer::from_bytes(&tokenizer()[..900], 300, None, &[]).is_err());
    let edits = [
        ("/model/dropout", serde_json::json!(0.5)),
        ("/model/type", serde_json::json!("WordPiece")),
        ("/model/merges", serde_json::json!([["no", "such"]])),
        ("/added_tokens", serde_json::json!([{"id": 0}])),
    ];
    for (at, value) in edits {
        let mut changed = good.clone();
        *changed.pointer_mut(at).unwrap() = value;
        assert!(read(&changed).is_err(), "{at} was accepted");
    }
    let mut truncating = good.clone();
    truncating["truncation"] =
        serde_json::json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0});
    assert_eq!(read(&truncating).unwrap().encode(text).unwrap(), ours.encode(text).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_damaged_byte_makes_a_reader_panic(at in any::<proptest::sample::Index>(), value in any::<u8>(), cut in any::<proptest::sample::Index>()) {
        let config = config(300);
        let lora = LoraConfig { rank: 1, alpha: 1.0, rslora: false, dropout: 0.0, target_modules: vec![Module::Query] };
        let good = Adapter::fresh(&config, &lora, 1).unwrap().to_files().unwrap();
        let damage = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            let place = at.index(bytes.len().min(2000));
            bytes[place] = value;
            let keep = bytes.len() - cut.index(bytes.len()) / 4;
            bytes.truncate(keep);
            bytes
        };
        let weights = AdapterFiles { safetensors: damage(&good.safetensors), ..good.clone() };
        let _ = Adapter::from_files(&config, &weights);
        let _ = Adapter::from_files(&config, &AdapterFiles { config_json: damage(&good.config_json), ..good });
        let _ = Config::from_json(&damage(&config.to_json()));
    }
}
