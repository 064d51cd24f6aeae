//! A token bucket per connected peer: how many messages it may send before they are dropped unread.
//!
//! Invariant: the level never exceeds the maximum, and a refused message costs nothing, so a peer that slows down is
//! heard again at once.

use std::time::Instant;

use crate::net::limits::{INBOUND_TOKEN_BYTES, INBOUND_TOKENS_MAX, INBOUND_TOKENS_PER_SECOND};

/// Milli-tokens, so that refilling needs no fractions.
const MILLI: u64 = 1000;

/// What one peer may still send.
#[derive(Debug)]
pub(super) struct Bucket {
    level_milli: u64,
    filled: Instant,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(now: Instant) -> Self {
        Self { level_milli: u64::from(INBOUND_TOKENS_MAX) * MILLI, filled: now }
    }

    /// Pays for a message of `size` bytes, or says no.
    pub(super) fn take(&mut self, now: Instant, size: usize) -> bool {
        self.refill(now);
        let cost_milli = (1 + (size / INBOUND_TOKEN_BYTES) as u64) * MILLI;
        if cost_milli > self.level_milli {
            return false;
        }
        self.level_milli -= cost_milli;
        true
    }

    /// Whether forgetting it would give nothing away.
    pub(super) fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.level_milli == u64::from(INBOUND_TOKENS_MAX) * MILLI
    }

    fn refill(&mut self, now: Instant) {
        let elapsed_ms = u64::try_from(now.saturating_duration_since(self.filled).as_millis()).unwrap_or(u64::MAX);
        if elapsed_ms == 0 {
            return;
        }
        // A token a second is a milli-token a millisecond.
        let gained_milli = elapsed_ms.saturating_mul(u64::from(INBOUND_TOKENS_PER_SECOND));
        self.level_milli = self.level_milli.saturating_add(gained_milli).min(u64::from(INBOUND_TOKENS_MAX) * MILLI);
        self.filled = now;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Bucket;
    use crate::net::limits::{DIRECT_MAX_BYTES, INBOUND_TOKENS_MAX, INBOUND_TOKENS_PER_SECOND};

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        assert!((0..INBOUND_TOKENS_MAX).all(|_| bucket.take(start, 100)));
        assert!(!bucket.take(start, 100));
        let later = start + Duration::from_secs(1);
        assert!((0..INBOUND_TOKENS_PER_SECOND).all(|_| bucket.take(later, 100)));
        assert!(!bucket.take(later, 100));
    }

    #[test]
    fn the_largest_message_is_affordable() {
        let start = Instant::now();
        assert!(Bucket::new(start).take(start, DIRECT_MAX_BYTES));
    }
}
