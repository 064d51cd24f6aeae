//! The embedded chain's state, blocks and receipts in one redb file.
//!
//! Invariant: a block, its receipt and every state change it made are written in one durable transaction, so the
//! head of a reopened file always agrees with its accounts. The caches hold only what the file holds; writers are
//! excluded while readers read (the lock around the chain), so a cached value is never older than the file's.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use alloy::primitives::{Address, B256, Bytes, U256};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use revm::DatabaseRef;
use revm::bytecode::Bytecode;
use revm::database_interface::DBErrorMarker;
use revm::state::{Account, AccountInfo, EvmState};

use super::block::StoredBlock;
use super::cache::Generations;
use super::{EvmError, genesis_hash};
use crate::record::{Reader, RecordError, Writer};

/// Address → nonce (8), balance (32), code hash (32).
const ACCOUNTS: TableDefinition<'_, &[u8; 20], &[u8; 72]> = TableDefinition::new("account");
/// Address (20) and slot (32) → value.
const SLOTS: TableDefinition<'_, &[u8; 52], &[u8; 32]> = TableDefinition::new("slot");
/// Code hash → code.
const CODE: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("code");
/// Number → block record.
const BLOCKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("block");
/// Transaction hash → number of its block.
const TRANSACTIONS: TableDefinition<'_, &[u8; 32], u64> = TableDefinition::new("transaction");
/// Single records by name.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

const GENESIS: &str = "genesis";
const GENESIS_VERSION: u8 = 1;
const WARP: &str = "warp";
const WARP_VERSION: u8 = 1;

/// Memory redb may use for pages of the file: a local chain's working set is a few contracts.
const PAGE_CACHE_BYTES: usize = 16 << 20;
/// Accounts and slots kept decoded; two generations of this many, about 10 MB in all.
const CACHED_VALUES: usize = 32_768;
/// Contracts kept analysed; the largest is 24 KiB (EIP-170).
const CACHED_CODES: usize = 64;

/// What the chain is, fixed at its first opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Genesis {
    pub(crate) chain_id: u64,
    /// Seconds since the Unix epoch.
    pub(crate) timestamp: u64,
}

struct Caches {
    accounts: Generations<Address, Option<AccountInfo>>,
    slots: Generations<(Address, U256), U256>,
    codes: Generations<B256, Bytecode>,
}

pub(crate) struct Store {
    database: Database,
    genesis: Genesis,
    caches: Mutex<Caches>,
}

impl Store {
    /// Opens the file, or makes it with `genesis` when it holds no chain yet.
    pub(crate) fn open(path: &Path, genesis: Genesis) -> Result<Self, EvmError> {
        let database = Database::builder()
            .set_cache_size(PAGE_CACHE_BYTES)
            .create(path)
            .map_err(|source| EvmError::open(path, source))?;
        let transaction = database.begin_write()?;
        transaction.open_table(ACCOUNTS)?;
        transaction.open_table(SLOTS)?;
        transaction.open_table(CODE)?;
        transaction.open_table(BLOCKS)?;
        transaction.open_table(TRANSACTIONS)?;
        let genesis = load_or_write_genesis(&transaction, genesis)?;
        transaction.commit()?;
        let caches = Mutex::new(Caches {
            accounts: Generations::new(CACHED_VALUES),
            slots: Generations::new(CACHED_VALUES),
            codes: Generations::new(CACHED_CODES),
        });
        Ok(Self { database, genesis, caches })
    }

    pub(crate) fn genesis(&self) -> Genesis {
        self.genesis
    }

    /// Makes `changes`, and the block that made them, durable together; then lets the caches see them.
    pub(crate) fn commit(&self, changes: &EvmState, block: Option<&StoredBlock>) -> Result<(), EvmError> {
        let touched: BTreeMap<&Address, &Account> =
            changes.iter().filter(|(_, account)| account.is_touched()).collect();
        let transaction = self.database.begin_write()?;
        for (address, account) in &touched {
            write_account(&transaction, **address, account)?;
        }
        if let Some(block) = block {
            transaction.open_table(BLOCKS)?.insert(block.number, block.encode().as_slice())?;
            transaction.open_table(TRANSACTIONS)?.insert(&block.transaction_hash().0, block.number)?;
        }
        transaction.commit()?;
        self.refresh(&touched);
        Ok(())
    }

    fn refresh(&self, touched: &BTreeMap<&Address, &Account>) {
        let mut caches = self.caches();
        for (address, account) in touched {
            let kept = is_kept(account).then(|| AccountInfo { code: None, ..account.info.clone() });
            caches.accounts.insert(**address, kept);
            for (slot, value) in account.changed_storage_slots() {
                caches.slots.insert((**address, *slot), value.present_value());
            }
        }
    }

    /// The caches; a thread that panicked left at worst a value out of them, never a wrong one.
    fn caches(&self) -> std::sync::MutexGuard<'_, Caches> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn head(&self) -> Result<Option<StoredBlock>, EvmError> {
        let table = self.read()?.open_table(BLOCKS)?;
        let Some((number, bytes)) = table.last()? else { return Ok(None) };
        Ok(Some(StoredBlock::decode(number.value(), bytes.value())?))
    }

    pub(crate) fn block(&self, number: u64) -> Result<Option<StoredBlock>, EvmError> {
        let table = self.read()?.open_table(BLOCKS)?;
        let Some(bytes) = table.get(number)? else { return Ok(None) };
        Ok(Some(StoredBlock::decode(number, bytes.value())?))
    }

    pub(crate) fn block_of(&self, transaction_hash: B256) -> Result<Option<StoredBlock>, EvmError> {
        let number = {
            let table = self.read()?.open_table(TRANSACTIONS)?;
            table.get(&transaction_hash.0)?.map(|number| number.value())
        };
        number.map_or(Ok(None), |number| self.block(number))
    }

    pub(crate) fn set_warp(&self, seconds: u64) -> Result<(), EvmError> {
        let transaction = self.database.begin_write()?;
        let record = Writer::new(WARP_VERSION).u64(seconds).finish();
        transaction.open_table(META)?.insert(WARP, record.as_slice())?;
        Ok(transaction.commit()?)
    }

    pub(crate) fn warp(&self) -> Result<u64, EvmError> {
        let table = self.read()?.open_table(META)?;
        let Some(record) = table.get(WARP)? else { return Ok(0) };
        let mut reader = Reader::new(record.value(), WARP_VERSION)?;
        let seconds = reader.u64()?;
        reader.end()?;
        Ok(seconds)
    }

    fn read(&self) -> Result<ReadTransaction, EvmError> {
        Ok(self.database.begin_read()?)
    }

    fn read_account(&self, address: Address) -> Result<Option<AccountInfo>, EvmError> {
        let table = self.read()?.open_table(ACCOUNTS)?;
        Ok(table.get(&address.into_array())?.map(|record| decode_account(record.value())))
    }
}

impl DBErrorMarker for EvmError {}

impl DatabaseRef for Store {
    type Error = EvmError;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, EvmError> {
        if let Some(known) = self.caches().accounts.get(&address) {
            return Ok(known);
        }
        let account = self.read_account(address)?;
        self.caches().accounts.insert(address, account.clone());
        Ok(account)
    }

    fn code_by_hash_ref(&self, hash: B256) -> Result<Bytecode, EvmError> {
        if let Some(known) = self.caches().codes.get(&hash) {
            return Ok(known);
        }
        let table = self.read()?.open_table(CODE)?;
        let Some(code) = table.get(&hash.0)? else { return Ok(Bytecode::default()) };
        let code = Bytecode::new_raw(Bytes::copy_from_slice(code.value()));
        self.caches().codes.insert(hash, code.clone());
        Ok(code)
    }

    fn storage_ref(&self, address: Address, slot: U256) -> Result<U256, EvmError> {
        if let Some(known) = self.caches().slots.get(&(address, slot)) {
            return Ok(known);
        }
        let table = self.read()?.open_table(SLOTS)?;
        let value = table.get(&slot_key(address, slot))?.map(|value| U256::from_be_bytes(*value.value()));
        let value = value.unwrap_or_default();
        self.caches().slots.insert((address, slot), value);
        Ok(value)
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, EvmError> {
        if number == 0 {
            return Ok(genesis_hash(self.genesis));
        }
        Ok(self.block(number)?.map_or(B256::ZERO, |block| block.hash))
    }
}

fn load_or_write_genesis(transaction: &WriteTransaction, genesis: Genesis) -> Result<Genesis, EvmError> {
    let mut table = transaction.open_table(META)?;
    let stored = table.get(GENESIS)?.map(|record| decode_genesis(record.value())).transpose()?;
    if let Some(stored) = stored {
        return Ok(stored);
    }
    let record = Writer::new(GENESIS_VERSION).u64(genesis.chain_id).u64(genesis.timestamp).finish();
    table.insert(GENESIS, record.as_slice())?;
    Ok(genesis)
}

fn decode_genesis(record: &[u8]) -> Result<Genesis, RecordError> {
    let mut reader = Reader::new(record, GENESIS_VERSION)?;
    let genesis = Genesis { chain_id: reader.u64()?, timestamp: reader.u64()? };
    reader.end()?;
    Ok(genesis)
}

/// An account that destroyed itself in the transaction that made it, or that is empty, does not exist
/// afterwards (EIP-6780, EIP-161).
fn is_kept(account: &Account) -> bool {
    !account.is_selfdestructed() && !account.is_empty()
}

fn write_account(transaction: &WriteTransaction, address: Address, account: &Account) -> Result<(), EvmError> {
    let mut accounts = transaction.open_table(ACCOUNTS)?;
    if !is_kept(account) {
        accounts.remove(&address.into_array())?;
        return Ok(());
    }
    accounts.insert(&address.into_array(), &encode_account(&account.info))?;
    if let Some(code) = account.info.code.as_ref().filter(|code| !code.is_empty() && account.is_created()) {
        transaction.open_table(CODE)?.insert(&account.info.code_hash.0, code.original_byte_slice())?;
    }
    let mut slots = transaction.open_table(SLOTS)?;
    for (slot, value) in account.changed_storage_slots() {
        slots.insert(&slot_key(address, *slot), &value.present_value().to_be_bytes::<32>())?;
    }
    Ok(())
}

fn encode_account(info: &AccountInfo) -> [u8; 72] {
    let mut record = [0; 72];
    record[..8].copy_from_slice(&info.nonce.to_be_bytes());
    record[8..40].copy_from_slice(&info.balance.to_be_bytes::<32>());
    record[40..].copy_from_slice(info.code_hash.as_slice());
    record
}

fn decode_account(record: &[u8; 72]) -> AccountInfo {
    let mut nonce = [0; 8];
    nonce.copy_from_slice(&record[..8]);
    AccountInfo {
        nonce: u64::from_be_bytes(nonce),
        balance: U256::from_be_slice(&record[8..40]),
        code_hash: B256::from_slice(&record[40..]),
        code: None,
        ..Default::default()
    }
}

fn slot_key(address: Address, slot: U256) -> [u8; 52] {
    let mut key = [0; 52];
    key[..20].copy_from_slice(address.as_slice());
    key[20..].copy_from_slice(&slot.to_be_bytes::<32>());
    key
}
