//! Leave-out adapters of contributors for whom none was trained, made from gradients, or held against somebody's.
//!
//! Invariant: what is estimated follows from the request and the blobs that were handed over alone.

use tributary_compute::attribute::{Estimator, Learned};
use tributary_compute::lora::Adapter;
use tributary_compute::train::targets;

use super::super::context::JobContext;
use super::super::{Done, EstimateAsk, Reply, micro};
use super::training::examples_of;
use super::{MEASURED_TOKENS, adapter_bytes, adapter_on, handed, text};

pub(super) fn estimate(context: &JobContext, ask: &EstimateAsk) -> Result<Done, String> {
    let base = context.shelf.base(ask.base)?;
    let read = |blob| adapter_on(&base, ask.base, &handed(context, blob)?);
    let adapter = read(ask.adapter)?;
    let trained = ask.trained.iter().map(|(contributor, blob)| Ok((*contributor, read(*blob)?)));
    let trained = trained.collect::<Result<Vec<_>, String>>()?;
    let most = base.config().max_positions.min(MEASURED_TOKENS);
    let mut learned = Learned { records: Vec::new(), counts: ask.counts.iter().copied().collect() };
    for example in examples_of(&ask.records) {
        // One from which nothing can be learned taught nothing.
        let own = targets(&base, std::slice::from_ref(&example), most).unwrap_or_default();
        learned.records.extend(own.into_iter().map(|target| (example.contributor, target)));
    }
    let estimator = Estimator::fit(&base, &adapter, &trained, &learned).map_err(text)?;
    let mut worst_millionths = 0;
    for (contributor, theirs) in &ask.wanted {
        if context.is_stopped() {
            return Err("stopped".into());
        }
        let own = estimator.without(*contributor, &learned).map_err(text)?;
        match theirs {
            None => {
                let bytes = adapter_bytes(&own, ask.base)?;
                context.reply(Reply::Estimated { job: context.job, contributor: *contributor, bytes });
            }
            Some(blob) => worst_millionths = worst_millionths.max(apart(&adapter, &own, &read(*blob)?)?),
        }
    }
    Ok(Done::Estimated { worst_millionths })
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
