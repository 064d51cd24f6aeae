//! `tributary demo`: a whole network of real node processes on this machine, from data to claimed earnings.
//!
//! Invariant: the demo does nothing that a user could not do with the same commands; it only calls the nodes'
//! HTTP APIs. Every step can be done again, so a node that is killed is started again and the demo goes on.

mod cluster;
mod material;
mod report;
mod screen;
mod steps;

use std::path::PathBuf;
use std::time::Instant;

use serde_json::Value;

use self::cluster::Cluster;
use self::material::Material;
pub use self::report::Report;
use self::screen::Screen;

/// The fewest and most nodes of a demo.
pub const NODES: std::ops::RangeInclusive<usize> = 5..=20;

/// What the user wants to see.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// One JSON document instead of the report.
    pub json: bool,
    /// Leave the nodes running.
    pub keep: bool,
    /// The user's own records instead of the almanac.
    pub data: Option<PathBuf>,
    /// Nodes in all.
    pub peers: usize,
    /// Where the nodes' folders go.
    pub dir: Option<PathBuf>,
    /// The seed of the almanac.
    pub seed: u64,
}

/// Why a demo ended early.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// What the user gave is wrong.
    #[error("{0}")]
    Usage(String),
    /// A step did not come to its end.
    #[error("{step}: {reason}")]
    Step {
        /// Which step.
        step: &'static str,
        /// Why.
        reason: String,
    },
    /// The user, or the system, ended the demo.
    #[error("stopped before its end; the nodes have ended, what they had is in {}", .0.display())]
    Stopped(PathBuf),
    /// What must hold of every demo does not.
    #[error("a check failed: {0}")]
    Check(String),
}

/// One phase of the demo, as the report shows it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct PhaseTime {
    /// Its name.
    pub name: &'static str,
    /// How long it took.
    pub seconds: f64,
    /// Bytes that moved between the nodes meanwhile.
    pub bytes: u64,
}

/// Runs the demo to its report.
///
/// # Errors
/// Says which step failed and why; the nodes are stopped in any case unless they were to be kept.
pub async fn run(options: DemoOptions) -> Result<Value, DemoError> {
    if !NODES.contains(&options.peers) {
        let reason = format!("--peers must be {} to {}", NODES.start(), NODES.end());
        return Err(DemoError::Usage(reason));
    }
    let folder = folder_of(&options)?;
    let roles = cluster::roles(options.peers);
    let contributors = roles.iter().filter(|role| **role == cluster::Role::Contributor).count();
    let material = Material::prepare(&options, &folder, contributors).inspect_err(|_| {
        // Only what is empty goes: a folder of the user's own stays unless nothing is in it.
        let _ = std::fs::remove_dir(&folder);
    })?;
    let screen = Screen::new(options.json);
    screen.say(&format!("{} nodes in {}", options.peers, folder.display()));
    for line in material.own.iter().flat_map(material::OwnData::lines) {
        screen.say(&line);
    }
    let cluster = Cluster::new(&folder, &roles);
    let loses_one = cluster.loses_one();
    let mut demo = Demo { cluster, material, screen, phases: Vec::new(), folder };
    let ended = tokio::select! {
        ended = demo.perform() => ended,
        lost = loses_one => Err(lost),
        () = told_to_stop() => Err(DemoError::Stopped(demo.folder.clone())),
    };
    demo.leave(&options, &ended).await;
    let report = ended?;
    if !options.json {
        print!("{}", report.to_text(options.keep));
    }
    report.check()?;
    Ok(report.to_json())
}

/// Returns when the user or the system ends the demo: the nodes must not outlive it.
async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (interrupt, hangup, terminate) =
        (signal(SignalKind::interrupt()), signal(SignalKind::hangup()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut hangup), Ok(mut terminate)) = (interrupt, hangup, terminate) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// The folder of this demo: the user's, else a new one among the system's temporary folders.
fn folder_of(options: &DemoOptions) -> Result<PathBuf, DemoError> {
    let folder = match &options.dir {
        Some(dir) => std::path::absolute(dir).unwrap_or_else(|_| dir.clone()),
        None => std::env::temp_dir().join(format!("tributary-demo-{}", std::process::id())),
    };
    let failed = |error: std::io::Error| DemoError::Usage(format!("{}: {error}", folder.display()));
    if folder.is_dir() && std::fs::read_dir(&folder).map_err(failed)?.next().is_some() {
        return Err(DemoError::Usage(format!("{} is not empty: choose another --dir", folder.display())));
    }
    std::fs::create_dir_all(&folder).map_err(failed)?;
    Ok(folder)
}

/// Everything a running demo holds.
struct Demo {
    cluster: Cluster,
    material: Material,
    screen: Screen,
    phases: Vec<PhaseTime>,
    folder: PathBuf,
}

impl Demo {
    /// Ends the nodes, or leaves them running if that was asked for; a whole demo in a folder of its own keeps its
    /// receipts and no more.
    async fn leave(&mut self, options: &DemoOptions, ended: &Result<Report, DemoError>) {
        if options.keep && !matches!(ended, Err(DemoError::Stopped(_))) {
            return self.cluster.detach();
        }
        self.screen.say("stopping the nodes");
        self.cluster.stop().await;
        if ended.is_ok() && options.dir.is_none() {
            self.cluster.forget();
        }
    }

    async fn perform(&mut self) -> Result<Report, DemoError> {
        let timer = self.begin("start", "starting the nodes and their settlement chain").await;
        self.start().await?;
        self.end(timer).await;
        let timer = self.begin("data", "contributors make a datanet, everybody fetches and verifies it").await;
        let datanet = self.share_data().await?;
        self.end(timer).await;
        let timer = self.begin("train", "workers bid, the winner trains, another peer checks").await;
        let key = self.start_run(&datanet).await?;
        self.watch_main(&key).await?;
        self.end(timer).await;
        let timer = self.begin("attribute", "the same training without each contributor, checked alike").await;
        let run = self.watch_leave_outs(&key).await?;
        self.end(timer).await;
        let timer = self.begin("answer", "questions to base and adapter; every answer is checked").await;
        let before = self.ask_base().await?;
        let answers = self.ask_adapter(&run).await?;
        self.end(timer).await;
        let timer = self.begin("settle", "vouchers are redeemed, the epoch is anchored, everybody claims").await;
        let money = self.settle().await?;
        self.end(timer).await;
        self.gather(datanet, run, before, answers, money).await
    }

    async fn begin(&mut self, name: &'static str, what: &str) -> Timer {
        self.screen.phase(name, what);
        Timer { name, since: Instant::now(), bytes: self.cluster.bytes_moved().await }
    }

    async fn end(&mut self, timer: Timer) {
        let bytes = self.cluster.bytes_moved().await.saturating_sub(timer.bytes);
        let seconds = timer.since.elapsed().as_secs_f64();
        self.screen.phase_done(timer.name, seconds, bytes);
        self.phases.push(PhaseTime { name: timer.name, seconds, bytes });
    }
}

struct Timer {
    name: &'static str,
    since: Instant,
    bytes: u64,
}
