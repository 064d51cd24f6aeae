//! The checks, in the order of how fast they fail.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::clients::clients;
use crate::tools;

/// Why a step failed.
pub type StepError = String;

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// The target folder of the checkout.
pub fn target() -> PathBuf {
    root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// A command that hears nothing of what `cargo run` told this program about itself: build scripts that read it, as ring's,
/// would otherwise run again, and all that is built on them with them.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs one program in the checkout and says how long it took.
pub fn run(program: &str, arguments: &[&str], settings: &[(&str, &str)]) -> Result<(), StepError> {
    run_in(&root(), program, arguments, settings)
}

/// The same in another folder.
pub fn run_in(folder: &Path, program: &str, arguments: &[&str], settings: &[(&str, &str)]) -> Result<(), StepError> {
    let shown = format!("{program} {}", arguments.join(" "));
    eprintln!("▸ {shown}");
    let began = Instant::now();
    let status = command(program).args(arguments).envs(settings.iter().copied()).current_dir(folder).status();
    let status = status.map_err(|error| format!("{program} cannot be started: {error}"))?;
    if !status.success() {
        return Err(format!("{shown} failed: {status}"));
    }
    eprintln!("✓ {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Everything.
pub fn test() -> Result<(), StepError> {
    run("cargo", &["fmt", "--all", "--check"], &[])?;
    tools::typos()?;
    tools::deny()?;
    checks()?;
    clients()?;
    contracts()?;
    eprintln!("every check passed");
    Ok(())
}

/// What needs no tools beyond the toolchain.
pub fn quick() -> Result<(), StepError> {
    run("cargo", &["fmt", "--all", "--check"], &[])?;
    checks()
}

fn checks() -> Result<(), StepError> {
    run("cargo", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"], &[])?;
    run("cargo", &["doc", "--workspace", "--no-deps", "--locked"], &[("RUSTDOCFLAGS", "-D warnings")])?;
    run("cargo", &["test", "--workspace", "--locked", "--no-fail-fast"], &[])
}

fn contracts_folder() -> PathBuf {
    root().join("settlement/contracts")
}

fn install_contract_tools() -> Result<(), StepError> {
    run_in(&contracts_folder(), "npm", &["ci", "--ignore-scripts", "--no-audit", "--no-fund"], &[])
}

/// The contracts' own checks; npm brings the compiler and forge.
pub fn contracts() -> Result<(), StepError> {
    install_contract_tools()?;
    run_in(&contracts_folder(), "npm", &["run", "--silent", "check"], &[])?;
    run_in(&contracts_folder(), "npm", &["run", "--silent", "test"], &[])
}

/// Writes the artifacts anew after a contract was changed.
pub fn artifacts() -> Result<(), StepError> {
    install_contract_tools()?;
    run_in(&contracts_folder(), "npm", &["run", "--silent", "compile"], &[])
}

/// Pretrains the demo's base.
pub fn base() -> Result<(), StepError> {
    let arguments = [
        "run",
        "--release",
        "--locked",
        "-p",
        "tributary-examples",
        "--example",
        "pretrain_base",
        "--",
        "--out",
        "examples/base",
    ];
    run("cargo", &arguments, &[])
}
