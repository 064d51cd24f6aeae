//! The seven products of a block.
//!
//! Invariant: names and paths are Hugging Face's and PEFT's; the order is part of every adapter's canonical layout.

use serde::{Deserialize, Serialize};

/// One of the seven products of a block, all of which can carry LoRA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Module {
    /// Queries.
    #[serde(rename = "q_proj")]
    Query,
    /// Keys.
    #[serde(rename = "k_proj")]
    Key,
    /// Values.
    #[serde(rename = "v_proj")]
    Value,
    /// Output of attention.
    #[serde(rename = "o_proj")]
    Output,
    /// Gate of the MLP.
    #[serde(rename = "gate_proj")]
    Gate,
    /// Up product of the MLP.
    #[serde(rename = "up_proj")]
    Up,
    /// Down product of the MLP.
    #[serde(rename = "down_proj")]
    Down,
}

impl Module {
    /// All seven, in canonical order.
    pub const ALL: [Self; 7] = [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// Hugging Face's name of the module, as in `target_modules`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Query => "q_proj",
            Self::Key => "k_proj",
            Self::Value => "v_proj",
            Self::Output => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// The module's path inside a layer: `self_attn.q_proj`.
    #[must_use]
    pub fn path(self) -> String {
        let parent = match self {
            Self::Query | Self::Key | Self::Value | Self::Output => "self_attn",
            Self::Gate | Self::Up | Self::Down => "mlp",
        };
        format!("{parent}.{}", self.name())
    }

    /// The module of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|module| module.name() == name)
    }

    /// Position in [`Module::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}
