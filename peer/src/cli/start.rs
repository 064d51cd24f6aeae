//! `tributary up`: runs this node in the foreground.

use std::net::{IpAddr, Ipv4Addr};

use clap::{Args, ValueEnum};
use serde_json::json;
use tributary_compute::device::Wanted;
use tributary_protocol::message::Roles;

use super::failure::{FAILED, Failure, LOCKED};
use super::log::LOG_FILE;
use super::output::{Context, emit};
use crate::bases::DiskLimits;
use crate::home::HomeError;
use crate::up::{self, Running, ServeChain, Signals, UpOptions, Usage};

/// What a node does for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    /// Trains and answers.
    Worker,
    /// Checks others' work.
    Verifier,
    /// Keeps receipts and seals batches.
    Witness,
    /// Anchors epochs on the settlement chain.
    Poster,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// A ticket that tributary net invite printed on another node.
    #[arg(long, value_name = "TICKET")]
    join: Option<String>,
    /// The name of the network to begin when none was joined.
    #[arg(long, default_value = "tributary")]
    network: String,
    /// The address to listen on for peers, 0.0.0.0 for all of this machine; only this machine reaches it by default.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
    /// The port for peers; by default the one it had before, and a free one at first.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// The port of the HTTP API on loopback; any free one by default.
    #[arg(long, default_value_t = 0)]
    api_port: u16,
    /// What this node does for others.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [RoleArg::Worker, RoleArg::Verifier, RoleArg::Witness])]
    roles: Vec<RoleArg>,
    /// Serve a settlement chain of this network where --listen says, on this port or the one it had before. An address
    /// with a port instead names another place, which must be as open as --listen.
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "0")]
    serve_chain: Option<ServeChain>,
    /// Do not reach out to known peers.
    #[arg(long)]
    offline: bool,
    /// Find peers on the local network by multicast.
    #[arg(long)]
    mdns: bool,
    /// The part of answers to have checked by another peer, in parts per million; 0 also keeps them from being audited for
    /// settlement: nobody but its worker then sees a question.
    #[arg(long, default_value_t = 100_000)]
    audit_ppm: u32,
    /// Where models run: auto is a GPU if this program was built for one and it is there.
    #[arg(long, value_name = "auto|cpu|cuda|metal", default_value_t = Wanted::Auto)]
    device: Wanted,
    /// The largest base model to take from peers or pull, such as 12GB.
    #[arg(long, value_name = "SIZE", default_value = "4GB", value_parser = size)]
    base_limit: u64,
    /// What base models and served adapters may take of the disk together; those of peers that were used longest ago
    /// make room.
    #[arg(long, value_name = "SIZE", default_value = "20GB", value_parser = size)]
    disk_limit: u64,
    /// What the process that computes models may take of the memory, such as 6GB; nine tenths of what there is by default.
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory_limit: Option<u64>,
}

/// The least memory that a model of any use computes in: the program itself and its threads take half of it.
const MEMORY_MIN_BYTES: u64 = 1_000_000_000;

fn memory(text: &str) -> Result<u64, String> {
    size(text).and_then(|bytes| if bytes < MEMORY_MIN_BYTES { Err("at least 1GB is needed".into()) } else { Ok(bytes) })
}

/// A size in bytes: a number, with kB, MB or GB.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(format!("{unit:?} is no unit: kB, MB or GB")),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| "give a whole number such as 12GB".to_owned())
}

/// What is said when a node is asked to end.
const STOPPING: &str = "stopping; what was accepted is kept";

pub(super) async fn run(context: &Context, args: UpArgs) -> Result<(), Failure> {
    context.no_preview("up")?;
    let folder = context.data_dir.display().to_string();
    let mut signals = Signals::watch().map_err(|error| failure(error.into()))?;
    let running = tokio::select! {
        running = up::start(options(context, args)) => running.map_err(failure)?,
        () = signals.next() => {
            context.say(STOPPING);
            return Ok(());
        }
    };
    announce(context, &running, &folder)?;
    let ended = tokio::select! {
        ended = running.wait() => ended,
        () = signals.next() => Ok(()),
        never = warn_if_alone(context, &running) => never,
    };
    context.say(STOPPING);
    let stopped = running.stop().await;
    ended.and(stopped).map_err(failure)
}

/// Says so when nobody answers, and nothing more.
async fn warn_if_alone(context: &Context, running: &Running) -> anyhow::Result<()> {
    if running.stays_alone().await {
        context.say("! no peer that this node knows answers yet; it keeps trying");
    }
    std::future::pending().await
}

/// Says that the node is up, where, and what people should know about it.
fn announce(context: &Context, running: &Running, folder: &str) -> Result<(), Failure> {
    let notice = &running.notice;
    if context.json {
        emit(&format!("{}\n", json!({"node": notice.node, "api": notice.address, "data_dir": folder})))?;
    } else if context.quiet {
        emit(&format!("{}\n", notice.node))?;
    }
    context.say(&format!("✓ node {} on {folder}", notice.node.chars().take(10).collect::<String>()));
    context.say(&format!("✓ API on http://{} (this machine only)", notice.address));
    if let Some((url, true)) = running.chain() {
        context.say(&format!("✓ settlement chain on {url}"));
    }
    for note in &running.notes {
        context.say(note);
    }
    context.say(&format!("  log: {folder}/{LOG_FILE}"));
    context.say("  next: tributary status, or tributary net invite for a second machine");
    Ok(())
}

fn options(context: &Context, args: UpArgs) -> UpOptions {
    let has = |role| args.roles.contains(&role);
    let roles = Roles {
        worker: has(RoleArg::Worker),
        verifier: has(RoleArg::Verifier),
        witness: has(RoleArg::Witness),
        poster: has(RoleArg::Poster),
    };
    UpOptions {
        data_dir: context.data_dir.clone(),
        listen: args.listen,
        port: args.port,
        api_port: args.api_port,
        join: args.join,
        network: args.network,
        roles,
        serve_chain: args.serve_chain,
        device: args.device,
        offline: args.offline,
        mdns: args.mdns,
        audit_ppm: args.audit_ppm.min(1_000_000),
        limits: DiskLimits { base_bytes: args.base_limit, disk_bytes: args.disk_limit },
        memory_bytes: args.memory_limit,
    }
}

/// Why a node or a chain could not start or had to stop.
pub(super) fn failure(error: anyhow::Error) -> Failure {
    if let Some(usage) = error.downcast_ref::<Usage>() {
        return Failure::usage(usage, &usage.hint);
    }
    if error.downcast_ref::<HomeError>().is_some_and(HomeError::is_locked) {
        let hint = "set TRIBUTARY_PASSPHRASE, or put back the unlock.key that belongs to these keys";
        return Failure::new(LOCKED, format!("{error:#}"), hint);
    }
    let text = format!("{error:#}");
    let hint = hint(&text.to_lowercase());
    Failure::new(FAILED, text, hint)
}

/// The errors come from many crates; their words are what they have in common.
fn hint(text: &str) -> &'static str {
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["port in use", "address already in use", "address in use"]) {
        "choose another --port, --api-port, --serve-chain or --address, or stop the program that uses it"
    } else if says(&["in use by another", "already open", "lock"]) {
        "a node runs on this folder already: use tributary status, or another --data-dir"
    } else if says(&["disk is full", "no space", "storage full"]) {
        "free some disk space; nothing accepted was lost"
    } else if says(&["permission denied"]) {
        "choose a --data-dir that this user can write"
    } else {
        "see the command's --help, and node.log in the node's folder"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let sizes = ["4GB", "12 mb", "7", "3kB"].map(|text| size(text).unwrap());
        assert_eq!(sizes, [4_000_000_000, 12_000_000, 7, 3_000]);
        for wrong in ["", "GB", "0", "1.5GB", "4 parsecs", "99999999999999999999"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_failure_to_start_says_what_to_do() {
        let taken = failure(anyhow::anyhow!("port in use: 127.0.0.1:80"));
        assert_eq!(taken.code, FAILED);
        assert!(taken.hint.contains("--port"));
        assert!(failure(anyhow::anyhow!("No space left on device")).hint.contains("nothing accepted was lost"));
        assert!(failure(anyhow::anyhow!("something else")).hint.contains("--help"));
    }
}
