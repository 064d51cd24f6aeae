//! `cargo xtask bench attribution`: packages of PyPI score the run that our binary deployed, and its study judges all alike.
//!
//! Invariant: each package runs in a process of its own on one exported run, one after another; one that can't be had or fails has its
//! reason as its scores.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::parity;
use crate::python::environment;
use crate::steps::{StepError, command, root, run, target};
use crate::tools::cache;

const REQUIREMENTS: &str = "xtask/bench/attribution/requirements.txt";
/// Packages with their scripts.
const PACKAGES: [(&str, &str); 3] =
    [("dattri", "dattri_methods.py"), ("kronfluence", "kronfluence_methods.py"), ("traker", "trak_methods.py")];
/// Options of ours: the study needs them otherwise.
const OURS: [&str; 3] = ["--export", "--scores", "--report"];

/// Exports, has every package score, and prints the tables of every part of the study, or of the parts in `options`, which
/// are those of `tributary eval attribution`.
pub(super) fn bench(options: &[String]) -> Result<(), StepError> {
    if let Some(option) = options.iter().find(|option| OURS.iter().any(|own| option.starts_with(own))) {
        return Err(format!("{option} is what this benchmark gives itself"));
    }
    // The crates that compute are optimised in the development profile too.
    // With the features of the whole workspace, as its tests are built.
    run("cargo", &["build", "--workspace", "--locked", "--bin", "tributary"], &[])?;
    let ours = target().join("debug").join("tributary");
    if options.iter().any(|option| option == "--help" || option == "-h") {
        return run(&ours.display().to_string(), &["eval", "attribution", "--help"], &[]);
    }
    let folder = cache().join("attribution");
    let runs = folder.join("runs");
    let exported = super::json_of(eval(&ours, options).args(["--json", "--export"]).arg(&runs))?;
    let python =
        parity::python(&cache().join("parity")).and_then(|beside| environment(&folder, REQUIREMENTS, Some(&beside)));
    let names = exported["runs"].as_array().ok_or("our binary names no runs")?;
    let mut files: Vec<PathBuf> = Vec::new();
    for exported in names.iter().filter_map(Value::as_str).map(Path::new) {
        for (package, script) in PACKAGES {
            let out = exported.join("scores");
            eprintln!("▸ {package} scores {}", exported.display());
            let scored = python.clone().and_then(|python| score(&python, script, exported, &out));
            files.extend(scored.or_else(|reason| missing(package, &reason, exported, &out).map(|file| vec![file]))?);
        }
    }
    let report = folder.join("report");
    let mut study = eval(&ours, options);
    study.arg("--report").arg(&report).arg("--scores").args(&files);
    let ended = study.status().map_err(|error| error.to_string())?;
    if !ended.success() {
        return Err(format!("eval attribution: {ended}"));
    }
    let table = report.join("methods.md");
    println!("\n{}", std::fs::read_to_string(&table).map_err(|error| format!("{}: {error}", table.display()))?);
    eprintln!("the report is {}", report.display());
    Ok(())
}

fn eval(ours: &Path, options: &[String]) -> Command {
    let mut eval = command(&ours.display().to_string());
    eval.args(["eval", "attribution"]).args(options);
    eval
}

/// The files that a package's script wrote.
fn score(python: &Path, script: &str, exported: &Path, out: &Path) -> Result<Vec<PathBuf>, StepError> {
    let mut scoring = Command::new(python);
    scoring.arg(root().join("xtask/bench/attribution").join(script)).arg(exported).arg(out);
    scoring.envs([("PYTHONDONTWRITEBYTECODE", "1"), ("HF_HUB_OFFLINE", "1"), ("TOKENIZERS_PARALLELISM", "false")]);
    let files = super::json_of(&mut scoring)?;
    let files = files.as_array().ok_or("no list of files")?;
    Ok(files.iter().filter_map(Value::as_str).map(PathBuf::from).collect())
}

/// Scores that say why there are none.
fn missing(package: &str, reason: &str, exported: &Path, out: &Path) -> Result<PathBuf, StepError> {
    eprintln!("! {package}: {reason}");
    let list = exported.join("run.json");
    let failed = |error: std::io::Error| format!("{}: {error}", list.display());
    let told: Value =
        serde_json::from_slice(&std::fs::read(&list).map_err(failed)?).map_err(|error| error.to_string())?;
    let bytes = without_scores(package, reason, told["identity"].as_str().unwrap_or_default());
    let file = out.join(format!("{package}.safetensors"));
    std::fs::create_dir_all(out).and_then(|()| std::fs::write(&file, bytes)).map_err(failed)?;
    Ok(file)
}

/// A safetensors file without tensors: the header's length in eight bytes, then the header.
fn without_scores(package: &str, reason: &str, identity: &str) -> Vec<u8> {
    let metadata = json!({
        "format": "tributary-attribution-scores-1",
        "run": identity,
        "method": package,
        "error": reason,
    });
    let header = json!({"__metadata__": metadata}).to_string().into_bytes();
    [(header.len() as u64).to_le_bytes().to_vec(), header].concat()
}

#[cfg(test)]
mod tests {
    use super::{bench, without_scores};

    #[test]
    fn options_that_the_benchmark_gives_itself_are_refused() {
        for option in ["--export", "--scores=a", "--report"] {
            assert!(bench(&[option.to_owned()]).unwrap_err().contains(option), "{option}");
        }
    }

    #[test]
    fn what_is_missing_is_a_file_that_names_its_run() {
        let file = without_scores("traker", "can't be \"installed\"", "ab12");
        let (length, header) = file.split_at(8);
        assert_eq!(u64::from_le_bytes(length.try_into().unwrap()), header.len() as u64);
        let header: serde_json::Value = serde_json::from_slice(header).unwrap();
        assert_eq!(header["__metadata__"]["run"], "ab12");
        assert_eq!(header["__metadata__"]["error"], "can't be \"installed\"");
    }
}
