//! Runs a parsed command and turns its end into output and exit code.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::failure::{FAILED, Failure, USAGE};
use super::output::{Context, Output, emit};
use super::{
    Cli, Command, DATA_DIR, DemoArgs, answer, ask, chain, data, down, eval, log, model, net, node, receipt, start,
    text, train, wallet,
};
use crate::client::Client;
use crate::demo::{self, DemoOptions};
use crate::engine;
use crate::up;

/// Time for work in the background to end after the command has.
const CUT_OFF: Duration = Duration::from_secs(1);

pub(super) fn main(cli: Cli) -> ExitCode {
    let json = cli.json;
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            report(&failure, json);
            ExitCode::from(failure.code)
        }
    }
}

/// What is no command line of ours: help and version go out, all else is a usage error, as JSON too where it is wanted.
pub(super) fn refuse(error: &clap::Error, json: bool) -> ExitCode {
    let is_refused = error.use_stderr();
    if json && is_refused {
        let text = error.render().to_string();
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let message = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let hint = lines.collect::<Vec<_>>().join(" ");
        report(&Failure::usage(message, &hint), json);
    } else {
        // Both streams may be closed; then there is nobody left to tell.
        let _ = error.print();
    }
    if is_refused { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

fn report(failure: &Failure, json: bool) {
    // Both streams may be closed; then there is nobody left to tell.
    let mut err = std::io::stderr().lock();
    // It may quote what a peer or a file says.
    let _ = writeln!(err, "error: {}", text::printable(&failure.message));
    if !failure.hint.is_empty() {
        let _ = writeln!(err, "  → {}", text::printable(&failure.hint));
    }
    if json {
        let body = json!({"message": failure.message, "hint": failure.hint, "exit_code": failure.code});
        let _ = emit(&format!("{:#}\n", json!({"error": body})));
    }
}

/// The exit code of a command that was carried out.
fn dispatch(cli: Cli) -> Result<u8, Failure> {
    let is_meant = cli.data_dir.as_ref().is_some_and(|dir| std::env::var_os(DATA_DIR).is_none_or(|set| *dir != *set));
    if is_meant && matches!(cli.command, Command::Demo(_)) {
        let fault = "demo makes a folder of its own for its nodes: --data-dir means a single node's";
        return Err(Failure::usage(fault, "name the demo's folder with --dir"));
    }
    let data_dir = cli.data_dir.unwrap_or_else(up::default_data_dir);
    let context = Context {
        json: cli.json,
        quiet: cli.quiet,
        yes: cli.yes,
        dry_run: cli.dry_run,
        client: Client::new(&data_dir),
        data_dir,
    };
    match cli.command {
        Command::Engine { folder, device, memory } => {
            engine::child::run(&folder, device, memory).map_err(|error| Failure::new(FAILED, error, ""))?;
        }
        Command::Template => engine::template::run().map_err(|error| Failure::new(FAILED, error, ""))?,
        Command::Device { device } => emit(&up::device::tell(device))?,
        Command::Eval(command) => eval::run(&context, command)?.print(&context)?,
        Command::Demo(args) => on_runtime(demo(&context, args))?,
        Command::Up(args) => {
            log::start(&context.data_dir);
            on_runtime(start::run(&context, *args))?;
        }
        command => {
            return on_runtime(async {
                let output = verb(&context, command).await?;
                output.print(&context)?;
                Ok(output.code)
            });
        }
    }
    Ok(0)
}

/// The commands that return something to print.
async fn verb(context: &Context, command: Command) -> Result<Output, Failure> {
    match command {
        Command::Ask(args) => ask::run(context, args).await,
        Command::Down => down::run(context).await,
        Command::Status => node::status(context).await,
        Command::Ps => node::ps(context).await,
        Command::Data(command) => data::run(context, command).await,
        Command::Model(command) => model::run(context, command).await,
        Command::Train(command) => train::run(context, command).await,
        Command::Answer(command) => answer::run(context, command).await,
        Command::Receipt(command) => receipt::run(context, command).await,
        Command::Net(command) => net::run(context, command).await,
        Command::Wallet(command) => wallet::run(context, command).await,
        Command::Chain(command) => chain::run(context, command).await,
        Command::Demo(_)
        | Command::Up(_)
        | Command::Eval(_)
        | Command::Engine { .. }
        | Command::Template
        | Command::Device { .. } => Ok(Output { verbatim: true, ..Output::default() }),
    }
}

fn on_runtime<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(FAILED, error, "the system gives no threads"))?;
    let ended = runtime.block_on(work);
    // What still computes is cut off: nothing waits for it any more.
    runtime.shutdown_timeout(CUT_OFF);
    ended
}

async fn demo(context: &Context, args: DemoArgs) -> Result<(), Failure> {
    context.no_preview("demo")?;
    let DemoArgs { keep, data, peers, dir, seed } = args;
    let json = context.json;
    let document = demo::run(DemoOptions { json, keep, data, peers, dir, seed }).await?;
    if json { emit(&format!("{document:#}\n")) } else { Ok(()) }
}
