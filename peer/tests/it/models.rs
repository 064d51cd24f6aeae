//! Base models beyond the built-in one: pulled from folders, GGUF files and a hub, refused when they are bad, trained,
//! answered and checked by other peers, exported.

mod hub;
pub mod small;

use std::path::{Path, PathBuf};

use serde_json::json;
use tributary_compute::device;
use tributary_protocol::id::Hash;

use self::small::Small;
use super::support::{NodeProcess, document, folder, on, stderr, until};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn another_peer_trains_and_answers_on_pulled_bases_and_a_third_checks_it() {
    let root = folder();
    let small = Small::make(&root.path().join("small"));
    let network = &["--network", "test", "--roles", "witness"];
    let builder = NodeProcess::start(&root.path().join("builder"), network);
    let ticket = builder.get("/api/net/invite").unwrap()["ticket"].as_str().unwrap().to_owned();
    let join =
        |name: &str, role: &str| NodeProcess::start(&root.path().join(name), &["--join", &ticket, "--roles", role]);
    let (worker, verifier) = (join("worker", "worker"), join("verifier", "verifier"));
    let datanet = builder.post("/api/datanets", &json!({"name": "cats", "licence": "CC0-1.0"})).unwrap();
    let records = root.path().join("records.jsonl");
    let line = |number: u8| format!("{{\"prompt\":\"Cat {number}?\",\"completion\":\" on the mat\"}}\n");
    std::fs::write(&records, (0..4).map(line).collect::<String>()).unwrap();
    let id = datanet["id"].as_str().unwrap();
    builder.post(&format!("/api/datanets/{id}/records"), &json!({"path": records})).unwrap();

    for (name, source, class) in
        [("dense", &small.folder, device::class()), ("quantised", &small.gguf, device::quantised_class())]
    {
        let pulled = document(&builder, &["model", "pull", text(source), "--name", name]);
        assert_eq!((&pulled["family"], &pulled["chat"]), (&json!("qwen2"), &json!(true)), "{pulled}");
        assert_eq!(pulled["quantised"], name == "quantised", "{pulled}");
        let model = format!("{name} cats");
        let line = [
            "train", "start", "--data", id, "--name", &model, "--base", name, "--budget", "1", "--steps", "20", "--yes",
        ];
        let key = document(&builder, &line)["key"].as_str().unwrap().to_owned();
        let path = format!("/api/runs/{key}");
        let done = until("the release", &builder, &path, |run| (run["state"] == "done").then(|| run.clone()));
        assert_eq!(done["unchecked"], 0, "the verifier executed segments: {done}");
        assert_eq!(done["release"]["base"], pulled["id"]);
        assert_ne!(done["main"]["worker"]["node"], builder.get("/api/status").unwrap()["node"]);

        let adapter = done["adapter"].clone();
        let serving = |node: &NodeProcess| {
            until("the loading", node, "/api/releases", |list| {
                let row = list.as_array()?.iter().find(|row| row["adapter"] == adapter)?;
                (row["served_by"].as_u64()? > 0).then_some(())
            });
        };
        serving(&builder);
        let asked = document(&builder, &["ask", "Cat 2?", "--model", &model, "--max-tokens", "4", "--check"]);
        let path = format!("/api/asks/{}", asked["key"].as_str().unwrap());
        let verdict =
            until("the verdict", &builder, &path, |ask| ask["verdict"]["outcome"].as_str().map(str::to_owned));
        assert_eq!(verdict, "confirmed");
        let receipt = builder.get(&format!("/api/receipts/{}", asked["receipt"].as_str().unwrap())).unwrap();
        assert!(receipt.to_string().contains(&format!("\"{class}\"")), "computed in {class}: {receipt}");
        for node in [&worker, &verifier] {
            let bases = node.get("/api/bases").unwrap();
            let fetched = bases.as_array().unwrap().iter().find(|row| row["id"] == pulled["id"]).unwrap();
            assert_eq!((&fetched["source"], &fetched["bytes"]), (&json!("peer"), &pulled["bytes"]));
        }
        let out = root.path().join(format!("peft-{name}"));
        let exported = document(&builder, &["model", "export", &model, "--format", "peft", "--out", text(&out)]);
        assert!(out.join("adapter_model.safetensors").is_file(), "{exported}");
    }
}

#[test]
fn bad_files_are_refused_with_their_reason_and_the_node_lives_on() {
    let root = folder();
    let small = Small::make(&root.path().join("small"));
    let limit = format!("{}B", small.bytes() + 10_000);
    let node = NodeProcess::start(&root.path().join("node"), &["--offline", "--base-limit", &limit]);
    for (name, break_it, word) in small::BROKEN {
        let path = break_it(&small, &root.path().join(name));
        let refused = on(&node, &["model", "pull", text(&path)]);
        assert_eq!(refused.status.code(), Some(2), "{name}: {}", stderr(&refused));
        assert!(stderr(&refused).contains(word), "{name}: {}", stderr(&refused));
        assert!(stderr(&refused).contains('→'), "{name} says what to do: {}", stderr(&refused));
    }
    assert_eq!(node.get("/api/bases").unwrap(), json!([]));
    assert_eq!(std::fs::read_dir(node.folder.join("models")).unwrap().count(), 0, "nothing half is left");
    let blobs = std::fs::read_dir(node.folder.join("blobs").join("data")).unwrap();
    let left: Vec<_> = blobs.map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "the disk is free of what was refused: {left:?}");
    // The engine takes the good one after all these.
    let preview = document(&node, &["model", "pull", text(&small.folder), "--dry-run"]);
    assert_eq!(preview["would"]["files"].as_array().unwrap().len(), 6, "{preview}");
    assert_eq!(node.get("/api/bases").unwrap(), json!([]));
    let pulled = document(&node, &["model", "pull", text(&small.folder)]);
    assert_eq!((&pulled["name"], &pulled["licence"]), (&json!("folder"), &json!("apache-2.0")), "{pulled}");
    exports_and_goes(&node, root.path());
}

/// Whoever names a file of somebody else's in a base must not have it deleted with the base.
#[test]
fn a_refused_base_takes_no_file_with_it_that_was_here_before() {
    let root = folder();
    let small = Small::make(&root.path().join("small"));
    let node = NodeProcess::start(&root.path().join("node"), &["--offline"]);
    let made = node.post("/api/datanets", &json!({"name": "noise", "licence": "CC0-1.0"})).unwrap();
    let line =
        |number: u32| format!("{{\"prompt\":\"{number}\",\"completion\":\"{}\"}}\n", Hash::of(&number.to_le_bytes()));
    let records = root.path().join("noise.jsonl");
    std::fs::write(&records, (0..4_000).map(line).collect::<String>()).unwrap();
    let datanet = made["id"].as_str().unwrap();
    node.post(&format!("/api/datanets/{datanet}/records"), &json!({"path": records})).unwrap();
    let blobs = node.folder.join("blobs").join("data");
    let files = || -> Vec<PathBuf> {
        let mut files: Vec<_> = std::fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    };
    let is_shard = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "data");
    let shard = files().into_iter().find(is_shard).expect("a shard of a hundred kilobytes is a file");
    let before = files();
    std::fs::copy(&shard, small.folder.join("model-00001-of-00002.safetensors")).unwrap();
    let refused = on(&node, &["model", "pull", text(&small.folder)]);
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert_eq!(node.get("/api/bases").unwrap(), json!([]));
    assert_eq!(files(), before);
}

/// What was pulled is listed, exported whole and compared, and removed.
fn exports_and_goes(node: &NodeProcess, root: &Path) {
    let listed = document(node, &["model", "ls"]);
    assert_eq!((listed[0]["kind"].as_str(), listed[0]["stored"].as_str()), (Some("base"), Some("F32")), "{listed}");
    assert_eq!(document(node, &["model", "show", "folder"])["class"], device::class());
    for format in ["merged", "gguf"] {
        let out = root.join(format);
        let line = ["model", "export", "folder", "--format", format, "--out", text(&out)];
        let exported = document(node, &line);
        assert_eq!(exported["positions_compared"], 48, "{exported}");
        let again = on(node, &line);
        assert_eq!(again.status.code(), Some(2), "what is there is not written over: {}", stderr(&again));
    }
    assert_eq!(
        std::fs::read_dir(root)
            .unwrap()
            .filter(|entry| { entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".partial") })
            .count(),
        0
    );
    let wrong = on(node, &["model", "export", "folder", "--format", "peft", "--out", text(&root.join("peft"))]);
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
    assert!(!root.join("peft").exists());
    let answer = node.post("/api/base/generate", &json!({"base": listed[0]["id"], "prompt": "the", "max_tokens": 2}));
    assert!(answer.is_ok(), "{answer:?}");
    document(node, &["model", "rm", "folder", "--yes"]);
    assert_eq!(node.get("/api/bases").unwrap(), json!([]));
    assert_eq!(on(node, &["model", "rm", "folder", "--yes"]).status.code(), Some(2));
}

#[test]
fn a_base_that_does_not_fit_beside_what_is_pinned_is_refused_and_leaves_nothing() {
    let root = folder();
    let small = Small::make(&root.path().join("small"));
    let node = NodeProcess::start(&root.path().join("node"), &["--offline", "--disk-limit", "100kB"]);
    let refused = on(&node, &["model", "pull", text(&small.folder)]);
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert!(
        stderr(&refused).contains("do not fit") && stderr(&refused).contains("--disk-limit"),
        "{}",
        stderr(&refused)
    );
    assert!(node.get("/api/bases").unwrap().as_array().unwrap().iter().all(|base| base["source"] == "builtin"));
    drop(node);
    let node = NodeProcess::start(&root.path().join("node"), &["--offline"]);
    document(&node, &["model", "pull", text(&small.folder)]);
    let bases = node.get("/api/bases").unwrap();
    let pulled = bases.as_array().unwrap().iter().find(|base| base["source"] == "folder").unwrap();
    assert_eq!(pulled["pinned"], true, "{bases}");
    let listed = String::from_utf8(on(&node, &["model", "ls"]).stdout).unwrap();
    assert!(listed.contains("pinned"), "{listed}");
}
