//! The tree that is built: links to the checkout's crates beside a candle-core that loads NVIDIA's libraries when it needs
//! them instead of having them linked (candle's issues #3208 and #3900).
//!
//! Invariant: a file that would come out the same is not written, so that cargo compiles nothing twice.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::steps::{StepError, command};

/// The word in candle-core's manifest, and what stands in its place.
const WORD: (&str, &str) = ("\"dynamic-linking\"", "\"dynamic-loading\"");
/// What the tree's manifest has beyond the checkout's.
const PATCH: &str = "\n[patch.crates-io]\ncandle-core = { path = \"../candle-core\" }\n";

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> StepError {
    move |error| format!("{}: {error}", path.display())
}

fn read(path: &Path) -> Result<Vec<u8>, StepError> {
    std::fs::read(path).map_err(failed(path))
}

fn read_text(path: &Path) -> Result<String, StepError> {
    std::fs::read_to_string(path).map_err(failed(path))
}

fn write(path: &Path, content: &[u8]) -> Result<(), StepError> {
    if std::fs::read(path).is_ok_and(|had| had == content) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed(folder))?;
    }
    std::fs::write(path, content).map_err(failed(path))
}

/// Makes or renews the tree in `folder` and gives its path.
pub(super) fn prepare(root: &Path, folder: &Path) -> Result<PathBuf, StepError> {
    let source = candle_core(root)?;
    let manifest = patched(&read_text(&source.join("Cargo.toml"))?)?;
    copy(&source, &folder.join("candle-core"))?;
    write(&folder.join("candle-core/Cargo.toml"), manifest.as_bytes())?;
    let tree = folder.join("tree");
    let workspace = read_text(&root.join("Cargo.toml"))? + PATCH;
    write(&tree.join("Cargo.toml"), workspace.as_bytes())?;
    // Cargo takes candle-core's line out of it again, and nothing else.
    let lock = root.join("Cargo.lock");
    std::fs::copy(&lock, tree.join("Cargo.lock")).map_err(failed(&lock))?;
    for entry in std::fs::read_dir(root).map_err(failed(root))?.flatten() {
        if entry.path().join("Cargo.toml").exists() {
            link(&entry.path(), &tree.join(entry.file_name()))?;
        }
    }
    Ok(tree)
}

/// Where cargo keeps the source of the candle-core that the lock file names.
fn candle_core(root: &Path) -> Result<PathBuf, StepError> {
    let arguments = ["metadata", "--locked", "--format-version", "1"];
    let output = command("cargo").args(arguments).current_dir(root).output();
    let output = output.map_err(|error| format!("cargo cannot be started: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let manifest = packages
        .filter(|package| package["name"] == "candle-core")
        .find_map(|package| package["manifest_path"].as_str());
    let manifest = manifest.map(Path::new).and_then(Path::parent);
    manifest.map(Path::to_path_buf).ok_or_else(|| "cargo metadata names no candle-core".into())
}

/// The manifest with its one word changed.
fn patched(manifest: &str) -> Result<String, StepError> {
    match manifest.matches(WORD.0).count() {
        1 => Ok(manifest.replace(WORD.0, WORD.1)),
        count => Err(format!(
            "candle-core's manifest has {} {count} times, not once: it links CUDA in another way now; see xtask/src/cuda/tree.rs",
            WORD.0
        )),
    }
}

/// Copies a crate's files except its manifest, and what belongs to the registry.
fn copy(from: &Path, into: &Path) -> Result<(), StepError> {
    for entry in std::fs::read_dir(from).map_err(failed(from))?.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let shown = name.to_string_lossy();
        if path.is_dir() {
            copy(&path, &into.join(&name))?;
        } else if !shown.starts_with('.') && !["Cargo.toml", "Cargo.lock"].contains(&shown.as_ref()) {
            write(&into.join(&name), &read(&path)?)?;
        }
    }
    Ok(())
}

/// A link that points to `from`, whatever stood there.
fn link(from: &Path, into: &Path) -> Result<(), StepError> {
    if std::fs::read_link(into).is_ok_and(|points| points == from) {
        return Ok(());
    }
    let _ = std::fs::remove_file(into);
    #[cfg(unix)]
    return std::os::unix::fs::symlink(from, into).map_err(failed(into));
    #[cfg(not(unix))]
    Err("this needs links between folders".into())
}

#[cfg(test)]
mod tests {
    use super::{patched, prepare};
    use crate::steps::root;

    #[test]
    fn one_word_is_changed_or_it_is_refused() {
        assert_eq!(patched("a = [\"x\", \"dynamic-linking\"]").unwrap(), "a = [\"x\", \"dynamic-loading\"]");
        assert!(patched("a = []").is_err());
        assert!(patched("\"dynamic-linking\" \"dynamic-linking\"").is_err());
    }

    #[test]
    fn the_tree_is_this_checkout_with_another_candle() {
        let folder = std::env::temp_dir().join(format!("tributary-tree-{}", std::process::id()));
        let tree = prepare(&root(), &folder).unwrap();
        assert!(tree.join("peer/src/main.rs").exists());
        let candle = std::fs::read_to_string(folder.join("candle-core/Cargo.toml")).unwrap();
        assert!(candle.contains("dynamic-loading") && !candle.contains("dynamic-linking"));
        let written = |path: &str| std::fs::metadata(folder.join(path)).unwrap().modified().unwrap();
        let before = (written("candle-core/src/lib.rs"), written("tree/Cargo.toml"));
        prepare(&root(), &folder).unwrap();
        assert_eq!(before, (written("candle-core/src/lib.rs"), written("tree/Cargo.toml")), "nothing is written twice");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
