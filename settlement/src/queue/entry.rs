//! One transaction of the queue, with every form of it that was signed.
//!
//! Invariant: all attempts carry the entry's nonce, so at most one of them can ever be mined.

use alloy::primitives::{Address, B256, Bytes};

use super::MAX_PURPOSE_BYTES;
use crate::record::{Reader, RecordError, Writer};

const VERSION: u8 = 1;

/// One signed form of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) hash: B256,
    pub(crate) raw: Bytes,
    /// Wei per gas at most.
    pub(crate) max_fee: u128,
    /// Wei per gas above the base fee.
    pub(crate) priority_fee: u128,
    /// Whether this form only uses the nonce up, since the chain refused what was wanted.
    pub(crate) is_cancel: bool,
}

/// How a transaction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has not.
    Open,
    /// It is in a block, deep enough.
    Mined { hash: B256, success: bool },
    /// The chain would not take it, and it never will: its nonce was given back or used up.
    Refused { reason: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) chain_id: u64,
    pub(crate) account: Address,
    pub(crate) nonce: u64,
    /// What it is for, when it must happen once only; else empty.
    pub(crate) purpose: String,
    pub(crate) to: Option<Address>,
    pub(crate) input: Bytes,
    pub(crate) gas_limit: u64,
    /// Oldest first, never empty while open.
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) outcome: Outcome,
}

impl Entry {
    /// The hash to tell a user: of the form that was mined, or else was sent last.
    pub(crate) fn newest_hash(&self) -> B256 {
        match &self.outcome {
            Outcome::Mined { hash, .. } => *hash,
            _ => self.attempts.last().map_or(B256::ZERO, |attempt| attempt.hash),
        }
    }

    /// Ends the transaction and drops what only sending needs.
    pub(crate) fn close(&mut self, outcome: Outcome) {
        self.outcome = outcome;
        self.input = Bytes::new();
        self.attempts.clear();
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new(VERSION);
        writer.u64(self.chain_id).fixed(self.account.as_slice()).u64(self.nonce);
        writer.bytes(self.purpose.as_bytes());
        writer.u8(u8::from(self.to.is_some())).fixed(self.to.unwrap_or_default().as_slice());
        writer.bytes(&self.input).u64(self.gas_limit).u64(self.attempts.len() as u64);
        for attempt in &self.attempts {
            writer.fixed(attempt.hash.as_slice()).bytes(&attempt.raw);
            writer.u128(attempt.max_fee).u128(attempt.priority_fee).u8(u8::from(attempt.is_cancel));
        }
        match &self.outcome {
            Outcome::Open => writer.u8(0),
            Outcome::Mined { hash, success } => writer.u8(1).fixed(hash.as_slice()).u8(u8::from(*success)),
            Outcome::Refused { reason } => writer.u8(2).bytes(reason.as_bytes()),
        };
        writer.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(bytes, VERSION)?;
        let (chain_id, account, nonce) = (reader.u64()?, Address::new(reader.fixed()?), reader.u64()?);
        let purpose = text(reader.bytes()?)?;
        if purpose.len() > MAX_PURPOSE_BYTES {
            return Err(RecordError::Value("purpose"));
        }
        let (is_call, to) = (reader.bool()?, Address::new(reader.fixed()?));
        let entry = Self {
            chain_id,
            account,
            nonce,
            purpose,
            to: is_call.then_some(to),
            input: Bytes::copy_from_slice(reader.bytes()?),
            gas_limit: reader.u64()?,
            attempts: attempts(&mut reader)?,
            outcome: outcome(&mut reader)?,
        };
        reader.end()?;
        Ok(entry)
    }
}

fn text(bytes: &[u8]) -> Result<String, RecordError> {
    core::str::from_utf8(bytes).map(str::to_owned).map_err(|_| RecordError::Value("text"))
}

fn attempts(reader: &mut Reader<'_>) -> Result<Vec<Attempt>, RecordError> {
    let count = reader.u64()?;
    let mut attempts = Vec::new();
    for _ in 0..count {
        attempts.push(Attempt {
            hash: B256::new(reader.fixed()?),
            raw: Bytes::copy_from_slice(reader.bytes()?),
            max_fee: reader.u128()?,
            priority_fee: reader.u128()?,
            is_cancel: reader.bool()?,
        });
    }
    Ok(attempts)
}

fn outcome(reader: &mut Reader<'_>) -> Result<Outcome, RecordError> {
    match reader.u8()? {
        0 => Ok(Outcome::Open),
        1 => Ok(Outcome::Mined { hash: B256::new(reader.fixed()?), success: reader.bool()? }),
        2 => Ok(Outcome::Refused { reason: text(reader.bytes()?)? }),
        _ => Err(RecordError::Value("outcome")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(outcome: Outcome) -> Entry {
        let attempt = Attempt {
            hash: B256::repeat_byte(1),
            raw: Bytes::from_static(b"raw"),
            max_fee: 9,
            priority_fee: 2,
            is_cancel: false,
        };
        Entry {
            chain_id: 5,
            account: Address::repeat_byte(2),
            nonce: 3,
            purpose: "deposit".to_owned(),
            to: Some(Address::repeat_byte(4)),
            input: Bytes::from_static(b"input"),
            gas_limit: 21_000,
            attempts: vec![attempt.clone(), Attempt { is_cancel: true, ..attempt }],
            outcome,
        }
    }

    #[test]
    fn an_entry_comes_back_and_every_cut_is_refused() {
        let outcomes = [
            Outcome::Open,
            Outcome::Mined { hash: B256::repeat_byte(6), success: false },
            Outcome::Refused { reason: "no funds".to_owned() },
        ];
        for outcome in outcomes {
            let entry = sample(outcome);
            let bytes = entry.encode();
            assert_eq!(Entry::decode(&bytes), Ok(entry));
            for length in 0..bytes.len() {
                assert!(Entry::decode(&bytes[..length]).is_err(), "cut at {length}");
            }
        }
    }
}
