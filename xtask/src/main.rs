//! Set-up and checks: `cargo xtask test` is the one test command.
//!
//! Invariant: each step prints what it runs; the first that fails ends the run with its exit code. Tools go into
//! a cache of the user's, never into the checkout.

mod bench;
mod clients;
mod cuda;
mod parity;
mod python;
mod steps;
mod tools;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask <command>

  test         set up what is needed, then run every check and test
  quick        format, lints, documentation and tests, without tools and contracts
  clients      run OpenAI's official clients against the nodes of a demo
  contracts    recompile the contracts, compare with the committed artifacts, run their tests
  artifacts    recompile the contracts and write the artifacts anew
  parity       write the golden files of compute's tests anew from transformers and peft (installs them once, 5.6 GB)
  bench        measure our speed and the peers': cargo xtask bench serving [--rounds N] [--json]; or how right attribution is,
               beside dattri, kronfluence and traker: cargo xtask bench attribution [--quick] and options of eval attribution
  cuda         build the binary with NVIDIA's kernels, which also starts without CUDA; check it and run it here:
               cargo xtask cuda [--compute-capability 80] [--jobs N] [--check-gpu]
  base         pretrain the demo's base model anew from its seed into examples/base";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ended = match arguments.first().map(String::as_str) {
        Some("bench") => bench::bench(&arguments[1..]),
        Some("cuda") => cuda::cuda(&arguments[1..]),
        Some("test") => steps::test(),
        Some("quick") => steps::quick(),
        Some("clients") => clients::clients(),
        Some("contracts") => steps::contracts(),
        Some("artifacts") => steps::artifacts(),
        Some("parity") => parity::golden(),
        Some("base") => steps::base(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("xtask: {reason}");
            ExitCode::FAILURE
        }
    }
}
