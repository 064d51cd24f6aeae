//! What each JSON-RPC method does.
//!
//! Invariant: reading takes the chain's lock shared and sending takes it alone; neither is held across another.

use alloy::consensus::TxEnvelope;
use alloy::eips::BlockNumberOrTag;
use alloy::eips::eip2718::Decodable2718;
use alloy::primitives::{Address, B256, Bytes, U64, U256};
use alloy::rpc::types::{Filter, TransactionRequest};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{MAX_FEE_HISTORY, MAX_LOG_BLOCKS, MAX_LOGS, RpcError};
use crate::evm::{EmbeddedChain, EvmError, GasBudget, Inner, StoredBlock, genesis_rpc_block};

/// The methods that burn gas.
const RUNS_CODE: [&str; 4] = ["eth_sendRawTransaction", "eth_sendRawTransactionSync", "eth_call", "eth_estimateGas"];

type Outcome = Result<Value, RpcError>;

/// Runs one method; what it burns is taken from `gas`.
pub(super) fn dispatch(chain: &EmbeddedChain, method: &str, parameters: &[Value], gas: &mut GasBudget) -> Outcome {
    let parameters = Parameters(parameters);
    if gas.is_spent() && RUNS_CODE.contains(&method) {
        return Err(RpcError::Limit("the requests before this one burned the gas of one body: send it by itself"));
    }
    match method {
        "eth_sendRawTransaction" => Ok(json!(send(chain, parameters, gas)?.map(|block| block.transaction_hash()))),
        "eth_sendRawTransactionSync" => Ok(json!(send(chain, parameters, gas)?.map(|block| block.receipt()))),
        "web3_clientVersion" => Ok(json!(concat!("tributary-embedded/", env!("CARGO_PKG_VERSION")))),
        "eth_gasPrice" | "eth_maxPriorityFeePerGas" => Ok(json!("0x0")),
        "eth_syncing" => Ok(json!(false)),
        _ => read(&chain.read(), method, parameters, gas),
    }
}

fn read(inner: &Inner, method: &str, parameters: Parameters<'_>, gas: &mut GasBudget) -> Outcome {
    match method {
        "eth_chainId" => Ok(json!(U64::from(inner.chain_id()))),
        "net_version" => Ok(json!(inner.chain_id().to_string())),
        "eth_blockNumber" => Ok(json!(U64::from(inner.head().number))),
        "eth_feeHistory" => fee_history(inner, parameters),
        "eth_getTransactionCount" => {
            state(parameters, 1, |address| Ok(json!(U64::from(inner.account(address)?.nonce))))
        }
        "eth_getBalance" => state(parameters, 1, |address| Ok(json!(inner.account(address)?.balance))),
        "eth_getCode" => state(parameters, 1, |address| Ok(json!(inner.code(address)?))),
        "eth_getStorageAt" => {
            let slot = parameters.get::<U256>(1)?;
            state(parameters, 2, |address| Ok(json!(B256::from(inner.storage(address, slot)?))))
        }
        "eth_call" => {
            only_newest(parameters, 1)?;
            Ok(json!(inner.call(&parameters.get::<TransactionRequest>(0)?, gas)?))
        }
        "eth_estimateGas" => {
            let request = parameters.get::<TransactionRequest>(0)?;
            Ok(json!(U64::from(inner.estimate(&request, gas)?)))
        }
        "eth_getTransactionReceipt" => Ok(json!(inner.block_of(parameters.get(0)?)?.map(|block| block.receipt()))),
        "eth_getTransactionByHash" => inner.block_of(parameters.get(0)?)?.map_or(Ok(Value::Null), |b| transaction(&b)),
        "eth_getBlockByNumber" => block_by_number(inner, parameters),
        "eth_getLogs" => logs(inner, parameters),
        unknown => Err(RpcError::Method(unknown.chars().take(64).collect())),
    }
}

/// The parameters of a request, by position.
#[derive(Clone, Copy)]
struct Parameters<'a>(&'a [Value]);

impl Parameters<'_> {
    fn get<T: DeserializeOwned>(self, index: usize) -> Result<T, RpcError> {
        T::deserialize(self.0.get(index).unwrap_or(&Value::Null))
            .map_err(|source| RpcError::Parameter { index, source })
    }
}

fn send(
    chain: &EmbeddedChain,
    parameters: Parameters<'_>,
    gas: &mut GasBudget,
) -> Result<Option<StoredBlock>, RpcError> {
    let raw = parameters.get::<Bytes>(0)?;
    let mut inner = chain.write();
    let hash = inner.execute(&raw)?;
    let block = inner.block_of(hash)?;
    gas.spend(block.as_ref().map_or(0, |block| block.gas_used));
    Ok(block)
}

fn state(parameters: Parameters<'_>, tag_index: usize, read: impl FnOnce(Address) -> Outcome) -> Outcome {
    only_newest(parameters, tag_index)?;
    read(parameters.get(0)?)
}

/// Only the newest state is kept.
fn only_newest(parameters: Parameters<'_>, index: usize) -> Result<(), RpcError> {
    match parameters.0.get(index) {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(tag)) if matches!(tag.as_str(), "latest" | "pending" | "safe" | "finalized") => Ok(()),
        Some(_) => Err(RpcError::Limit("this chain keeps no historic state: ask for the latest block")),
    }
}

fn resolve(inner: &Inner, tag: Option<BlockNumberOrTag>) -> u64 {
    match tag {
        Some(BlockNumberOrTag::Number(number)) => number,
        Some(BlockNumberOrTag::Earliest) => 0,
        _ => inner.head().number,
    }
}

fn fee_history(inner: &Inner, parameters: Parameters<'_>) -> Outcome {
    let count = parameters.get::<U64>(0)?.saturating_to::<u64>().clamp(1, MAX_FEE_HISTORY);
    let percentiles = parameters.0.get(2).and_then(Value::as_array).map_or(0, Vec::len).min(100);
    let free = |length: u64| (0..length).map(|_| json!("0x0")).collect::<Vec<_>>();
    let rewards: Vec<_> = (0..count).map(|_| vec!["0x0"; percentiles]).collect();
    Ok(json!({
        "oldestBlock": U64::from(inner.head().number.saturating_sub(count - 1)),
        "baseFeePerGas": free(count + 1),
        "gasUsedRatio": (0..count).map(|_| 0.0).collect::<Vec<f64>>(),
        "reward": rewards,
    }))
}

fn block_by_number(inner: &Inner, parameters: Parameters<'_>) -> Outcome {
    if parameters.0.get(1).and_then(Value::as_bool) == Some(true) {
        return Err(RpcError::Limit("blocks are served with their transactions' hashes only"));
    }
    let number = resolve(inner, parameters.get(0)?);
    if number == 0 {
        return Ok(json!(genesis_rpc_block(inner.genesis_hash(), inner.genesis_timestamp())));
    }
    Ok(json!(inner.block(number)?.map(|block| block.rpc_block())))
}

fn logs(inner: &Inner, parameters: Parameters<'_>) -> Outcome {
    let filter = parameters.get::<Filter>(0)?;
    if filter.block_option.as_block_hash().is_some() {
        return Err(RpcError::Limit("logs are served by block number only"));
    }
    let first = resolve(inner, filter.block_option.get_from_block().copied()).max(1);
    let last = resolve(inner, filter.block_option.get_to_block().copied()).min(inner.head().number);
    if last.saturating_sub(first) >= MAX_LOG_BLOCKS {
        return Err(RpcError::Limit("more than 10000 blocks: ask for fewer at once"));
    }
    let mut found = Vec::new();
    for number in first..=last {
        let block = inner.block(number)?;
        let block_logs = block.as_ref().map(StoredBlock::rpc_logs).unwrap_or_default();
        found.extend(block_logs.into_iter().filter(|log| filter.rpc_matches(log)));
        if found.len() > MAX_LOGS {
            return Err(RpcError::Limit("more than 10000 logs: ask for fewer blocks at once"));
        }
    }
    Ok(json!(found))
}

fn transaction(block: &StoredBlock) -> Outcome {
    let envelope = TxEnvelope::decode_2718_exact(&block.raw)
        .map_err(|error| RpcError::Chain(EvmError::Refused(error.to_string())))?;
    let mut value = serde_json::to_value(&envelope).map_err(RpcError::Reply)?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("from".into(), json!(block.from));
        fields.insert("blockHash".into(), json!(block.hash));
        fields.insert("blockNumber".into(), json!(U64::from(block.number)));
        fields.insert("transactionIndex".into(), json!("0x0"));
    }
    Ok(value)
}
