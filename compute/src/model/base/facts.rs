//! What people and peers want to know of a base.

use super::Base;
use crate::model::{Config, Module};

/// A base in a few words and numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseFacts {
    /// `llama`, `mistral`, `qwen2` or `qwen3`.
    pub family: &'static str,
    /// Numbers in its tensors.
    pub parameters: u64,
    /// How most of them are stored: `BF16`, `Q4_K` and so on.
    pub stored: String,
    /// Whether products are computed by quantised kernels, which have a determinism class of their own.
    pub quantised: bool,
    /// Positions of its context.
    pub context: usize,
    /// Rows of its vocabulary.
    pub vocab: usize,
    /// Whether it can hold conversations.
    pub chat: bool,
}

impl Base {
    /// What there is to say of this base.
    #[must_use]
    pub fn facts(&self) -> BaseFacts {
        let config = self.config();
        BaseFacts {
            family: config.family.name(),
            parameters: parameters(config),
            stored: self.0.stored.clone(),
            quantised: self.0.model.is_quantised(),
            context: config.max_positions,
            vocab: config.vocab,
            chat: self.chat().is_ok(),
        }
    }
}

fn parameters(config: &Config) -> u64 {
    let table = config.vocab * config.hidden;
    let products: usize = Module::ALL
        .into_iter()
        .map(|module| {
            let (inner, outer) = config.module_shape(module);
            let biased = config.family.has_biases() && matches!(module, Module::Query | Module::Key | Module::Value);
            inner * outer + if biased { outer } else { 0 }
        })
        .sum();
    let norms = 2 * config.hidden + if config.family.has_head_norms() { 2 * config.head_dim } else { 0 };
    let tables = if config.tied { table } else { 2 * table };
    (tables + config.layers * (products + norms) + config.hidden) as u64
}
