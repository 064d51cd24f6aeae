//! One answer in the making.
//!
//! Invariant: fingerprints and `states` together cover `output`, one last hidden state for each token, the one that it
//! was picked from; once `finish` is set nothing changes any more.

use std::ops::ControlFlow;

use super::text::TextStream;
use super::{EngineError, Finish, GenerateParams, Generation, MAX_PROMPT_BYTES};
use crate::model::Base;
use crate::proof::{Fingerprint, TOKENS_PER_FINGERPRINT};
use crate::sample::Sampler;

/// What a step gave for the last token fed.
pub(crate) struct Heard<'a> {
    pub(crate) state: Vec<f32>,
    pub(crate) logits: &'a [f32],
}

/// More bytes than tokens have on average, so that a prompt of more for each place of the context doesn't fit: texts have
/// about four, indented code eight.
const MAX_BYTES_PER_TOKEN: usize = 32;

/// The tokens of a prompt, refused before they are made when they can't fit.
pub(crate) fn encode(base: &Base, prompt: &str) -> Result<Vec<u32>, EngineError> {
    let context = base.config().max_positions;
    if prompt.len() > context.saturating_mul(MAX_BYTES_PER_TOKEN).min(MAX_PROMPT_BYTES) {
        return Err(EngineError::PromptTooLong { tokens: prompt.len(), context });
    }
    Ok(base.tokenizer().encode_prompt(prompt)?)
}

pub(crate) struct Answer {
    base: Base,
    params: GenerateParams,
    sampler: Sampler,
    prompt: Vec<u32>,
    output: Vec<u32>,
    fingerprints: Vec<Fingerprint>,
    states: Vec<Vec<f32>>,
    text: TextStream,
    finish: Option<Finish>,
}

impl Answer {
    /// Begins the answer to `prompt`, whose tokens may come from anybody.
    pub(crate) fn open(base: &Base, prompt: Vec<u32>, params: &GenerateParams) -> Result<Self, EngineError> {
        let config = base.config();
        if prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if prompt.len() >= config.max_positions {
            return Err(EngineError::PromptTooLong { tokens: prompt.len(), context: config.max_positions });
        }
        Ok(Self {
            sampler: Sampler::new(base.tokenizer(), params, &prompt)?,
            base: base.clone(),
            params: params.clone(),
            prompt,
            output: Vec::new(),
            fingerprints: Vec::new(),
            states: Vec::new(),
            text: TextStream::new(&params.stop),
            finish: None,
        })
    }

    /// The next tokens to feed after `seen` positions, at most `most`; `None` once the answer ended.
    pub(crate) fn next_tokens(&self, seen: usize, most: usize) -> Option<&[u32]> {
        match (self.finish, self.output.last()) {
            (Some(_), _) => None,
            (None, Some(last)) => Some(std::slice::from_ref(last)),
            (None, None) => Some(&self.prompt[seen..self.prompt.len().min(seen + most)]),
        }
    }

    /// Whether `seen` positions are the whole prompt, so that a token can be picked.
    pub(crate) fn has_read(&self, seen: usize) -> bool {
        seen >= self.prompt.len()
    }

    /// Tokens so far.
    pub(crate) fn output(&self) -> &[u32] {
        &self.output
    }

    /// Why the answer ended, once it has.
    pub(crate) fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// Picks a token from what a step gave after the whole prompt was read.
    pub(crate) fn heard(
        &mut self,
        heard: Heard<'_>,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        let step = u32::try_from(self.output.len()).map_err(|_| EngineError::Params("too many tokens"))?;
        if heard.state.iter().any(|value| !value.is_finite()) {
            return Err(EngineError::NotFinite { step });
        }
        let token = self.sampler.pick(heard.logits, step)?;
        self.sampler.accept(token)?;
        self.output.push(token);
        self.states.push(heard.state);
        if self.states.len() == TOKENS_PER_FINGERPRINT {
            self.seal()?;
        }
        let base = &self.base;
        let decode = |tokens: &[u32]| Ok(base.tokenizer().decode(tokens)?);
        let piece = match base.tokenizer().is_end(token) {
            true => "",
            false => self.text.push(&decode, token)?,
        };
        let gone = !piece.is_empty() && on_text(piece).is_break();
        let (prompt, output) = (self.prompt.len(), self.output.len());
        self.finish = finish_after(base, &self.params, prompt, output, token, self.text.stopped());
        if self.finish.is_some() && !gone {
            let rest = self.text.finish(&decode)?;
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

    pub(crate) fn close(mut self) -> Result<Generation, EngineError> {
        self.seal()?;
        Ok(Generation {
            text: self.text.text().to_owned(),
            prompt_tokens: self.prompt,
            output_tokens: self.output,
            fingerprints: self.fingerprints,
            finish: self.finish.unwrap_or(Finish::Cancelled),
        })
    }

    /// Turns the states so far into a fingerprint: only 32 of them are ever held.
    fn seal(&mut self) -> Result<(), EngineError> {
        if !self.states.is_empty() {
            let sealed = Fingerprint::of(&self.states).ok_or(EngineError::NotFinite { step: 0 })?;
            self.fingerprints.push(sealed);
            self.states.clear();
        }
        Ok(())
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
