//! Names of models on a hub: `owner/name[@revision]`.
//!
//! Invariant: owner and name are letters, digits, `-`, `_` and `.`, neither begins with `.` or `-`, so both may be part
//! of a path.

use std::fmt;

/// The longest part of a name, as the hub has it.
const PART_MAX: usize = 96;
/// The longest name of a branch or tag.
const REVISION_MAX: usize = 120;
/// What is meant when no revision is given.
const MAIN: &str = "main";

/// A model on a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSource {
    owner: String,
    name: String,
    revision: Option<String>,
}

impl HubSource {
    /// Reads `owner/name[@revision]`; nothing when the text is something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (text, None),
        };
        let (owner, name) = id.split_once('/')?;
        let is_revision = |text: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
            (1..=REVISION_MAX).contains(&text.len())
                && text.bytes().all(plain)
                && text.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
        };
        if !is_part(owner) || !is_part(name) || !revision.is_none_or(is_revision) {
            return None;
        }
        Some(Self { owner: owner.into(), name: name.into(), revision: revision.map(str::to_owned) })
    }

    /// `owner/name`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// The branch, tag or commit that is asked for.
    #[must_use]
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }

    /// The folder of a commit's files, one part of a path.
    #[must_use]
    pub(super) fn folder_name(&self, commit: &str) -> String {
        format!("{}--{}--{commit}", self.owner, self.name)
    }
}

impl fmt::Display for HubSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.owner, self.name, self.revision())
    }
}

fn is_part(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=PART_MAX).contains(&text.len())
        && text.bytes().all(plain)
        && !text.starts_with(['.', '-'])
        && !text.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models_are_understood_and_paths_are_none() {
        let source = HubSource::parse("Qwen/Qwen2.5-0.5B@refs/pr/3").unwrap();
        assert_eq!((source.id().as_str(), source.revision()), ("Qwen/Qwen2.5-0.5B", "refs/pr/3"));
        assert_eq!(HubSource::parse("a/b").unwrap().revision(), "main");
        for text in [
            "", "a", "a/", "/b", "a/b/c", "../b", "a/..", "./b", "a/b@", "a/b@../x", "a/b@/x", "a b/c", "a/b@x y",
            "~/b",
        ] {
            assert_eq!(HubSource::parse(text), None, "{text:?}");
        }
    }
}
