//! `config.json`: what is read is written and read again.

#![no_main]

use tributary_compute::model::Config;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(config) = Config::from_json(data) {
        Config::from_json(&config.to_json()).expect("what we wrote is read");
    }
});
