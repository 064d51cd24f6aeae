//! Tools that the checks need, installed once into the user's cache.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::steps::{StepError, run};

/// Version of cargo-deny that the configuration is written for.
const DENY: (&str, &str) = ("cargo-deny", "0.20.2");
/// Version of the spelling checker.
const TYPOS: (&str, &str) = ("typos-cli", "1.48.0");

/// The user's cache for this project.
pub fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("tributary")
}

/// The path of an installed tool; built without optimisation, since it runs for a second and builds for minutes.
fn tool((package, version): (&str, &str), program: &str) -> Result<String, StepError> {
    let folder = cache().join("tools").join(format!("{package}-{version}"));
    let path = folder.join("bin").join(program);
    if !path.exists() {
        let folder = folder.display().to_string();
        let build = cache().join("tools-build").display().to_string();
        let arguments = ["install", package, "--version", version, "--locked", "--debug", "--root", &folder];
        run("cargo", &arguments, &[("CARGO_TARGET_DIR", &build)])?;
    }
    Ok(path.display().to_string())
}

/// Spelling.
pub fn typos() -> Result<(), StepError> {
    run(&tool(TYPOS, "typos")?, &[], &[])
}

/// Licences, sources, duplicates, and advisories where their database can be reached.
pub fn deny() -> Result<(), StepError> {
    let deny = tool(DENY, "cargo-deny")?;
    run(&deny, &["--locked", "check", "licenses", "bans", "sources"], &[])?;
    let fetched = Command::new(&deny).args(["fetch", "db"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if fetched.is_ok_and(|status| status.success()) {
        return run(&deny, &["--locked", "check", "advisories"], &[]);
    }
    eprintln!("! the advisory database cannot be reached from here: advisories were not checked");
    Ok(())
}
