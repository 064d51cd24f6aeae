//! A chat template, rendered over a short conversation.

#![no_main]

use tributary_compute::chat::{ChatTemplate, Conversation, SpecialTexts};

libfuzzer_sys::fuzz_target!(|source: &str| {
    let templates = [("default".to_owned(), source.to_owned())];
    if let Ok(template) = ChatTemplate::new(&templates, SpecialTexts::default()) {
        let _ = template.render(&Conversation::of(&[("user", "hello"), ("assistant", "yes")]), true, 0);
    }
});
