//! Whole GGUF files: header, tokenizer, weights.

#![no_main]

use std::io::Cursor;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = tributary_compute::model::Base::from_gguf(Cursor::new(data), None);
});
