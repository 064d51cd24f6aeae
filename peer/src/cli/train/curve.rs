//! What of a run's lines a watcher looks at: two curves, the newest values, the time that is left.
//!
//! Invariant: the time left follows from the newest steps of the training that goes on now, not from the whole run: a pause
//! or an earlier, slower worker counts no more once twenty points came after it.

use serde_json::Value;

use crate::cli::text;
use crate::curves::{ALL, HeldOutLine, Line};

/// Points whose step times make the time left.
const RECENT: usize = 20;

/// The curve of a run.
#[derive(Debug, Default)]
pub(super) struct Curve {
    lines: Vec<Line>,
}

impl Curve {
    /// Lines that are known.
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Takes an answer of the node.
    pub(super) fn take(&mut self, answer: &Value) {
        let lines = text::rows(&answer["lines"]).iter();
        self.lines.extend(lines.filter_map(|line| serde_json::from_value::<Line>(line.clone()).ok()));
    }

    fn own(&self) -> impl DoubleEndedIterator<Item = &Line> {
        self.lines.iter().filter(|line| line.trains == ALL)
    }

    /// Loss by step of the adapter's own training.
    pub(super) fn trained(&self) -> Vec<(f64, f64)> {
        self.own().map(|line| (f64::from(line.step), line.loss)).collect()
    }

    /// The same of what is held out.
    pub(super) fn held_out(&self) -> Vec<(f64, f64)> {
        self.own().filter_map(|line| Some((f64::from(line.step), line.held_out?.loss))).collect()
    }

    /// The newest evaluation in words.
    pub(super) fn evaluation(&self) -> Option<String> {
        let HeldOutLine { loss, perplexity, exact_match, rouge_l } = self.own().rev().find_map(|line| line.held_out)?;
        let mut words = format!("held out: loss {loss:.3} · perplexity {perplexity:.2}");
        if let Some(part) = exact_match {
            words.push_str(&format!(" · exact match {:.0} %", part * 100.0));
        }
        if let Some(part) = rouge_l {
            words.push_str(&format!(" · ROUGE-L {part:.2}"));
        }
        Some(words)
    }

    /// Milliseconds until `steps` more are done, by the median of the newest step times.
    pub(super) fn left_ms(&self, steps: u64) -> Option<u64> {
        let trains = &self.lines.last()?.trains;
        let recent: Vec<&Line> =
            self.lines.iter().rev().filter(|line| line.trains == *trains).take(RECENT + 1).collect();
        let mut each: Vec<u64> = recent
            .windows(2)
            .filter_map(|pair| {
                let steps = pair[0].step.checked_sub(pair[1].step).filter(|steps| *steps > 0)?;
                let micros = pair[0].elapsed_ms.checked_sub(pair[1].elapsed_ms)?.saturating_mul(1_000);
                Some(micros / u64::from(steps))
            })
            .collect();
        each.sort_unstable();
        let median = each.get(each.len() / 2)?;
        Some(median.saturating_mul(steps) / 1_000)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(trains: &str, step: u32, elapsed_ms: u64) -> Value {
        json!({"trains": trains, "step": step, "elapsed_ms": elapsed_ms, "loss": 2.0, "tokens_per_s": 10})
    }

    fn curve(lines: Vec<Value>) -> Curve {
        let mut curve = Curve::default();
        curve.take(&json!({"lines": lines}));
        curve
    }

    #[test]
    fn the_time_left_follows_from_the_newest_steps() {
        assert_eq!(curve(vec![]).left_ms(10), None);
        assert_eq!(curve(vec![line("all", 1, 100)]).left_ms(10), None);
        // Slow at first, then 100 ms a step, with one pause.
        let mut lines: Vec<Value> = (1..=30).map(|step| line("all", step, u64::from(step) * 9_000)).collect();
        lines.extend((31..=60).map(|step| {
            let pause = if step > 50 { 60_000 } else { 0 };
            line("all", step, 270_000 + u64::from(step - 30) * 100 + pause)
        }));
        assert_eq!(curve(lines.clone()).left_ms(10), Some(1_000));
        // A leave-out training has its own speed.
        lines.extend((1..=5).map(|step| line("aabb", step * 2, u64::from(step) * 100)));
        assert_eq!(curve(lines).left_ms(10), Some(500));
    }

    #[test]
    fn the_newest_evaluation_is_told() {
        let mut last = line("all", 2, 200);
        last["held_out"] = json!({"loss": 1.5, "perplexity": 4.48, "exact_match": 0.5});
        let curve = curve(vec![line("all", 1, 100), last, line("all", 3, 300)]);
        assert_eq!(curve.evaluation().unwrap(), "held out: loss 1.500 · perplexity 4.48 · exact match 50 %");
        assert_eq!((curve.trained().len(), curve.held_out()), (3, vec![(2.0, 1.5)]));
    }
}
