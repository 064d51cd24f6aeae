//! How much memory the engine may take.
//!
//! Invariant: never more than the machine, or the container it runs in, has; and what its user allows.

/// Memory where the system does not say.
const UNKNOWN_BYTES: u64 = 8 << 30;
/// The part of the memory that the engine may take unless its user says otherwise: beyond it the engine fails alone, and
/// neither the node nor the machine.
const PARTS: (u64, u64) = (9, 10);

/// The memory that the engine may take, of which its user allows `allowed`.
pub(super) fn engine_bytes(allowed: Option<u64>) -> u64 {
    let there = [machine_bytes(), container_bytes()].into_iter().flatten().min().unwrap_or(UNKNOWN_BYTES);
    let most = there / PARTS.1 * PARTS.0;
    allowed.map_or(most, |allowed| allowed.min(there))
}

fn machine_bytes() -> Option<u64> {
    of_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

/// What a container may take, which `/proc/meminfo` does not tell.
fn container_bytes() -> Option<u64> {
    let text = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .into_iter()
        .find_map(|path| std::fs::read_to_string(path).ok())?;
    text.trim().parse().ok()
}

fn of_meminfo(text: &str) -> Option<u64> {
    let kib: u64 =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_sets_less_than_the_machine_has_and_never_more() {
        assert_eq!(of_meminfo("MemTotal:        8000 kB\nMemFree: 1 kB"), Some(8_192_000));
        assert_eq!(of_meminfo("MemFree: 1 kB"), None);
        let usual = engine_bytes(None);
        assert!(usual > 0);
        assert_eq!(engine_bytes(Some(usual / 2)), usual / 2);
        assert!(engine_bytes(Some(u64::MAX)) < u64::MAX);
    }
}
