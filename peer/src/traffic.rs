//! How many bytes this node moved, for people and the demo's report.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the process began.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
    fetched: AtomicU64,
}

fn add(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(u64::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
}

impl Traffic {
    /// A control message or answer frame went out.
    pub fn sent(&self, bytes: usize) {
        add(&self.sent, bytes);
    }

    /// A control message or answer frame came in.
    pub fn received(&self, bytes: usize) {
        add(&self.received, bytes);
    }

    /// A blob came in.
    pub fn fetched(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Sent, received, and of blobs, in bytes.
    #[must_use]
    pub fn totals(&self) -> (u64, u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.sent), read(&self.received), read(&self.fetched))
    }
}
