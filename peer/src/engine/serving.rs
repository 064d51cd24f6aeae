//! Answers and embeddings: each job hands its request to the base's server, where all of them share every step.
//!
//! Invariant: what was asked wrongly is refused with the kind that asker and API know, before anything is computed; an
//! answer's credits are computed after its text is out, by the committed index or not at all.

use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use tributary_compute::attribute;
use tributary_compute::chat::{ChatError, Conversation};
use tributary_compute::engine::{EngineError, GenerateParams};
use tributary_compute::model::Base;
use tributary_compute::proof::fingerprint_root;
use tributary_compute::sample::{self, Format as AnswerFormat, Sampling};
use tributary_compute::serve::{self, ErrorKind, Event, EventStream, Finished, Request, ServeError};
use tributary_compute::tokenizer::Tokenizer;
use tributary_protocol::decoding::{BASIS_POINTS, Decoding, Format, MILLI, Prompt};
use tributary_protocol::id::Hash;
use tributary_protocol::logprobs::{TokenLogprob, TokenReport, commitment};
use tributary_protocol::refusal::RefusalKind;
use tributary_protocol::retrieval::{Context, Passage};

use super::context::JobContext;
use super::retrieved;
use super::shelf::Served;
use super::{Done, Reply, micro};
use crate::bundle::{Transcript, transcript_of};

/// How often a job that waits for its next token looks whether it was stopped.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

fn text<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

/// What ends a job early.
pub(super) enum Ended {
    /// The question is at fault.
    Refused(RefusalKind, String),
    /// It takes more than this machine gives; another one may give more.
    Beyond(String),
    /// This machine is.
    Failed(String),
}

impl Ended {
    pub(super) fn into_done(self) -> Result<Done, String> {
        match self {
            Self::Refused(kind, reason) => Ok(Done::Refused { kind: kind.code(), reason }),
            Self::Beyond(reason) => Ok(Done::Refused { kind: RefusalKind::Invalid.code(), reason }),
            Self::Failed(reason) => Err(reason),
        }
    }
}

impl Ended {
    /// In words, why.
    pub(super) fn into_reason(self) -> String {
        match self {
            Self::Refused(_, reason) | Self::Beyond(reason) | Self::Failed(reason) => reason,
        }
    }
}

impl From<String> for Ended {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

impl From<EngineError> for Ended {
    fn from(error: EngineError) -> Self {
        ServeError::Engine(error).into()
    }
}

impl From<ServeError> for Ended {
    fn from(error: ServeError) -> Self {
        let reason = error.to_string();
        match (error.kind(), error) {
            (_, ServeError::Engine(EngineError::PromptTooLong { .. })) => Self::Refused(RefusalKind::TooLong, reason),
            (ErrorKind::Invalid, _) => Self::Refused(RefusalKind::Invalid, reason),
            (ErrorKind::TryLater | ErrorKind::Unavailable, _) => Self::Refused(RefusalKind::Transient, reason),
            (ErrorKind::NotFound | ErrorKind::ClientGone | ErrorKind::Broken, _) => Self::Failed(reason),
        }
    }
}

/// The engine's parameters of a decoding, whose bounds are checked again: it came from a peer.
pub(super) fn params_of(decoding: &Decoding) -> Result<GenerateParams, Ended> {
    if let Some(fault) = decoding.fault() {
        return Err(Ended::Refused(RefusalKind::Invalid, fault));
    }
    let (milli, whole) = (f32::from(MILLI), f32::from(BASIS_POINTS));
    let params = GenerateParams {
        max_tokens: usize::try_from(decoding.max_tokens).map_err(text)?,
        temperature: f32::from(decoding.temperature_milli) / milli,
        seed: decoding.seed,
        stop: decoding.stop.clone(),
        sampling: Sampling {
            top_k: decoding.top_k,
            top_p: f32::from(decoding.top_p_bp) / whole,
            min_p: f32::from(decoding.min_p_bp) / whole,
            repetition_penalty: f32::from(decoding.repetition_penalty_milli) / milli,
            frequency_penalty: f32::from(decoding.frequency_penalty_milli) / milli,
            presence_penalty: f32::from(decoding.presence_penalty_milli) / milli,
        },
        format: match &decoding.format {
            Format::Text => AnswerFormat::Text,
            Format::JsonObject => AnswerFormat::JsonObject,
            Format::JsonSchema(schema) => AnswerFormat::JsonSchema(schema.clone()),
        },
    };
    params.check()?;
    Ok(params)
}

/// The tokens of a prompt. A conversation goes through the base's chat template; a base without one takes a single
/// message of the user, as it is.
pub(super) fn tokens_of(base: &Base, prompt: &Prompt) -> Result<Vec<u32>, Ended> {
    let encoded = match prompt {
        Prompt::Text(text) => base.tokenizer().encode_prompt(text),
        Prompt::Chat { conversation, at_s } => match base.chat() {
            Ok(template) => {
                let parsed = Conversation::from_json(conversation.as_bytes()).map_err(|error| invalid(&error))?;
                let at_s = i64::try_from(*at_s).unwrap_or(i64::MAX);
                let rendered = template.render(&parsed, true, at_s).map_err(|error| unrendered(&error))?;
                base.tokenizer().encode(&rendered)
            }
            Err(error) if matches!(*error, ChatError::None) => base.tokenizer().encode_prompt(&single(conversation)?),
            Err(error) => return Err(invalid(&error)),
        },
    };
    encoded.map_err(|error| invalid(&error))
}

fn unrendered(error: &ChatError) -> Ended {
    match error {
        ChatError::Ended(_) => Ended::Beyond(error.to_string()),
        _ => invalid(error),
    }
}

fn invalid(error: &dyn std::fmt::Display) -> Ended {
    Ended::Refused(RefusalKind::Invalid, error.to_string())
}

/// The one message of a conversation with a model that knows no roles.
fn single(conversation: &str) -> Result<String, Ended> {
    #[derive(serde::Deserialize)]
    struct Message {
        role: String,
        content: String,
    }
    #[derive(serde::Deserialize)]
    struct Messages {
        messages: Vec<Message>,
    }
    let parsed: Messages = serde_json::from_str(conversation).map_err(|error| invalid(&error))?;
    match <[Message; 1]>::try_from(parsed.messages) {
        Ok([only]) if only.role == "user" => Ok(only.content),
        _ => Err(invalid(&"this model has no chat template: it takes one message of the user")),
    }
}

pub(super) fn answer(
    context: &JobContext,
    (base, adapter): (Hash, Option<Hash>),
    prompt: &Prompt,
    passages: Vec<Passage>,
    decoding: &Decoding,
) -> Result<Done, Ended> {
    let server = context.shelf.server(base)?;
    let base = server.base();
    let work = serve::Work::Generate { params: params_of(decoding)?, logprobs: decoding.logprobs };
    let (tokens, passages) = retrieved::fitting(base, prompt, passages, decoding.max_tokens)?;
    let name = adapter.map(|id| context.shelf.name_for(&server, id)).transpose()?;
    let events = server.submit(&Request { adapter: name, prompt: serve::Prompt::Tokens(tokens), work })?;
    let mut reports = Vec::new();
    let generation = hear(context, &events, base, &mut reports)?.generation;
    let mut transcript = transcript_of(&generation);
    let (prompt_tokens, output) = (&generation.prompt_tokens, &generation.output_tokens);
    let mut pending = None;
    if let Some(id) = adapter {
        match context.shelf.served(base, id) {
            Ok(served) => {
                if !output.is_empty() {
                    transcript.credits = credits(base, &served, prompt_tokens, output)?;
                }
                let goes_on = || {
                    // The asker hears that this is still computed.
                    context.reply(Reply::Begun { job: context.job });
                    !context.is_stopped()
                };
                let losses = retrieved::losses(base, &served.adapter, prompt, &passages, output, &goes_on)?;
                transcript.context = Context { passages, losses };
            }
            Err(reason) if passages.is_empty() => pending = Some(reason).filter(|_| !output.is_empty()),
            // What records explain is computed with the answer or not at all: another worker may.
            Err(reason) => return Err(reason.into()),
        }
    }
    Ok(Done::Answered {
        transcript: transcript.to_bytes(),
        fingerprints: fingerprint_root(&generation.fingerprints),
        logprobs: decoding.logprobs.map(|_| commitment(&reports)),
        text: generation.text,
        pending,
    })
}

/// The credits of an answer that was made before.
pub(super) fn credit(context: &JobContext, base: Hash, adapter: Hash, transcript: &[u8]) -> Result<Done, String> {
    let base = context.shelf.base(base)?;
    let mut transcript = Transcript::from_bytes(transcript).map_err(text)?;
    let served = context.shelf.served(&base, adapter)?;
    transcript.credits = credits(&base, &served, &transcript.prompt_tokens, &transcript.output_tokens)?;
    Ok(Done::Credited { transcript: transcript.to_bytes() })
}

/// Passes an answer's pieces on until it ends, and keeps what is reported of its tokens. Dropping the stream ends its
/// computing.
fn hear(
    context: &JobContext,
    events: &EventStream,
    base: &Base,
    reports: &mut Vec<TokenReport>,
) -> Result<Finished, Ended> {
    let job = context.job;
    loop {
        match next(context, events)? {
            Event::Begun => context.reply(Reply::Begun { job }),
            Event::Piece(piece) => {
                let tokens: Vec<_> = piece.tokens.iter().map(|token| reported(base.tokenizer(), token)).collect();
                reports.extend_from_slice(&tokens);
                context.reply(Reply::Text { job, text: piece.text, tokens });
            }
            Event::Finished(finished) => return Ok(*finished),
            Event::Failed(error) => return Err(error.into()),
            Event::Embedding { .. } => return Err("an embedding was not asked for".to_owned().into()),
        }
    }
}

/// What is told of a token: probabilities in whole parts, and what the tokens stand for.
pub(super) fn reported(tokenizer: &Tokenizer, report: &serve::TokenReport) -> TokenReport {
    let of = |token: &sample::TokenLogprob| TokenLogprob {
        token: token.token,
        spelling: tokenizer.spelling(token.token),
        minus_micro_nats: micro((-f64::from(token.logprob)).max(0.0)),
    };
    TokenReport { chosen: of(&report.chosen), top: report.top.iter().map(of).collect() }
}

fn next(context: &JobContext, events: &EventStream) -> Result<Event, Ended> {
    loop {
        match events.next_within(LOOK_INTERVAL) {
            Ok(event) => return Ok(event),
            Err(RecvTimeoutError::Timeout) if context.is_stopped() => return Err("stopped".to_owned().into()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(ServeError::Stopped.into()),
        }
    }
}

pub(super) fn embed(
    context: &JobContext,
    base: Hash,
    adapter: Option<Hash>,
    inputs: Vec<String>,
) -> Result<Done, Ended> {
    let server = context.shelf.server(base)?;
    let name = adapter.map(|id| context.shelf.name_for(&server, id)).transpose()?;
    let submit = |input: String| {
        let request = Request { adapter: name, prompt: serve::Prompt::Text(input), work: serve::Work::Embed };
        server.submit(&request)
    };
    let streams = inputs.into_iter().map(submit).collect::<Result<Vec<_>, ServeError>>()?;
    let (mut vectors, mut tokens) = (Vec::with_capacity(streams.len()), 0);
    for events in streams {
        let (vector, used) = embedding(context, &events)?;
        vectors.push(vector);
        tokens += u64::try_from(used).unwrap_or(u64::MAX);
    }
    Ok(Done::Embedded { vectors, tokens })
}

fn embedding(context: &JobContext, events: &EventStream) -> Result<(Vec<f32>, usize), Ended> {
    loop {
        match next(context, events)? {
            Event::Begun => context.reply(Reply::Begun { job: context.job }),
            Event::Embedding { vector, usage } => return Ok((vector, usage.prompt_tokens)),
            Event::Failed(error) => return Err(error.into()),
            Event::Piece(_) | Event::Finished(_) => return Err("an answer was not asked for".to_owned().into()),
        }
    }
}

/// Each contributor's credit for an answer, in millionths of a nat for each token.
pub(super) fn credits(base: &Base, served: &Served, prompt: &[u32], output: &[u32]) -> Result<Vec<(u32, i64)>, String> {
    let credits = attribute::credits(base, &served.adapter, &served.index, prompt, output).map_err(text)?;
    Ok(credits.into_iter().map(|credit| (credit.contributor, credit.micro_nats)).collect())
}
