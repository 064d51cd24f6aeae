//! `tributary up`: runs this node in the foreground.

use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::{Args, ValueEnum};
use serde_json::json;
use tributary_protocol::message::Roles;

use super::failure::{FAILED, Failure, USAGE};
use super::output::{Context, emit};
use crate::up::{self, UpOptions, Usage};

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
    /// The address to listen on for peers; only this machine by default.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
    /// The port for peers; any free one by default.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// The port of the HTTP API on loopback; any free one by default.
    #[arg(long, default_value_t = 0)]
    api_port: u16,
    /// What this node does for others.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [RoleArg::Worker, RoleArg::Verifier, RoleArg::Witness])]
    roles: Vec<RoleArg>,
    /// Serve a settlement chain of this network on this loopback address, for example 127.0.0.1:8545.
    #[arg(long, value_name = "ADDRESS")]
    serve_chain: Option<SocketAddr>,
    /// Do not reach out to known peers.
    #[arg(long)]
    offline: bool,
    /// Find peers on the local network by multicast.
    #[arg(long)]
    mdns: bool,
    /// The part of answers to have checked by another peer, in parts per million.
    #[arg(long, default_value_t = 100_000)]
    audit_ppm: u32,
}

pub(super) async fn run(context: &Context, args: UpArgs) -> Result<(), Failure> {
    context.no_preview("up")?;
    let folder = context.data_dir.display().to_string();
    let mut running = up::start(options(context, args)).await.map_err(failure)?;
    let notice = running.notice.clone();
    if context.json {
        emit(&format!("{}\n", json!({"node": notice.node, "api": notice.address, "data_dir": folder})))?;
    } else if context.quiet {
        emit(&format!("{}\n", notice.node))?;
    }
    context.say(&format!("✓ node {} on {folder}", notice.node.chars().take(10).collect::<String>()));
    context.say(&format!("✓ API on http://{} (this machine only)", notice.address));
    context.say("  next: tributary status, or tributary net invite for a second machine");
    let ended = running.wait().await;
    let stopped = running.stop().await;
    ended.and(stopped).map_err(failure)
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
        offline: args.offline,
        mdns: args.mdns,
        audit_ppm: args.audit_ppm.min(1_000_000),
    }
}

/// Why a node or a chain could not start or had to stop.
pub(super) fn failure(error: anyhow::Error) -> Failure {
    let code = if error.downcast_ref::<Usage>().is_some() { USAGE } else { FAILED };
    let text = format!("{error:#}");
    let hint = hint(&text.to_lowercase());
    Failure::new(code, text, hint)
}

/// The errors come from many crates; their words are what they have in common.
fn hint(text: &str) -> &'static str {
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["port in use", "address already in use", "address in use"]) {
        "choose another --port, --api-port, --serve-chain or --address, or stop the program that uses it"
    } else if says(&["in use by another", "already open", "lock"]) {
        "a node runs on this folder already: use tributary status, or another --data-dir"
    } else if says(&["passphrase"]) {
        "set TRIBUTARY_PASSPHRASE, or put back the unlock.key that belongs to these keys"
    } else if says(&["disk is full", "no space", "storage full"]) {
        "free some disk space; nothing accepted was lost"
    } else if says(&["ticket"]) {
        "get a ticket with tributary net invite on a node of the network, and copy it as a whole"
    } else if says(&["permission denied"]) {
        "choose a --data-dir that this user can write"
    } else {
        "see the command's --help, and the lines above"
    }
}

/// Waits for an interrupt or a request to end.
pub(super) async fn interrupted() -> anyhow::Result<()> {
    #[cfg(unix)]
    {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            done = tokio::signal::ctrl_c() => done?,
            _ = terminate.recv() => {}
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await?;
    Ok(())
}

/// Lines of the log go to standard error; colours only where a person sees them and wants them.
pub(super) fn logging(quiet: bool) {
    let default = if quiet { "tributary_peer=info,warn" } else { "tributary_peer=info,error" };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| default.into());
    let wants_none = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = std::io::stderr().is_terminal() && !wants_none;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_ansi(colours).with_target(false).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_gave_is_usage_and_the_rest_is_not() {
        assert_eq!(failure(anyhow::anyhow!(Usage("the ticket is cut short".into()))).code, USAGE);
        let taken = failure(anyhow::anyhow!("port in use: 127.0.0.1:80"));
        assert_eq!(taken.code, FAILED);
        assert!(taken.hint.contains("--port"));
        assert!(failure(anyhow::anyhow!("No space left on device")).hint.contains("nothing accepted was lost"));
        assert!(failure(anyhow::anyhow!("something else")).hint.contains("--help"));
    }
}
