//! Following a run: a live curve on a terminal, one line for each change elsewhere.
//!
//! Invariant: a node that restarts in between is waited for; the run goes on without the watcher.

use std::io::IsTerminal;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::curve::Curve;
use super::screen::{Screen, View};
use super::stage::{End, Stage};
use crate::cli::failure::{FAILED, Failure};
use crate::cli::output::Context;
use crate::client::ClientError;

/// How often the node is asked.
const POLL: Duration = Duration::from_millis(500);
/// How long a node may be away before the watcher gives up: it restarts within seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why watching ended.
pub(super) enum Watched {
    /// The run is done.
    Done(Value),
    /// The watcher left; the run goes on.
    Left(Value),
}

/// Follows the run until it ends or the watcher leaves.
pub(super) async fn until_end(context: &Context, key: &str) -> Result<Watched, Failure> {
    let mut display = Display::new(context);
    loop {
        let run = patiently(context, &format!("/api/runs/{key}")).await?;
        let path = format!("/api/runs/{key}/metrics?after={}", display.curve.len());
        display.curve.take(&patiently(context, &path).await?);
        let stage = Stage::of(&run);
        match stage.end {
            Some(End::Done) => return Ok(Watched::Done(run)),
            Some(End::Stopped) => {
                let hint = format!("tributary train resume {key} goes on with it");
                return Err(Failure::new(FAILED, "the run was stopped", &hint));
            }
            Some(End::Failed) => {
                let hint = "what was not trained was not paid for; tributary train show tells each task's state";
                return Err(Failure::new(FAILED, format!("the run {}", stage.message), hint));
            }
            None => {}
        }
        if display.show(context, &run, &stage).await {
            return Ok(Watched::Left(run));
        }
    }
}

async fn patiently(context: &Context, path: &str) -> Result<Value, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match context.client.get(path).await {
            Err(ClientError::NodeDown { .. } | ClientError::Broken(_)) if Instant::now() < deadline => {
                tokio::time::sleep(POLL).await;
            }
            ended => return Ok(ended?),
        }
    }
}

struct Display {
    screen: Option<Screen>,
    curve: Curve,
    last: String,
}

impl Display {
    fn new(context: &Context) -> Self {
        // Keys come from standard input, so both must be a terminal.
        let is_live = Context::is_attended() && std::io::stderr().is_terminal() && !context.json && !context.quiet;
        let screen = if is_live { Screen::open().ok() } else { None };
        Self { screen, curve: Curve::default(), last: String::new() }
    }

    /// Shows how far the run is until it is time to look again; whether the watcher leaves.
    async fn show(&mut self, context: &Context, run: &Value, stage: &Stage) -> bool {
        if let Some(screen) = &mut self.screen {
            let name = run["name"].as_str().unwrap_or("run");
            let view = View { name, stage, curve: &self.curve };
            // A terminal that is gone has nobody before it.
            return match screen.show(&view) {
                Ok(()) => screen.wait(&view, POLL).await.unwrap_or(true),
                Err(_) => true,
            };
        }
        let line = stage.line();
        if line != self.last {
            context.say(&line);
            self.last = line;
        }
        tokio::time::sleep(POLL).await;
        false
    }
}
