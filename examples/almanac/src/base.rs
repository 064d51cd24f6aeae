//! The demonstration's base model and training recipe, inside the binary: a fresh machine needs no download.
//!
//! Invariant: the three files are those that `pretrain_base` writes; examples/README.md names its command and figures.

/// A base in Hugging Face's layout.
#[derive(Clone, Copy, Debug)]
pub struct BaseFiles {
    /// `config.json`.
    pub config: &'static [u8],
    /// `tokenizer.json`.
    pub tokenizer: &'static [u8],
    /// `model.safetensors`.
    pub safetensors: &'static [u8],
}

/// The demonstration's base.
pub const fn base() -> BaseFiles {
    BaseFiles {
        config: include_bytes!("../../base/config.json"),
        tokenizer: include_bytes!("../../base/tokenizer.json"),
        safetensors: include_bytes!("../../base/model.safetensors"),
    }
}

/// The recipe of the demonstration's adapters, as the JSON that the trainer's recipe type reads.
pub const fn recipe() -> &'static str {
    include_str!("../recipe.json")
}
