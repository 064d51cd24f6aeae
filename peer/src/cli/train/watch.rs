//! Following a run: a live bar on a terminal, one line for each change elsewhere.
//!
//! Invariant: a node that restarts in between is waited for; the run goes on without the watcher.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use tokio::time::Instant;

use super::stage::{End, Stage};
use crate::cli::failure::{FAILED, Failure};
use crate::cli::output::Context;
use crate::client::ClientError;

/// How often the node is asked.
const POLL: Duration = Duration::from_millis(500);
/// How long a node may be away before the watcher gives up: it restarts within seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// The bar; its parts are the letters, so nothing depends on colour.
const TEMPLATE: &str = "{prefix} {bar:24} {pos}/{len} · {msg} · {eta} left";
const TEMPLATE_UNKNOWN: &str = "{prefix} {spinner} {msg}";

/// Follows the run until it ends; returns it.
pub(super) async fn until_end(context: &Context, key: &str) -> Result<Value, Failure> {
    let mut display = Display::new(context);
    loop {
        let run = patiently(context, &format!("/api/runs/{key}")).await?;
        let stage = Stage::of(&run);
        display.show(context, &stage);
        match stage.end {
            Some(End::Done) => {
                display.clear();
                return Ok(run);
            }
            Some(End::Stopped) => {
                display.clear();
                return Err(Failure::new(FAILED, "the run was stopped", "tributary train show tells what was trained"));
            }
            Some(End::Failed) => {
                display.clear();
                let hint = "what was not trained was not paid for; tributary train show tells each task's state";
                return Err(Failure::new(FAILED, format!("the run {}", stage.message), hint));
            }
            None => tokio::time::sleep(POLL).await,
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
    bar: Option<ProgressBar>,
    last: String,
}

impl Display {
    fn new(context: &Context) -> Self {
        let is_live = std::io::stderr().is_terminal() && !context.json && !context.quiet;
        let bar = is_live.then(|| ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr()));
        Self { bar, last: String::new() }
    }

    fn show(&mut self, context: &Context, stage: &Stage) {
        let line = stage.line();
        match &self.bar {
            Some(bar) => draw(bar, stage),
            None if line != self.last => context.say(&line),
            None => {}
        }
        self.last = line;
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn draw(bar: &ProgressBar, stage: &Stage) {
    if bar.prefix() != stage.label {
        // A new stage has its own speed, so the time left begins anew.
        bar.reset_eta();
        bar.set_prefix(stage.label);
    }
    let template = if stage.all == 0 { TEMPLATE_UNKNOWN } else { TEMPLATE };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_length(stage.all.max(1));
    bar.set_message(stage.message.clone());
    bar.set_position(stage.done);
    bar.tick();
}
