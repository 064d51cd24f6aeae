//! What was measured in training runs: a file of JSON lines for each run, and its curve as SVG and PNG.
//!
//! Invariant: a line is appended once for each point of a training, in the order of its steps; the pictures follow from
//! the lines. Points are workers' own words: they are shown and decide nothing, and a run has a bounded number of them.

mod chart;
mod png;
mod svg;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};

use serde::{Deserialize, Serialize};
use tributary_protocol::id::{AccountId, Hash};
use tributary_protocol::limits::CURVE_POINTS_MAX;
use tributary_protocol::message::{HeldOut, Measurement};

/// Points kept of one training, whoever sends more.
const POINTS_MAX: usize = 2 * CURVE_POINTS_MAX;
/// Bytes read of a metrics file: all points of some hundred leave-out trainings.
const FILE_MAX_BYTES: u64 = 32 << 20;
/// How often the pictures of a run that goes on are drawn anew.
const DRAW_INTERVAL: Duration = Duration::from_secs(5);
const METRICS: &str = "metrics.jsonl";
const SVG: &str = "curve.svg";
const PNG: &str = "curve.png";
/// How the adapter's own training is called in the lines.
pub const ALL: &str = "all";

/// Which training of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trains {
    /// The adapter's.
    All,
    /// The one without these contributors.
    Without(Vec<AccountId>),
}

/// One line of a metrics file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// `all`, or the accounts that are left out, with `+` between them.
    pub trains: String,
    /// Steps done.
    pub step: u32,
    /// Time that the worker has trained, in milliseconds.
    pub elapsed_ms: u64,
    /// Mean loss since the line before, in nats per token.
    pub loss: f64,
    /// Tokens trained each second.
    pub tokens_per_s: u32,
    /// What held-out records say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<HeldOutLine>,
}

/// An evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HeldOutLine {
    /// Loss in nats per token.
    pub loss: f64,
    /// e to the loss.
    pub perplexity: f64,
    /// Part of the short answers that are the record's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact_match: Option<f64>,
    /// Mean ROUGE-L of the longer ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rouge_l: Option<f64>,
}

/// Where a run's files lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Files {
    /// The lines.
    pub metrics: PathBuf,
    /// The curve as SVG.
    pub svg: PathBuf,
    /// The curve as PNG.
    pub png: PathBuf,
}

impl Line {
    fn of(trains: String, point: &Measurement) -> Self {
        Self {
            trains,
            step: point.step,
            elapsed_ms: point.elapsed_ms,
            loss: millionths(point.loss_micro_nats),
            tokens_per_s: point.tokens_per_s,
            held_out: point.held_out.as_ref().map(HeldOutLine::of),
        }
    }
}

impl HeldOutLine {
    fn of(held_out: &HeldOut) -> Self {
        let loss = millionths(held_out.loss_micro_nats);
        let part = |part: Option<u32>| part.map(|part| millionths(part.into()));
        Self {
            loss,
            perplexity: loss.exp().min(f64::MAX),
            exact_match: part(held_out.exact_match_millionths),
            rouge_l: part(held_out.rouge_l_millionths),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown to people only")]
fn millionths(number: u64) -> f64 {
    number as f64 / 1e6
}

/// The curves of all runs of a node.
pub struct Curves {
    folder: PathBuf,
    runs: Mutex<BTreeMap<Hash, RunCurve>>,
}

#[derive(Default)]
struct RunCurve {
    lines: Vec<Line>,
    /// Last step and number of points of each training.
    last: BTreeMap<String, (u32, usize)>,
    drawn: Option<Instant>,
    is_dirty: bool,
}

impl Curves {
    /// Curves kept in `folder`, one folder for each run.
    #[must_use]
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder, runs: Mutex::new(BTreeMap::new()) }
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<Hash, RunCurve>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, run: &Hash) -> PathBuf {
        self.folder.join(run.to_string())
    }

    /// Takes what is known of a run's trainings: new points are written, and the pictures drawn when it is time.
    pub async fn hear(
        self: Arc<Self>,
        run: Hash,
        name: String,
        measured: Vec<(Trains, Vec<Measurement>)>,
        is_open: bool,
    ) {
        if measured.is_empty() {
            return;
        }
        let taken = tokio::task::spawn_blocking(move || self.take(run, &name, &measured, is_open)).await;
        if let Ok(Err(error)) = taken {
            tracing::warn!(run = %run.short(), %error, "a run's curve cannot be written");
        }
    }

    fn take(&self, run: Hash, name: &str, measured: &[(Trains, Vec<Measurement>)], is_open: bool) -> io::Result<()> {
        let folder = self.of(&run);
        let mut runs = self.locked();
        let curve = runs.entry(run).or_insert_with(|| RunCurve::read(&folder.join(METRICS)));
        let news = curve.news(measured);
        if !news.is_empty() {
            append(&folder, &news)?;
            news.into_iter().for_each(|line| curve.add(line));
        }
        if curve.is_dirty && (!is_open || curve.drawn.is_none_or(|drawn| drawn.elapsed() >= DRAW_INTERVAL)) {
            curve.draw(&folder, name)?;
        }
        Ok(())
    }

    /// Lines of a run from number `after` on.
    #[must_use]
    pub fn lines(&self, run: &Hash, after: usize) -> Vec<Line> {
        let path = self.of(run).join(METRICS);
        let mut runs = self.locked();
        let curve = runs.entry(*run).or_insert_with(|| RunCurve::read(&path));
        curve.lines.get(after..).unwrap_or_default().to_vec()
    }

    /// The run's files, once there are any.
    #[must_use]
    pub fn files(&self, run: &Hash) -> Option<Files> {
        let folder = self.of(run);
        let files = Files { metrics: folder.join(METRICS), svg: folder.join(SVG), png: folder.join(PNG) };
        files.metrics.exists().then_some(files)
    }
}

impl RunCurve {
    /// What an earlier process wrote; a line that a crash cut is left out.
    fn read(path: &Path) -> Self {
        let mut curve = Self::default();
        let is_small = fs::metadata(path).is_ok_and(|found| found.len() <= FILE_MAX_BYTES);
        let text = if is_small { fs::read_to_string(path).unwrap_or_default() } else { String::new() };
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).for_each(|line| curve.add(line));
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        if whole < text.len() {
            // What is written next must begin a line. If it cannot, only that line is lost to the next reader.
            let file = fs::OpenOptions::new().write(true).open(path);
            let _ = file.and_then(|file| file.set_len(u64::try_from(whole).unwrap_or(u64::MAX)));
        }
        curve.is_dirty = false;
        curve
    }

    fn add(&mut self, line: Line) {
        let last = self.last.entry(line.trains.clone()).or_default();
        *last = (line.step, last.1 + 1);
        self.lines.push(line);
        self.is_dirty = true;
    }

    /// Points beyond the last step of each training.
    fn news(&self, measured: &[(Trains, Vec<Measurement>)]) -> Vec<Line> {
        let mut lines = Vec::new();
        for (trains, points) in measured {
            let trains = match trains {
                Trains::All => ALL.to_owned(),
                Trains::Without(accounts) => accounts.iter().map(ToString::to_string).collect::<Vec<_>>().join("+"),
            };
            let (last, known) = self.last.get(&trains).copied().unwrap_or_default();
            let fresh = points.iter().filter(|point| point.step > last).take(POINTS_MAX.saturating_sub(known));
            lines.extend(fresh.map(|point| Line::of(trains.clone(), point)));
        }
        lines
    }

    fn draw(&mut self, folder: &Path, name: &str) -> io::Result<()> {
        let marks = chart::marks(name, &self.lines);
        replace(&folder.join(SVG), svg::drawn(&marks).as_bytes())?;
        replace(&folder.join(PNG), &png::drawn(&marks)?)?;
        self.drawn = Some(Instant::now());
        self.is_dirty = false;
        Ok(())
    }
}

fn append(folder: &Path, lines: &[Line]) -> io::Result<()> {
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
    }
    fs::create_dir_all(folder)?;
    fs::OpenOptions::new().create(true).append(true).open(folder.join(METRICS))?.write_all(&text)
}

/// Whoever looks sees the old picture or the new one.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(step: u32) -> Measurement {
        let held_out = HeldOut {
            loss_micro_nats: 4_000_000 / u64::from(step / 10 + 1) + 300_000,
            exact_match_millionths: Some(250_000),
            rouge_l_millionths: None,
        };
        Measurement {
            step,
            elapsed_ms: u64::from(step) * 110,
            loss_micro_nats: 3_500_000 / u64::from(step / 8 + 1) + u64::from(step * 7919 % 97) * 2_000,
            tokens_per_s: 4_300,
            held_out: step.is_multiple_of(20).then_some(held_out),
        }
    }

    fn points(until: u32) -> Vec<Measurement> {
        (1..=until).map(point).collect()
    }

    #[test]
    fn each_point_becomes_one_line_also_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let run = Hash([7; 32]);
        let without = Trains::Without(vec![AccountId([9; 32])]);
        let curves = Curves::new(folder.path().to_owned());
        assert!(curves.files(&run).is_none());
        curves.take(run, "mill", &[(Trains::All, points(30))], true).unwrap();
        curves.take(run, "mill", &[(Trains::All, points(40)), (without, points(3))], true).unwrap();
        assert_eq!(curves.lines(&run, 0).len(), 43);
        assert_eq!(curves.lines(&run, 41).len(), 2);
        let files = curves.files(&run).unwrap();
        fs::OpenOptions::new().append(true).open(&files.metrics).unwrap().write_all(b"{\"trains\":").unwrap();
        let again = Curves::new(folder.path().to_owned());
        assert_eq!(again.lines(&run, 0), curves.lines(&run, 0));
        again.take(run, "mill", &[(Trains::All, points(41))], true).unwrap();
        assert_eq!(Curves::new(folder.path().to_owned()).lines(&run, 43).len(), 1);
        let first: serde_json::Value =
            serde_json::from_str(fs::read_to_string(&files.metrics).unwrap().lines().nth(19).unwrap()).unwrap();
        assert_eq!((first["step"].as_u64(), first["trains"].as_str()), (Some(20), Some("all")));
        assert!((first["held_out"]["loss"].as_f64().unwrap() - 1.633_333).abs() < 1e-9);
        assert!((first["held_out"]["perplexity"].as_f64().unwrap() - 1.633_333_f64.exp()).abs() < 1e-6);
        assert_eq!(first["held_out"]["exact_match"], 0.25);
    }

    #[test]
    fn a_worker_that_never_ends_fills_no_disk() {
        let folder = tempfile::tempdir().unwrap();
        let (run, curves) = (Hash([7; 32]), Curves::new(folder.path().to_owned()));
        for start in 0..20_u32 {
            let points = (1..=500).map(|step| point(start * 500 + step)).collect();
            curves.take(run, "mill", &[(Trains::All, points)], true).unwrap();
        }
        assert_eq!(curves.lines(&run, 0).len(), POINTS_MAX);
    }

    #[test]
    fn pictures_are_drawn_when_a_run_ends() {
        let folder = tempfile::tempdir().unwrap();
        let (run, curves) = (Hash([7; 32]), Curves::new(folder.path().to_owned()));
        curves.take(run, "mill & <river>", &[(Trains::All, points(300))], false).unwrap();
        let files = curves.files(&run).unwrap();
        let svg = fs::read_to_string(&files.svg).unwrap();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.contains("mill &amp; &lt;river&gt;"));
        assert!(svg.contains("held out") && svg.matches("<polyline").count() >= 2);
        let png = fs::read(&files.png).unwrap();
        assert!(png.starts_with(b"\x89PNG") && png.len() > 4_000);
    }
}
