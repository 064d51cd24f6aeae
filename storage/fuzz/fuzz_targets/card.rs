//! A change of a datanet's card, as it comes in an envelope.

#![no_main]

use tributary_protocol::id::AccountId;
use tributary_storage::card::CardDocument;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut document = CardDocument::new(2);
    if document.apply(&AccountId([7; 32]), data).is_ok() {
        document.card().expect("an applied change leaves a card");
    }
});
