//! The official OpenAI clients against real nodes: a demo that keeps its network and trains seven small models more, then
//! both clients, unchanged.
//!
//! Invariant: the network is stopped and its folder removed, whatever the clients found.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::steps::{StepError, command, root, run, run_in, target};
use crate::tools::cache;

/// The Python client that the script was written for.
const PYTHON_CLIENT: &str = "openai==3.52.0";

/// Runs them all.
pub fn clients() -> Result<(), StepError> {
    let folder = std::env::temp_dir().join(format!("tributary-clients-{}", std::process::id()));
    let network = folder.display().to_string();
    // The very build that the tests have: another choice of packages would compile half of the dependencies again.
    run("cargo", &["test", "--workspace", "--locked", "--no-run", "--quiet"], &[])?;
    let binary = binary();
    let tested = run(&binary, &["demo", "--keep", "--dir", &network], &[])
        .and_then(|()| small_models(&folder))
        .and_then(|()| javascript(&folder.join("builder")))
        .and_then(|()| python(&folder.join("builder")));
    let stopped = run(&binary, &["down", "--data-dir", &network], &[]);
    // A temporary folder that stays is no reason to fail.
    let _ = std::fs::remove_dir_all(&folder);
    tested.and(stopped)
}

/// Models that are there beside the demo's, so that eight answer at once.
const SMALL_MODELS: u32 = 7;
/// How long all of them may take: each is three trainings of a second, and auctions of some seconds.
const TRAINED_WITHIN: Duration = Duration::from_secs(900);

/// Has the network train models that know little; only that they are eight matters.
fn small_models(network: &Path) -> Result<(), StepError> {
    let builder = network.join("builder").display().to_string();
    for number in 1..=SMALL_MODELS {
        let recipe = network.join(format!("recipe-{number}.json"));
        let fields = format!(r#"{{"steps": 12, "warmup": 2, "batch": 8, "seed": {number}}}"#);
        std::fs::write(&recipe, fields).map_err(|error| format!("{}: {error}", recipe.display()))?;
        let (recipe, name) = (recipe.display().to_string(), format!("small-{number}"));
        let train = ["train", "start", "--data-dir", &builder, "--recipe", &recipe, "--name", &name];
        tributary(&[&train[..], &["--budget", "1", "--check", "1", "--yes", "--quiet"]].concat())?;
    }
    let began = Instant::now();
    while released(&builder)? <= SMALL_MODELS as usize {
        if began.elapsed() > TRAINED_WITHIN {
            return Err(format!("{SMALL_MODELS} small models were not trained within {TRAINED_WITHIN:?}"));
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// How many trained models the node knows; bases stand in the same list.
fn released(node: &str) -> Result<usize, StepError> {
    let listed = tributary(&["model", "ls", "--json", "--data-dir", node])?;
    let listed: Vec<Value> = serde_json::from_str(&listed).map_err(|error| format!("model ls: {error}"))?;
    Ok(listed.iter().filter(|model| model["kind"] == "adapter").count())
}

fn binary() -> String {
    target().join("debug").join("tributary").display().to_string()
}

/// Runs the binary; what it prints.
fn tributary(arguments: &[&str]) -> Result<String, StepError> {
    let binary = binary();
    let ended = command(&binary).args(arguments).current_dir(root()).output();
    let ended = ended.map_err(|error| format!("{binary}: {error}"))?;
    if !ended.status.success() {
        return Err(format!("tributary {}: {}", arguments.join(" "), String::from_utf8_lossy(&ended.stderr)));
    }
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
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
