//! Money on a chain: an EVM inside this process or any JSON-RPC chain, behind one `Chain`.
//!
//! Invariant: the two differ in the transport alone. The same alloy bindings, transaction queue and helpers run over
//! both, so the same scenario gives the same gas, receipts and balances.

pub mod anchor;
pub mod chain;
mod contracts;
pub mod evm;
pub mod queue;
mod record;
pub mod rpc;

pub use record::RecordError;
