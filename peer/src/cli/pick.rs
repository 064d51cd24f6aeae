//! Finding what a user means: a whole id, the beginning of one, or a name.
//!
//! Invariant: what fits several things is refused with their list, never guessed.

use serde_json::Value;

use super::failure::Failure;
use super::text;

/// Digits of an id that must be given at least, so that a word is not taken for one by accident.
const PREFIX_MIN: usize = 4;

/// Things that an error names.
const CANDIDATES: usize = 5;

/// What is looked for.
pub(super) struct Kind {
    /// What people call it.
    pub(super) noun: &'static str,
    /// The field with its id.
    pub(super) id: &'static str,
    /// The command that lists them.
    pub(super) list: &'static str,
}

pub(super) const DATANET: Kind = Kind { noun: "datanet", id: "id", list: "tributary data ls" };
pub(super) const RUN: Kind = Kind { noun: "run", id: "key", list: "tributary train ls" };
pub(super) const ANSWER: Kind = Kind { noun: "answer", id: "key", list: "tributary answer ls" };
pub(super) const RELEASE: Kind = Kind { noun: "model", id: "adapter", list: "tributary model ls" };
pub(super) const BASE: Kind = Kind { noun: "base", id: "id", list: "tributary model ls" };
pub(super) const PROOF: Kind = Kind { noun: "proof", id: "id", list: "tributary receipt proofs" };
pub(super) const RECEIPT: Kind = Kind { noun: "receipt", id: "id", list: "tributary receipt ls" };

impl Kind {
    /// The row of `list` that `given` names.
    pub(super) fn find<'list>(&self, list: &'list Value, given: &str) -> Result<&'list Value, Failure> {
        let id = |row: &Value| row[self.id].as_str().unwrap_or_default().to_owned();
        let rows = text::rows(list);
        if let Some(row) = rows.iter().find(|row| id(row) == given) {
            return Ok(row);
        }
        let named: Vec<&Value> = rows.iter().filter(|row| row["name"].as_str() == Some(given)).collect();
        let is_prefix = given.len() >= PREFIX_MIN && given.bytes().all(|byte| byte.is_ascii_hexdigit());
        let begun: Vec<&Value> =
            rows.iter().filter(|row| is_prefix && id(row).starts_with(&given.to_ascii_lowercase())).collect();
        match if named.is_empty() { begun.as_slice() } else { named.as_slice() } {
            [row] => Ok(row),
            [] => Err(self.unknown(rows, given)),
            several => Err(self.several(given, several)),
        }
    }

    /// The row that `given` names, or the only one there is.
    pub(super) fn find_or_only<'list>(
        &self,
        list: &'list Value,
        given: Option<&str>,
        option: &str,
    ) -> Result<&'list Value, Failure> {
        match (given, text::rows(list)) {
            (Some(given), _) => self.find(list, given),
            (None, [row]) => Ok(row),
            (None, []) => {
                Err(Failure::usage(format!("no {} is known here", self.noun), "make one, or wait until it arrives"))
            }
            (None, rows) => {
                let all: Vec<&Value> = rows.iter().collect();
                let hint = format!("say which with {option}: {} shows them", self.list);
                let reason = format!("there are {} {}s: {}", rows.len(), self.noun, self.candidates(&all));
                Err(Failure::usage(reason, &hint))
            }
        }
    }

    fn unknown(&self, rows: &[Value], given: &str) -> Failure {
        let begins = |row: &Value| row[self.id].as_str().is_some_and(|id| id.starts_with(&given.to_ascii_lowercase()));
        if !given.is_empty() && given.len() < PREFIX_MIN && rows.iter().any(begins) {
            let reason = format!("{given} is too little of an id: at least {PREFIX_MIN} digits tell it from a word");
            return Failure::usage(reason, &format!("{} shows the ids", self.list));
        }
        let given = text::line(given);
        let reason = format!("no {} here is called {given} or has an id that begins so", self.noun);
        Failure::usage(reason, &format!("{} shows those that are known", self.list))
    }

    fn several(&self, given: &str, rows: &[&Value]) -> Failure {
        let (given, candidates) = (text::line(given), self.candidates(rows));
        let reason = format!("{given} may mean {} {}s: {candidates}", rows.len(), self.noun);
        Failure::usage(reason, "give the id, or enough of it to tell them apart")
    }

    /// Some of the rows, each with as much of its id as tells it apart and with its name.
    fn candidates(&self, rows: &[&Value]) -> String {
        let shown: Vec<String> = rows
            .iter()
            .take(CANDIDATES)
            .map(|row| match row["name"].as_str() {
                Some(name) => format!("{} ({})", text::short(&row[self.id]), text::line(name)),
                None => text::short(&row[self.id]),
            })
            .collect();
        let more = if rows.len() > CANDIDATES { " …" } else { "" };
        shown.join(", ") + more
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::failure::USAGE;

    fn list() -> Value {
        json!([
            {"id": "abcdef00", "name": "river"},
            {"id": "abcdee11", "name": "lake"},
            {"id": "1234ffff", "name": "lake"},
        ])
    }

    fn found(given: &str) -> Result<String, u8> {
        DATANET.find(&list(), given).map(|row| text::field(&row["id"])).map_err(|failure| failure.code)
    }

    #[test]
    fn ids_prefixes_and_names_are_understood() {
        assert_eq!(found("abcdef00").unwrap(), "abcdef00");
        assert_eq!(found("abcdef").unwrap(), "abcdef00");
        assert_eq!(found("1234F").unwrap(), "1234ffff");
        assert_eq!(found("river").unwrap(), "abcdef00");
    }

    #[test]
    fn what_is_unknown_or_unclear_is_a_usage_error() {
        for given in ["lake", "abcde", "abc", "", "nothing", "\u{1b}[2J"] {
            assert_eq!(found(given), Err(USAGE), "{given:?}");
        }
        assert!(DATANET.find(&list(), "abc").unwrap_err().message.contains("at least 4 digits"));
        assert!(DATANET.find(&list(), "abe").unwrap_err().message.contains("no datanet"));
        let lakes = DATANET.find(&list(), "lake").unwrap_err().message;
        assert!(lakes.contains("abcdee11 (lake), 1234ffff (lake)"), "{lakes}");
        assert!(DATANET.find_or_only(&list(), None, "--to").unwrap_err().message.contains("abcdef00 (river)"));
        assert!(!DATANET.find(&list(), "\u{1b}[2J").unwrap_err().message.contains('\u{1b}'));
    }

    #[test]
    fn the_only_one_needs_no_name() {
        let one = json!([{"id": "ab", "name": "x"}]);
        assert!(DATANET.find_or_only(&one, None, "--to").is_ok());
        assert!(DATANET.find_or_only(&list(), None, "--to").unwrap_err().hint.contains("--to"));
        assert!(DATANET.find_or_only(&json!([]), None, "--to").is_err());
    }
}
