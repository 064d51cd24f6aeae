//! Where models run, and the determinism class that stands in every receipt.
//!
//! Invariant: two processors of equal [`class`] compute bitwise equal results from equal inputs. A GPU has a class of its
//! own that nobody checks in bits: its libraries add a row's terms in an order that its company decides.

mod check;
mod measure;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

pub use candle_core::Device;
use serde::{Deserialize, Serialize};

pub use check::{Agreement, LARGEST_DIFFERENCE, LARGEST_QUANTISED_DIFFERENCE, compare};
pub use measure::{Speed, measure};

/// Changes whenever a kernel's order of additions changes, so that old and new builds are never compared bitwise.
pub const KERNEL_REVISION: u32 = 5;
/// Whose kernels run on a GPU.
const GPU_KERNELS: &str = "candle0.11";
/// Bytes of a GPU's name in its class, which is bounded where it travels.
const GPU_NAME_BYTES: usize = 24;

/// Where a user wants models to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wanted {
    /// On a GPU if this build can use one, it is there and computes what the processor does.
    #[default]
    Auto,
    /// On the processor.
    Cpu,
    /// On the first NVIDIA GPU.
    Cuda,
    /// On Apple's GPU.
    Metal,
}

impl Wanted {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Metal => "metal",
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = [Self::Auto, Self::Cpu, Self::Cuda, Self::Metal];
        all.into_iter()
            .find(|wanted| wanted.name() == name)
            .ok_or_else(|| format!("{name:?} is none of auto, cpu, cuda, metal"))
    }
}

/// Why models can't run on a GPU.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The program was built without it.
    #[error("this program was built without {0}")]
    NotBuilt(&'static str),
    /// The driver's library can't be loaded.
    #[error("no NVIDIA driver is installed (libcuda is not found)")]
    NoDriver,
    /// Libraries beside the driver can't be loaded.
    #[error("NVIDIA's libraries {} are not found; install CUDA {cuda} or put their folder on LD_LIBRARY_PATH", missing.join(", "))]
    NoLibraries {
        /// Their names.
        missing: Vec<&'static str>,
        /// The version that this program was built for.
        cuda: &'static str,
    },
    /// The driver refused.
    #[error("the GPU can't be used: {0}")]
    Refused(String),
    /// It computes something else than the processor.
    #[error("the GPU computes something else than the processor: {0}")]
    Disagrees(String),
}

/// Opens what is wanted; [`Wanted::Auto`] is the processor here, since only [`choose`] looks for a GPU.
///
/// # Errors
/// When the build, the driver, a library or the device is missing.
pub fn open(wanted: Wanted) -> Result<Device, DeviceError> {
    match wanted {
        Wanted::Auto | Wanted::Cpu => Ok(Device::Cpu),
        Wanted::Cuda => open_cuda(),
        Wanted::Metal if cfg!(feature = "metal") => guarded(|| Device::new_metal(0)),
        Wanted::Metal => Err(DeviceError::NotBuilt("metal")),
    }
}

/// What was chosen.
#[derive(Debug)]
pub struct Chosen {
    /// Where models run: never [`Wanted::Auto`].
    pub wanted: Wanted,
    /// The device.
    pub device: Device,
    /// How far its results are from the processor's; nothing for the processor itself.
    pub agreement: Option<Agreement>,
    /// Why it is the processor although a GPU may have been expected.
    pub warning: Option<String>,
}

/// Opens a device and compares its results with the processor's. Where nothing certain is wanted, whatever is wrong with a
/// GPU ends on the processor, with a warning unless there just is none.
///
/// # Errors
/// When a GPU is wanted by name and can't be used.
pub fn choose(wanted: Wanted) -> Result<Chosen, DeviceError> {
    let gpu = match wanted {
        Wanted::Auto if cfg!(feature = "metal") => Wanted::Metal,
        Wanted::Auto => Wanted::Cuda,
        named => named,
    };
    let opened = open(gpu).and_then(|device| {
        let agreement = if device.is_cpu() { None } else { Some(check::agree(&device)?) };
        Ok(Chosen { wanted: gpu, device, agreement, warning: None })
    });
    match opened {
        Err(error) if wanted == Wanted::Auto => Ok(Chosen {
            wanted: Wanted::Cpu,
            device: Device::Cpu,
            agreement: None,
            warning: match error {
                DeviceError::NotBuilt(_) | DeviceError::NoDriver => None,
                error => Some(error.to_string()),
            },
        }),
        opened => opened,
    }
}

/// Calls into a driver, whose missing parts show as panics.
fn guarded<T>(work: impl FnOnce() -> candle_core::Result<T>) -> Result<T, DeviceError> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| DeviceError::Refused(error.to_string())),
        Err(_) => Err(DeviceError::Refused("its driver or libraries don't fit this program".into())),
    }
}

#[cfg(not(feature = "cuda"))]
const fn open_cuda() -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt("cuda"))
}

#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "looking for a library is loading it, and its constructors run")]
fn open_cuda() -> Result<Device, DeviceError> {
    use candle_core::cuda_backend::cudarc;
    // Before any other call: cudarc panics in the first one that needs a library that isn't there.
    // SAFETY: these are NVIDIA's own libraries, made to be loaded at run time.
    let (driver, others) = unsafe {
        let others = [
            ("libcublas", cudarc::cublas::sys::is_culib_present()),
            ("libcurand", cudarc::curand::sys::is_culib_present()),
        ];
        (cudarc::driver::sys::is_culib_present(), others)
    };
    if !driver {
        return Err(DeviceError::NoDriver);
    }
    let missing: Vec<&str> = others.into_iter().filter(|(_, found)| !found).map(|(name, _)| name).collect();
    if !missing.is_empty() {
        return Err(DeviceError::NoLibraries { missing, cuda: "13" });
    }
    guarded(|| Device::new_cuda(0))
}

/// The determinism classes of a device: of bases in f32 and of quantised ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Classes {
    /// Of bases in f32.
    pub dense: String,
    /// Of bases in GGUF's blocks.
    pub quantised: String,
}

impl Classes {
    /// The classes of what `device` computes.
    #[must_use]
    pub fn of(device: &Device) -> Self {
        if device.is_cpu() {
            return Self { dense: class(), quantised: quantised_class() };
        }
        let kind = kind_of(device);
        let class = |numbers: &str| format!("{kind}-{numbers}-{GPU_KERNELS}-k{KERNEL_REVISION}");
        Self { dense: class("f32"), quantised: class("gguf") }
    }
}

/// The kind of a GPU as its class names it: model and compute capability.
fn kind_of(device: &Device) -> String {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            let context = cuda.cuda_stream().context().clone();
            let name = context.name().unwrap_or_default();
            let (major, minor) = context.compute_capability().unwrap_or_default();
            format!("cuda-{}-sm{major}{minor}", slug(&name))
        }
        Device::Metal(_) => format!("metal-{}", slug(std::env::consts::ARCH)),
        _ => "gpu".into(),
    }
}

/// A name in small letters, digits and underscores.
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "names come from drivers"))]
fn slug(name: &str) -> String {
    let letters =
        name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '_' });
    let slug: String = letters.take(GPU_NAME_BYTES).collect();
    slug.trim_matches('_').to_owned()
}

/// Whether rows computed on `device` have the same bits alone and in company, so that an answer can be checked by one
/// prefill and a training by doing it again.
#[must_use]
pub fn repeats_bits(device: &Device) -> bool {
    device.is_cpu()
}

/// The determinism class of the processor: kernel revision, instruction set that the products choose at run time, number
/// format.
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
