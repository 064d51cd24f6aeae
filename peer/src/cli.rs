//! The command line: one binary, hot verbs at the root, otherwise noun and verb (design section 12).
//!
//! Invariant: standard output is data, standard error is for people; every error says what, why and what to do,
//! and its kind is the exit code: 0 ok, 2 usage, 3 node down, 4 unreachable, 5 funds, 6 verification failed.

mod run;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Share data and idle GPUs, get specialised models, and see everybody paid who made an answer possible.
#[derive(Debug, Parser)]
#[command(name = "tributary", version, propagate_version = true)]
pub(crate) struct Cli {
    /// The node's folder.
    #[arg(long, global = true, env = "TRIBUTARY_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print one JSON document on standard output.
    #[arg(long, global = true)]
    json: bool,
    /// Only what is asked for, no progress.
    #[arg(short, long, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole network on this machine, from data to claimed earnings.
    Demo(DemoArgs),
    /// Start this node; keys are made on first use, nothing is asked.
    Up(UpArgs),
    /// Receipts: who contributed what to an answer, and who was paid.
    #[command(subcommand)]
    Receipt(ReceiptCommand),
    /// Compute for the node that started this process.
    #[command(hide = true)]
    Engine,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Leave the nodes running.
    #[arg(long)]
    keep: bool,
    /// Your own records (JSONL, CSV, text, or a folder) instead of the built-in almanac.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// How many nodes, 5 to 20.
    #[arg(long, default_value_t = 5)]
    peers: usize,
    /// An empty folder for the nodes; a temporary one by default.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The seed of the built-in almanac.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

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

#[derive(Debug, Subcommand)]
pub(crate) enum ReceiptCommand {
    /// Check a receipt file, offline: signatures, sums, form.
    Verify {
        /// The file.
        file: PathBuf,
    },
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    run::main(Cli::parse())
}
