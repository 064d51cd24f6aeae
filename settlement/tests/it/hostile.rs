//! Whatever is sent to the served chain, it answers or refuses, and goes on.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tributary_settlement::evm::EmbeddedChain;
use tributary_settlement::rpc::bounded::{BODY_TIMEOUT_S, HEAD_TIMEOUT_S};
use tributary_settlement::rpc::{MAX_BATCH, MAX_BODY_BYTES, MAX_CONNECTIONS, RpcServer, ServeError, serve, serve_open};

use super::kit::any_port;

async fn served() -> (TempDir, RpcServer) {
    let folder = TempDir::new().unwrap();
    let embedded = EmbeddedChain::open(folder.path()).unwrap();
    let server = serve(embedded, any_port()).await.unwrap();
    (folder, server)
}

/// Sends one raw HTTP request; status and body.
async fn exchange(at: SocketAddr, head: &str, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nconnection: close\r\n{head}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // A server that refuses by the head alone may close before the body is through.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, body.to_owned())
}

async fn post(at: SocketAddr, body: &[u8]) -> (u16, String) {
    let head = format!("host: {at}\r\ncontent-type: application/json\r\ncontent-length: {}", body.len());
    exchange(at, &head, body).await
}

/// The error code of the answer.
async fn code(at: SocketAddr, body: &[u8]) -> i64 {
    let (_, answer) = post(at, body).await;
    let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("no JSON: {answer}"));
    answer["error"]["code"].as_i64().unwrap_or_else(|| panic!("no error: {answer}"))
}

async fn assert_alive(at: SocketAddr) {
    let (status, answer) = post(at, br#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}"#).await;
    assert_eq!(status, 200);
    assert!(answer.contains("0x"), "{answer}");
}

#[tokio::test]
async fn hostile_bodies_get_an_error() {
    let (_folder, server) = served().await;
    let at = server.address();
    let nested = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    let deep_parameter = format!(r#"{{"id":1,"method":"eth_call","params":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
    let parse_errors: [&[u8]; 5] = [b"", b"{", b"\xff\xfe\x00", &nested, deep_parameter.as_bytes()];
    for body in parse_errors {
        assert_eq!(code(at, body).await, -32_700);
    }
    let full_batch = Value::Array(vec![json!({"id": 1, "method": "eth_chainId"}); 65]).to_string();
    let requests: [&[u8]; 7] = [
        b"1",
        b"{}",
        b"[]",
        br#"{"id":1,"method":5}"#,
        br#"{"id":1,"method":"eth_call","params":{}}"#,
        br#"{"id":{},"method":"eth_chainId"}"#,
        full_batch.as_bytes(),
    ];
    for body in requests {
        assert_eq!(code(at, body).await, -32_600, "{}", String::from_utf8_lossy(body));
    }
    assert_eq!(post(at, br#"{"method":"eth_chainId"}"#).await.0, 204, "a notification gets no answer");
    assert_alive(at).await;
}

#[tokio::test]
async fn hostile_parameters_get_an_error() {
    let (_folder, server) = served().await;
    let at = server.address();
    let huge = format!("0x{}", "00".repeat(200_000));
    let endless_loop = json!({ "data": "0x5b600056" });
    let cases = [
        ("eth_nothing", json!([]), -32_601),
        ("evm_increaseTime", json!([5]), -32_601),
        ("hardhat_setBalance", json!([]), -32_601),
        ("eth_getBalance", json!([]), -32_602),
        ("eth_getBalance", json!(["0x12"]), -32_602),
        ("eth_getBalance", json!([format!("0x{}", "1".repeat(40)), "0x1"]), -32_005),
        ("eth_call", json!([7]), -32_602),
        ("eth_call", json!([endless_loop]), -32_000),
        ("eth_estimateGas", json!([endless_loop]), -32_000),
        ("eth_sendRawTransaction", json!(["0x"]), -32_000),
        ("eth_sendRawTransaction", json!(["0x02ff"]), -32_000),
        ("eth_sendRawTransaction", json!([huge]), -32_000),
        ("eth_sendRawTransaction", json!(["zz"]), -32_602),
        ("eth_getLogs", json!([{ "fromBlock": "0x0", "toBlock": {} }]), -32_602),
        ("eth_getLogs", json!([{ "blockHash": format!("0x{}", "1".repeat(64)) }]), -32_005),
        ("eth_getBlockByNumber", json!(["latest", true]), -32_005),
        ("eth_feeHistory", json!(["0xffffffffffffffffffff"]), -32_602),
    ];
    for (method, params, expected) in cases {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        let got = code(at, body.as_bytes()).await;
        assert_eq!(got, expected, "{method} {}", body.chars().take(120).collect::<String>());
    }
    for (method, params) in [
        ("eth_feeHistory", json!(["0xffffffff", "latest", vec![50.0; 5_000]])),
        ("eth_getLogs", json!([{ "fromBlock": "0xffffffffffffffff", "toBlock": "latest" }])),
        ("eth_getBlockByNumber", json!(["0xffffffffffffffff", false])),
    ] {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        assert_eq!(post(at, body.as_bytes()).await.0, 200, "{method}");
    }
    assert_alive(at).await;
}

#[tokio::test]
async fn requests_above_the_limits_or_from_web_pages_are_refused() {
    let (_folder, server) = served().await;
    let at = server.address();
    let oversized = vec![b' '; MAX_BODY_BYTES + 1];
    let (status, _) = post(at, &oversized).await;
    assert!(matches!(status, 413 | 0), "refused or cut off, got {status}");
    let body = br#"{"id":1,"method":"eth_chainId"}"#;
    let simple = format!("host: {at}\r\ncontent-type: text/plain\r\ncontent-length: {}", body.len());
    assert_eq!(exchange(at, &simple, body).await.0, 415);
    let rebound = format!("host: evil.example\r\ncontent-type: application/json\r\ncontent-length: {}", body.len());
    assert_eq!(exchange(at, &rebound, body).await.0, 403);
    let broken_off = format!("host: {at}\r\ncontent-type: application/json\r\ncontent-length: 900");
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(format!("POST / HTTP/1.1\r\n{broken_off}\r\n\r\n{{").as_bytes()).await.unwrap();
    drop(stream);
    assert_alive(at).await;
}

#[tokio::test]
async fn random_bytes_never_stop_the_server() {
    let (_folder, server) = served().await;
    let at = server.address();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let template = br#"{"jsonrpc":"2.0","id":1,"method":"eth_call","params":[{"to":"0x00","data":"0x"},"latest"]}"#;
    for _ in 0..150 {
        let mut body = template.to_vec();
        for _ in 0..4 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let place = usize::try_from(state >> 33).unwrap() % body.len();
            body[place] = state.to_be_bytes()[0];
        }
        let (status, _) = post(at, &body).await;
        assert!(matches!(status, 200 | 204), "got {status} for {}", String::from_utf8_lossy(&body));
    }
    assert_alive(at).await;
}

#[tokio::test]
async fn the_chain_is_served_on_loopback_unless_opened() {
    let folder = TempDir::new().unwrap();
    let embedded = EmbeddedChain::open(folder.path()).unwrap();
    let everywhere: SocketAddr = "0.0.0.0:0".parse().unwrap();
    assert!(matches!(serve(embedded.clone(), everywhere).await, Err(ServeError::NotLoopback(_))));
    let server = serve_open(embedded.clone(), everywhere).await.unwrap();
    let taken = serve(embedded, SocketAddr::from(([127, 0, 0, 1], server.address().port()))).await;
    assert!(matches!(taken, Err(ServeError::Bind { .. })));
    let at = SocketAddr::from(([127, 0, 0, 1], server.address().port()));
    let body = br#"{"id":1,"method":"eth_chainId"}"#;
    let named = format!("host: chain.example\r\ncontent-type: application/json\r\ncontent-length: {}", body.len());
    assert_eq!(exchange(at, &named, body).await.0, 200);
}

#[tokio::test]
async fn silent_connections_stop_nobody() {
    let (_folder, server) = served().await;
    let at = server.address();
    let mut silent = Vec::new();
    for _ in 0..2 * MAX_CONNECTIONS {
        silent.push(TcpStream::connect(at).await.unwrap());
    }
    let answered = tokio::time::timeout(Duration::from_secs(HEAD_TIMEOUT_S / 2), assert_alive(at)).await;
    assert!(answered.is_ok(), "the silent are displaced before their deadline");
}

#[tokio::test]
async fn half_sent_bodies_stop_nobody() {
    let (_folder, server) = served().await;
    let at = server.address();
    let mut begun = Vec::new();
    for _ in 0..2 * MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(at).await.unwrap();
        // Those that have been displaced already may refuse it.
        let _ = stream.write_all(half_a_body(at).as_bytes()).await;
        begun.push(stream);
    }
    let answered = tokio::time::timeout(Duration::from_secs(BODY_TIMEOUT_S / 2), assert_alive(at)).await;
    assert!(answered.is_ok(), "who has not sent a whole request is displaced before the deadline");
}

/// The beginning of a request whose body breaks off.
fn half_a_body(at: SocketAddr) -> String {
    format!("POST / HTTP/1.1\r\nhost: {at}\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{{")
}

#[tokio::test]
async fn a_half_sent_request_is_cut_off() {
    let (_folder, server) = served().await;
    for half in ["POST / HTTP/1.1\r\nhost: ".to_owned(), half_a_body(server.address())] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(half.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let reads = stream.read_to_end(&mut answer);
        let closed = tokio::time::timeout(Duration::from_secs(3 * HEAD_TIMEOUT_S), reads).await;
        assert!(closed.is_ok(), "still open after {half:?}");
    }
    assert_alive(server.address()).await;
}

#[tokio::test]
async fn a_batch_burns_no_more_than_its_gas() {
    let (_folder, server) = served().await;
    let batch = |data: &str| {
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [{ "data": data }, "latest"] });
        Value::Array(vec![call; MAX_BATCH]).to_string()
    };
    let codes = |answer: &str| -> Vec<Option<i64>> {
        let answers: Vec<Value> = serde_json::from_str(answer).unwrap();
        answers.iter().map(|answer| answer["error"]["code"].as_i64()).collect()
    };
    let (_, answer) = post(server.address(), batch("0x5b600056").as_bytes()).await;
    let refused = codes(&answer);
    assert_eq!(refused[..2], [Some(-32_000); 2], "endless loops run out of their own gas");
    assert!(refused[2..].iter().all(|code| *code == Some(-32_005)), "{refused:?}");
    let (_, answer) = post(server.address(), batch("0x00").as_bytes()).await;
    assert_eq!(codes(&answer), [None; MAX_BATCH]);
}
