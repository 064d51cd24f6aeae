//! Bodies of `SharesWanted`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    tributary_protocol_fuzz::read_and_write(34, data);
});
