//! `tokenizer.json` for a small vocabulary; what is read encodes within it.

#![no_main]

use tributary_compute::tokenizer::Tokenizer;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(tokenizer) = Tokenizer::from_bytes(data, 512, None, &[]) {
        if let Ok(tokens) = tokenizer.encode("the cat, 12 mats\n") {
            assert!(tokens.iter().all(|token| *token < 512), "a token beyond the vocabulary");
        }
    }
});
