//! Text to tokens and back: byte-level BPE from Hugging Face's `tokenizer.json`.
//!
//! Invariant: every id that comes out is below the model's vocabulary. Special tokens are added here and nowhere else:
//! a prompt is the begin token (if the model has one) and its text, a completion its text and the end token; the two
//! are encoded apart, so that training and answering see the same tokens.

mod rules;
mod words;

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};
use tributary_protocol::limits::TOKEN_MAX_BYTES;
use tributary_protocol::logprobs::Spelling;

pub(crate) use self::rules::{LLAMA_3, QWEN_2, TEKKEN};
use self::words::Words;
use crate::model::{MAX_VOCAB, ModelError};
use crate::sample::Grammars;

/// The longest `tokenizer.json` read; Llama-3's has 9 MB.
pub const MAX_TOKENIZER_BYTES: usize = 64 << 20;
/// The longest text encoded at once.
pub const MAX_TEXT_BYTES: usize = 16 << 20;
/// Added tokens a file may hold; Llama-3 has 256.
const MAX_ADDED_TOKENS: usize = 4096;
/// The token that begins and ends a text of a tokenizer made by [`train_byte_level`].
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Times a pair must occur before it is merged.
const LEAST_PAIRS: u64 = 2;

/// A byte-level BPE tokenizer with the model's special tokens.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    eos: Vec<u32>,
    grammars: Grammars,
    words: Words,
}

fn refused(what: impl std::fmt::Display) -> ModelError {
    ModelError::Tokenizer(what.to_string())
}

impl Tokenizer {
    /// Reads `tokenizer.json`, which may come from anybody.
    ///
    /// # Errors
    /// When it is malformed, not BPE, asks for steps that no family has, or has ids that the model does not.
    pub fn from_bytes(json: &[u8], vocab: usize, bos: Option<u32>, eos: &[u32]) -> Result<Self, ModelError> {
        if json.len() > MAX_TOKENIZER_BYTES {
            return Err(refused(format!("{} bytes, at most {MAX_TOKENIZER_BYTES}", json.len())));
        }
        let value: serde_json::Value = serde_json::from_slice(json).map_err(refused)?;
        if value.pointer("/model/type").and_then(|kind| kind.as_str()) != Some("BPE") {
            return Err(refused("the model is not BPE"));
        }
        if value.pointer("/model/dropout").is_some_and(|dropout| !dropout.is_null()) {
            return Err(refused("BPE dropout would encode a text differently each time"));
        }
        let added = value.get("added_tokens").and_then(|tokens| tokens.as_array()).map_or(0, Vec::len);
        if added > MAX_ADDED_TOKENS {
            return Err(refused(format!("{added} added tokens, at most {MAX_ADDED_TOKENS}")));
        }
        rules::check(&value).map_err(refused)?;
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(refused)?;
        // Truncation or padding would silently change texts.
        inner.with_truncation(None).map_err(refused)?.with_padding(None);
        let highest = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        if highest == 0 || highest > vocab {
            return Err(refused(format!("{highest} ids for a model with a vocabulary of {vocab}")));
        }
        Ok(Self { inner, bos, eos: eos.to_vec(), grammars: Grammars::default(), words: Words::default() })
    }

    /// The same with the token that begins prompts and those that end answers, the first of which ends completions.
    #[must_use]
    pub fn with_ends(self, bos: Option<u32>, eos: Vec<u32>) -> Self {
        Self { bos, eos, ..self }
    }

    /// The tokens of a text, without special tokens around it. Special tokens that the text itself spells out, as a
    /// rendered chat template does, become those tokens.
    ///
    /// # Errors
    /// When the text is too long or the tokenizer can't encode it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(refused(format!("a text of {} bytes, at most {MAX_TEXT_BYTES}", text.len())));
        }
        let encoding = self.inner.encode_fast(text, false).map_err(refused)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The tokens of a prompt: the begin token, if the model has one, and the text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        Ok(self.bos.into_iter().chain(self.encode(text)?).collect())
    }

    /// The tokens of a completion: the text and the end token, if the model has one.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_completion(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let mut tokens = self.encode(text)?;
        tokens.extend(self.eos.first());
        Ok(tokens)
    }

    /// The text of tokens; special tokens have none.
    ///
    /// # Errors
    /// When the tokenizer can't decode them.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, ModelError> {
        self.inner.decode(tokens, true).map_err(refused)
    }

    /// Whether the token ends an answer.
    #[must_use]
    pub fn is_end(&self, token: u32) -> bool {
        self.eos.contains(&token)
    }

    /// The tokens that end an answer.
    #[must_use]
    pub fn ends(&self) -> &[u32] {
        &self.eos
    }

    /// The `tokenizer.json` of this tokenizer.
    pub(crate) fn to_json(&self) -> Result<serde_json::Value, ModelError> {
        serde_json::to_value(&self.inner).map_err(refused)
    }

    /// The bytes of every token, those of special ones behind llguidance's marker.
    ///
    /// # Errors
    /// When they can't be told of this tokenizer.
    pub(crate) fn words(&self) -> Result<&[Vec<u8>], ModelError> {
        let json = || self.to_json().map_err(|error| error.to_string());
        self.words.get(json).map_err(refused)
    }

    /// What a token stands for, cut to [`TOKEN_MAX_BYTES`].
    #[must_use]
    pub fn spelling(&self, token: u32) -> Spelling {
        let word = self.words().ok().and_then(|words| words.get(usize::try_from(token).ok()?));
        match word.map(|word| words::bytes_of(word)) {
            Some(Some(bytes)) if !self.is_end(token) => {
                Spelling::Bytes(bytes[..bytes.len().min(TOKEN_MAX_BYTES)].to_vec())
            }
            Some(_) => {
                let mut name = self.text(token).unwrap_or_default();
                name.truncate(name.floor_char_boundary(TOKEN_MAX_BYTES));
                Spelling::Special(name)
            }
            None => Spelling::Bytes(Vec::new()),
        }
    }

    /// What compiles grammars over these tokens.
    pub(crate) const fn grammars(&self) -> &Grammars {
        &self.grammars
    }

    /// The token that begins a text, if the model has one.
    #[must_use]
    pub const fn begin(&self) -> Option<u32> {
        self.bos
    }

    /// The text of a token in the vocabulary.
    #[must_use]
    pub fn text(&self, token: u32) -> Option<String> {
        self.inner.id_to_token(token)
    }

    /// The id of a token by its text in the vocabulary.
    #[must_use]
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Number of ids.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether there is no token at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Learns a byte-level BPE of at most `vocab` tokens from texts and gives its `tokenizer.json`. Id 0 is
/// [`END_OF_TEXT`], which begins and ends texts. Equal texts in equal order give equal bytes.
///
/// # Errors
/// When `vocab` can't hold the 256 bytes or is too large.
pub fn train_byte_level(texts: &[String], vocab: usize) -> Result<Vec<u8>, ModelError> {
    if !(257..=MAX_VOCAB).contains(&vocab) {
        return Err(refused(format!("a vocabulary of {vocab}, allowed 257 to {MAX_VOCAB}")));
    }
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
        .with_post_processor(Some(ByteLevel::new(false, true, true)))
        .with_decoder(Some(ByteLevel::new(false, true, true)))
        .build()
        .map_err(refused)?;
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocab)
        .min_frequency(LEAST_PAIRS)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .build();
    tokenizer.train(&mut trainer, texts.iter()).map_err(refused)?;
    Ok(tokenizer.to_string(false).map_err(refused)?.into_bytes())
}
