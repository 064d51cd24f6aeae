//! Binding an account's ed25519 key to its address on the chain.
//!
//! Invariant: both sides consent, the key by its signature over `bind_digest`, the address by sending.

use alloy::primitives::B256;
use alloy::sol_types::SolCall;
use tributary_protocol::id::{AccountId, ChainAddress, Signature};

use super::{Chain, ChainError, Confirmation, address_of, evm_address};
use crate::contracts::PeerRegistry;

impl Chain {
    /// What `account`'s ed25519 key signs to be bound to this address.
    pub async fn bind_digest(&self, account: AccountId) -> Result<[u8; 32], ChainError> {
        let registry = PeerRegistry::new(evm_address(self.deployment()?.registry), self.provider());
        Ok(registry.bindDigest(evm_address(self.address()), B256::new(account.0)).call().await?.0)
    }

    /// Binds `account` to this address, for good unless changed with the registry's delay.
    pub async fn bind(&self, account: AccountId, signature: &Signature) -> Result<Confirmation, ChainError> {
        let (r, s) = signature.0.split_at(32);
        let call =
            PeerRegistry::bindCall { edKey: B256::new(account.0), r: B256::from_slice(r), s: B256::from_slice(s) };
        self.send("bind", self.deployment()?.registry, call.abi_encode()).await
    }

    /// The address bound to an account.
    pub async fn address_bound_to(&self, account: AccountId) -> Result<Option<ChainAddress>, ChainError> {
        let registry = PeerRegistry::new(evm_address(self.deployment()?.registry), self.provider());
        let address = address_of(registry.accountOf(B256::new(account.0)).call().await?);
        Ok((address != ChainAddress::default()).then_some(address))
    }
}
