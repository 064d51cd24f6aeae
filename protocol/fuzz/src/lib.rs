//! What every fuzz target does: read a body of one kind and, when it is one, write it again.

use tributary_protocol::message::Message;
use tributary_protocol::proof::{MAGIC, Proof};

/// Reads `data` as the body of a message of `kind`, whose variant number is put before it.
///
/// # Panics
/// When a body that was read is written differently, which is what the fuzzer looks for.
pub fn read_and_write(kind: u16, data: &[u8]) -> bool {
    let variant = u32::from(kind) - 1;
    let mut body = variant.to_le_bytes().to_vec();
    body.extend_from_slice(data);
    let Ok(message) = Message::from_body(kind, &body) else { return false };
    assert_eq!(message.kind(), kind, "the body says another kind than its header");
    assert_eq!(message.to_body(), body, "a body has two encodings");
    true
}

/// Reads `data` as a proof of falsification without its first bytes, and judges it offline.
///
/// # Panics
/// When a proof that was read is written differently.
pub fn read_and_judge(data: &[u8]) -> bool {
    let bytes = [MAGIC.as_slice(), data].concat();
    let Ok(proof) = Proof::from_bytes(&bytes) else { return false };
    assert_eq!(proof.to_bytes(), bytes, "a proof has two encodings");
    let _ = proof.judge();
    true
}
