//! Runs a parsed command and turns its end into output and exit code.

use std::io::Write;
use std::process::ExitCode;

use serde_json::json;

use super::{Cli, Command, DemoArgs, ReceiptCommand, RoleArg, UpArgs};
use crate::client::ClientError;
use crate::demo::{self, DemoError, DemoOptions};
use crate::engine;
use crate::receiptfile;
use crate::up::{self, UpOptions, Usage};
use tributary_protocol::message::Roles;

/// Why a command failed, with its exit code and what to do.
pub(super) struct Failure {
    code: u8,
    message: String,
    hint: String,
}

impl Failure {
    pub(super) fn new(code: u8, message: impl ToString, hint: &str) -> Self {
        Self { code, message: message.to_string(), hint: hint.to_owned() }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self { code: error.exit_code(), hint: error.hint(), message: error.to_string() }
    }
}

impl From<DemoError> for Failure {
    fn from(error: DemoError) -> Self {
        match &error {
            DemoError::Usage(_) => Self::new(2, error, "see tributary demo --help"),
            DemoError::Step { .. } => Self::new(4, error, "the nodes' logs are in the demo's folder, node.log each"),
            DemoError::Check(_) => Self::new(6, error, "this should not happen; keep the demo's folder for a report"),
        }
    }
}

pub(super) fn main(cli: Cli) -> ExitCode {
    let json = cli.json;
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Standard error may be closed; there is nobody left to tell.
            let mut err = std::io::stderr().lock();
            let _ = writeln!(err, "error: {}", failure.message);
            if !failure.hint.is_empty() {
                let _ = writeln!(err, "  → {}", failure.hint);
            }
            if json {
                let body = json!({"error": {"message": failure.message, "hint": failure.hint, "exit_code": failure.code}});
                let _ = writeln!(std::io::stdout().lock(), "{body:#}");
            }
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Engine => engine::child::run().map_err(|error| Failure::new(1, error, "")),
        Command::Demo(args) => on_runtime(demo(args, cli.json)),
        Command::Up(ref args) => {
            let options = up_options(&cli, args);
            logging(cli.quiet);
            on_runtime(up(options, cli.json, cli.quiet))
        }
        Command::Receipt(ReceiptCommand::Verify { ref file }) => verify(file, cli.json),
    }
}

pub(super) fn on_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(1, error, "the system gives no threads"))?.block_on(work)
}

fn logging(quiet: bool) {
    let default = if quiet { "tributary_peer=info,warn" } else { "tributary_peer=info,error" };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| default.into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
}

async fn demo(args: DemoArgs, json: bool) -> Result<(), Failure> {
    let DemoArgs { keep, data, peers, dir, seed } = args;
    let document = demo::run(DemoOptions { json, keep, data, peers, dir, seed }).await?;
    if json {
        println!("{document:#}");
    }
    Ok(())
}

fn up_options(cli: &Cli, args: &UpArgs) -> UpOptions {
    let has = |role| args.roles.contains(&role);
    UpOptions {
        data_dir: cli.data_dir.clone().unwrap_or_else(up::default_data_dir),
        listen: args.listen,
        port: args.port,
        api_port: args.api_port,
        join: args.join.clone(),
        network: args.network.clone(),
        roles: Roles {
            worker: has(RoleArg::Worker),
            verifier: has(RoleArg::Verifier),
            witness: has(RoleArg::Witness),
            poster: has(RoleArg::Poster),
        },
        serve_chain: args.serve_chain,
        offline: args.offline,
        mdns: args.mdns,
        audit_ppm: args.audit_ppm.min(1_000_000),
    }
}

async fn up(options: UpOptions, json: bool, quiet: bool) -> Result<(), Failure> {
    let folder = options.data_dir.display().to_string();
    let mut running = up::start(options).await.map_err(up_failure)?;
    let notice = running.notice.clone();
    if json {
        println!("{}", json!({"node": notice.node, "api": notice.address, "data_dir": folder}));
    }
    if !quiet {
        eprintln!("✓ node {} on {folder}", &notice.node[..10]);
        eprintln!("✓ API on http://{} (this machine only)", notice.address);
        eprintln!("  next: tributary status, or tributary net invite for a second machine");
    }
    let ended = running.wait().await;
    let stopped = running.stop().await;
    ended.and(stopped).map_err(up_failure)
}

fn up_failure(error: anyhow::Error) -> Failure {
    let usage = error.downcast_ref::<Usage>().is_some();
    let text = format!("{error:#}");
    let hint = if text.contains("port in use") {
        "choose another --port, --api-port or --serve-chain, or stop the program that uses it"
    } else if text.contains("in use by another") || text.contains("lock") {
        "a node runs on this folder already: use tributary status, or another --data-dir"
    } else if text.contains("passphrase") {
        "set TRIBUTARY_PASSPHRASE, or put back the unlock.key that belongs to these keys"
    } else if text.contains("full") || text.contains("space") {
        "free some disk space; nothing accepted was lost"
    } else {
        "see tributary up --help"
    };
    Failure::new(if usage { 2 } else { 1 }, text, hint)
}

fn verify(file: &std::path::Path, json: bool) -> Result<(), Failure> {
    let hint = "give the file that tributary receipt show wrote";
    let size = std::fs::metadata(file).map_err(|error| Failure::new(2, format!("{}: {error}", file.display()), hint))?;
    if size.len() > receiptfile::FILE_MAX_BYTES {
        return Err(Failure::new(6, format!("{} is too large for a receipt", file.display()), hint));
    }
    let bytes = std::fs::read(file).map_err(|error| Failure::new(2, format!("{}: {error}", file.display()), hint))?;
    let (id, signed) = receiptfile::verify(&bytes).map_err(|error| Failure::new(6, error, "do not rely on this file"))?;
    if json {
        println!("{:#}", json!({"valid": true, "id": id, "payer": signed.receipt.payer, "worker": signed.receipt.worker}));
    } else {
        println!("valid receipt {id}");
        println!("  signed by payer {} and worker {}", signed.receipt.payer.short(), signed.receipt.worker.short());
    }
    Ok(())
}
