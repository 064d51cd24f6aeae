//! `tributary eval device`: a GPU beside the processor, in results and in speed.
//!
//! Invariant: what is not there is not measured and not named; figures are of this machine and this run.

use clap::Args;
use serde_json::{Map, Value, json};
use tributary_compute::device::{
    Classes, Device, DeviceError, LARGEST_DIFFERENCE, LARGEST_QUANTISED_DIFFERENCE, Speed, Wanted, choose, measure,
};

use super::failure::{FAILED, Failure};
use super::output::Output;

#[derive(Debug, Args)]
pub(crate) struct DeviceArgs {
    /// Which device; auto is a GPU if this program was built for one and it is there.
    #[arg(long, value_name = "auto|cpu|cuda|metal", default_value_t = Wanted::Auto)]
    device: Wanted,
    /// Fail when there is no GPU that computes what the processor does.
    #[arg(long)]
    need_gpu: bool,
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        Self::new(FAILED, error, "see \"On a GPU\" in README.md")
    }
}

fn speed_of(speed: &Speed) -> Value {
    let rounded = |rate: f64| (rate * 10.0).round() / 10.0;
    json!({
        "prompt_tokens_per_s": rounded(speed.prompt),
        "decoded_tokens_per_s": rounded(speed.decoding),
        "trained_tokens_per_s": rounded(speed.training),
    })
}

pub(super) fn run(args: &DeviceArgs) -> Result<Output, Failure> {
    let chosen = choose(args.device)?;
    if args.need_gpu && chosen.device.is_cpu() {
        let reason = chosen.warning.unwrap_or_else(|| "no GPU that this program can use is here".into());
        return Err(Failure::new(FAILED, reason, "see \"On a GPU\" in README.md"));
    }
    let mut lines = vec![format!("models run on     {}, class {}", chosen.wanted, Classes::of(&chosen.device).dense)];
    let mut document = Map::new();
    document.insert("device".into(), chosen.wanted.name().into());
    document.insert("classes".into(), json!(Classes::of(&chosen.device)));
    document.insert("warning".into(), json!(chosen.warning));
    lines.extend(chosen.warning.map(|warning| format!("! {warning}")));
    if let Some(found) = chosen.agreement {
        document.insert("agreement".into(), json!(found));
        let rows = [
            ("logits", found.logits, LARGEST_DIFFERENCE),
            ("decoded logits", found.decoded, LARGEST_DIFFERENCE),
            ("gradients", found.gradient, LARGEST_DIFFERENCE),
            ("quantised logits", found.quantised, LARGEST_QUANTISED_DIFFERENCE),
        ];
        lines.push("differences from the processor, relative to the largest number:".into());
        lines.extend(rows.map(|(what, found, limit)| format!("  {what:<18}{found:>9.1e}  allowed {limit:.0e}")));
    }
    let mut devices = vec![(Wanted::Cpu, Device::Cpu)];
    if !chosen.device.is_cpu() {
        devices.push((chosen.wanted, chosen.device));
    }
    lines.push("tokens/s of one sequence:    prompt  decoding  training".into());
    let mut speeds = Map::new();
    for (name, device) in devices {
        let speed = measure(&device)?;
        lines.push(format!("  {name:<24}{:>9.0} {:>9.1} {:>9.0}", speed.prompt, speed.decoding, speed.training));
        speeds.insert(name.to_string(), speed_of(&speed));
    }
    document.insert("speed".into(), speeds.into());
    Ok(Output::new(document.into(), vec![chosen.wanted.to_string()], lines.join("\n") + "\n"))
}
