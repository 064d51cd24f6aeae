//! `cargo xtask bench`: attribution (`attribution.rs`), or serving: our binary and its peers measured in turns, in one table.
//!
//! Invariant: every engine runs in a process of its own, one at a time, on the model that our binary made; a peer that
//! can't be had or fails leaves its reason in the table. Peers are installed once, into the user's cache.

mod attribution;
mod peers;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::steps::{StepError, run, target};
use crate::tools::cache;
use peers::{Peer, Peers};

/// Rounds unless another number is asked for: the middle one counts.
const ROUNDS: u32 = 3;
/// Rounds at most: several hours.
const MAX_ROUNDS: u32 = 20;

/// Who is measured.
#[derive(Debug, Clone, Copy)]
enum Engine {
    Ours,
    Of(Peer),
}

/// One round: engines that a row compares follow each other.
const ROUND: [(Engine, &str); 17] = [
    (Engine::Ours, "serve-f32"),
    (Engine::Of(Peer::Mistral), "f32"),
    (Engine::Of(Peer::Peft), "crowd"),
    (Engine::Of(Peer::Llama), "f32"),
    (Engine::Ours, "serve-q8_0"),
    (Engine::Of(Peer::Mistral), "q8_0"),
    (Engine::Of(Peer::Llama), "q8_0"),
    (Engine::Ours, "serve-q4_k"),
    (Engine::Of(Peer::Mistral), "q4_k"),
    (Engine::Of(Peer::Llama), "q4_k"),
    (Engine::Ours, "adapters"),
    (Engine::Ours, "train-f32"),
    (Engine::Of(Peer::Peft), "train"),
    (Engine::Ours, "train-q4_k"),
    (Engine::Ours, "train-f32-recomputed"),
    (Engine::Ours, "train-q4_k-recomputed"),
    (Engine::Ours, "small"),
];

/// What was asked for.
struct Options {
    rounds: u32,
    json: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, StepError> {
        let mut options = Self { rounds: ROUNDS, json: false };
        let mut rest = arguments.iter();
        match rest.next().map(String::as_str) {
            Some("serving") => {}
            other => {
                return Err(format!(
                    "there is no benchmark {:?}; there are: serving, attribution",
                    other.unwrap_or("")
                ));
            }
        }
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--json" => options.json = true,
                "--rounds" => {
                    let rounds = rest.next().and_then(|text| text.parse().ok());
                    let allowed = rounds.filter(|rounds| (1..=MAX_ROUNDS).contains(rounds));
                    options.rounds = allowed.ok_or_else(|| format!("--rounds takes 1 to {MAX_ROUNDS}"))?;
                }
                other => return Err(format!("unknown option {other}")),
            }
        }
        Ok(options)
    }
}

/// Runs a benchmark.
pub fn bench(arguments: &[String]) -> Result<(), StepError> {
    if let Some((name, options)) = arguments.split_first()
        && name == "attribution"
    {
        return attribution::bench(options);
    }
    let options = Options::parse(arguments)?;
    run("cargo", &["build", "--release", "--locked", "-p", "tributary-peer"], &[])?;
    let ours = binary();
    let prepared = json_of(Command::new(&ours).args(["eval", "serving", "--json", "--prepare"]))?;
    let folder = prepared["folder"].as_str().ok_or("our binary names no folder")?;
    let peers = Peers::install();
    let mut samples = Vec::new();
    for round in 1..=options.rounds {
        for (engine, part) in ROUND {
            let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
            let load = load.split(' ').next().unwrap_or_default();
            eprintln!("▸ round {round} of {}: {engine:?} {part} (load {load})", options.rounds);
            match engine {
                Engine::Ours => {
                    let mut command = Command::new(&ours);
                    command.args(["eval", "serving", "--json", "--part", part]);
                    samples.extend(samples_of(&mut command)?);
                }
                Engine::Of(peer) => samples.extend(measure(&peers, peer, Path::new(folder), part)),
            }
        }
    }
    let file = cache().join("bench-samples.json");
    std::fs::write(&file, Value::from(samples).to_string()).map_err(|error| error.to_string())?;
    let form: &[&str] = if options.json { &["--json"] } else { &[] };
    let shown = file.display().to_string();
    run(&ours.display().to_string(), &[&["eval", "serving", "--table", &shown], form].concat(), &[])
}

fn binary() -> PathBuf {
    target().join("release").join("tributary")
}

/// A peer's samples, or the one that says why there are none.
fn measure(peers: &Peers, peer: Peer, folder: &Path, part: &str) -> Vec<Value> {
    let measured = peers.command(peer).and_then(|mut command| samples_of(command.arg(folder).arg(part)));
    measured.unwrap_or_else(|reason| {
        eprintln!("! {peer:?}: {reason}");
        vec![json!({"measure": "", "who": peer.name(), "missing": reason})]
    })
}

/// What a program prints, as JSON.
fn json_of(command: &mut Command) -> Result<Value, StepError> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        return Err(format!("{}: {last}", output.status));
    }
    // A library may print before the last line, which is ours.
    let text = String::from_utf8_lossy(&output.stdout);
    let whole = serde_json::from_str(&text);
    whole.or_else(|_| serde_json::from_str(text.lines().last().unwrap_or_default())).map_err(|error| error.to_string())
}

fn samples_of(command: &mut Command) -> Result<Vec<Value>, StepError> {
    match json_of(command)? {
        Value::Array(samples) => Ok(samples),
        other => Err(format!("no list of samples but {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, StepError> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&arguments)
    }

    #[test]
    fn what_is_asked_for_is_understood_or_refused() {
        let options = parse("serving --rounds 5 --json").unwrap();
        assert_eq!((options.rounds, options.json), (5, true));
        assert_eq!(parse("serving").unwrap().rounds, ROUNDS);
        for line in ["", "transfer", "serving --rounds 0", "serving --rounds", "serving --fast"] {
            assert!(parse(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_program_that_fails_says_why() {
        let mut failing = Command::new("sh");
        failing.args(["-c", "echo first >&2; echo the reason >&2; exit 3"]);
        assert!(samples_of(&mut failing).unwrap_err().ends_with("the reason"));
        let mut noisy = Command::new("sh");
        noisy.args(["-c", "echo loading; echo '[{\"measure\": \"a\"}]'"]);
        assert_eq!(samples_of(&mut noisy).unwrap(), [json!({"measure": "a"})]);
        assert!(samples_of(Command::new("sh").args(["-c", "echo '{}'"])).is_err());
    }
}
