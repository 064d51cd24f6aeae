//! Binding an account's ed25519 key to its address on the chain.
//!
//! Invariant: both sides consent, the key by its signature over `bind_digest`, the address by sending.

use alloy::primitives::B256;
use alloy::providers::Provider;
use alloy::rpc::types::Filter;
use alloy::sol_types::{SolCall, SolEvent};
use tributary_protocol::id::{AccountId, ChainAddress, Signature};

use super::{Chain, ChainError, Confirmation, address_of, evm_address};
use crate::contracts::PeerRegistry;

/// Blocks whose logs are asked for at once; public nodes serve no more.
const LOG_BLOCKS: u64 = 10_000;

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

    /// The address an account was bound to first; no later rotation or revocation changes it.
    pub async fn address_first_bound_to(&self, account: AccountId) -> Result<Option<ChainAddress>, ChainError> {
        let registry = PeerRegistry::new(evm_address(self.deployment()?.registry), self.provider());
        let signatures = registry.nonceOf(B256::new(account.0)).call().await?;
        if signatures == 0 {
            return Ok(None);
        }
        // Each signature binds once at most, so the only one made the binding that stands.
        let now = self.address_bound_to(account).await?;
        if signatures == 1 && now.is_some() {
            return Ok(now);
        }
        self.first_binding_logged(account).await
    }

    async fn first_binding_logged(&self, account: AccountId) -> Result<Option<ChainAddress>, ChainError> {
        let registry = evm_address(self.deployment()?.registry);
        let bound = Filter::new().address(registry).event_signature(PeerRegistry::Bound::SIGNATURE_HASH);
        let bound = bound.topic1(B256::new(account.0));
        let (mut from, head) = (0, self.head().await?);
        while from <= head {
            let to = head.min(from.saturating_add(LOG_BLOCKS - 1));
            let logs = self.provider().get_logs(&bound.clone().from_block(from).to_block(to)).await?;
            let first = logs.iter().min_by_key(|log| (log.block_number, log.log_index));
            if let Some(event) = first.and_then(|log| PeerRegistry::Bound::decode_log(&log.inner).ok()) {
                return Ok(Some(address_of(event.account)));
            }
            from = to.saturating_add(1);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::keccak256;
    use alloy::sol_types::SolCall;
    use ed25519_dalek::{Signer, SigningKey};
    use tempfile::TempDir;
    use tributary_protocol::id::{AccountId, Signature};

    use super::{Chain, evm_address};
    use crate::chain::{ChainKey, Genesis};
    use crate::contracts::PeerRegistry;
    use crate::evm::EmbeddedChain;

    fn key(name: &str) -> ChainKey {
        ChainKey::from_bytes(keccak256(name).0).unwrap()
    }

    async fn bind(chain: &Chain, account: &SigningKey) {
        let id = AccountId(account.verifying_key().to_bytes());
        let digest = chain.bind_digest(id).await.unwrap();
        chain.bind(id, &Signature(account.sign(&digest).to_bytes())).await.unwrap();
    }

    async fn revoke(chain: &Chain) {
        let registry = chain.deployment().unwrap().registry;
        chain.send("revoke", registry, PeerRegistry::requestRevokeCall {}.abi_encode()).await.unwrap();
        let apply = PeerRegistry::applyChangeCall { account: evm_address(chain.address()) };
        chain.send("apply", registry, apply.abi_encode()).await.unwrap();
    }

    #[tokio::test]
    async fn the_first_binding_stands_whatever_is_changed_later() {
        let folder = TempDir::new().unwrap();
        let chain = Chain::embedded(EmbeddedChain::open(folder.path()).unwrap(), key("first")).unwrap();
        let genesis = Genesis { key_change_delay_s: 0, ..Genesis::local(chain.address()) };
        let deployment = chain.deploy(&genesis).await.unwrap();
        let first = chain.at(deployment).unwrap();
        let second = first.with_key(key("second"));
        let secret = SigningKey::from_bytes(&[9; 32]);
        let account = AccountId(secret.verifying_key().to_bytes());
        assert_eq!(first.address_first_bound_to(account).await.unwrap(), None);
        bind(&first, &secret).await;
        assert_eq!(first.address_first_bound_to(account).await.unwrap(), Some(first.address()));
        revoke(&first).await;
        assert_eq!(first.address_bound_to(account).await.unwrap(), None);
        assert_eq!(first.address_first_bound_to(account).await.unwrap(), Some(first.address()));
        bind(&second, &secret).await;
        assert_eq!(first.address_bound_to(account).await.unwrap(), Some(second.address()));
        assert_eq!(first.address_first_bound_to(account).await.unwrap(), Some(first.address()));
    }
}
