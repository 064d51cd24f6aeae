//! What peers need not know of this machine: where its files lie.
//!
//! Invariant: a text for peers names no folder, only the last part of a path.

use std::path::Path;

/// The text with every path beneath `home`, and every absolute one, as its last part alone.
pub(super) fn stripped(text: &str, home: &Path) -> String {
    let home = format!("{}/", home.display());
    let words = text.replace(&home, "/");
    let parts: Vec<String> = words.split(' ').map(bare).collect();
    parts.join(" ")
}

/// A word without the folders of a path in it: quotes and brackets may stand before one, and what closes them behind.
fn bare(word: &str) -> String {
    let Some(begin) = word.find('/').filter(|at| word[..*at].chars().all(|letter| "\"'(`[=".contains(letter))) else {
        return word.to_owned();
    };
    let path = word[begin..].trim_end_matches('/');
    if path.is_empty() {
        return word.to_owned();
    }
    let last = path.rfind('/').map_or(path, |at| &path[at + 1..]);
    format!("{}{last}", &word[..begin])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_folder_of_this_machine_is_told() {
        let stripped = |text: &str| stripped(text, Path::new("/home/ann lee/node"));
        assert_eq!(stripped("blob store at /home/ann lee/node/blobs: full"), "blob store at blobs: full");
        assert_eq!(stripped("(\"/tmp/x/config.json\"): not there"), "(\"config.json\"): not there");
        assert_eq!(stripped("/home/ann lee/node/models/ab/"), "ab");
        assert_eq!(stripped("12 MB/s of and/or, 1 / 2"), "12 MB/s of and/or, 1 / 2");
        assert_eq!(stripped("adapter ab: no"), "adapter ab: no");
    }
}
