//! The official OpenAI clients against real nodes: a demo that keeps its network, then both clients, unchanged.
//!
//! Invariant: the network is stopped and its folder removed, whatever the clients found.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::steps::{StepError, root, run, run_in};
use crate::tools::cache;

/// The Python client that the script was written for.
const PYTHON_CLIENT: &str = "openai==3.52.0";

/// Runs them all.
pub fn clients() -> Result<(), StepError> {
    let folder = std::env::temp_dir().join(format!("tributary-clients-{}", std::process::id()));
    let network = folder.display().to_string();
    let cargo = ["run", "--quiet", "--locked", "-p", "tributary-peer", "--"];
    let tested = run("cargo", &[&cargo[..], &["demo", "--keep", "--dir", &network]].concat(), &[])
        .and_then(|()| javascript(&folder.join("builder")))
        .and_then(|()| python(&folder.join("builder")));
    let stopped = run("cargo", &[&cargo[..], &["down", "--data-dir", &network]].concat(), &[]);
    // A temporary folder that stays is no reason to fail.
    let _ = std::fs::remove_dir_all(&folder);
    tested.and(stopped)
}

fn scripts() -> PathBuf {
    root().join("xtask/clients")
}

fn javascript(node: &Path) -> Result<(), StepError> {
    run_in(&scripts(), "npm", &["ci", "--ignore-scripts", "--no-audit", "--no-fund"], &[])?;
    run_in(&scripts(), "node", &["client.mjs", &node.display().to_string()], &[])
}

/// Python is no part of what the tests ask of a machine: without it the JavaScript client speaks for both.
fn python(node: &Path) -> Result<(), StepError> {
    if !Command::new("python3").args(["-c", "import venv, ensurepip"]).status().is_ok_and(|status| status.success()) {
        eprintln!("! there is no python3 with venv here: the Python client was not tried");
        return Ok(());
    }
    let venv = cache().join("clients");
    let python = venv.join("bin/python").display().to_string();
    if !venv.join("bin/python").exists() {
        run("python3", &["-m", "venv", &venv.display().to_string()], &[])?;
    }
    run(&python, &["-m", "pip", "install", "--quiet", "--disable-pip-version-check", PYTHON_CLIENT], &[])?;
    run_in(&scripts(), &python, &["client.py", &node.display().to_string()], &[])
}
