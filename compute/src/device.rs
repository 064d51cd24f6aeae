//! Where tensors live, and the determinism class that stands in every receipt.
//!
//! Invariant: two machines of equal [`class`] compute bitwise equal results from equal inputs.

use candle_core::Device;

/// Changes whenever a kernel's order of additions changes, so that old and new builds are never compared bitwise.
pub const KERNEL_REVISION: u32 = 5;

/// The device of this build: the processor, in f32.
#[must_use]
pub const fn device() -> Device {
    Device::Cpu
}

/// The determinism class: kernel revision, instruction set that the products choose at run time, number format.
#[must_use]
pub fn class() -> String {
    format!("cpu-{}-f32-k{KERNEL_REVISION}", instruction_set())
}

/// The determinism class of a base whose products are quantised: candle's integer kernels choose by more instruction
/// sets than the f32 products do.
#[must_use]
pub fn quantised_class() -> String {
    format!("cpu-{}+{}-gguf-k{KERNEL_REVISION}", instruction_set(), integer_products())
}

/// As candle 0.11 chooses (`repack_x86::level`).
#[cfg(target_arch = "x86_64")]
fn integer_products() -> &'static str {
    if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512vnni") {
        "avx512vnni"
    } else if std::arch::is_x86_feature_detected!("avxvnni") {
        "avxvnni"
    } else if std::arch::is_x86_feature_detected!("avx2") {
        "avx2"
    } else {
        "scalar"
    }
}

#[cfg(not(target_arch = "x86_64"))]
const fn integer_products() -> &'static str {
    "native"
}

#[cfg(target_arch = "x86_64")]
fn instruction_set() -> &'static str {
    if std::arch::is_x86_feature_detected!("avx512f") {
        "x86_64+avx512f"
    } else if std::arch::is_x86_feature_detected!("fma") {
        "x86_64+fma"
    } else {
        "x86_64"
    }
}

#[cfg(not(target_arch = "x86_64"))]
const fn instruction_set() -> &'static str {
    std::env::consts::ARCH
}
