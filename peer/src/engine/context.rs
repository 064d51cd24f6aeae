//! What a job of the engine works with.
//!
//! Invariant: a job says what it finds through [`JobContext::reply`] alone, and ends soon after it was stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;

use tributary_protocol::id::Hash;

use super::Reply;
use super::shelf::Shelf;

/// What a job may do while it runs.
pub(super) struct JobContext {
    pub(super) job: Hash,
    pub(super) shelf: Arc<Shelf>,
    replies: SyncSender<Reply>,
    stop: Arc<AtomicBool>,
}

impl JobContext {
    pub(super) fn new(job: Hash, shelf: Arc<Shelf>, replies: SyncSender<Reply>, stop: Arc<AtomicBool>) -> Self {
        Self { job, shelf, replies, stop }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn reply(&self, reply: Reply) {
        // The writer ends only with the process.
        let _ = self.replies.send(reply);
    }
}
