//! The verbs of the command line against a real node: data on standard output, the rest on standard error, and the
//! exit code of each kind of failure.

use serde_json::Value;

use super::support::{NodeProcess, document, folder, on, run, stderr};

const CHAIN: &[&str] = &["--offline", "--serve-chain", "127.0.0.1:0"];

/// Standard output of a command that must succeed.
fn stdout(node: &NodeProcess, line: &[&str]) -> String {
    let ended = on(node, line);
    assert!(ended.status.success(), "{line:?}: {}", stderr(&ended));
    String::from_utf8(ended.stdout).unwrap()
}

fn code(node: &NodeProcess, line: &[&str]) -> i32 {
    let ended = on(node, line);
    assert!(ended.stdout.is_empty(), "{line:?} failed and printed data");
    assert!(stderr(&ended).starts_with("error: ") || stderr(&ended).contains("\nerror: "), "{}", stderr(&ended));
    ended.status.code().unwrap()
}

#[test]
fn data_is_added_from_the_command_line_and_refused_lines_are_named() {
    let folder = folder();
    let node = NodeProcess::start(&folder.path().join("node"), CHAIN);
    let id = stdout(&node, &["data", "new", "letters", "--licence", "CC0-1.0"]).trim().to_owned();
    assert_eq!(id.len(), 64);
    let file = folder.path().join("mixed.jsonl");
    std::fs::write(&file, "{\"text\":\"one\"}\n{broken\n{\"text\":\"two\"}\n").unwrap();
    let file = file.to_str().unwrap();
    let preview = on(&node, &["data", "add", file, "--dry-run"]);
    assert!(String::from_utf8_lossy(&preview.stdout).starts_with("2 records to add"));
    assert_eq!(document(&node, &["data", "show", "letters"])["records"], 0, "a preview adds nothing");
    let added = on(&node, &["data", "add", file, "--to", &id[..10]]);
    assert_eq!(added.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&added.stdout), "2 records added · 1 refused · 0 duplicates\n");
    assert!(stderr(&added).contains("mixed.jsonl:2: "), "{}", stderr(&added));
    assert_eq!(stdout(&node, &["data", "ls", "-q"]).trim(), id);
    assert_eq!(document(&node, &["data", "ls"])[0]["records"], 2);
    let broken = folder.path().join("broken.jsonl");
    std::fs::write(&broken, "{broken\n[1]\n").unwrap();
    let refused = on(&node, &["data", "add", broken.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("broken.jsonl:1: ") && stderr(&refused).contains("broken.jsonl:2: "));
}

#[test]
fn every_kind_of_failure_has_its_exit_code_and_prints_no_data() {
    let folder = folder();
    let node = NodeProcess::start(&folder.path().join("node"), CHAIN);
    let address = "11".repeat(20);
    assert_eq!(code(&node, &["data", "show", "nothing"]), 2);
    assert_eq!(code(&node, &["wallet", "send", &address, "2,5"]), 2);
    assert_eq!(code(&node, &["net", "join", "nonsense"]), 2);
    assert_eq!(code(&node, &["data", "new", "x", "--licence", "CC0-1.0", "--dry-run"]), 2);
    assert_eq!(code(&node, &["ask", "anything"]), 4);
    assert_eq!(code(&node, &["wallet", "send", &address, "99999999999"]), 5);
    let file = folder.path().join("receipt.json");
    std::fs::write(&file, "{}\n").unwrap();
    assert_eq!(code(&node, &["receipt", "verify", file.to_str().unwrap()]), 6);
    assert_eq!(code(&node, &["receipt", "why", file.to_str().unwrap()]), 6);
    assert_eq!(run(&["--data-dir", folder.path().to_str().unwrap(), "status"]).status.code(), Some(3));
    let wrong = run(&["train", "start", "--json", "--budget", "much"]);
    assert_eq!(wrong.status.code(), Some(2));
    let told: Value = serde_json::from_slice(&wrong.stdout).unwrap();
    assert!(told["error"]["message"].as_str().unwrap().contains("--budget"), "{told}");
    assert_eq!(told["error"]["exit_code"], 2);
    assert!(run(&["train", "start", "--budget", "much"]).stdout.is_empty());
}

#[test]
fn money_is_sent_exactly_and_a_preview_sends_none() {
    let folder = folder();
    let node = NodeProcess::start(&folder.path().join("node"), CHAIN);
    let balance = || document(&node, &["wallet", "show"])["balance"].as_str().unwrap().parse::<u128>().unwrap();
    let before = balance();
    let send = ["wallet", "send", "0x1111111111111111111111111111111111111111", "2.000000000000000001"];
    let preview = stdout(&node, &[&send[..], &["--dry-run"]].concat());
    assert!(preview.contains("2.000000000000000001 OPEN"), "{preview}");
    assert_eq!(balance(), before);
    stdout(&node, &[&send[..], &["--yes"]].concat());
    assert_eq!(before - balance(), 2_000_000_000_000_000_001);
    assert!(stdout(&node, &["chain", "status"]).contains("exactly"));
}

#[test]
fn the_views_of_a_new_node_are_empty_and_say_what_to_do() {
    let folder = folder();
    let node = NodeProcess::start(&folder.path().join("node"), &["--offline"]);
    for view in [["data", "ls"], ["model", "ls"], ["train", "ls"], ["receipt", "ls"], ["answer", "ls"], ["net", "ls"]] {
        let ended = on(&node, &view);
        assert!(ended.status.success() && ended.stdout.is_empty(), "{view:?}");
        assert!(!stderr(&ended).is_empty(), "{view:?} says nothing");
        assert_eq!(document(&node, &view), serde_json::json!([]), "{view:?}");
    }
    assert!(stdout(&node, &["status"]).contains("worker, verifier, witness"));
    assert!(stdout(&node, &["net", "invite"]).starts_with("tributary1"));
    assert_eq!(stdout(&node, &["status", "-q"]).trim().len(), 64);
}

#[test]
fn what_a_newcomer_gets_wrong_is_refused_with_what_to_do() {
    let folder = folder();
    let node = NodeProcess::start(&folder.path().join("node"), CHAIN);
    let id = stdout(&node, &["data", "new", "letters", "--licence", "CC0-1.0"]).trim().to_owned();
    let file = folder.path().join("letters.jsonl");
    std::fs::write(&file, "{\"text\":\"one\"}\n{\"text\":\"two\"}\n").unwrap();
    stdout(&node, &["data", "add", file.to_str().unwrap(), "--to", &id]);
    let recipe = folder.path().join("recipe.json");
    std::fs::write(&recipe, r#"{"steps": 5, "lr": "fast"}"#).unwrap();
    let start = ["train", "start", "--budget", "1", "--yes"];
    for (rest, exit, word) in [
        (&["--name", "builtin"][..], 2, "choose another --name"),
        (&["--name=-x"][..], 2, "does not begin with -"),
        (&["--deadline-min", "0"][..], 2, "1 to"),
        (&["--deadline-min", "99999999"][..], 2, "--deadline-min"),
        (&["--check", "2"][..], 4, "no other peer is known"),
        (&["--recipe", recipe.to_str().unwrap()][..], 2, "lr: invalid type"),
        (&["--steps", "-3"][..], 2, "--steps"),
    ] {
        let line = [&start[..], rest].concat();
        let ended = on(&node, &line);
        assert_eq!(ended.status.code(), Some(exit), "{rest:?}: {}", stderr(&ended));
        assert!(stderr(&ended).contains(word), "{rest:?}: {}", stderr(&ended));
    }
    assert_eq!(document(&node, &["train", "ls"]), serde_json::json!([]), "nothing was started");
    let preview = on(&node, &[&start[..], &["--dry-run"]].concat());
    assert!(String::from_utf8_lossy(&preview.stdout).contains("told unchecked"));
    let ended = on(&node, &["data", "show", &id[..3]]);
    assert!(stderr(&ended).contains("at least 4 digits"), "{}", stderr(&ended));
    for (line, exit, word) in [
        (&["ask", "q", "--model", "builtin"][..], 2, "builtin is a base"),
        (&["ask", "q"][..], 4, "tributary data new"),
        (&["ask"][..], 2, "there is no question"),
        (&["ask", "q", "--temperature", "700"][..], 2, "from 0 to 2"),
    ] {
        let ended = on(&node, line);
        assert_eq!(ended.status.code(), Some(exit), "{line:?}: {}", stderr(&ended));
        assert!(stderr(&ended).contains(word), "{line:?}: {}", stderr(&ended));
    }
}
