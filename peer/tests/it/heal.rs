//! A network that was switched off as a whole comes back by itself.

use std::net::{TcpListener, UdpSocket};

use serde_json::{Value, json};

use super::support::{NodeProcess, eventually, folder};

fn invite(node: &NodeProcess) -> String {
    node.get("/api/net/invite").unwrap()["ticket"].as_str().unwrap().to_owned()
}

fn peers(node: &NodeProcess) -> u64 {
    node.get("/api/status").map_or(0, |status| status["peers"].as_u64().unwrap())
}

/// How many peers the node's folder remembers.
fn remembered(node: &NodeProcess) -> usize {
    let Ok(bytes) = std::fs::read(node.folder.join("peers.json")) else { return 0 };
    // The file is replaced as a whole: whenever it is there, it parses.
    serde_json::from_slice::<Vec<Value>>(&bytes).unwrap().len()
}

fn addresses(node: &NodeProcess) -> [Value; 2] {
    let status = node.get("/api/status").unwrap();
    [status["control"].clone(), status["data"].clone()]
}

#[test]
fn three_killed_nodes_find_each_other_again_without_a_ticket_and_gossip_flows() {
    let folder = folder();
    let first = NodeProcess::start(&folder.path().join("first"), &[]);
    let ticket = invite(&first);
    let join = ["--join", ticket.as_str()];
    let mut nodes = vec![first];
    nodes.extend(["second", "third"].map(|name| NodeProcess::start(&folder.path().join(name), &join)));
    for node in &nodes {
        eventually("everybody knows everybody", || peers(node) == 2 && remembered(node) == 2);
    }
    let before: Vec<_> = nodes.iter().map(addresses).collect();
    for node in &mut nodes {
        node.kill();
        // What led to the first node, but for what each remembers.
        let _ = std::fs::remove_file(node.folder.join("bootstrap.json"));
    }
    for node in &mut nodes {
        node.restart_with(&[]);
    }
    for (node, before) in nodes.iter().zip(before) {
        eventually("everybody is back", || peers(node) == 2);
        assert_eq!(addresses(node), before, "every socket has the port that it had");
    }
    for (index, speaker) in nodes.iter().enumerate() {
        let made = speaker.post("/api/datanets", &json!({"name": format!("net-{index}"), "licence": "CC0-1.0"}));
        let id = made.unwrap()["id"].as_str().unwrap().to_owned();
        for node in &nodes {
            eventually("the datanet is heard of", || node.get(&format!("/api/datanets/{id}")).is_ok());
        }
    }
}

#[test]
fn a_kept_port_that_is_taken_gives_way_and_says_so_and_the_peers_meet_all_the_same() {
    let folder = folder();
    let mut first = NodeProcess::start(&folder.path().join("first"), &[]);
    let ticket = invite(&first);
    let mut second = NodeProcess::start(&folder.path().join("second"), &["--join", &ticket]);
    eventually("both remember each other", || remembered(&first) == 1 && remembered(&second) == 1);
    let kept: Value = serde_json::from_slice(&std::fs::read(first.folder.join("ports.json")).unwrap()).unwrap();
    let port = u16::try_from(kept["control"].as_u64().unwrap()).unwrap();
    first.kill();
    second.kill();
    let _udp = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    let _tcp = TcpListener::bind(("127.0.0.1", port)).unwrap();
    first.restart_loud(&[]);
    second.restart_with(&[]);
    eventually("they meet", || peers(&first) == 1 && peers(&second) == 1);
    let said = first.said();
    assert!(said.contains(&format!("port {port} of the control plane is in use")), "{said}");
    let control = addresses(&first)[0].to_string();
    assert!(!control.contains(&format!("/{port}/")), "{control}");
    // Only what was asked for by name must be as asked.
    first.kill();
    let refused =
        super::support::run(&["up", "--data-dir", first.folder.to_str().unwrap(), "--port", &port.to_string()]);
    assert_eq!(refused.status.code(), Some(1));
}

#[test]
fn a_damaged_list_of_peers_does_not_keep_a_node_from_starting() {
    let folder = folder();
    let mut node = NodeProcess::start(&folder.path().join("node"), &[]);
    node.kill();
    std::fs::write(node.folder.join("peers.json"), "[{").unwrap();
    node.restart_loud(&[]);
    assert!(node.said().contains("peers.json is damaged"), "{}", node.said());
}
