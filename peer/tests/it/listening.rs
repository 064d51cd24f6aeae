//! Where a node listens, and what it tells other machines about it. A second machine is played by other addresses of
//! this one.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use tributary_peer::home::Ticket;
use tributary_peer::net::reach;

use super::support::{NodeProcess, eventually, folder};

fn invite(node: &NodeProcess) -> (String, Ticket) {
    let text = node.get("/api/net/invite").unwrap()["ticket"].as_str().unwrap().to_owned();
    let ticket = Ticket::from_text(&text).unwrap();
    (text, ticket)
}

/// Everything a node publishes about where it is: multiaddresses and socket addresses.
fn published(node: &NodeProcess) -> Vec<String> {
    let status = node.get("/api/status").unwrap();
    let texts = |field: &str| status[field].as_array().unwrap().clone();
    let all = texts("control").into_iter().chain(texts("data"));
    all.map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// The IP address within a published text.
fn ip_of(text: &str) -> IpAddr {
    let parts: Vec<_> = text.split('/').collect();
    match parts.as_slice() {
        ["", "ip4" | "ip6", ip, ..] => ip.parse().unwrap(),
        _ => text.split_once(':').unwrap().1.parse::<SocketAddr>().unwrap().ip(),
    }
}

/// A node's ports as its folder keeps them.
fn ports(node: &NodeProcess) -> Vec<u16> {
    let kept: Value = serde_json::from_slice(&std::fs::read(node.folder.join("ports.json")).unwrap()).unwrap();
    kept.as_object().unwrap().values().map(|port| u16::try_from(port.as_u64().unwrap()).unwrap()).collect()
}

/// This machine's address that others would use, if it has one.
fn outward() -> Option<IpAddr> {
    let all = reach::published("0.0.0.0:1".parse().unwrap());
    all.into_iter().map(|at| at.ip()).find(|ip| reach::is_outward(*ip))
}

fn chain_url(ticket: &Ticket) -> &str {
    &ticket.network.chain.as_ref().unwrap().url
}

/// A second node joins by the ticket, uses the chain, and gets a blob from the first by the addresses it published.
fn joins_and_works(first: &NodeProcess, second: &NodeProcess, folder: &std::path::Path) {
    eventually("they meet", || second.get("/api/status").unwrap()["peers"] == 1);
    let chain = &second.get("/api/status").unwrap()["chain"];
    assert_eq!(chain["state"], "up", "{chain}");
    let id = first.post("/api/datanets", &json!({"name": "letters", "licence": "CC0-1.0"})).unwrap()["id"].clone();
    let id = id.as_str().unwrap();
    let file = folder.join("records.txt");
    std::fs::write(&file, "A paragraph of words.\n").unwrap();
    first.post(&format!("/api/datanets/{id}/records"), &json!({"path": file})).unwrap();
    eventually("the shard is here", || {
        let shown = second.get(&format!("/api/datanets/{id}"));
        shown.is_ok_and(|shown| shown["records"] == 1)
            && second.get("/api/traffic").unwrap()["blobs_received_bytes"].as_u64().unwrap() > 0
    });
}

#[test]
fn a_ticket_and_its_chain_lead_to_the_address_that_the_node_listens_on() {
    let folder = folder();
    let listen = ["--listen", "127.0.0.2", "--serve-chain"];
    let mut first = NodeProcess::start(&folder.path().join("first"), &listen);
    let (text, ticket) = invite(&first);
    assert!(!ticket.bootstrap.is_empty());
    assert!(ticket.bootstrap.iter().all(|address| address.starts_with("/ip4/127.0.0.2/")), "{:?}", ticket.bootstrap);
    assert!(chain_url(&ticket).starts_with("http://127.0.0.2:"), "{}", chain_url(&ticket));
    assert!(published(&first).iter().all(|text| ip_of(text) == IpAddr::from([127, 0, 0, 2])));
    for port in ports(&first) {
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "port {port} is open elsewhere");
    }
    let second = NodeProcess::start(&folder.path().join("second"), &["--listen", "127.0.0.3", "--join", &text]);
    joins_and_works(&first, &second, folder.path());
    first.kill();
    first.restart();
    assert_eq!(chain_url(&invite(&first).1), chain_url(&ticket), "the chain keeps its port over a restart");
}

#[test]
fn a_node_on_all_interfaces_publishes_those_that_others_reach() {
    let folder = folder();
    let first = NodeProcess::start(&folder.path().join("first"), &["--listen", "0.0.0.0", "--serve-chain"]);
    let expected = reach::published("0.0.0.0:1".parse().unwrap());
    let expected: Vec<IpAddr> = expected.into_iter().map(|at| at.ip()).collect();
    eventually("all interfaces are known", || {
        let ips: Vec<_> = published(&first).iter().map(|text| ip_of(text)).collect();
        ips.iter().all(|ip| expected.contains(ip)) && expected.iter().all(|ip| ips.contains(ip))
    });
    assert!(published(&first).iter().any(|text| text.starts_with("lane:")), "{:?}", published(&first));
    let (text, ticket) = invite(&first);
    assert!(ticket.bootstrap.iter().all(|address| expected.contains(&ip_of(address))), "{:?}", ticket.bootstrap);
    let chain: SocketAddr = chain_url(&ticket).strip_prefix("http://").unwrap().parse().unwrap();
    assert!(expected.contains(&chain.ip()), "{chain}");
    let at = outward().unwrap_or_else(|| IpAddr::from([127, 0, 0, 1])).to_string();
    let second = NodeProcess::start(&folder.path().join("second"), &["--listen", &at, "--join", &text]);
    joins_and_works(&first, &second, folder.path());
}

#[test]
fn without_listen_nothing_can_be_reached_from_elsewhere() {
    let folder = folder();
    let node = NodeProcess::start(&folder.path().join("node"), &["--serve-chain"]);
    assert!(published(&node).iter().all(|text| ip_of(text).is_loopback()), "{:?}", published(&node));
    assert!(chain_url(&invite(&node).1).starts_with("http://127.0.0.1:"));
    let api = node.client.notice().unwrap().address;
    assert!(api.ip().is_loopback());
    let elsewhere = outward().unwrap_or_else(|| IpAddr::from([127, 0, 0, 2]));
    for port in ports(&node).into_iter().chain([api.port()]) {
        let reached = TcpStream::connect_timeout(&SocketAddr::new(elsewhere, port), Duration::from_secs(5));
        assert!(reached.is_err(), "port {port} is open on {elsewhere}");
    }
}
