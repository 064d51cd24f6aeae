//! Loads every folder that `parity/folders.py` saved with `save_pretrained` and compares logits, tokens and a rendered
//! conversation with what Python said. Called by `cargo xtask parity`.
//!
//!     cargo run -p tributary-compute --example parity_check -- FOLDER

use std::error::Error;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tributary_compute::chat::Conversation;
use tributary_compute::linear::Hook;
use tributary_compute::model::{Base, Mode, Packed};

/// Largest difference of a logit.
const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Told {
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    logits: Vec<f32>,
    conversation: String,
    rendered: String,
    ends: Vec<u32>,
}

fn check(folder: &Path) -> Result<f32, Box<dyn Error>> {
    let told: Told = serde_json::from_slice(&std::fs::read(folder.join("told.json"))?)?;
    let base = Base::load(folder)?;
    for (text, ids) in told.texts.iter().zip(&told.ids) {
        if base.tokenizer().encode_prompt(text)? != *ids {
            return Err(format!("{text:?} has other tokens than in Python").into());
        }
    }
    if let Some(end) = told.ends.iter().find(|end| !base.tokenizer().is_end(**end)) {
        return Err(format!("token {end} does not end an answer").into());
    }
    let rendered = base.chat()?.render(&Conversation::from_json(told.conversation.as_bytes())?, true, 0)?;
    if rendered != told.rendered {
        return Err(format!("the conversation is {rendered:?}, in Python {:?}", told.rendered).into());
    }
    let tokens = told.ids.first().ok_or("no text")?;
    let hidden = base.model().hidden(Mode::Infer, &Packed::new(&[tokens])?, Hook::Base)?;
    let logits: Vec<f32> = base.model().logits(&hidden)?.flatten_all()?.to_vec1()?;
    let worst = logits.iter().zip(&told.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    match logits.len() == told.logits.len() && worst <= TOLERANCE {
        true => Ok(worst),
        false => Err(format!("logits differ by {worst}").into()),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::args().nth(1).ok_or("which folder?")?);
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(root)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    folders.sort();
    for folder in folders {
        let worst = check(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        println!("{}: logits within {worst:.1e}", folder.display());
    }
    Ok(())
}
