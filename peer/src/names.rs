//! What models may be called: one rule for bases, runs and releases of this node.
//!
//! Invariant: a name that passes is a short line of text that no command line takes for an option, an id or the built-in
//! base.

use tributary_protocol::limits::NAME_MAX_BYTES;

use crate::bases::BUILTIN;

/// As many digits as an id is known by where a name may stand as well.
const ID_DIGITS: usize = 8;

/// What is wrong with a name, in words for whoever chose it.
#[must_use]
pub fn fault(name: &str) -> Option<String> {
    let is_id = name.len() >= ID_DIGITS && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let hidden = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}')
            || matches!(letter, '\u{ad}' | '\u{61c}' | '\u{3164}' | '\u{feff}')
    };
    let faults = [
        (name.trim().is_empty(), "a name needs a letter or more".to_owned()),
        (name.len() > NAME_MAX_BYTES, format!("a name has at most {NAME_MAX_BYTES} bytes, this one {}", name.len())),
        (name.chars().any(hidden), "a name is one line of visible letters".to_owned()),
        (name.trim() != name, "a name neither begins nor ends with a space".to_owned()),
        (name.starts_with('-'), "a name does not begin with -, which options do".to_owned()),
        (name == BUILTIN, format!("{BUILTIN} is the name of the base that comes with the program")),
        (is_id, "a name of hexadecimal digits alone would be taken for an id".to_owned()),
    ];
    faults.into_iter().find_map(|(is_so, fault)| is_so.then_some(fault))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_visible_line_and_nothing_else_that_commands_know() {
        for good in ["mine", "Qwen/Qwen2.5-0.5B", "Almanac of Narimark", "größe_2", "cafe", "a"] {
            assert_eq!(fault(good), None, "{good}");
        }
        let long = "x".repeat(NAME_MAX_BYTES + 1);
        for bad in [
            "",
            " ",
            "builtin",
            "-x",
            "a\nb",
            "\u{1b}[2J",
            " mine",
            "mine ",
            "deadbeef",
            "a\u{200b}",
            "a\u{2028}b",
            "a\u{feff}",
            &long,
        ] {
            assert!(fault(bad).is_some(), "{bad:?}");
        }
    }
}
