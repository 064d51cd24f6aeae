//! How a node ends, and what it says and logs meanwhile.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::support::{NodeProcess, folder};

/// The longest a node may take to stop on a loaded machine.
const STOPS: Duration = Duration::from_secs(15);

/// A caller who begins a request and never ends it.
fn dribble(at: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 900\r\n").unwrap();
    stream.write_all(b"content-type: application/json\r\n\r\n{").unwrap();
    stream
}

#[test]
fn an_interrupt_and_a_request_to_terminate_stop_a_chain_node_soon_and_cleanly() {
    let folder = folder();
    let mut node = NodeProcess::start_loud(&folder.path().join("node"), &["--serve-chain"]);
    for (round, signal) in ["INT", "TERM"].into_iter().enumerate() {
        let url = node.get("/api/status").unwrap()["chain"]["served"].as_str().unwrap().to_owned();
        let chain: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
        let open = [dribble(chain), dribble(node.client.notice().unwrap().address)];
        let began = Instant::now();
        let status = node.signal(signal);
        assert!(began.elapsed() < STOPS, "{signal} took {:?}", began.elapsed());
        assert_eq!(status.code(), Some(0), "{signal}: {}", node.log());
        drop(open);
        let said = node.said();
        assert_eq!(said.matches("stopping").count(), round + 1, "{said}");
        assert!(!node.folder.join("api.json").exists());
        node.restart();
    }
}

#[test]
fn people_read_sentences_and_the_log_is_in_the_folder() {
    let folder = folder();
    let mut node = NodeProcess::start_loud(&folder.path().join("node"), &["--serve-chain"]);
    assert!(node.get("/api/wallet").is_ok());
    node.signal("TERM");
    let said = node.said();
    for line in said.lines() {
        assert!(["✓ ", "  ", "! ", "stopping"].iter().any(|begin| line.starts_with(begin)), "{line:?} in\n{said}");
    }
    assert!(said.contains("settlement chain on http://127.0.0.1:") && said.contains("node.log"), "{said}");
    let log = std::fs::read_to_string(node.folder.join("node.log")).unwrap();
    assert!(log.contains("INFO") && !log.contains('\u{1b}'), "{log}");
}
