//! A receipt is checked offline, and with any single bit changed it is none.

use tributary_protocol::id::Amount;
use tributary_protocol::receipt::{ReceiptError, SignedReceipt};
use tributary_protocol::wire;

use crate::samples;

/// More than any receipt takes.
const RECEIPT_MAX_BYTES: usize = 64 * 1024;

fn holds(bytes: &[u8]) -> bool {
    wire::decode::<SignedReceipt>(bytes, RECEIPT_MAX_BYTES).is_ok_and(|signed| signed.verify_offline().is_ok())
}

#[test]
fn a_receipt_with_any_bit_changed_is_refused() {
    let bytes = wire::encode(&samples::signed_receipt());
    assert!(holds(&bytes));
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(!holds(&changed), "bit {bit} of {} may change", bytes.len() * 8);
    }
}

#[test]
fn a_receipt_cut_short_is_refused() {
    let bytes = wire::encode(&samples::signed_receipt());
    for length in 0..bytes.len() {
        assert!(!holds(&bytes[..length]), "{length} of {} bytes hold", bytes.len());
    }
}

#[test]
fn a_receipt_of_another_network_is_refused_there() {
    let signed = samples::signed_receipt();
    assert_eq!(signed.verify(samples::network()), Ok(()));
    let other = tributary_protocol::envelope::NetworkId::named("another");
    assert_eq!(signed.verify(other), Err(ReceiptError::Network));
}

#[test]
fn terms_that_both_signed_must_still_add_up() {
    let mut receipt = samples::signed_receipt().receipt;
    let last = receipt.payments.len() - 1;
    receipt.payments[last].amount = Amount(receipt.payments[last].amount.0 + 1);
    let offer = tributary_protocol::receipt::ReceiptOffer::new(receipt, &samples::key(62));
    assert_eq!(offer.verify(samples::network()), Err(ReceiptError::Payments));
    assert_eq!(offer.countersign(&samples::key(61)).verify_offline(), Err(ReceiptError::Payments));
}

#[test]
fn a_receipt_survives_json() {
    let signed = samples::signed_receipt();
    let text = serde_json::to_string_pretty(&signed).unwrap();
    assert_eq!(serde_json::from_str::<SignedReceipt>(&text).unwrap(), signed);
}
