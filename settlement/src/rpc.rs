//! Ethereum JSON-RPC over the embedded chain: one set of methods, reached in process or over HTTP.
//!
//! Invariant: whatever the bytes of a request, the answer is a well-formed JSON-RPC reply or an HTTP refusal; work
//! per request is bounded by the constants here. No method changes the chain
//! but sending a signed transaction: time and balances cannot be set from outside.

pub mod bounded;
mod methods;
mod server;
mod transport;

use alloy::primitives::Bytes;
use serde_json::{Value, json};

pub use server::{RpcServer, ServeError, serve, serve_open};

use crate::evm::{EmbeddedChain, EvmError, GasBudget, TRANSACTION_GAS_LIMIT};

/// Bytes of a request's body: a raw transaction of the largest size in hexadecimal, and room for a batch of small ones.
pub const MAX_BODY_BYTES: usize = 512 * 1024;
/// Requests in one batch; alloy batches a handful.
pub const MAX_BATCH: usize = 64;
/// Requests worked on at once; each may hold a thread for one transaction's gas.
pub const MAX_CONCURRENT_REQUESTS: usize = 32;
/// Of those, for the programs of this machine: half, so that none of them stops what comes from elsewhere.
pub const MAX_LOOPBACK_REQUESTS: usize = MAX_CONCURRENT_REQUESTS / 2;
/// Of those, for one caller from elsewhere: a node asks one thing at a time, and eight such leave none waiting.
pub const MAX_STRANGER_REQUESTS: usize = 4;
/// Connections held open at once, four for each request worked on; likewise the two bounds below.
pub const MAX_CONNECTIONS: usize = 4 * MAX_CONCURRENT_REQUESTS;
/// Connections of the programs of this machine.
pub const MAX_LOOPBACK_CONNECTIONS: usize = 4 * MAX_LOOPBACK_REQUESTS;
/// Connections of one caller from elsewhere.
pub const MAX_STRANGER_CONNECTIONS: usize = 4 * MAX_STRANGER_REQUESTS;
/// Gas that the requests of one body may burn before the next is refused: a call of the largest size and one more.
pub const MAX_BODY_GAS: u64 = 2 * TRANSACTION_GAS_LIMIT;
/// Seconds to receive a request's body: half a megabyte over a slow line, and no more for a caller who dribbles.
pub const BODY_TIMEOUT_S: u64 = 30;
/// Seconds that requests under way have to end when the server stops; each is one transaction at most.
pub const STOP_TIMEOUT_S: u64 = 1;
/// Blocks one `eth_getLogs` may span.
pub const MAX_LOG_BLOCKS: u64 = 10_000;
/// Logs one `eth_getLogs` may return.
pub const MAX_LOGS: usize = 10_000;
/// Blocks one `eth_feeHistory` may span; alloy asks for ten.
pub const MAX_FEE_HISTORY: u64 = 64;

/// Why a request got no result; each has its JSON-RPC code.
#[derive(Debug, thiserror::Error)]
enum RpcError {
    /// The body is no JSON.
    #[error("parse error: {0}")]
    Parse(serde_json::Error),
    /// The JSON is no request.
    #[error("invalid request: {0}")]
    Request(&'static str),
    /// Nothing is served by that name.
    #[error("the method {0} does not exist or is not available")]
    Method(String),
    /// A parameter is missing or of another type.
    #[error("invalid parameter {index}: {source}")]
    Parameter { index: usize, source: serde_json::Error },
    /// The request would be too much work, or asks for state that is not kept.
    #[error("{0}")]
    Limit(&'static str),
    /// The chain refused.
    #[error(transparent)]
    Chain(#[from] EvmError),
    /// A reply could not be written.
    #[error("internal error: {0}")]
    Reply(serde_json::Error),
}

impl RpcError {
    /// The code of JSON-RPC 2.0 (section 5.1), or of EIP-1474 and go-ethereum where those say more.
    fn code(&self) -> i64 {
        match self {
            Self::Parse(_) => -32_700,
            Self::Request(_) => -32_600,
            Self::Method(_) => -32_601,
            Self::Parameter { .. } => -32_602,
            Self::Limit(_) => -32_005,
            Self::Chain(EvmError::Reverted(_)) => 3,
            Self::Chain(EvmError::Refused(_) | EvmError::AlreadyKnown(_) | EvmError::Halted(_)) => -32_000,
            Self::Chain(_) | Self::Reply(_) => -32_603,
        }
    }

    fn data(&self) -> Option<&Bytes> {
        match self {
            Self::Chain(EvmError::Reverted(output)) => Some(output),
            _ => None,
        }
    }

    fn to_json(&self) -> Value {
        match self.data() {
            Some(data) => json!({ "code": self.code(), "message": self.to_string(), "data": data }),
            None => json!({ "code": self.code(), "message": self.to_string() }),
        }
    }
}

fn reply(id: &Value, outcome: Result<Value, RpcError>) -> Value {
    match outcome {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(error) => json!({ "jsonrpc": "2.0", "id": id, "error": error.to_json() }),
    }
}

/// The reply to a request's body; `None` when it held notifications only, which get none.
fn answer_body(chain: &EmbeddedChain, body: &[u8]) -> Option<Value> {
    let request = match serde_json::from_slice::<Value>(body) {
        Ok(request) => request,
        Err(error) => return Some(reply(&Value::Null, Err(RpcError::Parse(error)))),
    };
    let mut gas = GasBudget::new(MAX_BODY_GAS);
    let Value::Array(batch) = request else { return answer_one(chain, &request, &mut gas) };
    if batch.is_empty() || batch.len() > MAX_BATCH {
        return Some(reply(&Value::Null, Err(RpcError::Request("a batch holds 1 to 64 requests"))));
    }
    let replies: Vec<_> = batch.iter().filter_map(|request| answer_one(chain, request, &mut gas)).collect();
    (!replies.is_empty()).then_some(Value::Array(replies))
}

fn answer_one(chain: &EmbeddedChain, request: &Value, gas: &mut GasBudget) -> Option<Value> {
    let Some(method) = request.get("method").and_then(Value::as_str) else {
        return Some(reply(&Value::Null, Err(RpcError::Request("no method"))));
    };
    let no_parameters = Vec::new();
    let parameters = match request.get("params") {
        Some(Value::Array(parameters)) => parameters,
        None | Some(Value::Null) => &no_parameters,
        Some(_) => return Some(reply(&Value::Null, Err(RpcError::Request("params must be an array")))),
    };
    let outcome = methods::dispatch(chain, method, parameters, gas);
    match request.get("id") {
        None => None,
        Some(id @ (Value::Null | Value::Number(_) | Value::String(_))) => Some(reply(id, outcome)),
        Some(_) => Some(reply(&Value::Null, Err(RpcError::Request("id must be a string or a number")))),
    }
}

pub(crate) use transport::EmbeddedTransport;
