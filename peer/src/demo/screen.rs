//! What the demo shows while it runs: lines and a progress bar on standard error, the bar only on a terminal.

use std::io::IsTerminal;
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

/// The demo's standard error.
pub(super) struct Screen {
    bar: Mutex<Option<ProgressBar>>,
    live: bool,
}

/// Bytes for people.
pub(super) fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} B"),
        10_000..=9_999_999 => format!("{} kB", bytes / 1_000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

impl Screen {
    pub(super) fn new(json: bool) -> Self {
        Self { bar: Mutex::new(None), live: std::io::stderr().is_terminal() && !json }
    }

    pub(super) fn say(&self, line: &str) {
        eprintln!("{line}");
    }

    pub(super) fn phase(&self, name: &str, what: &str) {
        eprintln!("▸ {name}: {what}");
    }

    pub(super) fn phase_done(&self, name: &str, seconds: f64, bytes: u64) {
        self.clear();
        eprintln!("✓ {name} {seconds:.1} s, {} moved", bytes_text(bytes));
    }

    fn clear(&self) {
        if let Ok(mut bar) = self.bar.lock()
            && let Some(bar) = bar.take()
        {
            bar.finish_and_clear();
        }
    }

    /// Shows how far a task is: step, loss, tokens a second, time left.
    pub(super) fn task(&self, label: &str, task: &Value) {
        let of = |field: &str| task["progress"][field].as_u64().unwrap_or(0);
        let (step, steps) = (of("step"), of("steps"));
        if !self.live || steps == 0 {
            return;
        }
        let nats = format!("{}.{:02}", of("loss_micro_nats") / 1_000_000, of("loss_micro_nats") / 10_000 % 100);
        self.progress(label, step, steps, &format!("loss {nats} · {} tokens/s", of("tokens_per_s")));
    }

    /// Shows `done` of `all`.
    pub(super) fn progress(&self, label: &str, done: u64, all: u64, message: &str) {
        if !self.live {
            return;
        }
        let Ok(mut bar) = self.bar.lock() else { return };
        let bar = bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("  {prefix} {bar:24} {pos}/{len} · {msg} · {eta} left");
            let bar = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::stderr());
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar
        });
        bar.set_length(all);
        bar.set_prefix(label.to_owned());
        bar.set_message(message.to_owned());
        bar.set_position(done);
    }

    /// Lets text appear as it is streamed.
    pub(super) fn stream(&self, text: &str) {
        if self.live {
            eprint!("{text}");
        }
    }
}
