//! Receipts as files: readable JSON with exactly one form, so that any changed bit is found.
//!
//! Invariant: a file is valid only if rendering what was read gives the same bytes again; everything that is
//! rendered is signed, or is a signature.

use tributary_protocol::id::ReceiptId;
use tributary_protocol::receipt::{ReceiptError, SignedReceipt};

/// The largest receipt file that is read.
pub const FILE_MAX_BYTES: u64 = 256 * 1024;

/// Why a file is no valid receipt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Not JSON, or not of this form.
    #[error("this is no receipt: {0}")]
    Form(String),
    /// It reads as a receipt but is not written as this program writes it.
    #[error("the file was changed: it is not in the one form a receipt has")]
    NotCanonical,
    /// Signatures or sums do not hold.
    #[error("the receipt does not hold: {0}")]
    Receipt(#[from] ReceiptError),
}

/// The file of a receipt.
#[must_use]
pub fn render(signed: &SignedReceipt) -> String {
    let mut text = serde_json::to_string_pretty(signed).unwrap_or_default();
    text.push('\n');
    text
}

/// Reads and checks a file, offline.
///
/// # Errors
/// Says what does not hold.
pub fn verify(bytes: &[u8]) -> Result<(ReceiptId, SignedReceipt), FileError> {
    let signed: SignedReceipt = serde_json::from_slice(bytes).map_err(|error| FileError::Form(error.to_string()))?;
    if render(&signed).as_bytes() != bytes {
        return Err(FileError::NotCanonical);
    }
    signed.verify_offline()?;
    Ok((signed.receipt.id(), signed))
}
