//! The process that reads and renders one base's chat templates, beneath the engine.
//!
//! Invariant: its memory, stack and time are bounded by the system before it reads the first byte, and it knows nothing
//! but what it is sent: no folder, no environment.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tributary_compute::chat::apart::{self, Renderer};

/// The hidden command that [`run`]s.
pub const COMMAND: &str = "template";
/// Memory beside the program itself: a stack of 1 GiB, of which only what is used becomes memory, and 512 MiB for what a
/// template makes; a conversation of the largest size takes a tenth of it.
const ROOM_BYTES: u64 = (1 << 30) + (512 << 20);
/// Processor seconds of one process: the longest rendering that steps allow takes one, and the next process goes on where
/// this one ends.
const CPU_S: u64 = 30;

/// How an engine starts such a process, where it knows its own program.
#[must_use]
pub fn renderer() -> Option<Renderer> {
    std::env::current_exe().ok().map(|program| Renderer::new(program, &[COMMAND]))
}

/// Renders what is asked for on standard input until it ends.
///
/// # Errors
/// When the limits can't be set, or a stream breaks.
pub fn run() -> io::Result<()> {
    // The engine's own limit stands above this one where it is lower.
    let limit = |resource, wanted: u64| {
        let most = getrlimit(resource).maximum.map_or(wanted, |most| most.min(wanted));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
    };
    limit(Resource::Core, 0)?;
    limit(Resource::Cpu, CPU_S)?;
    limit(Resource::As, taken_bytes().saturating_add(ROOM_BYTES))?;
    apart::serve(&mut io::stdin().lock(), &mut io::stdout().lock())
}

/// The addresses that this process has taken so far, where the system says.
fn taken_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kib: Option<u64> = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.unwrap_or(1 << 20).saturating_mul(1024)
}
