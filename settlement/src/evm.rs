//! An EVM chain inside this process: revm over a redb file, one signed transaction a block, mined as it arrives.
//!
//! Invariant: a transaction is acknowledged only after its block, receipt and state changes are on disk together; a
//! process killed at any moment reopens at the last acknowledged block. There is one writer, so there are no reorgs.
//!
//! Gas is counted as on any chain but costs nothing: the base fee is zero and a transaction may bid zero, so an
//! account that owns no native coin can send at once. What an open chain of that kind would invite, endless free
//! transactions, is why it is served on loopback unless the operator says otherwise.
//!
//! The chain id is drawn at random when the chain is made: with a well-known one, signatures made for one local
//! chain would be good on every other (deployment addresses repeat too).

mod block;
mod cache;
mod execute;
mod store;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use tributary_protocol::id::ChainAddress;

pub(crate) use block::{StoredBlock, genesis_rpc_block};
pub(crate) use execute::{GasBudget, Inner};
use store::{Genesis, Store};

use crate::record::RecordError;

/// Gas one transaction may use: EIP-7825's cap, so what passes here passes on a chain of the Osaka rules too.
pub const TRANSACTION_GAS_LIMIT: u64 = 16_777_216;
/// Gas a block states as its limit; Ethereum's own since 2025.
pub const BLOCK_GAS_LIMIT: u64 = 60_000_000;
/// Bytes of a raw transaction, the limit of go-ethereum's pool.
pub const MAX_TRANSACTION_BYTES: usize = 128 * 1024;

const FILE_NAME: &str = "chain.redb";
/// Local chain ids start here: above every registered id, and with 50 random bits below 2^52, where wallets that
/// keep numbers as JavaScript does stop.
const LOCAL_CHAIN_ID_BASE: u64 = 1 << 50;

/// Why the embedded chain could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EvmError {
    /// The chain's file could not be opened.
    #[error("cannot open the chain at {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What redb says.
        source: redb::DatabaseError,
    },
    /// Another process has the chain's file open.
    #[error("the chain at {path} is in use by another process")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The folder of the chain could not be made.
    #[error("cannot make the chain's folder {path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// This machine is broken: the file cannot be read or written.
    #[error("the chain's file failed: {0}")]
    Store(#[from] redb::Error),
    /// This machine is broken: the file holds something the chain never writes.
    #[error("the chain's file is damaged: {0}")]
    Corrupt(#[from] RecordError),
    /// No random chain id could be drawn.
    #[error("the system gave no randomness: {0}")]
    Randomness(getrandom::Error),
    /// The transaction cannot be part of this chain; nothing changed.
    #[error("{0}")]
    Refused(String),
    /// The transaction is part of the chain already.
    #[error("already known")]
    AlreadyKnown(B256),
    /// A simulated call was reverted by the contract.
    #[error("execution reverted")]
    Reverted(Bytes),
    /// A simulated call broke a rule of the EVM.
    #[error("execution halted: {0}")]
    Halted(String),
}

impl EvmError {
    fn open(path: &Path, source: redb::DatabaseError) -> Self {
        let path = path.to_owned();
        match source {
            redb::DatabaseError::DatabaseAlreadyOpen => Self::InUse { path },
            source => Self::Open { path, source },
        }
    }
}

macro_rules! store_errors {
    ($($error:ident),+) => {$(
        impl From<redb::$error> for EvmError {
            fn from(error: redb::$error) -> Self {
                Self::Store(error.into())
            }
        }
    )+};
}

store_errors!(TransactionError, TableError, StorageError, CommitError);

/// A handle on the chain; clones share it.
#[derive(Clone)]
pub struct EmbeddedChain {
    inner: Arc<RwLock<Inner>>,
}

impl core::fmt::Debug for EmbeddedChain {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("EmbeddedChain").field("chain_id", &self.chain_id()).field("head", &self.head()).finish()
    }
}

impl EmbeddedChain {
    /// Opens the chain in `folder`, or makes a new one with a random id.
    pub fn open(folder: &Path) -> Result<Self, EvmError> {
        std::fs::create_dir_all(folder).map_err(|source| EvmError::Folder { path: folder.to_owned(), source })?;
        let genesis = Genesis { chain_id: random_chain_id()?, timestamp: unix_seconds() };
        let store = Store::open(&folder.join(FILE_NAME), genesis)?;
        Ok(Self { inner: Arc::new(RwLock::new(Inner::load(store)?)) })
    }

    /// The id that every transaction for this chain must name.
    #[must_use]
    pub fn chain_id(&self) -> u64 {
        self.read().chain_id()
    }

    /// Number of the newest block; the genesis is 0.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.read().head().number
    }

    /// Moves the chain's clock `seconds` ahead, for good. Only whoever owns the chain's process can; it is not served.
    pub fn advance_time(&self, seconds: u64) -> Result<(), EvmError> {
        self.write().advance_time(seconds)
    }

    /// Gives `address` that many wei of native coin, for trying out bids above zero. It is not served.
    pub fn fund(&self, address: ChainAddress, wei: u128) -> Result<(), EvmError> {
        self.write().set_balance(Address::from(address.0), U256::from(wei))
    }

    /// Shared use. A panic while a writer held the lock cannot have left half a change: the file is written in one
    /// transaction, and the fields in memory are set after it by assignments that cannot fail.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random_chain_id() -> Result<u64, EvmError> {
    let random = getrandom::u64().map_err(EvmError::Randomness)?;
    Ok(LOCAL_CHAIN_ID_BASE | (random % LOCAL_CHAIN_ID_BASE))
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn genesis_hash(genesis: Genesis) -> B256 {
    let mut preimage = b"tributary embedded chain".to_vec();
    preimage.extend_from_slice(&genesis.chain_id.to_be_bytes());
    preimage.extend_from_slice(&genesis.timestamp.to_be_bytes());
    keccak256(preimage)
}
