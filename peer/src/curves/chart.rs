//! A run's curve as marks on a page: the same for every kind of picture.
//!
//! Invariant: every mark lies on the page, whatever the numbers.

use super::{ALL, Line};

/// Width and height of the page, in pixels.
pub(super) const PAGE: (f64, f64) = (960.0, 540.0);
/// Left, top, right and bottom of the frame within it.
const FRAME: (f64, f64, f64, f64) = (80.0, 64.0, 936.0, 484.0);
/// Most ticks of an axis.
const TICKS: f64 = 8.0;
/// Most characters of a title.
const TITLE: usize = 72;

/// Colours as red, green, blue.
pub(super) type Colour = [u8; 3];

const INK: Colour = [40, 44, 52];
const GRID: Colour = [222, 225, 230];
const TRAINED: Colour = [37, 99, 180];
const HELD_OUT: Colour = [204, 92, 12];

/// Where a text's place is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// What is drawn.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Mark {
    Path {
        points: Vec<(f64, f64)>,
        colour: Colour,
        width: f64,
    },
    Dot {
        at: (f64, f64),
        colour: Colour,
    },
    /// `at` is the left, middle or right end of the text's base line.
    Text {
        at: (f64, f64),
        text: String,
        anchor: Anchor,
        is_large: bool,
    },
}

/// Numbers on an axis and where they begin and end.
struct Axis {
    from: f64,
    to: f64,
    step: f64,
}

impl Axis {
    /// Round numbers (1, 2 or 5 times a power of ten) around the values.
    fn around(values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(is_shown) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let span = if high > low { high - low } else { high.abs().max(1.0) };
        let power = 10.0_f64.powf((span / TICKS).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| span / step <= TICKS);
        let step = step.unwrap_or(span);
        let from = (low / step).floor() * step;
        Self { from, to: ((high / step).ceil() * step).max(from + step), step }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        let places = (0..=32_u8).map(|at| self.from + f64::from(at) * self.step);
        places.take_while(|value| *value <= self.to + self.step / 2.0)
    }

    /// 0 to 1 from beginning to end.
    fn part(&self, value: f64) -> f64 {
        ((value - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }

    fn label(&self, value: f64) -> String {
        let decimals = if self.step >= 1.0 {
            0
        } else if self.step >= 0.1 {
            1
        } else if self.step >= 0.01 {
            2
        } else {
            4
        };
        format!("{value:.decimals$}")
    }
}

/// Whether a number has a place on an axis: more than this is no loss, but a mistake.
fn is_shown(value: &f64) -> bool {
    value.abs() <= 1e15
}

/// The marks of the adapter's own training.
pub(super) fn marks(name: &str, lines: &[Line]) -> Vec<Mark> {
    let lines: Vec<&Line> = lines.iter().filter(|line| line.trains == ALL).collect();
    let trained: Vec<(f64, f64)> = lines.iter().map(|line| (f64::from(line.step), line.loss)).collect();
    let held_out: Vec<(f64, f64)> =
        lines.iter().filter_map(|line| Some((f64::from(line.step), line.held_out?.loss))).collect();
    let shown = |points: Vec<(f64, f64)>| points.into_iter().filter(|point| is_shown(&point.1)).collect::<Vec<_>>();
    let (trained, held_out) = (shown(trained), shown(held_out));
    let x = Axis::around(trained.iter().map(|point| point.0).chain([0.0]));
    let y = Axis::around(trained.iter().chain(&held_out).map(|point| point.1));
    let place = |(step, loss): (f64, f64)| {
        let (left, top, right, bottom) = FRAME;
        (left + (right - left) * x.part(step), bottom - (bottom - top) * y.part(loss))
    };
    let mut marks = frame(name, &x, &y);
    let path = |points: &[(f64, f64)], colour, width| Mark::Path {
        points: points.iter().copied().map(place).collect(),
        colour,
        width,
    };
    marks.push(path(&trained, TRAINED, 1.6));
    marks.push(path(&held_out, HELD_OUT, 2.2));
    marks.extend(held_out.iter().map(|point| Mark::Dot { at: place(*point), colour: HELD_OUT }));
    marks.extend(legend(lines.last().map(|line| line.loss), held_out.last().map(|point| point.1)));
    marks
}

fn text(at: (f64, f64), text: impl Into<String>, anchor: Anchor) -> Mark {
    Mark::Text { at, text: text.into(), anchor, is_large: false }
}

fn frame(name: &str, x: &Axis, y: &Axis) -> Vec<Mark> {
    let (left, top, right, bottom) = FRAME;
    let line = |points: Vec<(f64, f64)>, colour, width| Mark::Path { points, colour, width };
    let mut marks = Vec::new();
    for value in y.ticks() {
        let at = bottom - (bottom - top) * y.part(value);
        marks.push(line(vec![(left, at), (right, at)], GRID, 1.0));
        marks.push(text((left - 8.0, at + 4.0), y.label(value), Anchor::End));
    }
    for value in x.ticks() {
        let at = left + (right - left) * x.part(value);
        marks.push(line(vec![(at, bottom), (at, bottom + 5.0)], INK, 1.0));
        marks.push(text((at, bottom + 20.0), x.label(value), Anchor::Middle));
    }
    marks.push(line(vec![(left, top), (left, bottom), (right, bottom)], INK, 1.0));
    marks.push(text((f64::midpoint(left, right), PAGE.1 - 14.0), "steps", Anchor::Middle));
    marks.push(text((left - 64.0, top - 12.0), "loss, nats per token", Anchor::Start));
    let title: String = name.chars().take(TITLE).collect();
    marks.push(Mark::Text { at: (left - 64.0, 28.0), text: title, anchor: Anchor::Start, is_large: true });
    marks
}

fn legend(trained: Option<f64>, held_out: Option<f64>) -> Vec<Mark> {
    let entries = [("training", trained, TRAINED), ("held out", held_out, HELD_OUT)];
    let mut marks = Vec::new();
    let mut right = FRAME.2;
    for (label, loss, colour) in entries.into_iter().rev() {
        let Some(loss) = loss else { continue };
        marks.push(text((right, 28.0), format!("{label} {loss:.3}"), Anchor::End));
        marks.push(Mark::Path { points: vec![(right - 160.0, 24.0), (right - 132.0, 24.0)], colour, width: 3.0 });
        right -= 190.0;
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        for (values, from, to, step) in [
            (vec![0.0, 300.0], 0.0, 300.0, 50.0),
            (vec![0.31, 3.9], 0.0, 4.0, 0.5),
            (vec![2.0, 2.0], 2.0, 2.25, 0.25),
            (vec![f64::NAN], 0.0, 1.0, 0.2),
        ] {
            let axis = Axis::around(values.iter().copied());
            assert!(
                axis.from <= from && axis.to >= to && axis.step <= 2.0 * step,
                "{values:?}: {} {}",
                axis.from,
                axis.to
            );
            assert!((2..=12).contains(&axis.ticks().count()), "{values:?}");
        }
    }

    #[test]
    fn no_mark_leaves_the_page() {
        let line = |step: u32, loss: f64| Line {
            trains: ALL.into(),
            step,
            elapsed_ms: 1,
            loss,
            tokens_per_s: 1,
            held_out: None,
        };
        let wild = [line(1, f64::INFINITY), line(2, 1e300), line(u32::MAX, 1.8e13), line(4, f64::NAN), line(5, 0.0)];
        for lines in [&wild[..], &wild[4..], &[]] {
            for mark in marks("wild", lines) {
                let places = match mark {
                    Mark::Path { points, .. } => points,
                    Mark::Dot { at, .. } | Mark::Text { at, .. } => vec![at],
                };
                let fits = |(x, y): &(f64, f64)| (0.0..=PAGE.0).contains(x) && (0.0..=PAGE.1).contains(y);
                assert!(places.iter().all(fits), "{places:?}");
            }
        }
    }
}
