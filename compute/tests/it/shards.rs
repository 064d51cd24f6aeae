//! Bases in several files.

use std::path::Path;

use safetensors::SafeTensors;
use tributary_compute::linear::Hook;
use tributary_compute::model::{Base, Mode};

use crate::golden::logits;
use crate::parity;

/// Writes the parity base in two shards and gives its index.
fn write_shards(dir: &Path) -> serde_json::Value {
    let [config, tokenizer, weights] = parity::base_files();
    std::fs::write(dir.join("config.json"), config).unwrap();
    std::fs::write(dir.join("tokenizer.json"), tokenizer).unwrap();
    let whole = SafeTensors::deserialize(&weights).unwrap();
    let mut map = serde_json::Map::new();
    for shard in 1..=2 {
        let name = format!("model-0000{shard}-of-00002.safetensors");
        let views: Vec<_> = whole.iter().filter(|(name, _)| name.contains("layers.0") == (shard == 1)).collect();
        map.extend(views.iter().map(|(tensor, _)| ((*tensor).to_owned(), name.clone().into())));
        std::fs::write(dir.join(name), safetensors::serialize(views, None).unwrap()).unwrap();
    }
    serde_json::json!({"metadata": {"total_size": weights.len()}, "weight_map": map})
}

fn write_index(dir: &Path, index: &serde_json::Value) {
    std::fs::write(dir.join("model.safetensors.index.json"), serde_json::to_vec(index).unwrap()).unwrap();
}

#[test]
fn shards_give_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    write_index(dir.path(), &write_shards(dir.path()));
    let (single, sharded) = (parity::base(), Base::load(dir.path()).unwrap());
    let of = |base: &Base| logits(base.model(), Mode::Infer, &parity::tokens(), Hook::Base);
    assert!(of(&single) == of(&sharded));
    assert_ne!(single.hash(), sharded.hash(), "the hash names files");
    assert_eq!(sharded.hash(), Base::load(dir.path()).unwrap().hash());
}

#[test]
fn hostile_indices_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = write_shards(dir.path());
    let refused = |what: &str, index: &serde_json::Value| {
        write_index(dir.path(), index);
        assert!(Base::load(dir.path()).is_err(), "{what} was accepted");
    };
    let with = |tensor: &str, file: &str| {
        let mut index = good.clone();
        index["weight_map"][tensor] = file.into();
        index
    };
    refused("a path out of the folder", &with("x", "../model.safetensors"));
    refused("an absolute path", &with("x", "/etc/x.safetensors"));
    refused("another kind of file", &with("x", "config.json"));
    refused("a missing shard", &with("x", "model-00003-of-00002.safetensors"));
    refused("no shard", &serde_json::json!({"weight_map": {}}));
    refused("no map", &serde_json::json!({}));
    let many: serde_json::Map<_, _> =
        (0..600).map(|at| (format!("t{at}"), format!("s{at}.safetensors").into())).collect();
    refused("too many shards", &serde_json::json!({"weight_map": many}));
    let one = "model-00001-of-00002.safetensors";
    refused("half of the tensors", &serde_json::json!({"weight_map": {"x": one}}));
    std::fs::copy(dir.path().join(one), dir.path().join("copy.safetensors")).unwrap();
    refused("a tensor stored twice", &with("x", "copy.safetensors"));
    write_index(dir.path(), &good);
    assert!(Base::load(dir.path()).is_ok());
    std::fs::write(dir.path().join(one), [u8::MAX; 64]).unwrap();
    refused("an absurd header", &good);
}
