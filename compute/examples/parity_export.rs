//! Writes what the parity script loads into Python: a small base, an adapter of ours with the logits that it gives, and
//! fifty training steps' data. Called by `cargo xtask parity`.
//!
//!     cargo run -p tributary-compute --example parity_export -- FOLDER

#[expect(clippy::unwrap_used, reason = "the fixtures are shared with the tests")]
#[path = "../tests/it/parity.rs"]
mod parity;

use std::error::Error;
use std::path::{Path, PathBuf};

use tributary_compute::linear::Hook;
use tributary_compute::lora::{Adapter, AdapterFiles};
use tributary_compute::model::{Mode, Packed};

fn write_adapter(folder: &Path, files: &AdapterFiles) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("adapter_config.json"), &files.config_json)?;
    std::fs::write(folder.join("adapter_model.safetensors"), &files.safetensors)
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("which folder?")?);
    let [config, tokenizer, weights] = parity::base_files();
    std::fs::create_dir_all(folder.join("base"))?;
    std::fs::write(folder.join("base/config.json"), &config)?;
    std::fs::write(folder.join("base/tokenizer.json"), &tokenizer)?;
    std::fs::write(folder.join("base/model.safetensors"), &weights)?;

    let base = parity::base();
    let adapter = parity::adapter(&base);
    write_adapter(&folder.join("adapter"), &adapter.to_files()?)?;
    let hidden = base.model().hidden(Mode::Infer, &Packed::new(&[parity::tokens()])?, Hook::One(&adapter, None))?;
    let logits: Vec<f32> = base.model().logits(&hidden)?.flatten_all()?.to_vec1()?;
    let told = serde_json::json!({
        "tokens": parity::tokens(),
        "logits": logits,
        "adapter": adapter.hash()?.to_string(),
    });
    std::fs::write(folder.join("told.json"), told.to_string())?;

    let recipe = parity::recipe();
    let initial = Adapter::fresh(base.config(), &recipe.lora(), recipe.seed)?;
    write_adapter(&folder.join("initial"), &initial.to_files()?)?;
    let mut examples = Vec::new();
    for example in parity::examples() {
        let completion = base.tokenizer().encode_completion(&example.completion)?;
        let tokens = [base.tokenizer().encode_prompt(&example.prompt)?, completion.clone()].concat();
        examples.push(serde_json::json!({"tokens": tokens, "completion": completion.len()}));
    }
    let training = serde_json::json!({"recipe": recipe, "examples": examples, "initial": initial.hash()?.to_string()});
    std::fs::write(folder.join("training.json"), training.to_string())?;
    Ok(())
}
