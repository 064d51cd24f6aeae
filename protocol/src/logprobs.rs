//! How likely the model found each token of an answer, and what it found likely beside it.
//!
//! An asker that wants them says so in its question; worker and verifier compute the same numbers from the same logits,
//! and the receipt names their [`commitment`], so they are checked like the text.
//!
//! Invariant: logarithms are whole millionths of a nat, without their sign, and everything is bounded by
//! [`Decoding::fault`](crate::decoding::Decoding::fault), [`TOP_LOGPROBS_MAX`] and [`TOKEN_MAX_BYTES`].

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::id::Hash;
use crate::limits::{TOKEN_MAX_BYTES, TOP_LOGPROBS_MAX};
use crate::wire;

/// What one token stands for.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spelling {
    /// These bytes of text, which need not be whole characters; a longer token's first [`TOKEN_MAX_BYTES`].
    Bytes(Vec<u8>),
    /// No text: a special token of this name.
    Special(String),
}

impl Spelling {
    /// Bytes that it takes.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Special(name) => name.len(),
        }
    }

    /// Whether it takes none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A token and its probability under the model, before penalties, temperature and cuts.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// Its number in the vocabulary.
    pub token: u32,
    /// What it stands for.
    pub spelling: Spelling,
    /// −ln p in millionths.
    pub minus_micro_nats: u64,
}

/// One token of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct TokenReport {
    /// The token that was picked.
    pub chosen: TokenLogprob,
    /// The likeliest ones, as many as were asked for, largest first.
    pub top: Vec<TokenLogprob>,
}

impl TokenReport {
    /// Whether its sizes are within bounds.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        self.top.len() <= usize::from(TOP_LOGPROBS_MAX)
            && self.top.iter().chain([&self.chosen]).all(|token| token.spelling.len() <= TOKEN_MAX_BYTES)
    }
}

/// What a receipt names an answer's reports by.
#[must_use]
pub fn commitment(reports: &[TokenReport]) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key("tributary 2026 logprobs");
    for report in reports {
        // Each encoding says its own length, so their sequence has one reading.
        hasher.update(&wire::encode(report));
    }
    Hash(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(micro_nats: u64) -> TokenReport {
        let chosen = TokenLogprob { token: 7, spelling: Spelling::Bytes(b" a".to_vec()), minus_micro_nats: micro_nats };
        TokenReport { top: vec![chosen.clone()], chosen }
    }

    #[test]
    fn a_commitment_is_to_every_number_and_their_order() {
        let (one, two) = (report(1), report(2));
        let both = commitment(&[one.clone(), two.clone()]);
        assert_ne!(both, commitment(&[two, one.clone()]));
        assert_ne!(both, commitment(std::slice::from_ref(&one)));
        assert_ne!(commitment(&[one]), commitment(&[report(3)]));
    }

    #[test]
    fn long_lists_and_long_tokens_are_out_of_bounds() {
        let mut long = report(1);
        assert!(long.is_well_formed());
        long.chosen.spelling = Spelling::Special("x".repeat(TOKEN_MAX_BYTES + 1));
        assert!(!long.is_well_formed());
        let top = vec![report(1).chosen; usize::from(TOP_LOGPROBS_MAX) + 1];
        assert!(!TokenReport { top, ..report(1) }.is_well_formed());
    }
}
