//! The demo's node processes: started from this very program, watched, and started again when they die.
//!
//! Invariant: each node has its own folder and keys, and chooses its ports itself, which it keeps over restarts
//! unless another program took them meanwhile; a node that ends while the demo runs is started again on the same
//! folder, and one that cannot live ends the demo with its name.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::DemoError;
use crate::client::{Client, ClientError};

/// Short lives of one node in a row after which it is taken for broken.
const SHORT_LIVES_MAX: u32 = 20;
/// What is a short life.
const SHORT_LIFE: Duration = Duration::from_secs(10);
/// Pause before a dead node is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(300);
/// How long one step of the demo may go on failing because a node is down.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at a node.
pub(super) const POLL: Duration = Duration::from_millis(200);

/// What a node of the demo is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Serves the chain, anchors epochs, works and verifies.
    Keeper,
    /// Works and verifies.
    Worker,
    /// Adds records.
    Contributor,
    /// Pays for training, releases, asks.
    Builder,
}

impl Role {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Keeper => &["worker", "verifier", "witness", "poster"],
            Self::Worker => &["worker", "verifier", "witness"],
            Self::Contributor | Self::Builder => &["witness"],
        }
    }
}

/// The roles of a demo of `peers` nodes: the five of the story, then in turn workers and contributors.
pub(super) fn roles(peers: usize) -> Vec<Role> {
    let mut roles = vec![Role::Keeper, Role::Worker, Role::Builder, Role::Contributor, Role::Contributor];
    while roles.len() < peers {
        roles.push(if roles.len() % 3 == 0 { Role::Contributor } else { Role::Worker });
    }
    roles
}

/// One node of the demo.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) folder: PathBuf,
    pub(super) client: Client,
    starts: Arc<AtomicU32>,
}

/// All nodes of the demo.
pub(super) struct Cluster {
    members: Vec<Member>,
    stop: watch::Sender<bool>,
    /// Which node was given up and why.
    lost: watch::Sender<Option<String>>,
    kept: Arc<AtomicBool>,
    watchers: Vec<tokio::task::JoinHandle<()>>,
}

impl Cluster {
    pub(super) fn new(folder: &Path, roles: &[Role]) -> Self {
        let mut members = Vec::with_capacity(roles.len());
        for (index, role) in roles.iter().enumerate() {
            let nth = roles[..=index].iter().filter(|other| *other == role).count();
            let name = match role {
                Role::Keeper => "keeper".to_owned(),
                Role::Builder => "builder".to_owned(),
                Role::Worker => format!("worker-{nth}"),
                Role::Contributor => format!("contributor-{nth}"),
            };
            let folder = folder.join(&name);
            let client = Client::new(&folder);
            members.push(Member { name, role: *role, folder, client, starts: Arc::default() });
        }
        let (stop, _) = watch::channel(false);
        let (lost, _) = watch::channel(None);
        Self { members, stop, lost, kept: Arc::default(), watchers: Vec::new() }
    }

    /// Returns when a node cannot be kept running, with its name and its last words.
    pub(super) fn loses_one(&self) -> impl Future<Output = DemoError> + use<> {
        let mut lost = self.lost.subscribe();
        async move {
            if let Ok(lost) = lost.wait_for(Option::is_some).await {
                return DemoError::Step { step: "network", reason: lost.clone().unwrap_or_default() };
            }
            // The cluster is gone, and with it whoever waits.
            std::future::pending().await
        }
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(super) fn having(&self, role: Role) -> Vec<&Member> {
        self.members.iter().filter(|member| member.role == role).collect()
    }

    pub(super) fn keeper(&self) -> &Member {
        &self.members[0]
    }

    pub(super) fn builder(&self) -> &Member {
        &self.members[2]
    }

    /// Starts the keeper, then everybody else with its invitation.
    pub(super) async fn start(&mut self) -> Result<(), DemoError> {
        let keeper = self.members[0].clone();
        self.watch(&keeper, None);
        let ticket = keeper.get("/api/net/invite").await?;
        let ticket = ticket["ticket"].as_str().unwrap_or_default().to_owned();
        for member in self.members.clone().iter().skip(1) {
            self.watch(member, Some(ticket.clone()));
        }
        Ok(())
    }

    fn watch(&mut self, member: &Member, ticket: Option<String>) {
        let arguments = arguments(member, ticket);
        let (member, stop, kept) = (member.clone(), self.stop.subscribe(), Arc::clone(&self.kept));
        let lost = self.lost.clone();
        self.watchers.push(tokio::spawn(async move {
            if let Some(reason) = keep_running(&member, &arguments, stop, &kept).await {
                lost.send_replace(Some(format!("{} {reason}; {}", member.name, member.log_tail())));
            }
        }));
    }

    /// Bytes that nodes received from each other so far.
    pub(super) async fn bytes_moved(&self) -> u64 {
        let mut sum = 0;
        for member in &self.members {
            if let Ok(traffic) = member.client.get("/api/traffic").await {
                let of = |field: &str| traffic[field].as_u64().unwrap_or(0);
                sum += of("received_bytes") + of("blobs_received_bytes");
            }
        }
        sum
    }

    /// How often nodes had to be started again.
    pub(super) fn restarts(&self) -> u32 {
        self.members.iter().map(|member| member.starts.load(Ordering::Relaxed).saturating_sub(1)).sum()
    }

    pub(super) async fn stop(&mut self) {
        self.stop.send_replace(true);
        for watcher in self.watchers.drain(..) {
            // A watcher that panicked has nothing left to stop.
            let _ = watcher.await;
        }
    }

    /// Removes the nodes' folders after they ended.
    pub(super) fn forget(&self) {
        for member in &self.members {
            // What cannot be removed is among the system's temporary files.
            let _ = std::fs::remove_dir_all(&member.folder);
        }
    }

    /// Lets the nodes run on after this program.
    pub(super) fn detach(&mut self) {
        self.kept.store(true, Ordering::Relaxed);
        self.stop.send_replace(true);
    }
}

fn arguments(member: &Member, ticket: Option<String>) -> Vec<String> {
    let text = |part: &str| part.to_owned();
    let mut arguments = vec![text("up"), text("--data-dir"), member.folder.display().to_string()];
    arguments.extend([text("--roles"), member.role.flags().join(",")]);
    arguments.extend([text("--network"), text("demo"), text("--quiet")]);
    // Its nodes check each other's work bit by bit.
    arguments.extend([text("--device"), text("cpu")]);
    match ticket {
        Some(ticket) => arguments.extend([text("--join"), ticket]),
        None => arguments.extend([text("--serve-chain"), text("0")]),
    }
    arguments
}

fn spawn(member: &Member, arguments: &[String]) -> std::io::Result<Child> {
    std::fs::create_dir_all(&member.folder)?;
    let log = std::fs::OpenOptions::new().create(true).append(true).open(member.folder.join("node.log"))?;
    Command::new(std::env::current_exe()?)
        .args(arguments)
        .env("RAYON_NUM_THREADS", engine_threads().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::from(log))
        // Ctrl-C in the terminal is the demo's to handle: it ends its nodes itself.
        .process_group(0)
        .spawn()
}

/// Threads of one engine: two of the nodes compute at the same time, and threads that spin for the same core
/// slow each other down.
fn engine_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

/// Starts the node whenever it does not run, until the demo ends; returns why that is hopeless.
async fn keep_running(
    member: &Member,
    arguments: &[String],
    mut stop: watch::Receiver<bool>,
    kept: &AtomicBool,
) -> Option<String> {
    let mut short_lives = 0;
    while short_lives < SHORT_LIVES_MAX {
        member.starts.fetch_add(1, Ordering::Relaxed);
        let began = tokio::time::Instant::now();
        // A killed node leaves its notice behind, which would lead to nobody or to somebody else.
        let _ = std::fs::remove_file(member.folder.join("api.json"));
        let mut child = match spawn(member, arguments) {
            Ok(child) => child,
            Err(error) => return Some(format!("cannot be started in {}: {error}", member.folder.display())),
        };
        tokio::select! {
            _ = child.wait() => tokio::time::sleep(RESTART_PAUSE).await,
            () = stopped(&mut stop) => {
                if !kept.load(Ordering::Relaxed) {
                    end(member, &mut child).await;
                }
                return None;
            }
        }
        if *stop.borrow() {
            return None;
        }
        short_lives = if began.elapsed() < SHORT_LIFE { short_lives + 1 } else { 0 };
    }
    Some(format!("ended {SHORT_LIVES_MAX} times in a row, soon after it had begun"))
}

/// Returns when the demo ends.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the demo is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Asks the node to end, and ends it if it does not.
async fn end(member: &Member, child: &mut Child) {
    let asked = member.client.post("/api/shutdown", &Value::Null).await;
    let patience = if asked.is_ok() { Duration::from_secs(10) } else { Duration::ZERO };
    if tokio::time::timeout(patience, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

impl Member {
    /// The log's last lines, for an error message.
    fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.folder.join("node.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    fn gave_up(&self, error: &ClientError) -> DemoError {
        let reason = format!("{} does not answer: {error}; {}", self.name, self.log_tail());
        DemoError::Step { step: "network", reason }
    }

    /// `GET`, again and again while the node is being started.
    pub(super) async fn get(&self, path: &str) -> Result<Value, DemoError> {
        self.insist(|| self.client.get(path)).await
    }

    /// `POST`, again and again while the node is being started; every call the demo makes may be repeated.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, DemoError> {
        self.insist(|| self.client.post(path, body)).await
    }

    async fn insist<F>(&self, call: impl Fn() -> F) -> Result<Value, DemoError>
    where
        F: Future<Output = Result<Value, ClientError>>,
    {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match call().await {
                Ok(value) => return Ok(value),
                Err(error) if matches!(error.exit_code(), 2 | 5 | 6) || tokio::time::Instant::now() > deadline => {
                    return Err(self.gave_up(&error));
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }
}
