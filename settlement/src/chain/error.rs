//! Why the chain did not do what was asked, told apart by what the caller can do about it.
//!
//! Invariant: `ChainDown` is given only when nothing was begun, so trying again is safe; once a transaction is
//! stored the outcome is known or the error is `Unconfirmed`.

use alloy::rpc::json_rpc::ErrorPayload;
use alloy::transports::{HttpError, TransportError, TransportErrorKind};
use tributary_protocol::id::{Amount, ChainAddress};

use crate::anchor::TreeError;
use crate::contracts::{revert_reason, shortfall};
use crate::queue::QueueError;

/// HTTP statuses that mean "not now" rather than "not here": timeout, too many requests.
const BUSY_STATUSES: [u16; 2] = [408, 429];
/// go-ethereum's and our own code for "limit exceeded".
const LIMIT_EXCEEDED: i64 = -32_005;
/// Characters of a node's answer kept in an error.
const MAX_ANSWER_CHARS: usize = 200;

/// Why the chain did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// Try again: the chain cannot be reached and nothing was begun.
    #[error("cannot reach the chain: {reason}")]
    ChainDown {
        /// What the connection says.
        reason: String,
    },
    /// The transaction is stored and signed, and the chain has not confirmed it in time. `resume` sees it through;
    /// asking again without a purpose would do it twice.
    #[error("transaction {} is not confirmed yet: it stays queued", hex::encode(transaction))]
    Unconfirmed {
        /// Its hash.
        transaction: [u8; 32],
    },
    /// The account holds less OPEN than the call needs.
    #[error("{} OPEN needed, {} OPEN there", need.to_open(), have.to_open())]
    InsufficientFunds {
        /// Needed, atto-OPEN.
        need: Amount,
        /// There, atto-OPEN.
        have: Amount,
    },
    /// The account cannot pay the chain's own fee.
    #[error("not enough of the chain's coin to pay for gas: {reason}")]
    InsufficientGas {
        /// The node's words.
        reason: String,
    },
    /// A contract refused.
    #[error("the contract refused: {reason}")]
    Reverted {
        /// The contract's error by name, and what it means.
        reason: String,
    },
    /// The node refused the transaction for good; its nonce is free again.
    #[error("the chain refused: {reason}")]
    Refused {
        /// The node's words.
        reason: String,
    },
    /// The node broke its protocol: a wrong address, most likely.
    #[error("the chain answered nonsense: {what}")]
    BadAnswer {
        /// What it said.
        what: String,
    },
    /// No contracts are known: `deploy`, or `at` a deployment.
    #[error("no contracts are known on this chain")]
    NoDeployment,
    /// The contracts are on another chain.
    #[error("the contracts are on chain {expected}, this is chain {got}")]
    WrongChain {
        /// The deployment's chain.
        expected: u64,
        /// The chain connected to.
        got: u64,
    },
    /// There is no contract where the deployment says.
    #[error("there is no {contract} at {address} on this chain")]
    NotDeployed {
        /// Which contract.
        contract: &'static str,
        /// Where it was expected.
        address: ChainAddress,
    },
    /// The address of the chain is no URL.
    #[error("{url} is not the URL of a chain: {reason}")]
    BadUrl {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The bytes are no secp256k1 key.
    #[error("not a chain key")]
    BadKey,
    /// The bytes are no signature, or not in the one form that contracts accept.
    #[error("not a voucher signature")]
    BadSignature,
    /// The queue of transactions failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// No tree, no proof.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The process is shutting down.
    #[error("stopped")]
    Stopped,
}

impl ChainError {
    /// Whether the same call may succeed later with nothing changed and nothing done twice.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::ChainDown { .. })
    }

    /// Whether a contract refused with its error `name`.
    #[must_use]
    pub fn is_revert(&self, name: &str) -> bool {
        matches!(self, Self::Reverted { reason } if reason.split(':').next() == Some(name))
    }

    pub(crate) fn nonsense(what: impl Into<String>) -> Self {
        Self::BadAnswer { what: what.into() }
    }
}

impl From<TransportError> for ChainError {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::ErrorResp(payload) => from_payload(&payload),
            TransportError::Transport(kind) => from_transport(&kind),
            other => Self::nonsense(clipped(&other.to_string())),
        }
    }
}

impl From<alloy::contract::Error> for ChainError {
    fn from(error: alloy::contract::Error) -> Self {
        match error {
            alloy::contract::Error::TransportError(error) => error.into(),
            other => Self::nonsense(clipped(&other.to_string())),
        }
    }
}

fn from_payload(payload: &ErrorPayload) -> ChainError {
    if let Some(data) = payload.as_revert_data() {
        return from_revert(&data);
    }
    let reason = clipped(&payload.message);
    let words = reason.to_lowercase();
    if words.contains("execution reverted") {
        return ChainError::Reverted { reason };
    }
    if words.contains("insufficient funds") {
        return ChainError::InsufficientGas { reason };
    }
    match payload.code {
        LIMIT_EXCEEDED => ChainError::ChainDown { reason },
        _ => ChainError::Refused { reason },
    }
}

fn from_revert(data: &[u8]) -> ChainError {
    let funds = shortfall(data).and_then(|short| Some((short.need.try_into().ok()?, short.have.try_into().ok()?)));
    match funds {
        Some((need, have)) => ChainError::InsufficientFunds { need: Amount(need), have: Amount(have) },
        None => ChainError::Reverted { reason: revert_reason(data) },
    }
}

fn from_transport(kind: &TransportErrorKind) -> ChainError {
    match kind {
        TransportErrorKind::HttpError(HttpError { status, body })
            if (400..500).contains(status) && !BUSY_STATUSES.contains(status) =>
        {
            ChainError::nonsense(format!("HTTP {status}: {}", clipped(body)))
        }
        other => ChainError::ChainDown { reason: clipped(&deepest(other)) },
    }
}

/// The last cause says most: "connection refused" and not "error sending request".
fn deepest(error: &dyn core::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let (top, bottom) = (error.to_string(), cause.to_string());
    if top.contains(&bottom) { top } else { format!("{top}: {bottom}") }
}

fn clipped(text: &str) -> String {
    text.chars().take(MAX_ANSWER_CHARS).collect()
}
