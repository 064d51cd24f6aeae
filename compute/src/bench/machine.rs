//! What the machine gives: bandwidth, memory, load.
//!
//! Invariant: nothing here changes anything; where the system does not tell, there is no figure.

use std::hint::black_box;
use std::time::Instant;

/// Beyond any cache, and small enough for a laptop.
const COPIED_BYTES: usize = 256 << 20;
/// The best of so many copies counts: a bound is what the memory can do, not what it did beside others.
const COPIES: usize = 5;

/// Bytes per second that as many threads as products use copy; each byte counts twice, read and written.
pub(super) fn copy_bandwidth() -> f64 {
    let from = vec![1_u8; COPIED_BYTES];
    let mut into = vec![0_u8; COPIED_BYTES];
    let part = COPIED_BYTES.div_ceil(candle_core::utils::get_num_threads());
    let mut best = f64::INFINITY;
    for _ in 0..COPIES {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for (into, from) in into.chunks_mut(part).zip(from.chunks(part)) {
                scope.spawn(move || black_box(into).copy_from_slice(black_box(from)));
            }
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    2.0 * COPIED_BYTES as f64 / best
}

/// A line of `/proc/self/status` in bytes.
fn status(name: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')))?;
    let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024.0)
}

/// Memory of this process in bytes, where the system tells it.
pub(super) fn resident_bytes() -> Option<f64> {
    status("VmRSS")
}

/// The most memory this process ever had in bytes, where the system tells it.
pub(super) fn peak_bytes() -> Option<f64> {
    status("VmHWM")
}

/// Processes that ran or waited to run on average over the last minute, where the system tells it.
#[must_use]
pub fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}
