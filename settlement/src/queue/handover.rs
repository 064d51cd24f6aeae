//! Handing a raw transaction to a node, and reading its answer.
//!
//! Invariant: `Unknown` is the answer whenever the node may or may not have the transaction.

use alloy::providers::Provider;
use alloy::transports::TransportError;

use super::Entry;
use super::sender::Sender;
use crate::chain::ChainError;

/// What a node said to a raw transaction.
pub(super) enum Sent {
    /// It has it.
    Accepted,
    /// It had it before.
    Known,
    /// The nonce is used, or used by a better bid.
    NonceUsed,
    /// It will not have it.
    Refused(ChainError),
    /// Nobody knows: the node could not be reached.
    Unknown(ChainError),
}

impl Sender {
    /// Hands the newest form to the node.
    pub(super) async fn send(&self, entry: &Entry) -> Sent {
        let Some(attempt) = entry.attempts.last() else { return Sent::NonceUsed };
        match self.provider.send_raw_transaction(&attempt.raw).await {
            Ok(_) => Sent::Accepted,
            Err(error) => refusal(error),
        }
    }
}

/// Nodes have no codes for these, only go-ethereum's words, which the others copy.
fn refusal(error: TransportError) -> Sent {
    let words = error.as_error_resp().map(|payload| payload.message.to_lowercase()).unwrap_or_default();
    if words.contains("already known") || words.contains("already imported") {
        return Sent::Known;
    }
    if words.contains("nonce too low") || words.contains("underpriced") && words.contains("replacement") {
        return Sent::NonceUsed;
    }
    match ChainError::from(error) {
        error if error.is_retryable() => Sent::Unknown(error),
        error => Sent::Refused(error),
    }
}
