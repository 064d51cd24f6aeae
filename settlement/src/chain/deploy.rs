//! Making the contracts, and naming where they are.
//!
//! Invariant: a deployment that `at` accepted names contracts of this very chain.

use alloy::primitives::U256;
use alloy::providers::Provider;
use serde::{Deserialize, Serialize};
use tributary_protocol::id::{Amount, ChainAddress};

use super::{Chain, ChainError, address_of, evm_address};
use crate::contracts::{Anchor, OpenToken, PeerRegistry, VoucherEscrow};

/// The whole supply in basis points.
pub const WHOLE_BASIS_POINTS: u16 = 10_000;

/// What is fixed for good when the contracts are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// Who holds which share of the supply of 1,000,000,000 OPEN, in basis points that sum to 10,000.
    pub allocations: Vec<(ChainAddress, u16)>,
    /// Seconds an epoch can be challenged before it is final. 0 trusts the poster.
    pub challenge_window_s: u64,
    /// What a poster stakes on an epoch.
    pub bond: Amount,
    /// The most one epoch pays out.
    pub epoch_cap: Amount,
    /// Seconds between a payer's wish for money back and getting it.
    pub thaw_s: u64,
    /// Seconds between the wish to change a bound key and the change.
    pub key_change_delay_s: u64,
    /// Who may veto an epoch before it is final; the zero address for nobody.
    pub guardian: ChainAddress,
}

impl Genesis {
    /// For a chain on one machine: `operator` holds the whole supply and is the guardian, the window is short.
    #[must_use]
    pub fn local(operator: ChainAddress) -> Self {
        Self {
            allocations: vec![(operator, WHOLE_BASIS_POINTS)],
            challenge_window_s: 1,
            bond: Amount(100 * Amount::OPEN.0),
            epoch_cap: Amount(10_000_000 * Amount::OPEN.0),
            thaw_s: 3_600,
            key_change_delay_s: 3_600,
            guardian: operator,
        }
    }
}

/// Where the contracts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// The chain they are on.
    pub chain_id: u64,
    /// The block of the first of them: no event is older.
    pub block: u64,
    /// OPEN itself.
    pub token: ChainAddress,
    /// Bindings of ed25519 keys to addresses.
    pub registry: ChainAddress,
    /// Payers' deposits, settled by vouchers.
    pub escrow: ChainAddress,
    /// Epochs of earnings and receipts.
    pub anchor: ChainAddress,
    /// Pays earnings out of the fees.
    pub distributor: ChainAddress,
}

impl Chain {
    /// Makes all contracts, sent by this chain's key.
    pub async fn deploy(&self, genesis: &Genesis) -> Result<Deployment, ChainError> {
        let provider = self.provider().clone();
        let (holders, shares) =
            genesis.allocations.iter().map(|(to, points)| (evm_address(*to), U256::from(*points))).unzip();
        let token = OpenToken::deploy_builder(provider.clone(), holders, shares);
        let (token, block) = self.create("token", token.calldata()).await?;
        let registry = PeerRegistry::deploy_builder(provider.clone(), genesis.key_change_delay_s);
        let (registry, _) = self.create("registry", registry.calldata()).await?;
        let anchor = Anchor::deploy_builder(
            provider.clone(),
            evm_address(token),
            genesis.challenge_window_s,
            genesis.bond.0,
            genesis.epoch_cap.0,
            evm_address(genesis.guardian),
        );
        let (anchor, _) = self.create("anchor", anchor.calldata()).await?;
        let distributor = Anchor::new(evm_address(anchor), self.provider()).distributor().call().await?;
        let escrow = VoucherEscrow::deploy_builder(provider, evm_address(token), distributor, genesis.thaw_s);
        let (escrow, _) = self.create("escrow", escrow.calldata()).await?;
        let distributor = address_of(distributor);
        Ok(Deployment { chain_id: self.chain_id(), block, token, registry, escrow, anchor, distributor })
    }

    async fn create(&self, step: &str, code: &[u8]) -> Result<(ChainAddress, u64), ChainError> {
        let receipt = self.submit(step, None, code.to_vec()).await?;
        let created = receipt.contract_address.ok_or(ChainError::nonsense("a creation made no contract"))?;
        Ok((address_of(created), receipt.block_number.unwrap_or_default()))
    }

    /// The same chain with the contracts of `deployment`; an error when they are on another.
    pub fn at(&self, deployment: Deployment) -> Result<Self, ChainError> {
        if deployment.chain_id != self.chain_id() {
            return Err(ChainError::WrongChain { expected: deployment.chain_id, got: self.chain_id() });
        }
        Ok(Self { deployment: Some(deployment), ..self.clone() })
    }

    /// Looks whether there is code where the deployment says: a local chain whose file was deleted has none.
    pub async fn check_deployment(&self) -> Result<(), ChainError> {
        let deployment = self.deployment()?;
        let contracts = [
            ("token", deployment.token),
            ("registry", deployment.registry),
            ("escrow", deployment.escrow),
            ("anchor", deployment.anchor),
            ("distributor", deployment.distributor),
        ];
        for (contract, address) in contracts {
            let code = self.provider().get_code_at(evm_address(address)).await?;
            if code.is_empty() {
                return Err(ChainError::NotDeployed { contract, address });
            }
        }
        Ok(())
    }
}
