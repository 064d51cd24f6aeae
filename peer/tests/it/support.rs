//! Real node processes for tests, each in a folder of its own, and patience with a deadline.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tributary_peer::client::{Client, ClientError};

/// How long anything small may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

fn binary() -> PathBuf {
    env!("CARGO_BIN_EXE_tributary").into()
}

/// The binary under test.
pub fn tributary() -> Command {
    command(&binary())
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_remove("TRIBUTARY_DATA_DIR").env_remove("TRIBUTARY_PASSPHRASE").stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub fn run(arguments: &[&str]) -> Output {
    tributary().args(arguments).output().unwrap()
}

/// What the binary said on standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A node process.
pub struct NodeProcess {
    pub folder: PathBuf,
    pub client: Client,
    program: PathBuf,
    arguments: Vec<String>,
    child: Child,
}

impl NodeProcess {
    /// Starts a node on `folder` with further arguments of `up` and waits until its API answers.
    pub fn start(folder: &Path, arguments: &[&str]) -> Self {
        Self::start_of(&binary(), folder, arguments)
    }

    /// The same with another program than the binary under test.
    pub fn start_of(program: &Path, folder: &Path, arguments: &[&str]) -> Self {
        Self::start_as(program, folder, up(folder, &["--quiet"], arguments))
    }

    /// The same, and it says what it has to say to people.
    pub fn start_loud(folder: &Path, arguments: &[&str]) -> Self {
        Self::start_as(&binary(), folder, up(folder, &[], arguments))
    }

    fn start_as(program: &Path, folder: &Path, all: Vec<String>) -> Self {
        let child = Self::spawn(program, folder, &all);
        let (client, program) = (Client::new(folder), program.to_owned());
        let mut node = Self { folder: folder.to_owned(), client, program, arguments: all, child };
        node.wait_until_ready();
        node
    }

    fn spawn(program: &Path, folder: &Path, arguments: &[String]) -> Child {
        std::fs::create_dir_all(folder).unwrap();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("stderr")).unwrap();
        command(program).args(arguments).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.get("/api/status").is_err() {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the node ended with {status}: {}", self.log());
            }
            assert!(Instant::now() < deadline, "the node did not come up: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("node.log")).unwrap_or_default() + &self.said()
    }

    /// Kills the node as a power cut would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let _ = std::fs::remove_file(self.folder.join("api.json"));
    }

    /// Starts it again with these arguments of `up`.
    pub fn restart_with(&mut self, arguments: &[&str]) {
        self.arguments = up(&self.folder, &["--quiet"], arguments);
        self.restart();
    }

    /// The same, and it says what it has to say to people.
    pub fn restart_loud(&mut self, arguments: &[&str]) {
        self.arguments = up(&self.folder, &[], arguments);
        self.restart();
    }

    /// What it wrote on standard error, in all its lives.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.folder.join("stderr")).unwrap_or_default()
    }

    /// Sends it a signal and waits for its end.
    pub fn signal(&mut self, name: &str) -> ExitStatus {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        self.child.wait().unwrap()
    }

    /// Starts it again as it was, after it ended: a node that still ran would answer in the new one's place.
    pub fn restart(&mut self) {
        assert!(self.child.try_wait().unwrap().is_some(), "the node still runs: kill it first");
        self.child = Self::spawn(&self.program, &self.folder, &self.arguments);
        self.wait_until_ready();
    }

    pub fn get(&self, path: &str) -> Result<Value, ClientError> {
        block_on(self.client.get(path))
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        block_on(self.client.post(path, body))
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command line of a node on `folder`.
fn up(folder: &Path, flags: &[&str], arguments: &[&str]) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let parts = [&["up", "--data-dir", folder], flags, arguments].concat();
    parts.into_iter().map(str::to_owned).collect()
}

/// Looks again and again until `look` says yes.
pub fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !look() {
        assert!(Instant::now() < deadline, "{what} in time");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs the binary against a node's folder.
pub fn on(node: &NodeProcess, line: &[&str]) -> Output {
    run(&[&["--data-dir", node.folder.to_str().unwrap()], line].concat())
}

/// A node that builds and witnesses, and two that work and verify.
pub fn builder_and_workers(folder: &Path) -> [NodeProcess; 3] {
    let builder = NodeProcess::start(&folder.join("0"), &["--network", "test", "--roles", "witness"]);
    let ticket = builder.get("/api/net/invite").unwrap()["ticket"].as_str().unwrap().to_owned();
    let worker =
        |name: &str| NodeProcess::start(&folder.join(name), &["--join", &ticket, "--roles", "worker,verifier"]);
    [builder, worker("1"), worker("2")]
}

/// The JSON document that the binary prints.
pub fn document(node: &NodeProcess, line: &[&str]) -> Value {
    let ended = on(node, &[line, &["--json"]].concat());
    assert!(ended.status.success(), "{line:?}: {}\n{}", stderr(&ended), node.log());
    serde_json::from_slice(&ended.stdout).unwrap()
}

/// Looks at `path` of the node's API until `found` says something.
pub fn until<T>(what: &str, node: &NodeProcess, path: &str, found: impl Fn(&Value) -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = node.get(path);
        if let Some(found) = seen.as_ref().ok().and_then(&found) {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come: {seen:?}\n{}", node.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// A temporary folder; tests keep nodes in folders within it.
pub fn folder() -> TempDir {
    tempfile::Builder::new().prefix("tributary-test").tempdir().unwrap()
}
