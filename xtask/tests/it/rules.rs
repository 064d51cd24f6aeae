//! The direction rules of ARCHITECTURE.md, held against `cargo metadata`, and rules about the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// For each package of the workspace, its dependencies that are part of the product, without those of tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| {
            let all = package["dependencies"].as_array().unwrap().iter();
            let product = all.filter(|dependency| dependency["kind"].is_null());
            (text(&package["name"]), product.map(|dependency| text(&dependency["name"])).collect())
        })
        .collect()
}

fn of_workspace(dependencies: &BTreeSet<String>) -> BTreeSet<&str> {
    dependencies.iter().map(String::as_str).filter(|name| name.starts_with("tributary-")).collect()
}

#[test]
fn protocol_imports_no_room_and_no_runtime() {
    let all = dependencies();
    let protocol = &all["tributary-protocol"];
    assert_eq!(of_workspace(protocol), BTreeSet::new());
    for forbidden in ["tokio", "libp2p", "iroh", "quinn", "candle-core", "redb", "revm", "alloy", "rand", "getrandom"] {
        assert!(!protocol.contains(forbidden), "protocol must not import {forbidden}");
    }
}

#[test]
fn the_rooms_import_only_protocol() {
    let all = dependencies();
    for room in ["tributary-storage", "tributary-compute", "tributary-settlement", "tributary-simnet"] {
        assert_eq!(of_workspace(&all[room]), BTreeSet::from(["tributary-protocol"]), "{room}");
    }
    assert_eq!(of_workspace(&all["tributary-almanac"]), BTreeSet::new());
}

#[test]
fn nobody_imports_the_node_and_only_the_node_may_import_the_simulator() {
    for (package, dependencies) in dependencies() {
        assert!(!dependencies.contains("tributary-peer"), "{package} imports the node");
        let simulates = dependencies.contains("tributary-simnet");
        assert!(!simulates || package == "tributary-peer", "{package} imports the simulator");
    }
}

#[test]
fn no_dependency_comes_from_git() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let from_git: Vec<&str> = lock.lines().filter(|line| line.contains("source = \"git+")).collect();
    assert_eq!(from_git, Vec::<&str>::new());
}

/// A file's text without its tests, which may make what the product only reads.
fn product_of(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !["target", "node_modules", ".git"].contains(&name.as_str()) {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn only_their_rooms_know_the_networks_and_the_virtual_machine() {
    let mut found = Vec::new();
    sources(&root(), &mut found);
    let rules = [
        ("libp2p::", ["peer/src/net"].as_slice()),
        ("iroh::", &["peer/src/net", "storage/src/blobs"]),
        ("quinn::", &["peer/src/net"]),
        ("revm::", &["settlement/src"]),
        ("candle_core::", &["compute/"]),
    ];
    for path in found {
        let place = path.strip_prefix(root()).unwrap().display().to_string();
        if place.contains("tests/") {
            continue;
        }
        let text = product_of(&path);
        for (library, rooms) in rules {
            let uses = text.lines().any(|line| {
                let code = line.trim_start();
                !code.starts_with("//") && (code.contains(&format!(" {library}")) || code.starts_with(library))
            });
            let allowed = rooms.iter().any(|room| place.starts_with(room)) || place.starts_with("examples/");
            assert!(!uses || allowed, "{place} uses {library} outside {rooms:?}");
        }
    }
}

#[test]
fn sources_stay_readable() {
    let mut found = Vec::new();
    sources(&root(), &mut found);
    for path in found {
        let lines = product_of(&path).lines().count();
        assert!(lines <= 600, "{} has {lines} lines without tests", path.display());
        assert!(path.file_name().unwrap() != "mod.rs", "{}: write foo.rs beside foo/", path.display());
    }
}
