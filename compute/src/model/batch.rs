//! What goes into a forward pass and what comes out.
//!
//! Invariant: a [`Packed`] has at least one token and no empty sequence.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;

use super::{MAX_BATCH_TOKENS, ModelError};
use crate::kv::Cache;
use crate::lora::FrozenAdapter;

/// Sequences laid end to end, without padding; each attends to itself only, from position 0.
#[derive(Debug, Clone)]
pub struct Packed {
    pub(super) tokens: Vec<u32>,
    pub(super) sequences: Arc<[Range<usize>]>,
    pub(super) positions: Arc<[u32]>,
}

impl Packed {
    /// Packs sequences.
    ///
    /// # Errors
    /// When there is none, one is empty, or there are more than [`MAX_BATCH_TOKENS`] tokens.
    pub fn new<T: AsRef<[u32]>>(sequences: &[T]) -> Result<Self, ModelError> {
        let (mut tokens, mut ranges, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        for sequence in sequences {
            let sequence = sequence.as_ref();
            let start = tokens.len();
            if sequence.is_empty() || start + sequence.len() > MAX_BATCH_TOKENS {
                return Err(ModelError::Input(format!("a sequence of {} tokens after {start}", sequence.len())));
            }
            tokens.extend_from_slice(sequence);
            ranges.push(start..tokens.len());
            positions.extend((0_u32..).take(sequence.len()));
        }
        match tokens.is_empty() {
            true => Err(ModelError::Input("no sequence".into())),
            false => Ok(Self { tokens, sequences: ranges.into(), positions: positions.into() }),
        }
    }

    /// Rows of each sequence.
    #[must_use]
    pub fn sequences(&self) -> &[Range<usize>] {
        &self.sequences
    }

    /// Number of rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.tokens.len()
    }
}

/// One sequence's part of a serving step.
pub struct Feed<'a> {
    /// New tokens: a prompt (or a piece of one), or the last token picked.
    pub tokens: &'a [u32],
    /// The adapter that answers, or the base.
    pub adapter: Option<&'a FrozenAdapter>,
    /// What the sequence remembers; grows by the new tokens.
    pub cache: &'a mut Cache,
}

/// Which rows of a step need logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    /// None.
    None,
    /// The last new token of each sequence: one row per sequence.
    Last,
    /// Every new token.
    All,
}

/// The result of a serving step.
pub struct Stepped {
    /// Final hidden states after the last norm, (new tokens of all sequences, hidden).
    pub hidden: Tensor,
    /// (rows asked for, vocabulary); `None` for [`LogitRows::None`].
    pub logits: Option<Tensor>,
}
