//! Gossip published before anybody was there to hear it.
//!
//! Invariant: bounded in number and time; each message leaves exactly once, by being published or by getting old.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use crate::net::limits::{GOSSIP_WAITING, GOSSIP_WAITING_TIME};

struct Waiting {
    topic: String,
    bytes: Bytes,
    since: Instant,
}

/// The messages in order of publication.
#[derive(Default)]
pub(super) struct WaitingGossip {
    messages: VecDeque<Waiting>,
}

impl WaitingGossip {
    /// Keeps a message, or says that no more fit.
    pub(super) fn keep(&mut self, topic: String, bytes: Bytes, now: Instant) -> bool {
        self.expire(now);
        if self.messages.len() >= GOSSIP_WAITING {
            return false;
        }
        self.messages.push_back(Waiting { topic, bytes, since: now });
        true
    }

    /// Takes out what waits for `topic`, oldest first.
    pub(super) fn take(&mut self, topic: &str, now: Instant) -> Vec<Bytes> {
        self.expire(now);
        let (taken, kept): (Vec<_>, Vec<_>) = self.messages.drain(..).partition(|message| message.topic == topic);
        self.messages = kept.into();
        taken.into_iter().map(|message| message.bytes).collect()
    }

    fn expire(&mut self, now: Instant) {
        self.messages.retain(|message| now.saturating_duration_since(message.since) < GOSSIP_WAITING_TIME);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::WaitingGossip;
    use crate::net::limits::{GOSSIP_WAITING, GOSSIP_WAITING_TIME};

    #[test]
    fn messages_leave_by_topic_in_order_or_by_age() {
        let now = Instant::now();
        let mut waiting = WaitingGossip::default();
        for (topic, text) in [("a", "1"), ("b", "2"), ("a", "3")] {
            assert!(waiting.keep(topic.into(), text.into(), now));
        }
        assert_eq!(waiting.take("a", now), ["1", "3"]);
        assert!(waiting.take("a", now).is_empty());
        assert!(waiting.take("b", now + GOSSIP_WAITING_TIME).is_empty());
    }

    #[test]
    fn the_number_is_bounded() {
        let now = Instant::now();
        let mut waiting = WaitingGossip::default();
        assert!((0..GOSSIP_WAITING).all(|_| waiting.keep("a".into(), "x".into(), now)));
        assert!(!waiting.keep("a".into(), "x".into(), now));
    }
}
