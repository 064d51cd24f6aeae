//! How patient, how careful and how generous the queue is.
//!
//! Invariant: none of these numbers can make a transaction happen twice; they move only when and at what price.

use std::time::Duration;

/// How long to wait, how deep, and what to bid.
#[derive(Debug, Clone)]
pub struct SendPolicy {
    /// Blocks, with the transaction's own, after which it counts as done.
    pub confirmations: u64,
    /// First pause between two looks at the chain; it doubles up to `poll_max`.
    pub poll: Duration,
    /// Longest pause between two looks.
    pub poll_max: Duration,
    /// Wait before the same nonce is sent with a higher bid.
    pub bump_after: Duration,
    /// Wait before the caller is told that the outcome is open; the queue keeps the transaction.
    pub give_up_after: Duration,
    /// Wei per gas never exceeded.
    pub max_fee_cap: u128,
}

impl SendPolicy {
    /// For a chain that mines as transactions come and has no reorgs: the embedded one, anvil, Hardhat.
    #[must_use]
    pub fn automining() -> Self {
        Self {
            confirmations: 1,
            poll: Duration::from_millis(2),
            poll_max: Duration::from_millis(250),
            bump_after: Duration::from_secs(20),
            give_up_after: Duration::from_secs(60),
            max_fee_cap: 500_000_000_000,
        }
    }

    /// For a public chain with blocks of a few seconds.
    #[must_use]
    pub fn public() -> Self {
        Self {
            confirmations: 3,
            poll: Duration::from_millis(500),
            poll_max: Duration::from_secs(4),
            bump_after: Duration::from_secs(45),
            give_up_after: Duration::from_secs(300),
            ..Self::automining()
        }
    }
}
