//! Virtual environments of Python in the user's cache.
//!
//! Invariant: an environment holds exactly the packages of one requirements file, which is noted when all are installed; what has
//! another note, or none, is installed anew.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::steps::{StepError, root, run};

/// The interpreter of the environment in `folder` with the packages of a requirements file of the checkout. With `beside`, the
/// packages of that interpreter's environment are there too, and the file names everything else.
pub(crate) fn environment(folder: &Path, requirements: &str, beside: Option<&Path>) -> Result<PathBuf, StepError> {
    let (environment, installed) = (folder.join("venv"), folder.join("installed.txt"));
    let python = environment.join("bin/python");
    let file = root().join(requirements);
    let wanted = std::fs::read_to_string(file).map_err(|error| format!("{requirements}: {error}"))?;
    if python.exists() && std::fs::read_to_string(&installed).is_ok_and(|had| had == wanted) {
        return Ok(python);
    }
    let maker = beside.map_or_else(|| "python3".to_owned(), shown);
    run(&maker, &["-m", "venv", &shown(&environment)], &[])?;
    let mut pip = vec!["-m", "pip", "install", "--quiet", "--no-cache-dir", "-r", requirements];
    if let Some(beside) = beside {
        let link = packages(&python)?.join("beside.pth");
        let packages = packages(beside)?;
        std::fs::write(&link, shown(&packages)).map_err(|error| format!("{}: {error}", shown(&link)))?;
        pip.push("--no-deps");
    }
    run(&shown(&python), &pip, &[])?;
    std::fs::write(&installed, wanted).map_err(|error| format!("{}: {error}", shown(&installed)))?;
    Ok(python)
}

/// Where an interpreter's packages lie.
fn packages(python: &Path) -> Result<PathBuf, StepError> {
    let asked = Command::new(python).args(["-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]).output();
    let asked = asked.map_err(|error| format!("{}: {error}", shown(python)))?;
    let path = PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim());
    if path.is_dir() { Ok(path) } else { Err(format!("{} has no folder of packages", shown(python))) }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
