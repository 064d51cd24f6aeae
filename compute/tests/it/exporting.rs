//! Exports: what other programs get is read again and says the same, or nothing is said to be done.

use std::path::Path;

use tributary_compute::export::{ExportError, Format, export};
use tributary_compute::model::{Base, Config, Family, WeightType, Weights};
use tributary_compute::tokenizer::train_byte_level;

use crate::serving_base::adapter_of;

const TEMPLATE: &str = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}";

/// A small random model of `family` in a folder.
fn folder(root: &Path, family: Family) -> Base {
    let texts = ["the cat sat on the mat, the cats sat on the mats 12 12 345".to_owned()];
    let tokenizer = train_byte_level(&texts, 300).unwrap();
    let config = Config {
        family,
        hidden: 64,
        intermediate: 96,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        vocab: 320,
        max_positions: 128,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tied: family != Family::Llama,
        eos: vec![0],
        ..Config::default()
    };
    let weights = Weights::random(&config, 7).unwrap();
    for (name, bytes) in [
        ("config.json", config.to_json()),
        ("tokenizer.json", tokenizer),
        ("model.safetensors", weights.to_safetensors(&config, WeightType::F32).unwrap()),
        ("tokenizer_config.json", serde_json::json!({"chat_template": TEMPLATE}).to_string().into_bytes()),
    ] {
        std::fs::write(root.join(name), bytes).unwrap();
    }
    Base::load(root).unwrap()
}

fn empty() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn every_family_exports_in_every_format_and_says_the_same() {
    for family in Family::ALL {
        let source = empty();
        let base = folder(source.path(), family);
        let adapter = adapter_of(base.config(), 5, 0.5);
        for (format, adapter) in [
            (Format::Peft, Some(&adapter)),
            (Format::Merged, Some(&adapter)),
            (Format::Merged, None),
            (Format::Gguf, Some(&adapter)),
            (Format::Gguf, None),
        ] {
            let into = empty();
            let exported = export(&base, source.path(), adapter, format, into.path());
            let exported = exported.unwrap_or_else(|error| panic!("{family:?} {format:?}: {error}"));
            assert_eq!(exported.positions, 48);
            assert!(exported.largest > 0.01, "{family:?} {format:?} says nothing: {exported:?}");
            let names: Vec<&str> = exported.files.iter().map(|(name, _)| name.as_str()).collect();
            match format {
                Format::Peft => assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors"]),
                Format::Merged => assert!(names.contains(&"tokenizer_config.json"), "{names:?}"),
                Format::Gguf => assert_eq!(names, ["model.gguf"]),
            }
            if adapter.is_none() && format == Format::Merged {
                assert!(exported.worst == 0.0, "nothing was merged: {exported:?}");
            }
        }
    }
}

#[test]
fn a_gguf_export_is_a_base_that_exports_again() {
    let (source, first, second, third) = (empty(), empty(), empty(), empty());
    let base = folder(source.path(), Family::Llama);
    export(&base, source.path(), None, Format::Gguf, first.path()).unwrap();
    let file = first.path().join("model.gguf");
    let again = Base::load(&file).unwrap();
    assert_eq!(again.chat().unwrap().sources().0, TEMPLATE);
    export(&again, &file, None, Format::Gguf, second.path()).unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(second.path().join("model.gguf")).unwrap());
    export(&again, &file, None, Format::Merged, third.path()).unwrap();
    assert_eq!(Base::load(third.path()).unwrap().facts().parameters, base.facts().parameters);
}

#[test]
fn what_cannot_be_written_is_said_before_it_is_done() {
    let (source, into) = (empty(), empty());
    let base = folder(source.path(), Family::Qwen2);
    assert!(matches!(export(&base, source.path(), None, Format::Peft, into.path()), Err(ExportError::NoAdapter)));
    let other = Config { hidden: 32, head_dim: 8, ..base.config().clone() };
    let foreign = adapter_of(&other, 5, 0.5);
    for format in Format::ALL {
        assert!(export(&base, source.path(), Some(&foreign), format, into.path()).is_err(), "{format:?}");
    }
    // A tokenizer that splits texts in a way GGUF has no name for.
    let tokenizer = std::fs::read_to_string(source.path().join("tokenizer.json")).unwrap();
    let changed = tokenizer.replace("\"add_prefix_space\":false", "\"add_prefix_space\":true");
    assert_ne!(changed, tokenizer);
    std::fs::write(source.path().join("tokenizer.json"), changed).unwrap();
    let base = Base::load(source.path()).unwrap();
    let refused = export(&base, source.path(), None, Format::Gguf, into.path());
    assert!(matches!(refused, Err(ExportError::Gguf(_))), "{refused:?}");
}

#[test]
fn facts_tell_what_a_base_is() {
    let source = empty();
    let facts = folder(source.path(), Family::Qwen2).facts();
    assert_eq!((facts.family, facts.stored.as_str(), facts.quantised, facts.chat), ("qwen2", "F32", false, true));
    // 320·64 tied; each block 64·(64+32+32+64)+64·96·3 products, 128 biases, 128 norms; 64 at the end.
    assert_eq!(facts.parameters, 320 * 64 + 2 * (64 * 192 + 64 * 96 * 3 + 128 + 128) + 64);
}
