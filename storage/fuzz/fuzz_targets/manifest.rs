//! A base's manifest: what is read has exactly one encoding.

#![no_main]

use tributary_storage::base::BaseManifest;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(manifest) = BaseManifest::from_bytes(data) {
        assert_eq!(manifest.to_bytes(), data);
    }
});
