//! What it takes to go on with another adapter that is in memory.
//!
//! Invariant: only what lies between two steps of the model is timed, done by the parts that the server does it with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tributary_protocol::id::Hash;

use super::BenchError;
use super::serving::median;
use crate::lora::Adapter;
use crate::serve::schedule::{AdapterSize, Arrival, Limits, Order, Plan, RequestId, Scheduler};

/// Swaps that are timed; the middle one counts.
const SWAPS: u64 = 501;
/// Blocks for keys and values: more than one request uses.
const KV_BLOCKS: usize = 64;

/// A scheduler and the adapters that it holds to be in memory.
struct Desk {
    scheduler: Scheduler,
    adapters: BTreeMap<Hash, Arc<Adapter>>,
    /// Of one adapter.
    bytes: u64,
}

/// Seconds from the end of one adapter's step until a step with the other one, asked for meanwhile, can begin.
pub(super) fn seconds(adapters: [Arc<Adapter>; 2], prompt: &[u32], positions: usize) -> Result<f64, BenchError> {
    let bytes = adapters.iter().map(|one| one.tensors().map(|tensor| 4 * tensor.elem_count()).sum::<usize>()).max();
    let bytes = bytes.unwrap_or(0) as u64;
    let names = [Hash([1; 32]), Hash([2; 32])];
    let limits = Limits::for_memory(KV_BLOCKS, 2 * bytes, positions);
    let held = names.into_iter().zip(adapters).collect();
    let mut desk = Desk { scheduler: Scheduler::new(limits), adapters: held, bytes };
    let mut taken = Vec::new();
    for (number, name) in (0..SWAPS).zip(names.into_iter().cycle()) {
        // Differs from the others, so that nothing is found in the prefix cache.
        let prompt: Vec<u32> = prompt.iter().map(|token| token ^ u32::from(number % 2 == 1)).collect();
        taken.push(desk.turn(RequestId(number), name, prompt)?);
    }
    // The first of each is loaded.
    Ok(median(taken.split_off(2)))
}

impl Desk {
    /// A request's only step; gives the seconds until it could begin.
    fn turn(&mut self, id: RequestId, name: Hash, prompt: Vec<u32>) -> Result<f64, BenchError> {
        let adapter = Some(AdapterSize { hash: name, bytes: self.bytes });
        let arrival = Arrival { id, adapter, prompt, max_tokens: 1, whole_prompt: false };
        let start = Instant::now();
        self.scheduler.arrive(arrival).map_err(|_| BenchError::Broken("a request was refused"))?;
        let mut plan = self.scheduler.plan();
        if plan.feeds.is_empty() {
            plan = self.load(&plan);
        }
        let feed = plan.feeds.first().ok_or(BenchError::Broken("nothing was planned"))?;
        let adapter = self.adapters.get(&name).ok_or(BenchError::Broken("an adapter is gone"))?.clone();
        let seconds = start.elapsed().as_secs_f64();
        std::hint::black_box((feed.id, adapter));
        self.scheduler.advance(id, Some(0));
        self.scheduler.end(id);
        Ok(seconds)
    }

    /// Obeys what the first request of an adapter makes the scheduler order.
    fn load(&mut self, plan: &Plan) -> Plan {
        for order in &plan.orders {
            if let Order::Load(name) = order {
                self.scheduler.loaded(name);
            }
        }
        self.scheduler.plan()
    }
}
