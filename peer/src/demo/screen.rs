//! What the demo shows while it runs: lines and a progress bar on standard error, the bar only on a terminal.

use std::io::IsTerminal;
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

/// The demo's standard error.
pub(super) struct Screen {
    bar: Mutex<Option<Bar>>,
    live: bool,
}

/// One progress bar and what it is about; something else gets a new one, so that its time left is its own.
struct Bar {
    label: String,
    drawn: ProgressBar,
}

/// Bytes for people.
pub(super) fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} B"),
        10_000..=9_999_999 => format!("{} kB", bytes / 1_000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

impl Bar {
    fn new(label: &str, all: u64) -> Self {
        let drawn = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("  {prefix} {bar:20} {pos}/{len} · {wide_msg}") {
            drawn.set_style(style);
        }
        drawn.set_prefix(label.to_owned());
        Self { label: label.to_owned(), drawn }
    }

    /// Seconds left at the pace of the last steps, once there is a pace.
    fn time_left(&self) -> String {
        if self.drawn.position() == 0 {
            return String::new();
        }
        format!(" · {} s left", self.drawn.eta().as_secs())
    }
}

impl Screen {
    pub(super) fn new(json: bool) -> Self {
        Self { bar: Mutex::new(None), live: std::io::stderr().is_terminal() && !json }
    }

    pub(super) fn say(&self, line: &str) {
        self.clear();
        eprintln!("{line}");
    }

    pub(super) fn phase(&self, name: &str, what: &str) {
        self.say(&format!("▸ {name}: {what}"));
    }

    pub(super) fn phase_done(&self, name: &str, seconds: f64, bytes: u64) {
        self.say(&format!("✓ {name} {seconds:.1} s, {} moved", bytes_text(bytes)));
    }

    fn clear(&self) {
        if let Ok(mut bar) = self.bar.lock()
            && let Some(bar) = bar.take()
        {
            bar.drawn.finish_and_clear();
        }
    }

    /// Shows how far a task is: step, loss, tokens a second, time left.
    pub(super) fn task(&self, label: &str, task: &Value) {
        let of = |field: &str| task["progress"][field].as_u64().unwrap_or(0);
        let (step, steps) = (of("step"), of("steps"));
        if task["phase"] == "checking" {
            return self.progress(label, steps, steps.max(1), "another peer executes segments again");
        }
        if task["phase"] != "leased" || steps == 0 {
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
        let Ok(mut held) = self.bar.lock() else { return };
        let stale = |bar: &mut Bar| bar.label != label || bar.drawn.position() > done;
        if let Some(old) = held.take_if(stale) {
            old.drawn.finish_and_clear();
        }
        let bar = held.get_or_insert_with(|| Bar::new(label, all));
        bar.drawn.set_length(all);
        bar.drawn.set_position(done);
        let left = if done < all { bar.time_left() } else { String::new() };
        bar.drawn.set_message(format!("{message}{left}"));
    }

    /// Lets text appear as it is streamed.
    pub(super) fn stream(&self, text: &str) {
        if self.live {
            eprint!("{text}");
        }
    }
}
