//! One step of the model for many sessions, with failures kept apart.
//!
//! Invariant: a step either succeeds for all its parts or is undone and tried for each part alone, so that a part which
//! makes the model fail or panic ends alone; a part's result doesn't depend on which of the two happened.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tributary_protocol::id::Hash;

use super::super::events::ServeError;
use super::super::schedule::RequestId;
use super::session::Outcome;
use crate::engine::EngineError;
use crate::kv::Cache;
use crate::lora::FrozenAdapter;
use crate::model::{Feed, LogitRows, Model};

/// What one session feeds.
pub(super) struct Part {
    pub(super) id: RequestId,
    pub(super) adapter_hash: Option<Hash>,
    pub(super) adapter: Option<Arc<FrozenAdapter>>,
    pub(super) tokens: Vec<u32>,
    pub(super) cache: Cache,
}

/// What came of a part.
pub(super) struct Computed {
    pub(super) id: RequestId,
    pub(super) cache: Cache,
    pub(super) outcome: Result<Outcome, ServeError>,
}

/// Computes all parts.
pub(super) fn compute(model: &Model, mut parts: Vec<Part>) -> Vec<Computed> {
    if let Ok(rows) = run(model, &mut parts) {
        let done = parts.into_iter().zip(rows);
        return done.map(|(part, rows)| Computed { id: part.id, cache: part.cache, outcome: Ok(rows) }).collect();
    }
    let alone = |mut part: Part| {
        let outcome = run(model, std::slice::from_mut(&mut part))
            .and_then(|mut rows| rows.pop().ok_or(ServeError::Engine(EngineError::NoLogits)));
        Computed { id: part.id, cache: part.cache, outcome }
    };
    parts.into_iter().map(alone).collect()
}

/// Runs the model; when that fails, the caches are as before.
fn run(model: &Model, parts: &mut [Part]) -> Result<Vec<Outcome>, ServeError> {
    let before: Vec<usize> = parts.iter().map(|part| part.cache.positions()).collect();
    let result = catch_unwind(AssertUnwindSafe(|| rows(model, parts))).unwrap_or(Err(ServeError::Panicked));
    if result.is_err() {
        for (part, before) in parts.iter_mut().zip(before) {
            part.cache.truncate(before);
        }
    }
    result
}

fn rows(model: &Model, parts: &mut [Part]) -> Result<Vec<Outcome>, ServeError> {
    let mut feeds: Vec<Feed<'_>> = parts
        .iter_mut()
        .map(|part| Feed { tokens: &part.tokens, adapter: part.adapter.as_deref(), cache: &mut part.cache })
        .collect();
    let stepped = model.step(&mut feeds, LogitRows::Last).map_err(EngineError::from)?;
    let logits = stepped.logits.ok_or(EngineError::NoLogits)?.to_vec2::<f32>().map_err(EngineError::from)?;
    let mut states = stepped.hidden.to_vec2::<f32>().map_err(EngineError::from)?.into_iter();
    let rows = parts.iter().zip(logits);
    Ok(rows
        .map(|(part, logits)| Outcome { states: states.by_ref().take(part.tokens.len()).collect(), logits })
        .collect())
}
