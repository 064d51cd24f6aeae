//! Python's `transformers` and `peft` as the reference: makes their environment once and writes the golden files anew.
//!
//! Invariant: nothing of Python comes into the checkout but the golden files; the normal tests read those only.

use std::path::{Path, PathBuf};

use crate::python::environment;
use crate::steps::{StepError, run};
use crate::tools::cache;

const REQUIREMENTS: &str = "compute/parity/requirements.txt";
const GOLDEN: &str = "compute/tests/golden";

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The interpreter of a virtual environment with exactly the required packages; it takes 5.6 GB (`du -sh`).
pub(crate) fn python(folder: &Path) -> Result<PathBuf, StepError> {
    environment(folder, REQUIREMENTS, None)
}

/// Writes the golden files: ours into a cache folder, then Python's answers into the checkout; reads folders that Python
/// saved.
pub fn golden() -> Result<(), StepError> {
    let folder = cache().join("parity");
    let ours = shown(&folder.join("ours"));
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", shown(&folder)))?;
    let python = python(&folder)?;
    let export = ["run", "--locked", "-p", "tributary-compute", "--example", "parity_export", "--", &ours];
    run("cargo", &export, &[])?;
    // Written without bytecode, so that no cache folder appears beside the script; sets keep one order, so that the same
    // versions write the same files.
    let settings = [("PYTHONDONTWRITEBYTECODE", "1"), ("PYTHONHASHSEED", "0"), ("HF_HUB_OFFLINE", "1")];
    run(&shown(&python), &["compute/parity/golden.py", &ours, GOLDEN], &settings)?;
    let theirs = shown(&folder.join("theirs"));
    let check = ["run", "--locked", "-p", "tributary-compute", "--example", "parity_check", "--", &theirs];
    run("cargo", &check, &[])?;
    run("cargo", &["test", "--locked", "-p", "tributary-compute", "--test", "it"], &[])
}
