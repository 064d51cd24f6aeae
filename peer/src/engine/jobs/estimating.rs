//! Leave-out adapters of contributors for whom none was trained, made from gradients, or held against somebody's.
//!
//! Invariant: what is estimated follows from the request and the blobs that were handed over alone.

use std::collections::BTreeMap;

use tributary_compute::attribute::{Estimator, Learned};
use tributary_compute::lora::Adapter;

use super::super::context::JobContext;
use super::super::{Done, EstimateAsk, Reply, micro};
use super::training::learned_from;
use super::{adapter_bytes, adapter_on, handed, learned_tokens, left_out, text};

pub(super) fn estimate(context: &JobContext, ask: &EstimateAsk) -> Result<Done, String> {
    let base = context.shelf.base(ask.base)?;
    let read = |blob| adapter_on(&base, ask.base, &handed(context, blob)?);
    let adapter = read(ask.adapter)?;
    let trained = left_out(context, (ask.base, &base), &adapter, &ask.trained)?;
    let records = learned_from(&base, &ask.records, learned_tokens(&base))?;
    let learned = Learned { records, stand_for: stand_for(ask) };
    let mut worst_millionths = 0;
    let mut tell = |contributor: u32, own: &Adapter| -> Result<(), String> {
        match ask.wanted.iter().find(|(wanted, _)| *wanted == contributor) {
            None => {}
            Some((_, None)) => {
                let bytes = adapter_bytes(own, ask.base)?;
                context.reply(Reply::Estimated { job: context.job, contributor, bytes });
            }
            Some((_, Some(blob))) => worst_millionths = worst_millionths.max(apart(&adapter, own, &read(*blob)?)?),
        }
        Ok(())
    };
    // A large base takes minutes for some records: whoever waits hears that it goes on.
    let is_stopped = || {
        context.reply(Reply::Working { job: context.job });
        context.is_stopped()
    };
    let estimator = Estimator::new(&base, &adapter, &learned, &is_stopped).map_err(text)?;
    for (members, without) in trained.iter().filter(|(members, _)| members.len() > 1) {
        let parts = estimator.divide(members, without).map_err(text)?;
        members.iter().zip(&parts).try_for_each(|(member, own)| tell(*member, own))?;
    }
    let is_trained = |contributor: &u32| trained.iter().any(|(members, _)| members.contains(contributor));
    let untrained: Vec<u32> = ask.wanted.iter().map(|(one, _)| *one).filter(|one| !is_trained(one)).collect();
    if !untrained.is_empty() {
        let estimates = estimator.fit(&trained).map_err(text)?;
        untrained.iter().try_for_each(|one| tell(*one, &estimates.without(*one).map_err(text)?))?;
    }
    Ok(Done::Estimated { worst_millionths })
}

/// For how many records of a contributor each of those that were drawn stands, also of those from which nothing can be learned.
fn stand_for(ask: &EstimateAsk) -> BTreeMap<u32, f64> {
    let drawn = |contributor: u32| ask.records.iter().filter(|one| one.contributor == contributor).count().max(1);
    ask.counts
        .iter()
        .map(|(contributor, count)| (*contributor, f64::from(*count) / drawn(*contributor) as f64))
        .collect()
}

/// How far two estimates are from each other, as a part of how far the first moves the adapter, in millionths.
fn apart(adapter: &Adapter, own: &Adapter, theirs: &Adapter) -> Result<u64, String> {
    let [adapter, own, theirs] = [adapter, own, theirs].map(|one| one.values().map_err(text));
    let (adapter, own, theirs) = (adapter?, own?, theirs?);
    if own.len() != theirs.len() {
        return Ok(u64::MAX);
    }
    let distance = |from: &[f32], to: &[f32]| {
        from.iter().zip(to).map(|(from, to)| (f64::from(*from) - f64::from(*to)).powi(2)).sum::<f64>().sqrt()
    };
    let (apart, moved) = (distance(&own, &theirs), distance(&adapter, &own));
    Ok(if apart == 0.0 { 0 } else { micro(apart / moved) })
}
