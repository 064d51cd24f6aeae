//! Events on their way to the node.
//!
//! Invariant: a connection change is never dropped, a message is refused when too many wait, and above a hard limit the
//! driver stops reading from the network until the node has caught up.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use super::ControlEvent;
use crate::net::limits::{EVENT_BACKLOG, EVENT_BACKLOG_HARD};

/// The backlog in front of the bounded channel to the node.
pub(super) struct Outbox {
    backlog: VecDeque<ControlEvent>,
    channel: mpsc::Sender<ControlEvent>,
}

impl Outbox {
    pub(super) fn new(channel: mpsc::Sender<ControlEvent>) -> Self {
        Self { backlog: VecDeque::new(), channel }
    }

    /// Whether a message may be queued.
    pub(super) fn takes_messages(&self) -> bool {
        self.backlog.len() < EVENT_BACKLOG
    }

    /// Whether anything may be read from the network.
    pub(super) fn takes_anything(&self) -> bool {
        self.backlog.len() < EVENT_BACKLOG_HARD
    }

    pub(super) fn is_empty(&self) -> bool {
        self.backlog.is_empty()
    }

    pub(super) fn push(&mut self, event: ControlEvent) {
        self.backlog.push_back(event);
    }

    /// Hands over as much as the channel takes without waiting.
    pub(super) fn flush(&mut self) {
        while let Some(event) = self.backlog.pop_front() {
            match self.channel.try_send(event) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(event)) => {
                    self.backlog.push_front(event);
                    return;
                }
                // The node no longer listens: it is about to shut us down.
                Err(mpsc::error::TrySendError::Closed(_)) => self.backlog.clear(),
            }
        }
    }

    /// The channel, to wait for room without borrowing the backlog.
    pub(super) fn channel(&self) -> mpsc::Sender<ControlEvent> {
        self.channel.clone()
    }
}
