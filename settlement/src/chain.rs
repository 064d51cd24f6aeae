//! One `Chain` for the embedded EVM and any JSON-RPC chain: an account, its queue of transactions, the contracts.
//!
//! Invariant: every transaction goes through the queue; nothing here signs or sends past it. Which transport lies
//! below is not visible above the constructors.

mod deploy;
mod disputes;
mod epochs;
mod error;
mod key;
mod payments;
mod registry;

use std::time::Duration;

use alloy::primitives::{Address, U256};
use alloy::providers::{DynProvider, Provider, ProviderBuilder};
use alloy::rpc::client::RpcClient;
use alloy::rpc::types::TransactionReceipt;
use alloy::transports::http::reqwest;
use tributary_protocol::id::{Amount, ChainAddress};

pub use deploy::{Deployment, Genesis, WHOLE_BASIS_POINTS};
pub use epochs::{Batch, BatchFault, Claimed, Epoch, FinalRoot};
pub use error::ChainError;
pub use key::ChainKey;
pub use payments::{Redeemed, SignedVoucher, Totals, Voucher};

use crate::evm::EmbeddedChain;
use crate::queue::{Call, Queue, SendPolicy, Sender};
use crate::rpc::EmbeddedTransport;

/// Seconds to reach a node: one on another continent answers in a tenth.
const CONNECT_TIMEOUT_S: u64 = 5;
/// Seconds for one answer.
const REQUEST_TIMEOUT_S: u64 = 30;
/// Clients whose chain mines as transactions come and never forks.
const AUTOMINING_CLIENTS: [&str; 3] = ["tributary-embedded/", "anvil/", "hardhatnetwork/"];

/// An account on a chain. Clones share the connection and the queue.
#[derive(Clone)]
pub struct Chain {
    sender: Sender,
    deployment: Option<Deployment>,
    purpose: Option<String>,
}

/// A transaction that is in a block, deep enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmation {
    /// Its hash.
    pub transaction: [u8; 32],
    /// Its block.
    pub block: u64,
    /// Gas it used.
    pub gas_used: u64,
}

impl Confirmation {
    fn of(receipt: &TransactionReceipt) -> Self {
        Self {
            transaction: receipt.transaction_hash.0,
            block: receipt.block_number.unwrap_or_default(),
            gas_used: receipt.gas_used,
        }
    }
}

impl core::fmt::Debug for Chain {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Chain").field("chain_id", &self.chain_id()).field("account", &self.address()).finish()
    }
}

impl Chain {
    /// The chain in this process, used as `key`, with a queue that forgets with the process (see `with_queue`).
    pub fn embedded(chain: EmbeddedChain, key: ChainKey) -> Result<Self, ChainError> {
        let chain_id = chain.chain_id();
        let client = RpcClient::new(EmbeddedTransport::new(chain), true);
        Self::over(client, key, chain_id, SendPolicy::automining())
    }

    /// The chain a node serves at `url`, used as `key`, with a queue that forgets with the process.
    pub async fn connect(url: &str, key: ChainKey) -> Result<Self, ChainError> {
        let bad = |reason: String| ChainError::BadUrl { url: url.to_owned(), reason };
        let parsed = reqwest::Url::parse(url).map_err(|error| bad(error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(bad("it must begin with http:// or https://".to_owned()));
        }
        let builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(CONNECT_TIMEOUT_S))
            .timeout(Duration::from_secs(REQUEST_TIMEOUT_S))
            .redirect(reqwest::redirect::Policy::none());
        // A proxy of the environment is for the internet, not for this machine.
        let builder = if is_loopback(&parsed) { builder.no_proxy() } else { builder };
        let http = builder.build().map_err(|error| bad(error.to_string()))?;
        Self::over_client(RpcClient::new_http_with_client(http, parsed), key).await
    }

    /// The chain behind any alloy client.
    pub async fn over_client(client: RpcClient, key: ChainKey) -> Result<Self, ChainError> {
        let provider: DynProvider = ProviderBuilder::default().connect_client(client.clone()).erased();
        let chain_id = provider.get_chain_id().await?;
        let version = provider.get_client_version().await.unwrap_or_default().to_lowercase();
        let automining = AUTOMINING_CLIENTS.iter().any(|name| version.starts_with(name));
        let policy = if automining { SendPolicy::automining() } else { SendPolicy::public() };
        Self::over(client, key, chain_id, policy)
    }

    fn over(client: RpcClient, key: ChainKey, chain_id: u64, policy: SendPolicy) -> Result<Self, ChainError> {
        // `default` has no fillers: nonce, gas and fees are the queue's business.
        let provider: DynProvider = ProviderBuilder::default().connect_client(client).erased();
        let sender = Sender { provider, key, chain_id, queue: Queue::in_memory()?, policy };
        Ok(Self { sender, deployment: None, purpose: None })
    }

    /// The same chain with transactions kept in `queue`: open it from a file, and call `resume` after a restart.
    #[must_use]
    pub fn with_queue(mut self, queue: Queue) -> Self {
        self.sender.queue = queue;
        self
    }

    /// The same chain with another patience, depth or bid.
    #[must_use]
    pub fn with_policy(mut self, policy: SendPolicy) -> Self {
        self.sender.policy = policy;
        self
    }

    /// The same chain and queue, used by another account.
    #[must_use]
    pub fn with_key(&self, key: ChainKey) -> Self {
        let mut other = self.clone();
        other.sender.key = key;
        other
    }

    /// The same chain for a thing that must happen once: what is called through it does nothing when a call of the
    /// same purpose went through before, in this process or an earlier one with the same queue file.
    #[must_use]
    pub fn once(&self, purpose: impl Into<String>) -> Self {
        Self { purpose: Some(purpose.into()), ..self.clone() }
    }

    /// Sees through what an earlier process began; how many transactions that were.
    pub async fn resume(&self) -> Result<usize, ChainError> {
        self.sender.resume().await
    }

    /// This account.
    #[must_use]
    pub fn address(&self) -> ChainAddress {
        self.sender.key.address()
    }

    /// The chain's id.
    #[must_use]
    pub fn chain_id(&self) -> u64 {
        self.sender.chain_id
    }

    /// The contracts in use.
    pub fn deployment(&self) -> Result<Deployment, ChainError> {
        self.deployment.ok_or(ChainError::NoDeployment)
    }

    /// Number of the newest block; the cheapest way to see whether the chain is up.
    pub async fn head(&self) -> Result<u64, ChainError> {
        Ok(self.provider().get_block_number().await?)
    }

    fn provider(&self) -> &DynProvider {
        &self.sender.provider
    }

    /// Sends one transaction; `step` tells the transactions of one purpose apart.
    async fn submit(&self, step: &str, to: Option<Address>, input: Vec<u8>) -> Result<TransactionReceipt, ChainError> {
        let purpose = self.purpose.as_ref().map(|purpose| format!("{purpose}/{step}"));
        self.sender.submit(Call { to, input: input.into(), purpose }).await
    }

    /// Whether `step` of this purpose went through or is on its way, so that what it needs is spent already.
    async fn is_done(&self, step: &str) -> Result<bool, ChainError> {
        match &self.purpose {
            Some(purpose) => self.sender.is_known(&format!("{purpose}/{step}")).await,
            None => Ok(false),
        }
    }

    async fn send(&self, step: &str, to: ChainAddress, input: Vec<u8>) -> Result<Confirmation, ChainError> {
        let receipt = self.submit(step, Some(evm_address(to)), input).await?;
        Ok(Confirmation::of(&receipt))
    }
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn evm_address(address: ChainAddress) -> Address {
    Address::new(address.0)
}

fn address_of(address: Address) -> ChainAddress {
    ChainAddress(address.into_array())
}

/// OPEN's supply is 10^27 atto, so every amount of it fits 128 bits.
fn amount(value: U256) -> Result<Amount, ChainError> {
    value.try_into().map(Amount).map_err(|_| ChainError::nonsense("an amount above 2^128"))
}
