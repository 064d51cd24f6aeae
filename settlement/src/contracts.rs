//! Bindings to the contracts, made from the committed artifacts: cargo needs no compiler of Solidity and no node.
//!
//! Invariant: whatever bytes a call reverted with, the reason is a text that names the contract's own error.

#![allow(clippy::too_many_arguments, reason = "a generated binding takes what the contract's function takes")]

use alloy::primitives::U256;
use alloy::sol;
use alloy::sol_types::{Panic, Revert, SolError};

sol!(
    #[sol(rpc)]
    #[derive(Debug)]
    OpenToken,
    "artifacts/OpenToken.json"
);
sol!(
    #[sol(rpc)]
    #[derive(Debug)]
    PeerRegistry,
    "artifacts/PeerRegistry.json"
);
sol!(
    #[sol(rpc)]
    #[derive(Debug)]
    VoucherEscrow,
    "artifacts/VoucherEscrow.json"
);
sol!(
    #[sol(rpc)]
    #[derive(Debug)]
    Anchor,
    "artifacts/Anchor.json"
);
sol!(
    #[sol(rpc)]
    #[derive(Debug)]
    Distributor,
    "artifacts/Distributor.json"
);

/// A token transfer above the sender's balance, as the token tells it (ERC-6093).
pub(crate) struct Shortfall {
    pub(crate) have: U256,
    pub(crate) need: U256,
}

/// The shortfall, when that is what the call reverted with.
pub(crate) fn shortfall(data: &[u8]) -> Option<Shortfall> {
    let error = OpenToken::ERC20InsufficientBalance::abi_decode(data).ok()?;
    Some(Shortfall { have: error.balance, need: error.needed })
}

/// The name of the contract's error, with what it means where the name alone would not tell a user.
pub(crate) fn revert_reason(data: &[u8]) -> String {
    if data.is_empty() {
        return "no reason given".to_owned();
    }
    if let Some(name) = error_name(data) {
        return explanation(name).map_or_else(|| name.to_owned(), |text| format!("{name}: {text}"));
    }
    if let Ok(text) = Revert::abi_decode(data) {
        return text.reason;
    }
    match Panic::abi_decode(data) {
        Ok(panic) => panic.to_string(),
        Err(_) => format!("unknown error {}", hex::encode(data.get(..4).unwrap_or(data))),
    }
}

fn error_name(data: &[u8]) -> Option<&'static str> {
    let selector = *data.first_chunk::<4>()?;
    VoucherEscrow::VoucherEscrowErrors::name_by_selector(selector)
        .or_else(|| Anchor::AnchorErrors::name_by_selector(selector))
        .or_else(|| Distributor::DistributorErrors::name_by_selector(selector))
        .or_else(|| PeerRegistry::PeerRegistryErrors::name_by_selector(selector))
        .or_else(|| OpenToken::OpenTokenErrors::name_by_selector(selector))
}

fn explanation(name: &str) -> Option<&'static str> {
    match name {
        "NothingDue" => Some("everything it entitles to has been paid"),
        "EmptyBalance" => Some("the payer's escrow for this payee is empty"),
        "NotMonotone" => Some("a later voucher of this stream has been redeemed"),
        "NotEnough" => Some("more than the escrow holds"),
        "NotThawed" => Some("the thaw is not over or was not asked for"),
        "PendingExists" => Some("another batch waits to become final"),
        "TotalNotFunded" => Some("the earnings are more than the fees that arrived"),
        "TotalDecreased" => Some("the earnings are less than in the newest final batch"),
        "RejectedBefore" => Some("the same batch was rejected before"),
        "WindowOpen" => Some("the challenge window is not over"),
        "NotPending" => Some("that batch does not wait to become final"),
        "BadProof" => Some("the proof does not lead to the root on chain"),
        "CapReached" => Some("this epoch has paid out all it may"),
        "KeyTaken" => Some("the key is bound to another address"),
        "AccountTaken" => Some("the address has a key already"),
        "BadSignature" => Some("the key did not sign this binding"),
        "BadAllocation" => Some("the allocation's basis points must sum to 10000"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_named() {
        let due = VoucherEscrow::NothingDue {}.abi_encode();
        assert_eq!(revert_reason(&due), "NothingDue: everything it entitles to has been paid");
        let text = Revert::from("because").abi_encode();
        assert_eq!(revert_reason(&text), "because");
        assert!(revert_reason(&Panic::from(0x11).abi_encode()).contains("overflow"));
        assert_eq!(revert_reason(&[]), "no reason given");
        assert_eq!(revert_reason(&[1, 2]), "unknown error 0102");
        assert!(revert_reason(&[9; 40]).contains("09090909"));
    }
}
