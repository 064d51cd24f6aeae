//! A fingerprint of hidden states: what is read has exactly one encoding.

#![no_main]

use tributary_compute::proof::Fingerprint;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(fingerprint) = Fingerprint::from_bytes(data) {
        assert_eq!(fingerprint.to_bytes(), data);
    }
});
