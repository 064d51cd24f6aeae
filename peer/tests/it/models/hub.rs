//! A hub on this machine that speaks the two endpoints which are used, breaks off in the middle of a file, and lies.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as Route, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::StreamExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::small::Small;
use super::text;
use crate::it::support::{NodeProcess, document, folder, on, stderr, tributary};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Where the hub breaks off: in the middle of the second shard.
const BREAKS_AT: usize = 40_000;

#[derive(Default)]
struct Repository {
    files: BTreeMap<String, Vec<u8>>,
    /// Bytes that are still sent before the hub breaks off.
    left: Option<usize>,
    /// The file whose hash is told wrongly.
    lies_about: Option<String>,
    /// What was asked for: file and first byte.
    asked: Vec<(String, usize)>,
}

type Shared = Arc<Mutex<Repository>>;

/// The hub, on a thread of its own until the test ends.
struct Hub {
    address: SocketAddr,
    repository: Shared,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Hub {
    fn start(folder: &Path) -> Self {
        let mut repository = Repository::default();
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            repository.files.insert(name, std::fs::read(entry.path()).unwrap());
        }
        repository.files.insert("pytorch_model.bin".into(), vec![0; 1_000_000]);
        let repository: Shared = Arc::new(Mutex::new(repository));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let router = Router::new()
            .route("/api/models/{owner}/{name}/revision/{revision}", get(listing))
            .route("/{owner}/{name}/resolve/{commit}/{file}", get(file))
            .with_state(Arc::clone(&repository));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let served = axum::serve(listener, router);
                tokio::select! {
                    ended = served => ended.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self { address, repository, stop: Some(stop), thread: Some(thread) }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn stop(&mut self) {
        // It may have ended by itself.
        let _ = self.stop.take().map(|stop| stop.send(()));
        self.thread.take().unwrap().join().unwrap();
    }
}

async fn listing(
    State(hub): State<Shared>,
    Route((owner, name, revision)): Route<(String, String, String)>,
) -> Response {
    if (owner.as_str(), name.as_str()) != ("tiny", "qwen") || !["main", "v1", COMMIT].contains(&revision.as_str()) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let hub = hub.lock().unwrap();
    let siblings: Vec<Value> = hub
        .files
        .iter()
        .map(|(name, bytes)| {
            if !name.ends_with(".safetensors") {
                return json!({"rfilename": name, "size": bytes.len()});
            }
            let told = if hub.lies_about.as_ref() == Some(name) { &b"something else"[..] } else { bytes };
            let lfs = json!({"sha256": hex::encode(Sha256::digest(told)), "size": bytes.len()});
            json!({"rfilename": name, "size": bytes.len(), "lfs": lfs})
        })
        .collect();
    axum::Json(json!({"sha": COMMIT, "siblings": siblings, "cardData": {"license": "mit"}})).into_response()
}

async fn file(
    State(hub): State<Shared>,
    Route((_, _, commit, name)): Route<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let mut hub = hub.lock().unwrap();
    assert_eq!(commit, COMMIT, "a file of a revision that may move");
    let Some(bytes) = hub.files.get(&name).cloned() else { return StatusCode::NOT_FOUND.into_response() };
    let range = headers["range"].to_str().unwrap().strip_prefix("bytes=").unwrap();
    let start: usize = range.strip_suffix('-').unwrap().parse().unwrap();
    if hub.left == Some(0) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    hub.asked.push((name, start));
    let rest = bytes[start..].to_vec();
    let ranged = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
    let sent = hub.left.map_or(rest.len(), |left| left.min(rest.len()));
    hub.left = hub.left.map(|left| left - sent);
    let (pieces, broken) = (rest[..sent].to_vec(), sent < rest.len());
    let pieces = std::iter::once(Ok(pieces)).chain(broken.then(|| Err(std::io::Error::other("broken off"))));
    // What was sent is flushed before the break, as on a real line.
    let pieces = futures::stream::iter(pieces).then(|piece| async {
        tokio::task::yield_now().await;
        piece
    });
    Response::builder()
        .status(StatusCode::PARTIAL_CONTENT)
        .header("content-range", ranged)
        .header("content-length", rest.len())
        .body(Body::from_stream(pieces))
        .unwrap()
}

#[test]
fn a_pull_from_a_hub_resumes_pins_its_commit_and_works_offline() {
    let root = folder();
    let small = Small::make(&root.path().join("small"));
    let mut hub = Hub::start(&small.folder);
    let node = NodeProcess::start(&root.path().join("node"), &["--offline"]);
    let url = hub.url();
    let pull = |more: &[&str]| {
        let line = ["--data-dir", text(&node.folder), "model", "pull", "tiny/qwen"];
        // Nothing of this user's own cache or settings.
        let home = root.path().join("home");
        tributary().args(line).args(more).env("HF_HOME", home).env("HF_ENDPOINT", &url).output().unwrap()
    };
    let preview = pull(&["--dry-run", "--json"]);
    assert!(preview.status.success(), "{}", stderr(&preview));
    assert!(!String::from_utf8(preview.stdout).unwrap().contains("pytorch"), "only what is needed");

    hub.repository.lock().unwrap().left = Some(BREAKS_AT);
    let broken = pull(&[]);
    assert_eq!(broken.status.code(), Some(4), "{}", stderr(&broken));
    assert_eq!(node.get("/api/bases").unwrap(), json!([]));
    let before = std::mem::take(&mut hub.repository.lock().unwrap().asked);
    hub.repository.lock().unwrap().left = None;
    let small_limit = pull(&["--max-size", "10kB"]);
    assert_eq!(small_limit.status.code(), Some(2));
    assert!(stderr(&small_limit).contains("--max-size"), "{}", stderr(&small_limit));
    let whole = pull(&["--json"]);
    assert!(whole.status.success(), "{}", stderr(&whole));
    let record: Value = serde_json::from_slice(&whole.stdout).unwrap();
    assert_eq!((&record["commit"], &record["revision"]), (&json!(COMMIT), &json!("main")), "{record}");
    assert_eq!((&record["licence"], &record["source"]), (&json!("mit"), &json!("hub:tiny/qwen")));
    let after = std::mem::take(&mut hub.repository.lock().unwrap().asked);
    let (torn, _) = before.last().unwrap();
    assert_eq!(after[0].0, *torn, "it goes on with the file that broke off");
    assert!(after[0].1 > 0, "and not from its beginning: {after:?}");
    assert!(after.iter().all(|(name, _)| name == torn || before.iter().all(|(had, _)| had != name)), "{after:?}");
    assert!(!node.folder.join("hub").join(format!("tiny--qwen--{COMMIT}")).exists(), "what is in the store goes");

    assert!(pull(&["-q"]).status.success());
    assert!(hub.repository.lock().unwrap().asked.is_empty(), "what is here is not fetched again");
    hub.stop();
    for offline in [&["-q"][..], &["--offline", "-q"]] {
        let ended = pull(offline);
        assert!(ended.status.success(), "{}", stderr(&ended));
        assert_eq!(String::from_utf8(ended.stdout).unwrap().trim(), record["id"].as_str().unwrap());
    }
    let other = on(&node, &["model", "pull", "tiny/other", "--offline"]);
    assert_eq!(other.status.code(), Some(4), "{}", stderr(&other));
    assert_eq!(document(&node, &["model", "show", "tiny/qwen"])["commit"], COMMIT);
}

#[test]
fn a_hub_that_sends_something_else_is_refused() {
    let root = folder();
    let small = Small::make(&root.path().join("small"));
    let mut hub = Hub::start(&small.folder);
    let node = NodeProcess::start(&root.path().join("node"), &["--offline"]);
    let url = hub.url();
    hub.repository.lock().unwrap().lies_about = Some("model-00002-of-00002.safetensors".into());
    let lied = on(&node, &["model", "pull", "tiny/qwen@v1", "--mirror", &url]);
    assert_eq!(lied.status.code(), Some(6), "{}", stderr(&lied));
    assert!(stderr(&lied).contains("hash"), "{}", stderr(&lied));
    let unknown = on(&node, &["model", "pull", "tiny/nothing", "--mirror", &url]);
    assert_eq!(unknown.status.code(), Some(2), "{}", stderr(&unknown));
    // A model that is whole and bad is the engine's to refuse.
    let config = hub.repository.lock().unwrap().files.insert("config.json".into(), b"{}".to_vec()).unwrap();
    hub.repository.lock().unwrap().lies_about = None;
    let bad = on(&node, &["model", "pull", "tiny/qwen@v1", "--mirror", &url]);
    assert_eq!(bad.status.code(), Some(2), "{}", stderr(&bad));
    assert!(stderr(&bad).contains("config.json"), "{}", stderr(&bad));
    assert_eq!(node.get("/api/bases").unwrap(), json!([]));
    drop(config);
    hub.stop();
}
