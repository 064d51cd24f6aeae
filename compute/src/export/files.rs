//! The files of an export.
//!
//! Invariant: every file is on the disk when its writer returns.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use serde_json::{Value, json};

use super::ExportError;
use crate::gguf;
use crate::lora::Adapter;
use crate::model::{Base, WeightType};

/// What goes along with a merged model unchanged, where the base has it.
const EXTRAS: [&str; 5] = [
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
];

fn failed(path: &Path) -> impl Fn(std::io::Error) -> ExportError + '_ {
    move |source| ExportError::File { path: path.to_owned(), source }
}

pub(super) fn put(folder: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, ExportError> {
    let path = folder.join(name);
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(failed(&path))?;
    Ok(path)
}

pub(super) fn get(path: &Path) -> Result<Vec<u8>, ExportError> {
    std::fs::read(path).map_err(failed(path))
}

pub(super) fn list(folder: &Path) -> Result<Vec<(String, u64)>, ExportError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed(folder))? {
        let entry = entry.map_err(failed(folder))?;
        let bytes = entry.metadata().map_err(failed(folder))?.len();
        files.push((entry.file_name().to_string_lossy().into_owned(), bytes));
    }
    files.sort();
    Ok(files)
}

pub(super) fn write_merged(
    base: &Base,
    source: &Path,
    adapter: Option<&Adapter>,
    into: &Path,
) -> Result<(), ExportError> {
    let weights = base.model().merged(adapter)?;
    put(into, "config.json", &base.config().to_json())?;
    if source.is_dir() {
        put(into, "tokenizer.json", &get(&source.join("tokenizer.json"))?)?;
        for name in EXTRAS.into_iter().filter(|name| source.join(name).is_file()) {
            put(into, name, &get(&source.join(name))?)?;
        }
    } else {
        for (name, value) in rules_of(base)? {
            put(into, name, format!("{value:#}\n").as_bytes())?;
        }
    }
    put(into, "model.safetensors", &weights.to_safetensors(base.config(), WeightType::F32)?)?;
    Ok(())
}

/// What a GGUF file says about texts, as files of Hugging Face's layout.
fn rules_of(base: &Base) -> Result<[(&'static str, Value); 3], ExportError> {
    let tokenizer = base.tokenizer();
    let mut told = json!({"add_bos_token": tokenizer.begin().is_some()});
    let text = |id: Option<u32>| id.and_then(|id| tokenizer.text(id));
    let specials = base.chat().ok().map(crate::chat::ChatTemplate::specials);
    let known = |own: fn(&crate::chat::SpecialTexts) -> Option<String>| specials.and_then(own);
    for (key, value) in [
        ("bos_token", text(tokenizer.begin()).or_else(|| known(|specials| specials.bos.clone()))),
        ("eos_token", text(tokenizer.ends().first().copied()).or_else(|| known(|specials| specials.eos.clone()))),
    ] {
        if let Some(value) = value {
            told[key] = value.into();
        }
    }
    if let Ok(chat) = base.chat() {
        let named = |name: &str, template: String| json!({"name": name, "template": template});
        told["chat_template"] = match chat.sources() {
            (usual, None) => usual.into(),
            (usual, Some(tools)) => json!([named("default", usual), named("tool_use", tools)]),
        };
    }
    told.sort_all_objects();
    let ends = json!({"eos_token_id": tokenizer.ends()});
    Ok([("tokenizer.json", tokenizer.to_json()?), ("tokenizer_config.json", told), ("generation_config.json", ends)])
}

pub(super) fn write_gguf(base: &Base, adapter: Option<&Adapter>, into: &Path) -> Result<PathBuf, ExportError> {
    let weights = base.model().merged(adapter)?;
    let path = into.join("model.gguf");
    let mut out = BufWriter::new(File::create(&path).map_err(failed(&path))?);
    let (config, half) = (base.config(), GgmlDType::F16);
    gguf::write_model(&mut out, config, &weights, base.tokenizer(), base.chat().ok(), half)?;
    let file = out.into_inner().map_err(|error| failed(&path)(error.into_error()))?;
    file.sync_all().map_err(failed(&path))?;
    Ok(path)
}
