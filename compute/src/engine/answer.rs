//! One answer in the making.
//!
//! Invariant: `states[i]` is the last hidden state that `output[i]` was picked from, and once `finish` is set nothing
//! changes any more.

use std::ops::ControlFlow;

use super::text::{Decode, TextStream};
use super::{EngineError, Finish, GenerateParams, Generation, MAX_PROMPT_BYTES, Request};
use crate::kv::Cache;
use crate::lora::Adapter;
use crate::model::{Base, Feed};
use crate::proof::fingerprints_of;
use crate::sample::pick;

/// What a step gave for the last token fed.
pub(super) struct Heard<'a> {
    pub(super) state: Vec<f32>,
    pub(super) logits: &'a [f32],
}

pub(super) struct Answer<'a> {
    base: &'a Base,
    adapter: Option<&'a Adapter>,
    params: &'a GenerateParams,
    prompt: Vec<u32>,
    output: Vec<u32>,
    states: Vec<Vec<f32>>,
    cache: Cache,
    text: TextStream<'a>,
    finish: Option<Finish>,
}

impl<'a> Answer<'a> {
    pub(super) fn open(base: &'a Base, request: &Request<'a>, decode: Decode<'a>) -> Result<Self, EngineError> {
        let config = base.config();
        request.params.check()?;
        if request.prompt.len() > MAX_PROMPT_BYTES {
            return Err(EngineError::PromptTooLong { tokens: request.prompt.len(), context: config.max_positions });
        }
        if request.adapter.is_some_and(|adapter| !adapter.fits(config)) {
            return Err(EngineError::Adapter);
        }
        let prompt = base.tokenizer().encode_prompt(request.prompt)?;
        if prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if prompt.len() >= config.max_positions {
            return Err(EngineError::PromptTooLong { tokens: prompt.len(), context: config.max_positions });
        }
        Ok(Self {
            base,
            adapter: request.adapter,
            params: request.params,
            prompt,
            output: Vec::new(),
            states: Vec::new(),
            cache: Cache::new(config.layers, config.kv_width()),
            text: TextStream::new(decode, &request.params.stop),
            finish: None,
        })
    }

    /// The next tokens to feed, at most `most`; `None` once the answer ended.
    pub(super) fn feed(&mut self, most: usize) -> Option<Feed<'_>> {
        if self.finish.is_some() {
            return None;
        }
        let seen = self.cache.positions();
        let tokens = match self.output.last() {
            Some(last) => std::slice::from_ref(last),
            None => &self.prompt[seen..self.prompt.len().min(seen + most)],
        };
        Some(Feed { tokens, adapter: self.adapter, cache: &mut self.cache })
    }

    /// Picks a token from what a step gave, unless the prompt is not through yet.
    pub(super) fn heard(
        &mut self,
        heard: Heard<'_>,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        if self.cache.positions() < self.prompt.len() {
            return Ok(());
        }
        let step = u32::try_from(self.output.len()).map_err(|_| EngineError::Params("too many tokens"))?;
        if heard.state.iter().any(|value| !value.is_finite()) {
            return Err(EngineError::NotFinite { step });
        }
        let token = pick(heard.logits, self.params.temperature, self.params.seed, step)?;
        self.output.push(token);
        self.states.push(heard.state);
        let piece = match self.base.tokenizer().is_end(token) {
            true => "",
            false => self.text.push(token)?,
        };
        let gone = !piece.is_empty() && on_text(piece).is_break();
        let (prompt, output) = (self.prompt.len(), self.output.len());
        self.finish = finish_after(self.base, self.params, prompt, output, token, self.text.stopped());
        if self.finish.is_some() && !gone {
            let rest = self.text.finish()?;
            if !rest.is_empty() {
                // The answer is over anyway: whether its listener stays makes no difference.
                let _ = on_text(rest);
            }
        }
        if self.finish.is_none() && gone {
            self.finish = Some(Finish::Cancelled);
        }
        Ok(())
    }

    pub(super) fn close(self) -> Result<Generation, EngineError> {
        let fingerprints = fingerprints_of(&self.states).ok_or(EngineError::NotFinite { step: 0 })?;
        Ok(Generation {
            text: self.text.text().to_owned(),
            prompt_tokens: self.prompt,
            output_tokens: self.output,
            fingerprints,
            finish: self.finish.unwrap_or(Finish::Cancelled),
        })
    }
}

/// Why an answer ends after its `output`-th token, if it does.
pub(super) fn finish_after(
    base: &Base,
    params: &GenerateParams,
    prompt: usize,
    output: usize,
    token: u32,
    stopped: bool,
) -> Option<Finish> {
    if base.tokenizer().is_end(token) {
        Some(Finish::EndOfText)
    } else if stopped {
        Some(Finish::Stop)
    } else if output >= params.max_tokens {
        Some(Finish::MaxTokens)
    } else if prompt + output >= base.config().max_positions {
        Some(Finish::ContextFull)
    } else {
        None
    }
}
