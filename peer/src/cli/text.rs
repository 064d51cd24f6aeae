//! Words and numbers for people: short ids, times ago, sizes, shares.
//!
//! Invariant: text that comes from the network is made printable before a terminal sees it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tributary_protocol::id::Amount;

use super::table::WIDTH;

/// Blanks between a name and its value.
const GAP: usize = 2;

/// Digits of an id that people see.
const SHORT: usize = 10;

/// The beginning of an id, as tables show it.
pub(super) fn short(id: &Value) -> String {
    printable(id.as_str().unwrap_or("-")).chars().take(SHORT).collect()
}

/// Text without anything a terminal could take for a command or for another direction of writing.
pub(super) fn printable(text: &str) -> String {
    let hidden = |letter: char| matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let shown = |letter: char| if letter.is_control() || hidden(letter) { '\u{fffd}' } else { letter };
    text.chars().map(|letter| if matches!(letter, '\n' | '\t') { letter } else { shown(letter) }).collect()
}

/// One line of it.
pub(super) fn line(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

/// The text of a field; empty when it is missing.
pub(super) fn field(value: &Value) -> String {
    line(value.as_str().unwrap_or_default())
}

/// The number of a field; zero when it is missing.
pub(super) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// The amount of a field; zero when it is missing.
pub(super) fn amount(value: &Value) -> Amount {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The rows of a list.
pub(super) fn rows(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The ids in `field` of all rows.
pub(super) fn ids(list: &Value, name: &str) -> Vec<String> {
    rows(list).iter().filter_map(|row| row[name].as_str().map(str::to_owned)).collect()
}

/// `1,204`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 record`, `1,204 records`.
pub(super) fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(number))
}

/// A part of a million as a percentage with one decimal: `62.3 %`.
pub(super) fn percent(parts_per_million: u64) -> String {
    let tenths = (parts_per_million + 500) / 1_000;
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// `850 ms`, `42 s`, `3 min`, `5 h`, `2 days`.
pub(super) fn duration(ms: u64) -> String {
    match ms / 1_000 {
        0 => format!("{ms} ms"),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// How long ago something was, by this machine's clock.
pub(super) fn ago(when_ms: u64) -> String {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let passed = u64::try_from(now_ms).unwrap_or(u64::MAX).saturating_sub(when_ms);
    if passed < 1_000 { "just now".into() } else { format!("{} ago", duration(passed)) }
}

/// `812 B`, `64 kB`, `7.5 MB`.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..1_000_000 => format!("{} kB", bytes / 1_000),
        1_000_000..1_000_000_000 => format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10),
        _ => format!("{}.{} GB", bytes / 1_000_000_000, bytes / 100_000_000 % 10),
    }
}

/// Micro-nats as nats with three decimals.
pub(super) fn nats(micro_nats: &Value) -> String {
    let micro = micro_nats.as_u64().unwrap_or(0);
    format!("{}.{:03}", micro / 1_000_000, micro / 1_000 % 1_000)
}

/// Lines of at most `width` letters, broken between words.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut().filter(|line| line.chars().count() + 1 + word.chars().count() <= width) {
            Some(line) => line.extend([" ", word]),
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Names and values under each other; a value that is too long for a terminal goes on below itself.
pub(super) fn fields(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let room = WIDTH.saturating_sub(width + GAP);
    let value = |value: &str| match value.chars().count() > room {
        true => wrapped(value, room).join(&format!("\n{:1$}", "", width + GAP)),
        false => value.to_owned(),
    };
    pairs.iter().map(|(name, text)| format!("{name:width$}{:GAP$}{}\n", "", value(text))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hostile_names_cannot_command_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}c"), "a\u{fffd}[2Jb\u{fffd}c");
        assert_eq!(line("a\nb"), "a b");
        assert_eq!(short(&json!("\u{1b}]0;title\u{7}")), "\u{fffd}]0;title\u{fffd}");
    }

    #[test]
    fn a_long_value_goes_on_below_itself_and_an_id_is_never_cut() {
        let id = "0".repeat(80);
        let shown = fields(&[("here", "word ".repeat(40)), ("served by", "a  b".into()), ("id", id.clone())]);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines.iter().filter(|line| !line.contains(&id)).all(|line| line.chars().count() <= WIDTH), "{shown}");
        assert!(lines[0].starts_with("here       word word") && lines[1].starts_with("           word"), "{shown}");
        assert_eq!(lines[lines.len() - 2..], ["served by  a  b".to_owned(), format!("id         {id}")]);
    }

    #[test]
    fn numbers_read_easily() {
        assert_eq!([grouped(0), grouped(999), grouped(1_000), grouped(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(counted(1, "record"), "1 record");
        assert_eq!(counted(1_204, "record"), "1,204 records");
        assert_eq!(percent(623_456), "62.3 %");
        assert_eq!(percent(1_000_000), "100.0 %");
        assert_eq!([size(812), size(64_400), size(7_560_000)], ["812 B", "64 kB", "7.5 MB"]);
    }

    #[test]
    fn times_have_one_unit() {
        let texts = [0, 42_000, 180_000, 7_200_000, 172_800_000].map(duration);
        assert_eq!(texts, ["0 ms", "42 s", "3 min", "2 h", "2 days"]);
        assert_eq!(ago(u64::MAX), "just now");
    }

    #[test]
    fn long_lines_break_between_words() {
        assert_eq!(wrapped("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrapped("immeasurable", 3), ["immeasurable"]);
        assert!(wrapped("", 3).is_empty());
    }

    #[test]
    fn a_missing_field_is_empty_and_never_a_panic() {
        let row = json!({"name": 7});
        assert_eq!((field(&row["name"]), number(&row["x"]), amount(&row["y"])), (String::new(), 0, Amount::ZERO));
        assert!(rows(&row["list"]).is_empty());
        assert_eq!(short(&row["id"]), "-");
    }
}
