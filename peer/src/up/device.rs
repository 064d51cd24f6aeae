//! Where this node's models run: found out by a process of its own, since drivers can take one down with them.
//!
//! Invariant: a device is announced only after it computed what the processor does; whatever is wrong with one that nobody
//! asked for by name ends on the processor.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tributary_compute::device::{Agreement, Classes, Device, Wanted, choose};

use super::Usage;

/// Time to open a device and compare it: a driver translates kernels when it first sees them.
const LOOK_TIMEOUT: Duration = Duration::from_secs(300);

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Where models run, by its name.
    device: String,
    /// The determinism classes of what is computed there.
    pub classes: Classes,
    /// How far its results are from the processor's.
    agreement: Option<Agreement>,
    /// Why it is the processor although a GPU may have been expected.
    warning: Option<String>,
}

impl Found {
    fn processor(warning: Option<String>) -> Self {
        let classes = Classes::of(&Device::Cpu);
        Self { device: Wanted::Cpu.name().into(), classes, agreement: None, warning }
    }

    /// Where models run: never [`Wanted::Auto`].
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        self.device.parse().unwrap_or(Wanted::Cpu)
    }

    /// What people should hear: nothing when models run on the processor and nobody could expect otherwise.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        match (&self.warning, &self.agreement) {
            (Some(warning), _) => Some(format!("! models run on the processor: {warning}")),
            (None, Some(Agreement { logits, .. })) => {
                let class = &self.classes.dense;
                Some(format!("✓ models run on {}, {class}; logits within {logits:.0e} of the processor's", self.device))
            }
            (None, None) => None,
        }
    }
}

/// Whether this program can use any GPU.
const CAN_USE_GPUS: bool = cfg!(any(feature = "cuda", feature = "metal"));

/// Has `program` look for what is wanted.
///
/// # Errors
/// When a GPU is wanted by name and can't be used.
pub async fn find(program: &Path, wanted: Wanted) -> anyhow::Result<Found> {
    match wanted {
        Wanted::Cpu => return Ok(Found::processor(None)),
        Wanted::Auto if !CAN_USE_GPUS => return Ok(Found::processor(None)),
        _ if !CAN_USE_GPUS => return Err(refused(wanted, &format!("this program was built without {wanted}"))),
        _ => {}
    }
    let found = look(program, wanted).await;
    match (found, wanted) {
        (Ok(found), _) => Ok(found),
        (Err(reason), Wanted::Auto) => Ok(Found::processor(Some(reason))),
        (Err(reason), _) => Err(refused(wanted, &reason)),
    }
}

fn refused(wanted: Wanted, reason: &str) -> anyhow::Error {
    let hint = "start it with --device cpu, or see \"On a GPU\" in README.md for a build that can";
    Usage::new(format!("models can't run on {wanted}: {reason}"), hint).into()
}

async fn look(program: &Path, wanted: Wanted) -> Result<Found, String> {
    let mut command = Command::new(program);
    command.args(["device", "--device", wanted.name()]).env_remove("TRIBUTARY_PASSPHRASE");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = match tokio::time::timeout(LOOK_TIMEOUT, command.output()).await {
        Ok(output) => output.map_err(|error| format!("looking for it failed: {error}"))?,
        Err(_) => return Err(format!("it did not answer within {} s", LOOK_TIMEOUT.as_secs())),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        return Err(format!("looking for it ended with {}: {line}", output.status));
    }
    let told: Told =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("looking for it failed: {error}"))?;
    told.0
}

/// What a look says: what was found, or why nothing was.
#[derive(Debug, Serialize, Deserialize)]
struct Told(Result<Found, String>);

/// Looks, in this process, and says what was found as JSON.
#[must_use]
pub fn tell(wanted: Wanted) -> String {
    let found = choose(wanted).map(|chosen| Found {
        device: chosen.wanted.name().into(),
        classes: Classes::of(&chosen.device),
        agreement: chosen.agreement,
        warning: chosen.warning,
    });
    let told = Told(found.map_err(|error| error.to_string()));
    serde_json::to_string(&told).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_processor_needs_no_look() {
        let nowhere = Path::new("/nowhere/tributary");
        let found = find(nowhere, Wanted::Cpu).await.unwrap();
        assert_eq!((found.wanted(), found.note()), (Wanted::Cpu, None));
        assert_eq!(found.classes.dense, tributary_compute::device::class());
        let unasked = find(nowhere, Wanted::Auto).await.unwrap();
        assert_eq!(unasked.wanted(), Wanted::Cpu);
        assert_eq!(unasked.note().is_some(), CAN_USE_GPUS, "a look that fails is told: {unasked:?}");
        assert!(find(nowhere, Wanted::Metal).await.unwrap_err().downcast_ref::<Usage>().is_some());
    }

    #[test]
    fn what_is_told_is_read_back() {
        let told: Told = serde_json::from_str(&tell(Wanted::Cpu)).unwrap();
        assert_eq!(told.0.unwrap(), Found::processor(None));
        let gpu = Found {
            device: "cuda".into(),
            agreement: Some(Agreement { logits: 2e-6, decoded: 0.0, gradient: 0.0, quantised: 0.0 }),
            ..Found::processor(None)
        };
        let said = gpu.note().unwrap();
        assert!(said.contains("cuda") && said.contains("2e-6"), "{said}");
        let warned = Found::processor(Some("it is on fire".into())).note().unwrap();
        assert!(warned.starts_with('!') && warned.contains("on fire"));
    }
}
