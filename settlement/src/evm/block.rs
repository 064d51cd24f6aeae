//! One block of the embedded chain: exactly one transaction and its receipt.
//!
//! Invariant: `decode(number, encode())` gives the same block back; the transaction's hash is the hash of `raw`.

use alloy::consensus::{Eip658Value, Header as ConsensusHeader, Receipt, ReceiptEnvelope, ReceiptWithBloom};
use alloy::primitives::{Address, B256, Bytes, Log, LogData, keccak256};
use alloy::rpc::types::{Block, BlockTransactions, Header, Log as RpcLog, TransactionReceipt};

use super::BLOCK_GAS_LIMIT;
use crate::record::{Reader, RecordError, Writer};

const VERSION: u8 = 1;
/// LOG4 is the widest log instruction of the EVM (yellow paper, appendix H).
const MAX_TOPICS: u64 = 4;

/// A block as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredBlock {
    pub(crate) number: u64,
    pub(crate) hash: B256,
    pub(crate) parent: B256,
    /// Seconds since the Unix epoch.
    pub(crate) timestamp: u64,
    pub(crate) from: Address,
    pub(crate) to: Option<Address>,
    pub(crate) created: Option<Address>,
    pub(crate) success: bool,
    pub(crate) transaction_type: u8,
    pub(crate) gas_used: u64,
    pub(crate) gas_price: u128,
    pub(crate) raw: Bytes,
    pub(crate) logs: Vec<Log>,
}

impl StoredBlock {
    pub(crate) fn transaction_hash(&self) -> B256 {
        keccak256(&self.raw)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new(VERSION);
        writer.fixed(self.hash.as_slice()).fixed(self.parent.as_slice()).u64(self.timestamp);
        writer.fixed(self.from.as_slice());
        write_address(&mut writer, self.to);
        write_address(&mut writer, self.created);
        writer.u8(u8::from(self.success)).u8(self.transaction_type).u64(self.gas_used).u128(self.gas_price);
        writer.bytes(&self.raw).u64(self.logs.len() as u64);
        for log in &self.logs {
            writer.fixed(log.address.as_slice()).u64(log.topics().len() as u64);
            for topic in log.topics() {
                writer.fixed(topic.as_slice());
            }
            writer.bytes(&log.data.data);
        }
        writer.finish()
    }

    pub(crate) fn decode(number: u64, bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(bytes, VERSION)?;
        let block = Self {
            number,
            hash: B256::new(reader.fixed()?),
            parent: B256::new(reader.fixed()?),
            timestamp: reader.u64()?,
            from: Address::new(reader.fixed()?),
            to: read_address(&mut reader)?,
            created: read_address(&mut reader)?,
            success: reader.bool()?,
            transaction_type: reader.u8()?,
            gas_used: reader.u64()?,
            gas_price: reader.u128()?,
            raw: Bytes::copy_from_slice(reader.bytes()?),
            logs: read_logs(&mut reader)?,
        };
        reader.end()?;
        Ok(block)
    }

    /// The logs as JSON-RPC shows them.
    pub(crate) fn rpc_logs(&self) -> Vec<RpcLog> {
        let transaction_hash = self.transaction_hash();
        let place = |(index, log): (u64, &Log)| RpcLog {
            inner: log.clone(),
            block_hash: Some(self.hash),
            block_number: Some(self.number),
            block_timestamp: Some(self.timestamp),
            transaction_hash: Some(transaction_hash),
            transaction_index: Some(0),
            log_index: Some(index),
            removed: false,
        };
        (0..).zip(&self.logs).map(place).collect()
    }

    /// The receipt as JSON-RPC shows it.
    pub(crate) fn receipt(&self) -> TransactionReceipt {
        let body = ReceiptWithBloom::from(Receipt {
            status: Eip658Value::Eip658(self.success),
            cumulative_gas_used: self.gas_used,
            logs: self.rpc_logs(),
        });
        let inner = match self.transaction_type {
            0 => ReceiptEnvelope::Legacy(body),
            1 => ReceiptEnvelope::Eip2930(body),
            _ => ReceiptEnvelope::Eip1559(body),
        };
        TransactionReceipt {
            inner,
            transaction_hash: self.transaction_hash(),
            transaction_index: Some(0),
            block_hash: Some(self.hash),
            block_number: Some(self.number),
            gas_used: self.gas_used,
            effective_gas_price: self.gas_price,
            blob_gas_used: None,
            blob_gas_price: None,
            from: self.from,
            to: self.to,
            contract_address: self.created,
        }
    }

    /// The block as JSON-RPC shows it, with its transaction's hash.
    pub(crate) fn rpc_block(&self) -> Block<B256> {
        let inner = ConsensusHeader {
            number: self.number,
            parent_hash: self.parent,
            timestamp: self.timestamp,
            gas_limit: BLOCK_GAS_LIMIT,
            gas_used: self.gas_used,
            base_fee_per_gas: Some(0),
            ..Default::default()
        };
        rpc_block(self.hash, inner, vec![self.transaction_hash()])
    }
}

/// Block 0, which holds no transaction.
pub(crate) fn genesis_rpc_block(hash: B256, timestamp: u64) -> Block<B256> {
    let inner =
        ConsensusHeader { timestamp, gas_limit: BLOCK_GAS_LIMIT, base_fee_per_gas: Some(0), ..Default::default() };
    rpc_block(hash, inner, Vec::new())
}

fn rpc_block(hash: B256, inner: ConsensusHeader, transactions: Vec<B256>) -> Block<B256> {
    let header = Header { hash, inner, total_difficulty: None, size: None };
    Block { header, uncles: Vec::new(), transactions: BlockTransactions::Hashes(transactions), withdrawals: None }
}

fn write_address(writer: &mut Writer, address: Option<Address>) {
    writer.u8(u8::from(address.is_some())).fixed(address.unwrap_or_default().as_slice());
}

fn read_address(reader: &mut Reader<'_>) -> Result<Option<Address>, RecordError> {
    let present = reader.bool()?;
    let address = Address::new(reader.fixed()?);
    Ok(present.then_some(address))
}

fn read_logs(reader: &mut Reader<'_>) -> Result<Vec<Log>, RecordError> {
    let count = reader.u64()?;
    let mut logs = Vec::new();
    for _ in 0..count {
        let address = Address::new(reader.fixed()?);
        let topic_count = reader.u64()?;
        if topic_count > MAX_TOPICS {
            return Err(RecordError::Value("number of topics"));
        }
        let topics = (0..topic_count).map(|_| reader.fixed().map(B256::new)).collect::<Result<Vec<_>, _>>()?;
        let data = Bytes::copy_from_slice(reader.bytes()?);
        logs.push(Log { address, data: LogData::new_unchecked(topics, data) });
    }
    Ok(logs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> StoredBlock {
        let log = |topics: usize, data: &'static [u8]| Log {
            address: Address::repeat_byte(7),
            data: LogData::new_unchecked(vec![B256::repeat_byte(8); topics], Bytes::from_static(data)),
        };
        StoredBlock {
            number: 4,
            hash: B256::repeat_byte(1),
            parent: B256::repeat_byte(2),
            timestamp: 1_700_000_000,
            from: Address::repeat_byte(3),
            to: None,
            created: Some(Address::repeat_byte(4)),
            success: true,
            transaction_type: 2,
            gas_used: 21_000,
            gas_price: 5,
            raw: Bytes::from_static(b"raw"),
            logs: vec![log(0, b""), log(4, b"data")],
        }
    }

    #[test]
    fn a_block_comes_back_and_every_cut_is_refused() {
        let block = sample();
        let bytes = block.encode();
        assert_eq!(StoredBlock::decode(4, &bytes), Ok(block));
        for length in 0..bytes.len() {
            assert!(StoredBlock::decode(4, &bytes[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn the_receipt_numbers_its_logs() {
        let receipt = sample().receipt();
        let numbers: Vec<_> = receipt.logs().iter().map(|log| log.log_index).collect();
        assert_eq!(numbers, [Some(0), Some(1)]);
        assert_eq!(receipt.transaction_hash, keccak256(b"raw"));
    }
}
