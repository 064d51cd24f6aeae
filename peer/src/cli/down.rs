//! `tributary down`: ends the node of a folder, or all nodes of a demo's folder.
//!
//! Invariant: it says that a node stopped only after the process has let go of its folder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::failure::{FAILED, Failure};
use super::output::{Context, Output};
use crate::client::{Client, ClientError};

/// How long a node may take to finish what it does.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(100);
/// Nodes of one folder that are looked for; a demo has at most twenty.
const NODES_MAX: usize = 64;

pub(super) async fn run(context: &Context) -> Result<Output, Failure> {
    context.no_preview("down")?;
    let folders = running(&context.data_dir);
    let mut stopped = Vec::new();
    for folder in &folders {
        if stop(folder).await? {
            stopped.push(folder.display().to_string());
        }
    }
    if stopped.is_empty() {
        return Err(Failure::from(ClientError::NodeDown { folder: context.data_dir.clone() }));
    }
    let text = stopped.iter().map(|folder| format!("stopped {folder}\n")).collect();
    Ok(Output::new(json!({"stopped": stopped}), stopped, text))
}

/// The folder itself if a node runs on it, else those folders in it on which one runs.
fn running(folder: &Path) -> Vec<PathBuf> {
    let runs = |folder: &PathBuf| Client::new(folder).notice().is_ok();
    let own = folder.to_path_buf();
    if runs(&own) {
        return vec![own];
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(runs).take(NODES_MAX).collect();
    folders.sort();
    folders
}

/// Ends the node; whether there was one: a node that was killed leaves its notice behind.
async fn stop(folder: &Path) -> Result<bool, Failure> {
    let client = Client::new(folder);
    let process = client.notice().map_err(Failure::from)?.pid;
    match client.post("/api/shutdown", &Value::Null).await {
        Ok(_) => {}
        Err(ClientError::NodeDown { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while client.notice().is_ok() || lives(process) {
        if tokio::time::Instant::now() > deadline {
            let message = format!("the node of {} has not ended after {} s", folder.display(), PATIENCE.as_secs());
            return Err(Failure::new(FAILED, message, "its process can be ended with kill; it loses nothing"));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(true)
}

/// Whether the process still runs.
fn lives(process: u32) -> bool {
    let process = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw);
    process.is_some_and(|process| rustix::process::test_kill_process(process).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_of_a_demo_are_found_in_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let notice = json!({"address": "127.0.0.1:1", "token": "t", "pid": 1, "node": "n"}).to_string();
        for name in ["b", "a"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("api.json"), &notice).unwrap();
        }
        std::fs::create_dir(folder.path().join("receipts")).unwrap();
        assert_eq!(running(folder.path()), [folder.path().join("a"), folder.path().join("b")]);
        assert_eq!(running(&folder.path().join("b")), [folder.path().join("b")]);
        assert!(running(&folder.path().join("receipts")).is_empty());
    }
}
