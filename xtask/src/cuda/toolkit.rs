//! NVIDIA's compiler from PyPI's wheels, which need neither a GPU nor a system package.
//!
//! Invariant: every file has a pinned hash; a toolkit that is there is whole, since it appears by one rename.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::steps::{StepError, root, run};
use crate::tools::cache;

/// Names and hashes of the wheels.
const WHEELS: &str = "xtask/src/cuda/toolkit.txt";
/// Where they lie, by their version.
const FOLDER: &str = "toolkit-13.0";
/// CUDA's version as cudarc writes it: what a driver of series 580 takes.
const CUDA_VERSION: &str = "13000";

/// An unpacked toolkit.
pub(super) struct Toolkit(PathBuf);

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> StepError {
    move |error| format!("{}: {error}", path.display())
}

/// The toolkit, fetched when it is not there.
pub(super) fn install() -> Result<Toolkit, StepError> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err("NVIDIA's wheels are pinned for x86-64 Linux only".into());
    }
    if !Command::new("g++").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return Err("nvcc needs g++ beside it: install it, as with apt-get install g++".into());
    }
    let folder = cache().join("cuda");
    let toolkit = folder.join(FOLDER);
    if toolkit.join("bin/nvcc").exists() && toolkit.join("lib/libcudart.so").exists() {
        return Ok(Toolkit(toolkit));
    }
    let (environment, partial) = (folder.join("venv"), folder.join("partial"));
    let _ = std::fs::remove_dir_all(&partial);
    std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
    run("python3", &["-m", "venv", &environment.display().to_string()], &[])
        .map_err(|error| format!("{error}; it needs Python with venv, as from apt-get install python3-venv"))?;
    let python = environment.join("bin/python").display().to_string();
    let (target, wheels) = (partial.display().to_string(), root().join(WHEELS).display().to_string());
    let pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"];
    run(&python, &[&pip[..], &["--target", &target, "-r", &wheels]].concat(), &[])
        .map_err(|error| format!("{error}; it fetches 105 MB from PyPI"))?;
    let unpacked = partial.join("nvidia/cu13");
    link(&unpacked, &toolkit)?;
    let _ = std::fs::remove_dir_all(&toolkit);
    std::fs::rename(&unpacked, &toolkit).map_err(failed(&toolkit))?;
    let _ = std::fs::remove_dir_all(&partial);
    Ok(Toolkit(toolkit))
}

/// What the linker looks for: the static runtime under the shared one's name, for a binary that needs neither; and nvcc's
/// usual name of the folder.
fn link(unpacked: &Path, toolkit: &Path) -> Result<(), StepError> {
    let library = unpacked.join("lib/libcudart.so");
    let script = format!("INPUT({}/lib/libcudart_static.a -ldl -lrt -lpthread)\n", toolkit.display());
    std::fs::write(&library, script).map_err(failed(&library))?;
    #[cfg(unix)]
    std::os::unix::fs::symlink("lib", unpacked.join("lib64")).map_err(failed(&unpacked.join("lib64")))?;
    Ok(())
}

impl Toolkit {
    /// The environment of a build.
    pub(super) fn settings(&self, compute_capability: u32) -> Vec<(&'static str, String)> {
        let Self(folder) = self;
        let path = std::env::var("PATH").unwrap_or_default();
        let lib = folder.join("lib").display().to_string();
        vec![
            ("CUDA_HOME", folder.display().to_string()),
            ("PATH", format!("{}:{path}", folder.join("bin").display())),
            ("LIBRARY_PATH", lib),
            ("CUDA_COMPUTE_CAP", compute_capability.to_string()),
            ("CUDARC_CUDA_VERSION", CUDA_VERSION.into()),
            // Some kernels are compiled for one kind of GPU only; with their intermediate form every later one runs them.
            (
                "NVCC_APPEND_FLAGS",
                format!("-gencode=arch=compute_{compute_capability},code=compute_{compute_capability}"),
            ),
        ]
    }
}
