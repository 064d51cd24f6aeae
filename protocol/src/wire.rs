//! The canonical codec: bincode with little-endian fixed-width integers and a byte limit.
//!
//! Invariant: one value has exactly one encoding. Decoding checks that all bytes were consumed and that
//! encoding the value again gives the same bytes, since both leniencies make signed messages malleable
//! (design section 4). No hash map, `usize` or float may stand in a wire type.

use bincode::{Decode, Encode};

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The input is larger than allowed for its kind.
    #[error("{got} bytes exceed the limit of {limit}")]
    TooLarge {
        /// Bytes given.
        got: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The bytes are no encoding of the type, or a length in them breaks the limit.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Bytes are left over after the value.
    #[error("{0} bytes follow the value")]
    TrailingBytes(usize),
    /// The value's canonical encoding differs from the bytes given.
    #[error("not the canonical encoding")]
    NotCanonical,
}

/// The largest value this codec handles at all: a batch body.
const CODEC_LIMIT: usize = 64 * 1024 * 1024;
/// What decoding a small message may claim in memory: lists of texts and enums take a few times their bytes, and
/// a length that lies must not make a kilobyte allocate the memory of a batch.
const SMALL_LIMIT: usize = 1024 * 1024;
/// See [`SMALL_LIMIT`]; for requests.
const MEDIUM_LIMIT: usize = 16 * SMALL_LIMIT;
/// Bytes up to which a message is small.
const SMALL_BYTES: usize = SMALL_LIMIT / 16;
/// Bytes up to which it is medium.
const MEDIUM_BYTES: usize = MEDIUM_LIMIT / 16;

fn configuration<const LIMIT: usize>() -> impl bincode::config::Config {
    bincode::config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<LIMIT>()
}

fn read<T: Decode<()>>(bytes: &[u8]) -> Result<(T, usize), bincode::error::DecodeError> {
    if bytes.len() <= SMALL_BYTES {
        bincode::decode_from_slice(bytes, configuration::<SMALL_LIMIT>())
    } else if bytes.len() <= MEDIUM_BYTES {
        bincode::decode_from_slice(bytes, configuration::<MEDIUM_LIMIT>())
    } else {
        bincode::decode_from_slice(bytes, configuration::<{ 2 * CODEC_LIMIT }>())
    }
}

/// The canonical bytes of `value`.
///
/// # Panics
/// Never for the wire types of this crate: encoding into memory fails only for types that serialise by hand.
pub fn encode<T: Encode>(value: &T) -> Vec<u8> {
    bincode::encode_to_vec(value, configuration::<CODEC_LIMIT>())
        .expect("invariant: derived encoders into memory do not fail")
}

/// Reads one value that must be the whole of `bytes`, at most `limit` bytes, canonically encoded.
///
/// # Errors
/// Says whether the bytes are too many, malformed, followed by others or not canonical.
pub fn decode<T: Decode<()> + Encode>(bytes: &[u8], limit: usize) -> Result<T, WireError> {
    if bytes.len() > limit {
        return Err(WireError::TooLarge { got: bytes.len(), limit });
    }
    let (value, consumed): (T, usize) = read(bytes).map_err(|error| WireError::Malformed(error.to_string()))?;
    if consumed != bytes.len() {
        return Err(WireError::TrailingBytes(bytes.len() - consumed));
    }
    if encode(&value) != bytes {
        return Err(WireError::NotCanonical);
    }
    Ok(value)
}
