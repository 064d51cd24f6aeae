//! The engines that ours is compared with: Python packages in virtual environments of the user's cache.
//!
//! Invariant: a package is installed once; one that could not be is not tried again until its note is removed, since
//! compiling it takes half an hour.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::parity;
use crate::steps::{StepError, root, run};
use crate::tools::cache;

/// A peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Mistral,
    Peft,
    Llama,
}

impl Peer {
    /// As samples name it, before its version.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Mistral => "mistral.rs",
            Self::Peft => "peft",
            Self::Llama => "llama.cpp",
        }
    }

    const fn script(self) -> &'static str {
        match self {
            Self::Mistral => "mistral.py",
            Self::Peft => "peft_bench.py",
            Self::Llama => "llama.py",
        }
    }

    /// What its compiler is told.
    const fn flags(self) -> &'static [(&'static str, &'static str)] {
        match self {
            // gcc before 12.4 takes the table of llama.cpp's matrix instructions for unused but for its first bytes
            // (`_tile_loadconfig`, gcc's bug 114098), and the first product of quantised weights ends with signal 11.
            Self::Llama => &[("CXXFLAGS", "-fno-tree-dse -fno-dse")],
            Self::Mistral | Self::Peft => &[],
        }
    }

    /// The package and what it is imported as; peft comes with the parity checks.
    const fn package(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Mistral => Some(("mistralrs==0.9.5", "mistralrs")),
            Self::Llama => Some(("llama-cpp-python==0.3.36", "llama_cpp")),
            Self::Peft => None,
        }
    }
}

/// The peers' interpreters, or why there is none.
pub(super) struct Peers {
    mistral: Result<PathBuf, StepError>,
    peft: Result<PathBuf, StepError>,
    llama: Result<PathBuf, StepError>,
}

impl Peers {
    /// Installs what is missing.
    pub(super) fn install() -> Self {
        let peft = parity::python(&cache().join("parity"));
        Self { mistral: installed(Peer::Mistral), peft, llama: installed(Peer::Llama) }
    }

    /// The command that measures a peer; the model's folder and what to measure are to be added.
    pub(super) fn command(&self, peer: Peer) -> Result<Command, StepError> {
        let python = match peer {
            Peer::Mistral => &self.mistral,
            Peer::Peft => &self.peft,
            Peer::Llama => &self.llama,
        };
        let mut command = Command::new(python.as_ref().map_err(Clone::clone)?);
        command.arg(root().join("xtask/bench").join(peer.script()));
        command.envs([("PYTHONDONTWRITEBYTECODE", "1"), ("HF_HUB_OFFLINE", "1"), ("TOKENIZERS_PARALLELISM", "false")]);
        Ok(command)
    }
}

/// The interpreter of the environment that has the peer's package.
fn installed(peer: Peer) -> Result<PathBuf, StepError> {
    let environment = cache().join("bench");
    let python = environment.join("bin/python");
    if !python.exists() {
        run("python3", &["-m", "venv", &shown(&environment)], &[])?;
    }
    let Some((package, module)) = peer.package() else { return Ok(python) };
    if is_there(&python, module) {
        return Ok(python);
    }
    let note = environment.join(format!("{module}.failed"));
    if note.exists() {
        return Err(format!("{package} could not be installed before; remove {} to try again", shown(&note)));
    }
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", package];
    let tried = run(&shown(&python), &pip, peer.flags());
    match tried {
        Ok(()) if is_there(&python, module) => Ok(python),
        _ => {
            // Without the note it is tried again, which is slow and not wrong.
            let _ = std::fs::write(&note, package);
            Err(format!("{package} can't be installed here"))
        }
    }
}

fn is_there(python: &Path, module: &str) -> bool {
    let found = Command::new(python).args(["-c", &format!("import {module}")]).output();
    found.is_ok_and(|output| output.status.success())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
