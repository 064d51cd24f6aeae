//! The thread that reads adapters while the engine computes.
//!
//! Invariant: every order gets exactly one result, also when reading panics; the queue holds as many orders as the
//! scheduler lets be under way, so ordering never waits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use tributary_protocol::id::Hash;

use super::Registry;
use crate::lora::FrozenAdapter;

/// What came of an order.
#[derive(Debug)]
pub(in crate::serve) struct Loading {
    pub(in crate::serve) hash: Hash,
    /// The adapter, or why it can't be had.
    pub(in crate::serve) result: Result<Arc<FrozenAdapter>, String>,
}

/// The loading thread.
#[derive(Debug)]
pub(in crate::serve) struct Loader {
    orders: Option<SyncSender<Hash>>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Starts the thread; `deliver` takes results and says whether anybody still wants them.
    pub(in crate::serve) fn start(
        registry: Arc<Registry>,
        most: usize,
        mut deliver: impl FnMut(Loading) -> bool + Send + 'static,
    ) -> std::io::Result<Self> {
        let (orders, taken) = sync_channel::<Hash>(most.max(1));
        let work = move || {
            while let Ok(hash) = taken.recv() {
                if !deliver(Loading { hash, result: load(&registry, hash) }) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("adapter-loader".into()).spawn(work)?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Orders an adapter; the result comes later. `Err` when that can't be.
    pub(in crate::serve) fn order(&self, hash: Hash) -> Result<(), &'static str> {
        match self.orders.as_ref().map(|orders| orders.try_send(hash)) {
            Some(Ok(())) => Ok(()),
            Some(Err(TrySendError::Full(_))) => Err("too many adapters are being read"),
            Some(Err(TrySendError::Disconnected(_))) | None => Err("no adapters are read any more"),
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn load(registry: &Registry, hash: Hash) -> Result<Arc<FrozenAdapter>, String> {
    let Some(folder) = registry.folder(&hash) else { return Err("it is not known any more".into()) };
    match catch_unwind(AssertUnwindSafe(|| registry.read(hash, &folder))) {
        Ok(Ok(adapter)) => Ok(Arc::new(adapter)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("reading it failed".into()),
    }
}
