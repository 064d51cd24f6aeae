//! An attribution index: what is read has exactly one encoding.

#![no_main]

use tributary_compute::attribute::Index;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(index) = Index::from_bytes(data) {
        assert_eq!(index.to_bytes(), data);
    }
});
