//! The secp256k1 key of an account on the chain.
//!
//! Invariant: the secret leaves only as signatures; printing shows the address.

use alloy::primitives::{Address, B256, Signature};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use tributary_protocol::id::ChainAddress;

use super::ChainError;

/// Signs transactions and vouchers. Never use one key on a local chain and a real one.
#[derive(Clone)]
pub struct ChainKey(PrivateKeySigner);

impl ChainKey {
    /// The key of these 32 bytes; zero and numbers above the curve's order are none.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, ChainError> {
        PrivateKeySigner::from_bytes(&B256::new(bytes)).map(Self).map_err(|_| ChainError::BadKey)
    }

    /// Where this key's money lives.
    #[must_use]
    pub fn address(&self) -> ChainAddress {
        ChainAddress(self.0.address().into_array())
    }

    pub(crate) fn evm_address(&self) -> Address {
        self.0.address()
    }

    pub(crate) fn sign(&self, digest: B256) -> Result<Signature, ChainError> {
        self.0.sign_hash_sync(&digest).map_err(|_| ChainError::BadKey)
    }
}

impl core::fmt::Debug for ChainKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("ChainKey").field(&self.address()).finish()
    }
}
