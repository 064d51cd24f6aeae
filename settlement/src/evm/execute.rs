//! Running transactions and calls against the stored state.
//!
//! Invariant: `execute` changes nothing unless the transaction is valid, and then the file changes before memory
//! does; `call` and `estimate` never change anything.

use alloy::consensus::transaction::SignerRecoverable;
use alloy::consensus::{Transaction as _, TxEnvelope, Typed2718};
use alloy::eips::eip2718::Decodable2718;
use alloy::primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use alloy::rpc::types::TransactionRequest;
use revm::context::result::{EVMError, ExecutionResult, InvalidTransaction, Output, ResultAndState};
use revm::context::{BlockEnv, CfgEnv, TxEnv};
use revm::database_interface::WrapDatabaseRef;
use revm::primitives::hardfork::SpecId;
use revm::state::{Account, EvmState};
use revm::{Context, DatabaseRef, ExecuteEvm, MainBuilder, MainContext};

use super::store::Store;
use super::{
    BLOCK_GAS_LIMIT, EvmError, MAX_TRANSACTION_BYTES, StoredBlock, TRANSACTION_GAS_LIMIT, genesis_hash, unix_seconds,
};

/// `estimate` stops when the answer is within this fraction of the least limit that succeeds.
const ESTIMATE_PRECISION: u64 = 50;

/// Where the chain stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) number: u64,
    pub(crate) hash: B256,
    /// Seconds since the Unix epoch.
    pub(crate) timestamp: u64,
}

/// The chain behind its lock.
pub(crate) struct Inner {
    store: Store,
    head: Head,
    warp_s: u64,
}

/// What an account holds.
pub(crate) struct AccountView {
    pub(crate) nonce: u64,
    pub(crate) balance: U256,
}

/// Gas that several runs may burn together. Each run begun may burn a transaction's gas, so the sum can pass the
/// budget by that much, once.
#[derive(Debug)]
pub(crate) struct GasBudget(u64);

impl GasBudget {
    pub(crate) fn new(gas: u64) -> Self {
        Self(gas)
    }

    pub(crate) fn is_spent(&self) -> bool {
        self.0 == 0
    }

    pub(crate) fn spend(&mut self, gas: u64) {
        self.0 = self.0.saturating_sub(gas);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Checks {
    /// As in a block.
    Full,
    /// As in `eth_call`: any sender, any nonce, no balance needed.
    Simulated,
}

impl Inner {
    pub(crate) fn load(store: Store) -> Result<Self, EvmError> {
        let genesis = store.genesis();
        let start = Head { number: 0, hash: genesis_hash(genesis), timestamp: genesis.timestamp };
        let head = store.head()?.map_or(start, |block| Head {
            number: block.number,
            hash: block.hash,
            timestamp: block.timestamp,
        });
        let warp_s = store.warp()?;
        Ok(Self { store, head, warp_s })
    }

    pub(crate) fn chain_id(&self) -> u64 {
        self.store.genesis().chain_id
    }

    pub(crate) fn head(&self) -> Head {
        self.head
    }

    pub(crate) fn genesis_timestamp(&self) -> u64 {
        self.store.genesis().timestamp
    }

    pub(crate) fn genesis_hash(&self) -> B256 {
        genesis_hash(self.store.genesis())
    }

    pub(crate) fn block(&self, number: u64) -> Result<Option<StoredBlock>, EvmError> {
        self.store.block(number)
    }

    pub(crate) fn block_of(&self, transaction_hash: B256) -> Result<Option<StoredBlock>, EvmError> {
        self.store.block_of(transaction_hash)
    }

    pub(crate) fn account(&self, address: Address) -> Result<AccountView, EvmError> {
        let info = self.store.basic_ref(address)?.unwrap_or_default();
        Ok(AccountView { nonce: info.nonce, balance: info.balance })
    }

    pub(crate) fn code(&self, address: Address) -> Result<Bytes, EvmError> {
        let info = self.store.basic_ref(address)?.unwrap_or_default();
        Ok(self.store.code_by_hash_ref(info.code_hash)?.original_bytes())
    }

    pub(crate) fn storage(&self, address: Address, slot: U256) -> Result<U256, EvmError> {
        self.store.storage_ref(address, slot)
    }

    pub(crate) fn advance_time(&mut self, seconds: u64) -> Result<(), EvmError> {
        let warp_s = self.warp_s.saturating_add(seconds);
        self.store.set_warp(warp_s)?;
        self.warp_s = warp_s;
        Ok(())
    }

    pub(crate) fn set_balance(&mut self, address: Address, wei: U256) -> Result<(), EvmError> {
        let mut info = self.store.basic_ref(address)?.unwrap_or_default();
        info.balance = wei;
        let mut account = Account::from(info);
        account.mark_touch();
        let changes: EvmState = core::iter::once((address, account)).collect();
        self.store.commit(&changes, None)
    }

    /// Runs a signed transaction as the next block; its hash, once that block is on disk.
    pub(crate) fn execute(&mut self, raw: &[u8]) -> Result<B256, EvmError> {
        let envelope = self.admit(raw)?;
        let from = envelope.recover_signer().map_err(|error| EvmError::Refused(error.to_string()))?;
        let block_env = self.block_env();
        let timestamp = block_env.timestamp.saturating_to::<u64>();
        let outcome = self.transact(transaction_env(&envelope, from), block_env, Checks::Full)?;
        let block = self.seal(&envelope, raw, from, timestamp, &outcome.result);
        self.store.commit(&outcome.state, Some(&block))?;
        self.head = Head { number: block.number, hash: block.hash, timestamp };
        Ok(block.transaction_hash())
    }

    /// Cheap checks first: size, encoding, kind, chain, novelty.
    fn admit(&self, raw: &[u8]) -> Result<TxEnvelope, EvmError> {
        if raw.len() > MAX_TRANSACTION_BYTES {
            return Err(EvmError::Refused(format!(
                "oversized data: transaction size {} above {MAX_TRANSACTION_BYTES}",
                raw.len()
            )));
        }
        let envelope = TxEnvelope::decode_2718_exact(raw).map_err(|error| EvmError::Refused(error.to_string()))?;
        if envelope.is_eip4844() || envelope.is_eip7702() {
            return Err(EvmError::Refused("transaction type not supported".into()));
        }
        if envelope.chain_id() != Some(self.chain_id()) {
            return Err(EvmError::Refused("invalid chain id for signer".into()));
        }
        let hash = keccak256(raw);
        match self.block_of(hash)? {
            Some(_) => Err(EvmError::AlreadyKnown(hash)),
            None => Ok(envelope),
        }
    }

    fn seal(
        &self,
        envelope: &TxEnvelope,
        raw: &[u8],
        from: Address,
        timestamp: u64,
        result: &ExecutionResult,
    ) -> StoredBlock {
        let number = self.head.number + 1;
        let mut preimage = self.head.hash.to_vec();
        preimage.extend_from_slice(keccak256(raw).as_slice());
        preimage.extend_from_slice(&number.to_be_bytes());
        preimage.extend_from_slice(&timestamp.to_be_bytes());
        let created = match result {
            ExecutionResult::Success { output: Output::Create(_, created), .. } => *created,
            _ => None,
        };
        StoredBlock {
            number,
            hash: keccak256(preimage),
            parent: self.head.hash,
            timestamp,
            from,
            to: envelope.to(),
            created,
            success: result.is_success(),
            transaction_type: envelope.ty(),
            gas_used: result.tx_gas_used(),
            gas_price: envelope.effective_gas_price(Some(0)),
            raw: Bytes::copy_from_slice(raw),
            logs: result.logs().to_vec(),
        }
    }

    /// The output of a read-only call.
    pub(crate) fn call(&self, request: &TransactionRequest, gas: &mut GasBudget) -> Result<Bytes, EvmError> {
        match self.simulate(request, TRANSACTION_GAS_LIMIT, gas)? {
            ExecutionResult::Success { output, .. } => Ok(output.into_data()),
            ExecutionResult::Revert { output, .. } => Err(EvmError::Reverted(output)),
            ExecutionResult::Halt { reason, .. } => Err(EvmError::Halted(format!("{reason:?}"))),
        }
    }

    /// A gas limit with which the call succeeds. The gas spent is not enough where a contract keeps back a 64th for
    /// itself (EIP-150), so a search follows when it fails; it ends early, with more than needed, when the budget does.
    pub(crate) fn estimate(&self, request: &TransactionRequest, budget: &mut GasBudget) -> Result<u64, EvmError> {
        let mut low = match self.simulate(request, TRANSACTION_GAS_LIMIT, budget)? {
            ExecutionResult::Success { gas, .. } => gas.total_gas_spent().max(gas.floor_gas()),
            ExecutionResult::Revert { output, .. } => return Err(EvmError::Reverted(output)),
            ExecutionResult::Halt { reason, .. } => return Err(EvmError::Halted(format!("{reason:?}"))),
        };
        if self.succeeds_with(request, low, budget)? {
            return Ok(low);
        }
        let mut high = TRANSACTION_GAS_LIMIT;
        while high.saturating_sub(low) > low / ESTIMATE_PRECISION && !budget.is_spent() {
            let middle = low.midpoint(high);
            if self.succeeds_with(request, middle, budget)? {
                high = middle;
            } else {
                low = middle;
            }
        }
        Ok(high)
    }

    fn succeeds_with(
        &self,
        request: &TransactionRequest,
        gas_limit: u64,
        budget: &mut GasBudget,
    ) -> Result<bool, EvmError> {
        match self.simulate(request, gas_limit, budget) {
            Ok(result) => Ok(result.is_success()),
            Err(EvmError::Refused(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn simulate(
        &self,
        request: &TransactionRequest,
        gas_limit: u64,
        budget: &mut GasBudget,
    ) -> Result<ExecutionResult, EvmError> {
        let transaction = TxEnv {
            caller: request.from.unwrap_or_default(),
            gas_limit,
            kind: request.to.unwrap_or(TxKind::Create),
            value: request.value.unwrap_or_default(),
            data: request.input.input().cloned().unwrap_or_default(),
            chain_id: Some(self.chain_id()),
            ..Default::default()
        };
        let result = self.transact(transaction, self.block_env(), Checks::Simulated)?.result;
        budget.spend(result.tx_gas_used());
        Ok(result)
    }

    fn transact(&self, transaction: TxEnv, block: BlockEnv, checks: Checks) -> Result<ResultAndState, EvmError> {
        let simulated = checks == Checks::Simulated;
        let mut config = CfgEnv::new_with_spec(SpecId::PRAGUE).with_chain_id(self.chain_id());
        config.tx_gas_limit_cap = Some(TRANSACTION_GAS_LIMIT);
        config.disable_nonce_check = simulated;
        config.disable_balance_check = simulated;
        config.disable_eip3607 = simulated;
        let context = Context::mainnet().with_db(WrapDatabaseRef(&self.store)).with_block(block).with_cfg(config);
        context.build_mainnet().transact(transaction).map_err(|error| match error {
            EVMError::Database(error) => error,
            EVMError::Transaction(reason) => EvmError::Refused(refusal(&reason)),
            other => EvmError::Refused(other.to_string()),
        })
    }

    fn block_env(&self) -> BlockEnv {
        let now = unix_seconds().saturating_add(self.warp_s).max(self.head.timestamp);
        BlockEnv {
            number: U256::from(self.head.number + 1),
            timestamp: U256::from(now),
            gas_limit: BLOCK_GAS_LIMIT,
            basefee: 0,
            prevrandao: Some(keccak256(self.head.hash)),
            ..Default::default()
        }
    }
}

/// The words of go-ethereum where clients act on them, revm's elsewhere.
fn refusal(reason: &InvalidTransaction) -> String {
    match reason {
        InvalidTransaction::NonceTooLow { tx, state } => format!("nonce too low: next nonce {state}, tx nonce {tx}"),
        InvalidTransaction::NonceTooHigh { tx, state } => format!("nonce too high: next nonce {state}, tx nonce {tx}"),
        InvalidTransaction::LackOfFundForMaxFee { fee, balance } => {
            format!("insufficient funds for gas * price + value: balance {balance}, tx cost {fee}")
        }
        other => other.to_string(),
    }
}

fn transaction_env(envelope: &TxEnvelope, from: Address) -> TxEnv {
    TxEnv {
        tx_type: envelope.ty(),
        caller: from,
        gas_limit: envelope.gas_limit(),
        gas_price: envelope.max_fee_per_gas(),
        kind: envelope.kind(),
        value: envelope.value(),
        data: envelope.input().clone(),
        nonce: envelope.nonce(),
        chain_id: envelope.chain_id(),
        access_list: envelope.access_list().cloned().unwrap_or_default(),
        gas_priority_fee: envelope.max_priority_fee_per_gas(),
        ..Default::default()
    }
}
