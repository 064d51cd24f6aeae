//! Proofs of falsification.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    tributary_protocol_fuzz::read_and_judge(data);
});
