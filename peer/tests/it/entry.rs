//! The ways into a network and into a node's own folder that are shut, and what they leave behind: nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use tributary_peer::home::Ticket;

use super::support::{NodeProcess, eventually, folder, run, stderr, tributary};

/// Longest time that a command may take to find out that nobody answers, on a loaded machine.
const GIVES_UP: Duration = Duration::from_secs(40);

fn on(node: &NodeProcess, line: &[&str]) -> Output {
    run(&[&["--data-dir", node.folder.to_str().unwrap()], line].concat())
}

fn invite(node: &NodeProcess) -> String {
    node.get("/api/net/invite").unwrap()["ticket"].as_str().unwrap().to_owned()
}

fn is_alone(node: &NodeProcess) -> bool {
    node.get("/api/status").unwrap()["peers"] == 0
}

#[test]
fn joining_a_node_that_does_not_answer_fails_in_time_and_succeeds_once_it_does() {
    let folder = folder();
    let mut away = NodeProcess::start(&folder.path().join("away"), &[]);
    let ticket = invite(&away);
    let mut node = NodeProcess::start(&folder.path().join("node"), &["--join", &ticket]);
    eventually("they met", || !is_alone(&node));
    away.kill();
    node.kill();
    node.restart_loud(&["--join", &ticket]);
    eventually("it says that nobody answers", || node.said().contains("! no peer that this node knows answers yet"));
    node.kill();
    // Nobody that is remembered is to be looked for.
    node.restart_with(&["--offline"]);
    let began = Instant::now();
    let refused = on(&node, &["net", "join", &ticket]);
    assert!(began.elapsed() < GIVES_UP, "{:?}", began.elapsed());
    assert_eq!(refused.status.code(), Some(4), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("no peer of the ticket was met"), "{}", stderr(&refused));
    assert!(stderr(&refused).contains('→') && !stderr(&refused).contains('✓'), "{}", stderr(&refused));
    assert!(refused.stdout.is_empty());
    away.restart();
    let joined = on(&node, &["net", "join", &invite(&away)]);
    assert_eq!(joined.status.code(), Some(0), "{}", stderr(&joined));
    assert!(stderr(&joined).contains("✓ met 1 peer"), "{}", stderr(&joined));
    assert!(!is_alone(&node));
}

#[test]
fn an_address_where_nobody_ever_answers_is_given_up_in_time() {
    let folder = folder();
    let node = NodeProcess::start(&folder.path().join("node"), &["--offline"]);
    let mut ticket = Ticket::from_text(&invite(&node)).unwrap();
    let own = on(&node, &["net", "join", &ticket.to_text()]);
    assert_eq!(own.status.code(), Some(2), "{}", stderr(&own));
    // A socket that takes everything and says nothing.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let stranger = "12D3KooWKWkXgMeEuyJbTSNtmKGAfNxJi63AX7U5fnHuveEw56mx";
    ticket.bootstrap = vec![format!("/ip4/127.0.0.1/udp/{port}/quic-v1/p2p/{stranger}")];
    let began = Instant::now();
    let refused = on(&node, &["net", "join", &ticket.to_text(), "--json"]);
    assert!(began.elapsed() < GIVES_UP, "{:?}", began.elapsed());
    assert_eq!(refused.status.code(), Some(4), "{}", stderr(&refused));
    let document: serde_json::Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(document["error"]["exit_code"], 4, "{document}");
}

/// What the user can give wrongly to `up`, without a network or with the ticket of one.
fn mistakes() -> Vec<Vec<String>> {
    let folder = folder();
    let node = NodeProcess::start(&folder.path().join("node"), &["--offline"]);
    let good = Ticket::from_text(&invite(&node)).unwrap();
    let nowhere = Ticket { bootstrap: vec!["/ip4/127.0.0.1/tcp/1".into()], ..good.clone() };
    let mut nameless = good;
    nameless.network.name = "No Name".into();
    let tickets = ["nonsense".to_owned(), "tributary1zz".to_owned(), nowhere.to_text(), nameless.to_text()];
    let mut mistakes: Vec<Vec<String>> = tickets.into_iter().map(|ticket| vec!["--join".into(), ticket]).collect();
    for line in [
        "--device metal",
        "--network Nonsense!",
        "--serve-chain 0.0.0.0:1",
        "--listen 192.0.2.7 --serve-chain 127.0.0.1:1",
    ] {
        mistakes.push(line.split(' ').map(str::to_owned).collect());
    }
    mistakes
}

#[test]
fn what_is_given_wrongly_leaves_no_folder_behind() {
    let folder = folder();
    let path = folder.path().join("deep").join("node");
    for mistake in mistakes() {
        let ended = tributary().args(["up", "--data-dir"]).arg(&path).args(&mistake).output().unwrap();
        assert_eq!(ended.status.code(), Some(2), "{mistake:?}: {}", stderr(&ended));
        assert!(stderr(&ended).contains('→'), "{mistake:?} says what to do: {}", stderr(&ended));
        assert!(!path.exists() && !path.parent().unwrap().exists(), "{mistake:?} left something behind");
    }
}

/// Every file of a folder with its content.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn up_with(folder: &Path, passphrase: Option<&str>) -> Output {
    let mut command = tributary();
    if let Some(passphrase) = passphrase {
        command.env("TRIBUTARY_PASSPHRASE", passphrase);
    }
    // A port that is none ends the node after its keys were opened, if they were.
    command.args(["up", "--listen", "203.0.113.9", "--data-dir"]).arg(folder).output().unwrap()
}

#[test]
fn a_wrong_or_missing_passphrase_is_named_and_nothing_is_written() {
    let folder = folder();
    for (name, right, wrong) in [
        ("sealed", Some("correct horse"), [Some("battery"), Some(""), None]),
        ("by key file", None, [Some("battery"), Some(""), Some("correct horse")]),
    ] {
        let path = folder.path().join(name);
        let opened = up_with(&path, right);
        assert!(stderr(&opened).contains("cannot listen"), "the keys were made: {}", stderr(&opened));
        let before = contents(&path);
        assert_eq!(before.keys().filter(|path| path.ends_with("unlock.key")).count(), usize::from(right.is_none()));
        for wrong in wrong {
            let refused = up_with(&path, wrong);
            assert_eq!(refused.status.code(), Some(7), "{name} {wrong:?}: {}", stderr(&refused));
            assert!(stderr(&refused).contains("passphrase"), "{name} {wrong:?}: {}", stderr(&refused));
            assert!(stderr(&refused).contains("→ set TRIBUTARY_PASSPHRASE"), "{}", stderr(&refused));
            assert!(contents(&path) == before, "{name} {wrong:?} changed {:?}", contents(&path).keys());
        }
        let opened = up_with(&path, right);
        assert!(stderr(&opened).contains("cannot listen"), "{}", stderr(&opened));
    }
}
