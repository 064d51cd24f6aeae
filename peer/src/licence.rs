//! Licences as SPDX expressions: what others can rely on instead of a word that everybody reads differently.

use spdx::Expression;
use tributary_protocol::limits::LICENCE_MAX_BYTES;

/// What people write most often for records.
const EXAMPLES: &str = "for example CC0-1.0, CC-BY-4.0, CC-BY-SA-4.0, ODbL-1.0 or MIT";
/// Letters below which anything begins alike.
const LETTERS_MIN: usize = 3;
/// Identifiers that are suggested at most.
const SUGGESTIONS_MAX: usize = 3;

/// Why a text is no licence, and what may be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoLicence {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// Checks that `given` is an SPDX expression.
///
/// # Errors
/// Says what is wrong and what may be meant.
pub fn check(given: &str) -> Result<(), NoLicence> {
    if given.is_empty() || given.len() > LICENCE_MAX_BYTES {
        let message = format!("a licence has 1 to {LICENCE_MAX_BYTES} bytes");
        return Err(NoLicence { message, hint: format!("give an SPDX expression, {EXAMPLES}") });
    }
    match Expression::parse(given) {
        Ok(_) => Ok(()),
        Err(error) => {
            let wrong = given.get(error.span.clone()).unwrap_or(given);
            let message = format!("{given:?} is no SPDX licence expression: {}", error.reason);
            Err(NoLicence { message, hint: suggestion(given, wrong) })
        }
    }
}

fn suggestion(given: &str, wrong: &str) -> String {
    if let Ok(Some(meant)) = Expression::canonicalize(given)
        && Expression::parse(&meant).is_ok()
    {
        return format!("write {meant}");
    }
    let found = [given, wrong].into_iter().map(alike).find(|found| !found.is_empty());
    match found {
        Some(found) => format!("perhaps {}", found.join(", ")),
        None => format!("see https://spdx.org/licenses, {EXAMPLES}"),
    }
}

/// Identifiers that begin as `text` sounds, the newest of a family first.
fn alike(text: &str) -> Vec<&'static str> {
    let key = letters(text);
    if key.len() < LETTERS_MIN {
        return Vec::new();
    }
    let names = spdx::identifiers::LICENSES.iter().rev().map(|licence| licence.name);
    names.filter(|name| letters(name).starts_with(&key)).take(SUGGESTIONS_MAX).collect()
}

/// Letters and digits in lower case: what people keep when they write a name as it sounds.
fn letters(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_taken() {
        for good in ["CC0-1.0", "CC-BY-4.0", "MIT OR Apache-2.0", "GPL-2.0-or-later WITH Classpath-exception-2.0"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_is_none_is_refused_with_what_may_be_meant() {
        let hint = |given: &str| check(given).unwrap_err().hint;
        assert!(hint("cc by 4.0").contains("CC-BY-4.0"), "{}", hint("cc by 4.0"));
        assert!(hint("cc0").contains("CC0-1.0"), "{}", hint("cc0"));
        assert!(hint("apache").contains("Apache-2.0"), "{}", hint("apache"));
        assert!(hint("my own licence").contains("spdx.org"), "{}", hint("my own licence"));
        assert!(check("").is_err() && check(&"MIT OR ".repeat(40)).is_err());
        assert!(check("free").unwrap_err().message.contains("\"free\""));
    }
}
