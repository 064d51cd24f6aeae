//! The rows that samples make: our figure, the peer's, the target, and whether it is met.
//!
//! Invariant: a row exists whether or not its samples do, and a missed target keeps its row and its true figure. Of
//! several samples of one measure and one engine the middle one counts.

use serde::Serialize;

use super::serving::median;
use super::{OURS, Sample};

/// What a figure must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// At least so many times the peer's.
    AtLeastTimes(f64),
    /// At most so many times the peer's.
    AtMostTimes(f64),
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
}

impl Target {
    /// Reads what [`Target`] displays: `>= 0.95x`, `<= 0.5x`, `<= 50`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (sign, rest) = text.split_once(' ')?;
        let (number, times) = rest.strip_suffix('x').map_or((rest, false), |number| (number, true));
        let number = number.parse().ok()?;
        match (sign, times) {
            (">=", true) => Some(Self::AtLeastTimes(number)),
            ("<=", true) => Some(Self::AtMostTimes(number)),
            (">=", false) => Some(Self::AtLeast(number)),
            ("<=", false) => Some(Self::AtMost(number)),
            _ => None,
        }
    }

    /// Whether `ours` reaches it; `None` without what it is compared with.
    #[must_use]
    pub fn is_met(self, ours: f64, peer: Option<f64>) -> Option<bool> {
        match self {
            Self::AtLeastTimes(times) => Some(ours >= times * peer?),
            Self::AtMostTimes(times) => Some(ours <= times * peer?),
            Self::AtLeast(least) => Some(ours >= least),
            Self::AtMost(most) => Some(ours <= most),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeastTimes(times) => write!(f, ">= {times}x"),
            Self::AtMostTimes(times) => write!(f, "<= {times}x"),
            Self::AtLeast(least) => write!(f, ">= {least}"),
            Self::AtMost(most) => write!(f, "<= {most}"),
        }
    }
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: &'static str,
    /// Unit of both figures.
    pub unit: &'static str,
    /// Our figure.
    pub ours: Option<f64>,
    /// The lower and the upper end of the interval around it, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// Who or what it is compared with, and why there is no figure of it where there is none.
    pub peer: Option<String>,
    /// Its figure.
    pub peer_value: Option<f64>,
    /// What ours must reach.
    pub target: Option<String>,
    /// Whether it does; `None` where that can't be said.
    pub met: Option<bool>,
}

impl Row {
    /// Ours divided by the peer's.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        Some(self.ours? / self.peer_value.filter(|value| *value != 0.0)?)
    }
}

/// With what a row compares.
enum Against {
    Nothing,
    /// The same measure of an engine of that name, whatever its version.
    Engine(&'static str),
    /// Another measure of ours, under that name.
    Ourselves(&'static str, &'static str),
}

struct Spec {
    name: &'static str,
    unit: &'static str,
    measure: &'static str,
    against: Against,
    target: &'static str,
}

const MISTRAL: &str = "mistral.rs";
const PEFT: &str = "peft";
const LLAMA: &str = "llama.cpp";
const BOUND: &str = "copy bandwidth / bytes of weights";
const ONE: &str = "tributary, one adapter for all";
const LORA: &str = "tributary, LoRA";
const QLORA: &str = "train/q4_k-recomputed/memory";
const MB: &str = "MB";

const fn row(
    name: &'static str,
    unit: &'static str,
    measure: &'static str,
    against: Against,
    target: &'static str,
) -> Spec {
    Spec { name, unit, measure, against, target }
}

/// Every row, in the order of the table. An empty target is none.
const ROWS: [Spec; 35] = {
    use Against::{Engine, Nothing, Ourselves};
    const T: &str = "tok/s";
    [
        row("memory copied, all threads", "GB/s", "bandwidth", Nothing, ""),
        row("f32, one stream, base", T, "decode/f32/base", Engine(MISTRAL), ">= 0.95x"),
        row("f32, one stream, adapter", T, "decode/f32/adapter", Engine(MISTRAL), ">= 1.3x"),
        row("f32, one stream, of the bound", T, "decode/f32/base", Ourselves("bound/f32", BOUND), ">= 0.7x"),
        row("Q8_0, one stream, base", T, "decode/q8_0/base", Engine(MISTRAL), ">= 0.95x"),
        row("Q8_0, one stream, adapter", T, "decode/q8_0/adapter", Engine(MISTRAL), ">= 1.3x"),
        row("Q8_0, one stream, of the bound", T, "decode/q8_0/base", Ourselves("bound/q8_0", BOUND), ">= 0.7x"),
        row("Q4_K, one stream, base", T, "decode/q4_k/base", Engine(MISTRAL), ">= 0.95x"),
        row("Q4_K, one stream, adapter", T, "decode/q4_k/adapter", Engine(MISTRAL), ">= 1.3x"),
        row("Q4_K, one stream, of the bound", T, "decode/q4_k/base", Ourselves("bound/q4_k", BOUND), ">= 0.7x"),
        row("f32, one stream, base", T, "decode/f32/base", Engine(LLAMA), ""),
        row("Q8_0, one stream, base", T, "decode/q8_0/base", Engine(LLAMA), ""),
        row("Q4_K, one stream, base", T, "decode/q4_k/base", Engine(LLAMA), ""),
        row("f32, 8 requests, 8 adapters", T, "crowd/f32/mixed", Engine(PEFT), ">= 4x"),
        row("f32, 8 requests, 8 adapters", T, "crowd/f32/mixed", Engine(LLAMA), ">= 2x"),
        row("Q8_0, 8 requests, 8 adapters", T, "crowd/q8_0/mixed", Engine(LLAMA), ">= 2x"),
        row("Q4_K, 8 requests, 8 adapters", T, "crowd/q4_k/mixed", Engine(LLAMA), ">= 2x"),
        row("f32, 8 requests, 8 adapters", T, "crowd/f32/mixed", Ourselves("crowd/f32/one", ONE), ">= 0.9x"),
        row("Q8_0, 8 requests, 8 adapters", T, "crowd/q8_0/mixed", Ourselves("crowd/q8_0/one", ONE), ">= 0.9x"),
        row("Q4_K, 8 requests, 8 adapters", T, "crowd/q4_k/mixed", Ourselves("crowd/q4_k/one", ONE), ">= 0.9x"),
        row("f32, 8 requests, base", T, "crowd/f32/base", Nothing, ""),
        row(
            "80 adapters, 8 fit into memory",
            T,
            "adapters/oversubscribed",
            Ourselves("adapters/resident", "tributary, all 80 in memory"),
            ">= 0.5x",
        ),
        row(
            "step beside 1,000 idle adapters",
            "ms",
            "adapters/step-with-idle",
            Ourselves("adapters/step-before", "tributary without them"),
            // Two runs of the same differ by as much.
            "<= 1.03x",
        ),
        row("memory of an idle adapter", "bytes", "adapters/idle-bytes", Nothing, "<= 1000"),
        row("swap to a resident adapter", "ms", "adapters/swap", Nothing, "<= 1"),
        row("cold adapter of 10 MB", "ms", "adapters/cold", Nothing, "<= 50"),
        row("small trained model, one stream", T, "decode/small/base", Nothing, ""),
        row("small trained model, 8 requests", T, "crowd/small/base", Nothing, ""),
        row("LoRA training, f32", T, "train/f32", Engine(PEFT), ">= 1x"),
        row("LoRA, recomputed, f32", T, "train/f32-recomputed", Nothing, ""),
        row("QLoRA training, Q4_K", T, "train/q4_k", Nothing, ""),
        row("QLoRA, recomputed, Q4_K", T, "train/q4_k-recomputed", Nothing, ""),
        row("memory of QLoRA", MB, "train/q4_k/memory", Ourselves("train/f32/memory", LORA), ""),
        row("memory of QLoRA, recomputed", MB, QLORA, Ourselves("train/f32/memory", LORA), "<= 0.5x"),
        row(
            "memory of QLoRA, recomputed",
            MB,
            QLORA,
            Ourselves("train/f32-recomputed/memory", "tributary, LoRA, recomputed"),
            "",
        ),
    ]
};

/// The samples' table.
#[must_use]
pub fn rows(samples: &[Sample]) -> Vec<Row> {
    ROWS.iter().map(|spec| spec.row(samples)).collect()
}

/// The middle value of what an engine measured.
fn value(samples: &[Sample], measure: &str, who: &str) -> Option<f64> {
    let own = samples.iter().filter(|sample| sample.measure == measure && is(sample, who));
    let values: Vec<f64> = own.filter_map(|sample| sample.value).collect();
    (!values.is_empty()).then(|| median(values))
}

/// Whether the sample is of that engine, in any version.
fn is(sample: &Sample, who: &str) -> bool {
    sample.who.split(' ').next() == Some(who)
}

impl Spec {
    fn row(&self, samples: &[Sample]) -> Row {
        let ours = value(samples, self.measure, OURS);
        let (peer, peer_value) = match self.against {
            Against::Nothing => (None, None),
            Against::Ourselves(measure, name) => (Some(name.to_owned()), value(samples, measure, OURS)),
            Against::Engine(engine) => (Some(self.engine(engine, samples)), value(samples, self.measure, engine)),
        };
        let target = Target::parse(self.target);
        let met = target.zip(ours).and_then(|(target, ours)| target.is_met(ours, peer_value));
        let target = target.map(|target| target.to_string());
        Row { name: self.name, unit: self.unit, ours, interval: None, peer, peer_value, target, met }
    }

    /// The engine's name with its version, or with why it has no figure.
    fn engine(&self, engine: &str, samples: &[Sample]) -> String {
        let own = || samples.iter().filter(|sample| is(sample, engine));
        if let Some(measured) = own().find(|sample| sample.measure == self.measure && sample.value.is_some()) {
            return measured.who.clone();
        }
        // A peer that can't be had at all says so once, under no measure.
        let reason = own().filter(|sample| sample.measure == self.measure || sample.measure.is_empty());
        let reason = reason.filter_map(|sample| sample.missing.as_deref()).next();
        format!("{engine} ({})", reason.unwrap_or("not measured"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(measure: &str, who: &str, value: f64) -> Sample {
        Sample { measure: measure.into(), who: who.into(), value: Some(value), missing: None }
    }

    fn find<'a>(rows: &'a [Row], name: &str, peer: &str) -> &'a Row {
        let fits = |row: &&Row| row.name == name && row.peer.as_deref().unwrap_or_default().starts_with(peer);
        rows.iter().find(fits).unwrap_or_else(|| panic!("no row {name} against {peer}"))
    }

    #[test]
    fn every_target_parses_and_shows_itself() {
        for spec in &ROWS {
            let target = Target::parse(spec.target).map(|target| target.to_string());
            assert_eq!(target.unwrap_or_default(), spec.target, "{}", spec.name);
        }
        assert_eq!(Target::parse("about 3"), None);
        assert_eq!(Target::parse(">= threex"), None);
    }

    #[test]
    fn the_middle_of_the_rounds_is_compared() {
        let mut samples: Vec<Sample> = [90.0, 30.0, 96.0].map(|value| sample("decode/f32/base", OURS, value)).into();
        samples.extend([100.0, 102.0, 10.0].map(|value| sample("decode/f32/base", "mistral.rs 0.9.5", value)));
        let rows = rows(&samples);
        let row = find(&rows, "f32, one stream, base", MISTRAL);
        assert_eq!((row.ours, row.peer_value, row.met), (Some(90.0), Some(100.0), Some(false)));
        assert_eq!(row.peer.as_deref(), Some("mistral.rs 0.9.5"));
        assert!((row.ratio().unwrap() - 0.9).abs() < 1e-12);
        let faster = [sample("decode/f32/base", OURS, 95.0), sample("decode/f32/base", "mistral.rs", 100.0)];
        assert_eq!(find(&super::rows(&faster), "f32, one stream, base", MISTRAL).met, Some(true));
    }

    #[test]
    fn what_is_missing_says_why_and_is_neither_met_nor_missed() {
        let why = Sample { value: None, missing: Some("does not build".into()), ..sample("", "llama.cpp", 0.0) };
        let rows = rows(&[sample("crowd/f32/mixed", OURS, 50.0), why]);
        let row = find(&rows, "f32, 8 requests, 8 adapters", LLAMA);
        assert_eq!(row.peer.as_deref(), Some("llama.cpp (does not build)"));
        assert_eq!((row.ours, row.peer_value, row.met), (Some(50.0), None, None));
        let row = find(&rows, "f32, 8 requests, 8 adapters", PEFT);
        assert_eq!(row.peer.as_deref(), Some("peft (not measured)"));
        assert_eq!(rows.len(), ROWS.len());
    }

    #[test]
    fn absolute_targets_need_no_peer() {
        let met = |value| find(&rows(&[sample("adapters/cold", OURS, value)]), "cold adapter of 10 MB", "").met;
        assert_eq!([met(49.0), met(50.0), met(51.0)], [Some(true), Some(true), Some(false)]);
    }

    #[test]
    fn less_is_better_for_memory() {
        let memory = |quantised| {
            let samples = [sample(QLORA, OURS, quantised), sample("train/f32/memory", OURS, 100.0)];
            find(&rows(&samples), "memory of QLoRA, recomputed", LORA).met
        };
        assert_eq!([memory(50.0), memory(51.0)], [Some(true), Some(false)]);
    }
}
