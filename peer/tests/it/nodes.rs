//! One node and bad input: every mistake gets a clear message, the right exit code, and loses nothing.

use serde_json::json;

use super::support::{NodeProcess, folder, run, stderr, tributary, until};

const OFFLINE: &[&str] = &["--offline"];

fn datanet(node: &NodeProcess) -> String {
    let made = node.post("/api/datanets", &json!({"name": "letters", "licence": "CC0-1.0"})).unwrap();
    made["id"].as_str().unwrap().to_owned()
}

#[test]
fn good_records_of_a_broken_file_are_added_and_each_refused_line_is_named() {
    let folder = folder();
    let node = NodeProcess::start(&folder.path().join("node"), OFFLINE);
    let id = datanet(&node);
    let file = folder.path().join("records.jsonl");
    let lines = ["{\"prompt\":\"a\",\"completion\":\"b\"}", "{broken", "[1]", "{\"text\":\"words\"}", "{\"other\":1}"];
    std::fs::write(&file, lines.join("\n")).unwrap();
    let added = node.post(&format!("/api/datanets/{id}/records"), &json!({"path": file})).unwrap();
    assert_eq!(added["added"], 2, "{added}");
    assert_eq!(added["refused_count"], 3, "{added}");
    let refused: Vec<u64> =
        added["refused"].as_array().unwrap().iter().map(|refusal| refusal["line"].as_u64().unwrap()).collect();
    assert_eq!(refused, [2, 3, 5]);
    let again = node.post(&format!("/api/datanets/{id}/records"), &json!({"path": file})).unwrap();
    assert_eq!(again["added"], 0, "the same file twice changes nothing");
    let shown = node.get(&format!("/api/datanets/{id}")).unwrap();
    assert_eq!(shown["records"], 2);
}

#[test]
fn files_that_hold_nothing_are_refused_with_what_to_do() {
    let folder = folder();
    let node = NodeProcess::start(&folder.path().join("node"), OFFLINE);
    let id = datanet(&node);
    let empty = folder.path().join("empty.jsonl");
    std::fs::write(&empty, "").unwrap();
    let bare = folder.path().join("bare");
    std::fs::create_dir(&bare).unwrap();
    let nothing = folder.path().join("nothing.jsonl");
    std::fs::write(&nothing, "{broken\n").unwrap();
    let missing = folder.path().join("missing.jsonl");
    for (path, word) in [(&empty, "empty"), (&bare, "no file"), (&nothing, "no usable record"), (&missing, "not exist")]
    {
        let refused = node.post(&format!("/api/datanets/{id}/records"), &json!({"path": path})).unwrap_err();
        assert_eq!(refused.exit_code(), 2, "{refused}");
        assert!(refused.to_string().contains(word), "{refused}");
        assert!(!refused.hint().is_empty());
    }
    assert_eq!(node.get(&format!("/api/datanets/{id}")).unwrap()["records"], 0);
}

#[test]
fn a_killed_node_comes_back_with_everything_it_had_accepted() {
    let folder = folder();
    let mut node = NodeProcess::start(&folder.path().join("node"), OFFLINE);
    let id = datanet(&node);
    let file = folder.path().join("records.txt");
    std::fs::write(&file, "First paragraph of words.\n\nSecond paragraph of words.\n").unwrap();
    node.post(&format!("/api/datanets/{id}/records"), &json!({"path": file})).unwrap();
    // Its own notary sees what was added a moment later, which is one more thing to keep.
    let attested = |found: &serde_json::Value| (found["attested"] == 1).then(|| found.clone());
    let before = until("the notary", &node, &format!("/api/datanets/{id}"), attested);
    let status = node.get("/api/status").unwrap();
    node.kill();
    node.restart();
    assert_eq!(node.get(&format!("/api/datanets/{id}")).unwrap(), before);
    let after = node.get("/api/status").unwrap();
    for field in ["node", "account", "chain_address"] {
        assert_eq!(after[field], status[field]);
    }
}

#[test]
fn a_wrong_ticket_is_refused() {
    let folder = folder();
    let path = folder.path().join("node");
    for ticket in ["nonsense", "tributary1zz", "tributary100000000ab"] {
        let ended = run(&["up", "--data-dir", path.to_str().unwrap(), "--join", ticket]);
        assert_eq!(ended.status.code(), Some(2), "{}", stderr(&ended));
        assert!(stderr(&ended).contains("ticket"), "{}", stderr(&ended));
        assert!(stderr(&ended).contains('→'), "says what to do: {}", stderr(&ended));
    }
}

#[test]
fn a_port_in_use_is_named() {
    let folder = folder();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for flag in ["--api-port", "--port"] {
        let path = folder.path().join(flag);
        let ended = run(&["up", "--data-dir", path.to_str().unwrap(), flag, &port]);
        assert!(!ended.status.success());
        assert!(stderr(&ended).contains("port in use"), "{}", stderr(&ended));
        assert!(stderr(&ended).contains(&port), "{}", stderr(&ended));
    }
}

#[test]
fn a_second_node_on_one_folder_is_refused() {
    let folder = folder();
    let node = NodeProcess::start(&folder.path().join("node"), OFFLINE);
    let ended = run(&["up", "--data-dir", node.folder.to_str().unwrap()]);
    assert!(!ended.status.success());
    assert!(stderr(&ended).contains("in use"), "{}", stderr(&ended));
    assert!(node.get("/api/status").is_ok(), "the first one goes on");
}

#[test]
fn a_wrong_key_file_is_refused_and_the_keys_stay() {
    let folder = folder();
    let path = folder.path().join("node");
    let mut node = NodeProcess::start(&path, OFFLINE);
    let account = node.get("/api/status").unwrap()["account"].clone();
    node.kill();
    let kept = std::fs::read(path.join("unlock.key")).unwrap();
    std::fs::write(path.join("unlock.key"), "0".repeat(64)).unwrap();
    let ended = run(&["up", "--data-dir", path.to_str().unwrap()]);
    assert_eq!(ended.status.code(), Some(7));
    assert!(stderr(&ended).contains("passphrase"), "{}", stderr(&ended));
    std::fs::write(path.join("unlock.key"), kept).unwrap();
    node.restart();
    assert_eq!(node.get("/api/status").unwrap()["account"], account);
}

#[test]
fn keys_lie_encrypted_and_private() {
    let folder = folder();
    let node = NodeProcess::start(&folder.path().join("node"), OFFLINE);
    let mut files = 0;
    for entry in std::fs::read_dir(node.folder.join("keys")).unwrap() {
        let path = entry.unwrap().path();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o077, 0, "{}", path.display());
        assert!(std::fs::read_to_string(&path).unwrap().contains("argon2id"), "{}", path.display());
        files += 1;
    }
    assert_eq!(files, 3);
}

#[test]
fn a_request_without_the_token_is_refused() {
    let folder = folder();
    let node = NodeProcess::start(&folder.path().join("node"), OFFLINE);
    let address = node.client.notice().unwrap().address;
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /api/wallet HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

#[test]
fn a_chain_that_is_down_is_said_so_and_the_node_works_on() {
    let folder = folder();
    let mut keeper =
        NodeProcess::start(&folder.path().join("keeper"), &["--serve-chain", "127.0.0.1:0", "--network", "test"]);
    let ticket = keeper.get("/api/net/invite").unwrap()["ticket"].as_str().unwrap().to_owned();
    keeper.kill();
    let node = NodeProcess::start(&folder.path().join("node"), &["--join", &ticket]);
    let id = datanet(&node);
    assert_eq!(node.get("/api/wallet").unwrap()["chain_state"], "down");
    let refused = node.post("/api/wallet/send", &json!({"to": "00".repeat(20), "amount": "1"})).unwrap_err();
    assert_eq!(refused.exit_code(), 4, "{refused}");
    assert!(refused.to_string().contains("chain"), "{refused}");
    assert!(node.get(&format!("/api/datanets/{id}")).is_ok());
}

#[test]
fn money_that_is_not_there_is_not_spent() {
    let folder = folder();
    let keeper =
        NodeProcess::start(&folder.path().join("keeper"), &["--serve-chain", "127.0.0.1:0", "--network", "test"]);
    let ticket = keeper.get("/api/net/invite").unwrap()["ticket"].as_str().unwrap().to_owned();
    let node = NodeProcess::start(&folder.path().join("node"), &["--join", &ticket]);
    let refused = node.post("/api/wallet/send", &json!({"to": "11".repeat(20), "amount": "5"})).unwrap_err();
    assert_eq!(refused.exit_code(), 5, "{refused}");
    let id = datanet(&node);
    let file = folder.path().join("records.txt");
    std::fs::write(&file, "Some words of training.\n").unwrap();
    node.post(&format!("/api/datanets/{id}/records"), &json!({"path": file})).unwrap();
    let run = json!({"name": "x", "base": "builtin", "datanet": id, "budget": "1000", "attribution": false});
    let refused = node.post("/api/runs", &run).unwrap_err();
    assert_eq!(refused.exit_code(), 5, "{refused}");
    assert_eq!(node.get("/api/runs").unwrap(), json!([]));
}

#[test]
fn commands_without_a_node_say_that_it_is_down() {
    let folder = folder();
    let ended = tributary().args(["status", "--data-dir"]).arg(folder.path()).output().unwrap();
    assert_eq!(ended.status.code(), Some(3), "{}", stderr(&ended));
    assert!(stderr(&ended).contains("tributary up"), "{}", stderr(&ended));
}

#[test]
fn a_second_datanet_of_one_name_is_refused() {
    let folder = folder();
    let node = NodeProcess::start(&folder.path().join("node"), OFFLINE);
    datanet(&node);
    let again = node.post("/api/datanets", &json!({"name": "letters", "licence": "CC0-1.0"})).unwrap_err();
    assert_eq!(again.exit_code(), 2, "{again}");
    assert!(again.to_string().contains("letters already"), "{again}");
}

#[test]
fn a_node_that_served_a_chain_serves_it_again() {
    let folder = folder();
    let mut node = NodeProcess::start(&folder.path().join("node"), &["--serve-chain", "127.0.0.1:0"]);
    let before = node.get("/api/chain/totals").unwrap();
    node.kill();
    node.restart_with(&[]);
    assert_eq!(node.get("/api/chain/totals").unwrap(), before);
    assert_eq!(node.get("/api/status").unwrap()["chain"]["state"], "up");
}
