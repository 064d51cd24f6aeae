//! Contributors who teach the same, found by the directions of their records.
//!
//! Invariant: what is found follows from base, adapter and records alone.

use tributary_compute::attribute::clusters::{ALIKE, Likeness, directions};

use super::super::context::JobContext;
use super::super::{ClusterAsk, Done, Reply};
use super::training::learned_from;
use super::{adapter_on, handed, learned_tokens, text};

pub(super) fn cluster(context: &JobContext, ask: &ClusterAsk) -> Result<Done, String> {
    let base = context.shelf.base(ask.base)?;
    let adapter = adapter_on(&base, ask.base, &handed(context, ask.adapter)?)?;
    let records = learned_from(&base, &ask.records, learned_tokens(&base))?;
    let is_stopped = || {
        context.reply(Reply::Working { job: context.job });
        context.is_stopped()
    };
    let directions = directions(&base, &adapter, &records, is_stopped).map_err(text)?;
    Ok(Done::Clustered(Likeness::of(&directions).clusters(ALIKE)))
}
