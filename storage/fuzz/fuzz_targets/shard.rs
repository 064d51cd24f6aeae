//! A shard of records in Parquet.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = tributary_storage::shard::read(data);
});
