//! The command line: one binary, hot verbs at the root, otherwise noun and verb (design section 12).
//!
//! Invariant: standard output is data, standard error is for people; every error says what, why and what to do,
//! and its kind is the exit code: 0 ok, 1 failed, 2 usage, 3 node down, 4 unreachable, 5 funds, 6 verification failed,
//! 7 keys locked. Commands return values; `output` alone prints them.

mod amount;
mod answer;
mod ask;
mod chain;
mod data;
mod device;
mod down;
mod eval;
mod failure;
mod log;
mod model;
mod net;
mod node;
mod output;
mod pick;
mod quality;
mod receipt;
mod run;
mod spend;
mod start;
mod table;
mod text;
mod train;
mod wallet;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use tributary_compute::device::Wanted;

/// The variable that names the node's folder where no option does.
const DATA_DIR: &str = "TRIBUTARY_DATA_DIR";

/// Share data and idle GPUs, get specialised models, and see everybody paid who made an answer possible.
#[derive(Debug, Parser)]
#[command(name = "tributary", version, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 node down, 4 unreachable, 5 funds, 6 verification failed, \
                  7 keys locked, 8 cannot be judged here"
)]
pub(crate) struct Cli {
    /// The node's folder.
    #[arg(long, global = true, env = DATA_DIR, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print one JSON document on standard output.
    #[arg(long, global = true)]
    json: bool,
    /// Print only ids, and no progress.
    #[arg(short, long, global = true, conflicts_with = "json")]
    quiet: bool,
    /// Spend without asking.
    #[arg(short, long, global = true)]
    yes: bool,
    /// Show what would be done or spent, and stop.
    #[arg(long, global = true)]
    dry_run: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole network on this machine, from data to claimed earnings.
    Demo(DemoArgs),
    /// Start this node; keys are made on first use, nothing is asked.
    Up(Box<start::UpArgs>),
    /// Stop the node of this folder, or all nodes of a demo's folder.
    Down,
    /// Ask a released model; the answer streams, and its receipt names who made it possible.
    Ask(ask::AskArgs),
    /// Show this node: peers, work, models, chain.
    Status,
    /// List what runs: jobs for peers, and this node's own trainings.
    Ps,
    /// Datanets: records of many contributors under one licence.
    #[command(subcommand)]
    Data(data::DataCommand),
    /// Base models and released adapters.
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Training runs on other peers.
    #[command(subcommand)]
    Train(train::TrainCommand),
    /// Answers this node asked for.
    #[command(subcommand)]
    Answer(answer::AnswerCommand),
    /// Receipts: who contributed what to an answer, and who was paid.
    #[command(subcommand)]
    Receipt(receipt::ReceiptCommand),
    /// Peers, invitations, joining.
    #[command(subcommand)]
    Net(net::NetCommand),
    /// OPEN: balance, earnings, sending.
    #[command(subcommand)]
    Wallet(wallet::WalletCommand),
    /// The settlement chain.
    #[command(subcommand)]
    Chain(chain::ChainCommand),
    /// The published figures, measured again on this machine.
    #[command(subcommand)]
    Eval(eval::EvalCommand),
    /// Compute for the node that started this process.
    #[command(hide = true)]
    Engine {
        /// The folder shared with it.
        folder: PathBuf,
        /// Where models run.
        #[arg(long, default_value_t = Wanted::Cpu)]
        device: Wanted,
        /// What it may take of the memory, in bytes.
        #[arg(long)]
        memory: Option<u64>,
    },
    /// Render chat templates for the engine that started this process.
    #[command(hide = true)]
    Template,
    /// Open a device and compare it with the processor, for the node that started this process.
    #[command(hide = true)]
    Device {
        /// Which.
        #[arg(long, default_value_t = Wanted::Auto)]
        device: Wanted,
    },
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

/// A negative number is taken for a value, which then says what it may be, and not for an unknown option.
fn numbers_may_be_negative(command: clap::Command) -> clap::Command {
    let takes_value = |argument: &clap::Arg| argument.get_action().takes_values() && !argument.is_positional();
    command
        .mut_args(|argument| if takes_value(&argument) { argument.allow_negative_numbers(true) } else { argument })
        .mut_subcommands(numbers_may_be_negative)
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let parsed = numbers_may_be_negative(Cli::command()).try_get_matches();
    match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => run::main(cli),
        Err(error) => run::refuse(&error, std::env::args_os().any(|argument| argument == "--json")),
    }
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, ErrorKind> {
        Cli::try_parse_from(line.split(' ')).map_err(|error| error.kind())
    }

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_of_the_first_release_is_understood() {
        let id = "ab".repeat(32);
        let address = "ab".repeat(20);
        for line in [
            "demo --keep --peers 7 --json",
            "up --join tributary1ab --roles worker,poster --serve-chain 127.0.0.1:0",
            "up --disk-limit 50GB",
            "up --serve-chain --listen 192.0.2.7",
            "up --listen 0.0.0.0 --serve-chain 8545",
            "ask question --model m --explain --check --max-price 0.5",
            "down --data-dir folder",
            "status --json",
            "ps -q",
            "data new rivers --licence CC-BY-4.0",
            "data new rivers --license CC0-1.0",
            "data add a.jsonl --to rivers --dry-run",
            "data ls",
            "data show rivers",
            "model ls",
            "model pull folder --name mine",
            "model pull owner/name@v1 --mirror http://127.0.0.1:1 --offline",
            "model show abcd",
            "model rm abcd",
            "model export abcd --format gguf --out there",
            "train start --data rivers --budget 2.5 --steps 300 --yes",
            "train ls",
            "train show abcd",
            "train watch",
            "train stop abcd",
            "train cancel abcd",
            "answer ls",
            "answer show abcd",
            &format!("answer show {id}"),
            &format!("answer verify {id} --wait-s 5 --proof file"),
            "receipt ls",
            "receipt show abcd --out file",
            "receipt verify file",
            "receipt why file",
            "receipt proofs",
            "receipt proof abcd --out file",
            "wallet show",
            &format!("wallet send {address} 2.5 --dry-run"),
            "wallet redeem -y",
            "wallet claim",
            "net ls",
            "net invite",
            "net join tributary1ab",
            "chain status",
            "chain serve --address 127.0.0.1:0",
            "eval serving --rounds 5 --json",
            "eval serving --part serve-f32 --cache folder",
            "--data-dir there status",
        ] {
            assert!(
                parse(&format!("tributary {line}")).is_ok(),
                "{line}: {:?}",
                parse(&format!("tributary {line}")).err()
            );
        }
    }

    #[test]
    fn a_negative_number_is_a_wrong_value_and_no_unknown_option() {
        for (line, option) in [
            ("tributary train start --budget -5", "--budget"),
            ("tributary ask q --max-price -1", "--max-price"),
            ("tributary ask q --timeout-s -1", "--timeout-s"),
            ("tributary ask q --timeout-s 0", "--timeout-s"),
        ] {
            let told = numbers_may_be_negative(Cli::command()).try_get_matches_from(line.split(' '));
            let told = told.map(|_| ()).unwrap_err().to_string();
            assert!(told.contains("invalid value") && told.contains(option), "{told}");
        }
        let penalty = "tributary ask q --presence-penalty -0.5".split(' ');
        assert!(numbers_may_be_negative(Cli::command()).try_get_matches_from(penalty).is_ok());
    }

    #[test]
    fn what_is_wrong_is_refused_before_anything_happens() {
        for line in [
            "",
            "nothing",
            "wallet send abcd 2.5",
            "train start --budget 1e3",
            "data new rivers",
            "status --json --quiet",
            "up --roles king",
            "eval serving --rounds 0",
            "eval serving --prepare --part serve-f32",
            "up --serve-chain somewhere",
            "up --base-limit much",
            "model export abcd --format onnx --out there",
        ] {
            assert!(parse(&format!("tributary {line}")).is_err(), "{line}");
        }
    }
}
