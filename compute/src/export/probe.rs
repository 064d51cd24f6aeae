//! What a written model is compared by: logits of fixed tokens and tokens of fixed texts.
//!
//! Invariant: the same base gives the same probe, and every token of it is in the vocabulary.

use super::ExportError;
use crate::linear::Hook;
use crate::model::{Base, Mode, Model, Packed};

/// Positions compared at most.
const POSITIONS: usize = 48;
/// Strides through the vocabulary, so that tokens of all parts of it occur.
const STRIDE: usize = 7_919;
/// Texts with what tokenizers split differently: cases, digits, spaces, scripts, marks.
const TEXTS: [&str; 6] = [
    "The quick brown fox, said Ann, hasn't jumped OVER 1234567 lazy dogs.",
    "  two spaces\tand a tab\n\nand  lines \r\n",
    "naïve café, Ångström, straße — „quoted“ …",
    "числа 42 и слова; 日本語のテキスト; 한국어; العربية",
    "fn main() { println!(\"{:>8.3}\", x[0] + y_1); } // 0xFF",
    "🙂👩‍👩‍👧 e\u{301} \u{a0}x",
];

/// The tokens whose logits are compared.
pub(super) struct Probe(Vec<u32>);

impl Probe {
    pub(super) fn of(base: &Base) -> Self {
        let config = base.config();
        let count = POSITIONS.min(config.max_positions);
        let token = |at: usize| u32::try_from((at * STRIDE + at * at + 1) % config.vocab).unwrap_or(0);
        Self((0..count).map(token).collect())
    }

    pub(super) fn positions(&self) -> usize {
        self.0.len()
    }

    pub(super) fn logits(&self, model: &Model, hook: Hook<'_>) -> Result<Vec<f32>, ExportError> {
        let hidden = model.hidden(Mode::Infer, &Packed::new(&[&self.0])?, hook)?;
        Ok(model.logits(&hidden)?.flatten_all()?.to_vec1()?)
    }

    /// Whether both make the same tokens of texts, and begin, end and speak alike.
    pub(super) fn compare_texts(&self, base: &Base, written: &Base) -> Result<(), ExportError> {
        let (own, other) = (base.tokenizer(), written.tokenizer());
        for text in TEXTS {
            if own.encode_prompt(text)? != other.encode_prompt(text)? {
                return Err(ExportError::Tokens("a text has other tokens"));
            }
        }
        let sorted = |ends: &[u32]| {
            let mut ends = ends.to_vec();
            ends.sort_unstable();
            ends
        };
        if sorted(own.ends()) != sorted(other.ends()) {
            return Err(ExportError::Tokens("answers end with other tokens"));
        }
        if base.chat().ok().map(crate::chat::ChatTemplate::sources)
            != written.chat().ok().map(crate::chat::ChatTemplate::sources)
        {
            return Err(ExportError::Tokens("the chat template is another"));
        }
        Ok(())
    }
}

/// The largest difference between two lists, and the largest of all numbers. Lists of different lengths differ by
/// everything.
pub(super) fn difference(expected: &[f32], written: &[f32]) -> (f32, f32) {
    if expected.len() != written.len() {
        return (f32::INFINITY, 0.0);
    }
    let pairs = || expected.iter().zip(written);
    // `max` would pass over what is no number.
    if pairs().any(|(a, b)| !a.is_finite() || !b.is_finite()) {
        return (f32::INFINITY, 0.0);
    }
    let worst = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    (worst, expected.iter().map(|value| value.abs()).fold(0.0, f32::max))
}
