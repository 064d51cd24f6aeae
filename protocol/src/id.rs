//! Identifiers and amounts: 32-byte hashes and keys behind newtypes, money as checked integers.
//!
//! Invariant: an id is only bytes; whether a key is a valid curve point is checked where a signature is.

use core::fmt;
use core::str::FromStr;

use bincode::{Decode, Encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is no id or amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// Not the expected number of hexadecimal digits.
    #[error("expected {expected} hexadecimal digits, got {got} characters")]
    Length {
        /// Digits expected.
        expected: usize,
        /// Characters given.
        got: usize,
    },
    /// A character is no lower-case hexadecimal digit.
    #[error("not lower-case hexadecimal")]
    Digit,
    /// Not a decimal integer of atto-OPEN.
    #[error("not a decimal integer below 2^128")]
    Amount,
}

fn decode_hex<const N: usize>(text: &str) -> Result<[u8; N], ParseIdError> {
    if text.len() != N * 2 {
        return Err(ParseIdError::Length { expected: N * 2, got: text.len() });
    }
    if text.bytes().any(|byte| !matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(ParseIdError::Digit);
    }
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseIdError::Digit)?;
    Ok(bytes)
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $size:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Default)]
        pub struct $name(pub [u8; $size]);

        impl $name {
            /// The raw bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $size] {
                &self.0
            }

            /// The first ten hexadecimal digits, for people.
            #[must_use]
            pub fn short(&self) -> String {
                hex::encode(&self.0[..5])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                decode_hex(text).map(Self)
            }
        }

        impl From<[u8; $size]> for $name {
            fn from(bytes: [u8; $size]) -> Self {
                Self(bytes)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

byte_id!(
    /// A BLAKE3 hash of content (RFC-less; the BLAKE3 paper, section 2): blobs, records, manifests.
    Hash, 32
);
byte_id!(
    /// The ed25519 public key of a running node: its libp2p, iroh and envelope key at once.
    NodeId, 32
);
byte_id!(
    /// The ed25519 public key of an account: who owns money and signs receipts.
    AccountId, 32
);
byte_id!(
    /// The hash of a datanet's immutable genesis.
    DatanetId, 32
);
byte_id!(
    /// The hash of a task's offer.
    TaskId, 32
);
byte_id!(
    /// The hash of a receipt's signed body.
    ReceiptId, 32
);
byte_id!(
    /// An Ethereum-style address: where an account's money lives on the settlement chain.
    ChainAddress, 20
);

impl Hash {
    /// The BLAKE3 hash of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

/// An ed25519 signature (RFC 8032), checked with `verify_strict` wherever money depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", hex::encode(&self.0[..5]))
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        decode_hex(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// An amount of OPEN in its smallest unit, atto-OPEN (10⁻¹⁸). JSON shows it as a decimal string, since
/// JavaScript numbers lose digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Default)]
pub struct Amount(pub u128);

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// One whole OPEN.
    pub const OPEN: Self = Self(1_000_000_000_000_000_000);

    /// The sum, or `None` when it does not fit.
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The difference, or `None` when `other` is larger.
    #[must_use]
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(rest) => Some(Self(rest)),
            None => None,
        }
    }

    /// `self × numerator ÷ denominator`, rounded down, or `None` on overflow or a zero denominator.
    #[must_use]
    pub const fn checked_mul_div(self, numerator: u128, denominator: u128) -> Option<Self> {
        match self.0.checked_mul(numerator) {
            Some(product) => match product.checked_div(denominator) {
                Some(quotient) => Some(Self(quotient)),
                None => None,
            },
            None => None,
        }
    }

    /// As OPEN with up to six decimals, rounded down, for people: `12.345678`.
    #[must_use]
    pub fn to_open(self) -> String {
        let micro = self.0 / 1_000_000_000_000;
        format!("{}.{:06}", micro / 1_000_000, micro % 1_000_000)
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} atto", self.0)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for Amount {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if text.is_empty() || text.bytes().any(|byte| !byte.is_ascii_digit()) {
            return Err(ParseIdError::Amount);
        }
        text.parse().map(Self).map_err(|_| ParseIdError::Amount)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
