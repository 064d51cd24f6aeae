//! The bytes that each token stands for.
//!
//! Invariant: what is said of a token depends on `tokenizer.json` alone, so every machine says the same.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use llguidance::token_bytes_from_tokenizer_json;
use llguidance::toktrie::TokTrie;

/// All tokens' bytes, made when they are first needed; those of special tokens begin with llguidance's marker.
#[derive(Clone, Default)]
pub(super) struct Words(Arc<OnceLock<Result<Vec<Vec<u8>>, String>>>);

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Words").field("made", &self.0.get().is_some()).finish()
    }
}

impl Words {
    /// The bytes of every token of that `tokenizer.json`, or why they can't be told.
    pub(super) fn get(&self, json: impl FnOnce() -> Result<serde_json::Value, String>) -> Result<&[Vec<u8>], &str> {
        let made = self.0.get_or_init(|| {
            let json = json()?;
            // The tokenizer's file is a stranger's, and llguidance asserts what it expects of one.
            let made = catch_unwind(AssertUnwindSafe(|| token_bytes_from_tokenizer_json(&json)));
            made.map_err(|_| "not with this tokenizer".to_owned())?.map_err(|error| error.to_string())
        });
        made.as_deref().map_err(String::as_str)
    }
}

/// The bytes of a token that is no special one.
pub(super) fn bytes_of(word: &[u8]) -> Option<&[u8]> {
    (word.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER)).then_some(word)
}
