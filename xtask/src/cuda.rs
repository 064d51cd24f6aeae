//! `cargo xtask cuda`: the binary with NVIDIA's kernels, that also starts and works where there is no NVIDIA.
//!
//! Invariant: the checkout and its Cargo.lock are only read. The build runs in a tree of links beside a copy of candle-core
//! in which one word is another, and what came out is checked: it needs no library of NVIDIA's to start.

mod binary;
mod toolkit;
mod tree;

use std::path::PathBuf;

use crate::steps::{StepError, root, run, run_in, target};

/// The smallest compute capability that the kernels are compiled for: Ampere's, the first with bfloat16. Each newer GPU has
/// its driver translate them when it first sees them.
const COMPUTE_CAPABILITY: u32 = 80;

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    compute_capability: u32,
    jobs: Option<u32>,
    check_gpu: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, StepError> {
        let mut options = Self { compute_capability: COMPUTE_CAPABILITY, jobs: None, check_gpu: false };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut number = || -> Result<u32, StepError> {
                let text = rest.next().ok_or_else(|| format!("{argument} needs a number"))?;
                text.parse().map_err(|_| format!("{argument} {text} is no number"))
            };
            match argument.as_str() {
                "--compute-capability" => options.compute_capability = number()?,
                "--jobs" => options.jobs = Some(number()?.max(1)),
                "--check-gpu" => options.check_gpu = true,
                other => {
                    return Err(format!(
                        "there is no option {other:?}; there are --compute-capability N, --jobs N, --check-gpu"
                    ));
                }
            }
        }
        if !(75..=130).contains(&options.compute_capability) {
            return Err(format!(
                "compute capability {}: give two or three digits, as 80 for 8.0",
                options.compute_capability
            ));
        }
        Ok(options)
    }
}

/// The target folder of this build, apart from the other one's.
fn folder() -> PathBuf {
    std::path::absolute(target().join("cuda")).unwrap_or_default()
}

/// Builds the binary, checks what it needs, and runs it here.
pub fn cuda(arguments: &[String]) -> Result<(), StepError> {
    let options = Options::parse(arguments)?;
    let toolkit = toolkit::install()?;
    let folder = folder();
    let tree = tree::prepare(&root(), &folder)?;
    let build = folder.join("build");
    let mut settings = toolkit.settings(options.compute_capability);
    settings.push(("CARGO_TARGET_DIR", build.display().to_string()));
    let jobs = options.jobs.map(|jobs| jobs.to_string());
    let mut arguments = vec!["build", "--release", "-p", "tributary-peer", "--features", "cuda"];
    if let Some(jobs) = &jobs {
        settings.push(("CUDAFORGE_THREADS", jobs.clone()));
        arguments.extend(["--jobs", jobs]);
    }
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    run_in(&tree, "cargo", &arguments, &settings)?;
    let program = build.join("release/tributary");
    binary::check(&program)?;
    let shown = program.display().to_string();
    run(&shown, &["--version"], &[])?;
    let check = if options.check_gpu { &["eval", "device", "--need-gpu"][..] } else { &["eval", "device"] };
    run(&shown, check, &[]).map_err(|error| {
        format!("{error}\nIf it names libraries: pip install 'nvidia-cublas<13.2' 'nvidia-curand<10.4.1', and put their lib folders on LD_LIBRARY_PATH.")
    })?;
    eprintln!("{shown} is built");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{COMPUTE_CAPABILITY, Options};

    fn parsed(line: &str) -> Result<Options, String> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read_or_refused() {
        let plain = Options { compute_capability: COMPUTE_CAPABILITY, jobs: None, check_gpu: false };
        assert_eq!(parsed("").unwrap(), plain);
        let given = parsed("--jobs 2 --check-gpu --compute-capability 90").unwrap();
        assert_eq!(given, Options { compute_capability: 90, jobs: Some(2), check_gpu: true });
        for wrong in ["--jobs", "--jobs two", "--compute-capability 9", "--gpu"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
