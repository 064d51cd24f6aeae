//! What the built binary needs in order to start.
//!
//! Invariant: a binary that needs any library of NVIDIA's is refused: it would not start without CUDA.

use std::path::Path;
use std::process::Command;

use crate::steps::StepError;

/// How NVIDIA's libraries begin.
const NVIDIAS: [&str; 6] = ["libcuda", "libcublas", "libcurand", "libnvrtc", "libcudnn", "libnvidia"];

/// Refuses a binary that needs CUDA to start; tells its size and what it needs.
pub(super) fn check(program: &Path) -> Result<(), StepError> {
    let output = Command::new("readelf").arg("--dynamic").arg("--wide").arg(program).env("LC_ALL", "C").output();
    let output = output.map_err(|error| format!("readelf cannot be started ({error}): install binutils"))?;
    if !output.status.success() {
        return Err(format!("readelf {}: {}", program.display(), String::from_utf8_lossy(&output.stderr)));
    }
    let needed = needed(&String::from_utf8_lossy(&output.stdout));
    if needed.is_empty() {
        return Err(format!("readelf says of {} that it needs nothing, not even libc", program.display()));
    }
    if let Some(nvidias) = needed.iter().find(|name| NVIDIAS.iter().any(|begin| name.starts_with(begin))) {
        return Err(format!(
            "the binary needs {nvidias} and would not start without CUDA: the patch of candle-core or the static runtime was not used"
        ));
    }
    let bytes = std::fs::metadata(program).map_err(|error| format!("{}: {error}", program.display()))?.len();
    eprintln!("{:.1} MB; needs {}", bytes as f64 / 1e6, needed.join(", "));
    Ok(())
}

/// The shared libraries in readelf's list.
fn needed(listed: &str) -> Vec<String> {
    let lines = listed.lines().filter(|line| line.contains("(NEEDED)"));
    lines.filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::{check, needed};

    #[test]
    fn needed_libraries_are_read() {
        let listed = "Dynamic section at offset 0x2:\n 0x01 (NEEDED)  Shared library: [libm.so.6]\n \
                      0x01 (NEEDED) Shared library: [libcudart.so.13]\n 0x0e (SONAME) Library soname: [x]\n";
        assert_eq!(needed(listed), ["libm.so.6", "libcudart.so.13"]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_test_needs_no_cuda() {
        check(&std::env::current_exe().unwrap()).unwrap();
        assert!(check(std::path::Path::new("/etc/hostname")).is_err());
    }
}
