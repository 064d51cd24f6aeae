//! What a transaction bids, how much gas it asks for, and its signature.
//!
//! Invariant: an attempt bids at most the policy's cap, and a raised bid is above the one it replaces by what nodes
//! ask for, unless the cap is in between.

use alloy::consensus::{SignableTransaction, TxEip1559};
use alloy::eips::BlockNumberOrTag;
use alloy::eips::eip2718::Encodable2718;
use alloy::eips::eip2930::AccessList;
use alloy::primitives::{Bytes, TxKind, U256};
use alloy::providers::Provider;
use alloy::rpc::types::TransactionRequest;

use super::sender::{Call, Sender};
use super::{Attempt, Entry};
use crate::chain::ChainError;
use crate::evm::TRANSACTION_GAS_LIMIT;

/// Blocks the fee estimate looks back on.
const FEE_BLOCKS: u64 = 5;

/// Wei per gas.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fees {
    pub(super) max_fee: u128,
    pub(super) priority_fee: u128,
}

impl Fees {
    /// A quarter above both; nodes ask for a tenth more before they replace a transaction.
    pub(super) fn raised(self) -> Self {
        Self { max_fee: raised(self.max_fee), priority_fee: raised(self.priority_fee) }
    }

    pub(super) fn at_least(self, other: Self) -> Self {
        Self { max_fee: self.max_fee.max(other.max_fee), priority_fee: self.priority_fee.max(other.priority_fee) }
    }

    pub(super) fn capped(self, cap: u128) -> Self {
        let max_fee = self.max_fee.min(cap);
        Self { max_fee, priority_fee: self.priority_fee.min(max_fee) }
    }
}

impl Sender {
    pub(super) fn sign(&self, entry: &Entry, fees: Fees) -> Result<Attempt, ChainError> {
        let transaction = TxEip1559 {
            chain_id: entry.chain_id,
            nonce: entry.nonce,
            gas_limit: entry.gas_limit,
            max_fee_per_gas: fees.max_fee,
            max_priority_fee_per_gas: fees.priority_fee,
            to: entry.to.map_or(TxKind::Create, TxKind::Call),
            value: U256::ZERO,
            access_list: AccessList::default(),
            input: entry.input.clone(),
        };
        let signature = self.key.sign(transaction.signature_hash())?;
        let signed = transaction.into_signed(signature);
        let raw = Bytes::from(signed.encoded_2718());
        let (max_fee, priority_fee) = (fees.max_fee, fees.priority_fee);
        Ok(Attempt { hash: *signed.hash(), raw, max_fee, priority_fee, is_cancel: false })
    }

    /// A quarter above the estimate: state may change between estimate and block.
    pub(super) async fn gas_limit(&self, call: &Call) -> Result<u64, ChainError> {
        let request = TransactionRequest::default().from(self.key.evm_address()).input(call.input.clone().into());
        let request = TransactionRequest { to: Some(call.to.map_or(TxKind::Create, TxKind::Call)), ..request };
        let estimate = self.provider.estimate_gas(request).await?;
        Ok(estimate.saturating_add(estimate / 4).min(TRANSACTION_GAS_LIMIT))
    }

    /// Twice the base fee and the middle tip of late blocks. On a chain where both are zero the bid is zero, which
    /// alloy's own estimate never is.
    pub(super) async fn fees(&self) -> Result<Fees, ChainError> {
        let history = self.provider.get_fee_history(FEE_BLOCKS, BlockNumberOrTag::Latest, &[50.0]).await?;
        let base = history.base_fee_per_gas.last().copied().unwrap_or_default();
        let mut tips: Vec<u128> =
            history.reward.unwrap_or_default().iter().filter_map(|r| r.first().copied()).collect();
        tips.sort_unstable();
        let tip = tips.get(tips.len() / 2).copied().unwrap_or_default();
        let priority_fee = if base > 0 { tip.max(1) } else { tip };
        let max_fee = base.saturating_mul(2).saturating_add(priority_fee);
        Ok(Fees { max_fee, priority_fee }.capped(self.policy.max_fee_cap))
    }
}

fn raised(fee: u128) -> u128 {
    fee.saturating_add(fee / 4).saturating_add(1)
}
