//! The live screen of `train watch`: the loss curve with what the run does now.
//!
//! Invariant: the terminal is given back as it was, also on a panic or a signal; the run does not depend on the screen.

use std::io::{self, Stderr};
use std::sync::Once;
use std::time::Duration;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::crossterm::{cursor, execute};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{Axis, Block, Chart, Dataset, GraphType, LegendPosition, Paragraph, Wrap};
use ratatui::{Frame, Terminal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::curve::Curve;
use super::stage::Stage;
use crate::cli::text;

/// How often keys are looked at.
const KEYS: Duration = Duration::from_millis(50);
/// The least height at which there is room for a curve beside the words.
const CURVE_ROWS: u16 = 6;

/// What is shown.
pub(super) struct View<'a> {
    pub(super) name: &'a str,
    pub(super) stage: &'a Stage,
    pub(super) curve: &'a Curve,
}

/// A terminal in use.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stderr>>,
}

impl Screen {
    /// Takes the terminal behind standard error.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn open() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                give_back();
                before(panic);
            }));
        });
        enable_raw_mode()?;
        let entered = execute!(io::stderr(), EnterAlternateScreen, cursor::Hide);
        let terminal = entered.and_then(|()| Terminal::new(CrosstermBackend::new(io::stderr())));
        terminal.map(|terminal| Self { terminal }).inspect_err(|_| give_back())
    }

    /// Shows a view.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(super) fn show(&mut self, view: &View<'_>) -> io::Result<()> {
        self.terminal.draw(|frame| draw(frame, view)).map(|_| ())
    }

    /// Waits, redrawing when the size changes; whether the watcher wants to leave.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(super) async fn wait(&mut self, view: &View<'_>, time: Duration) -> io::Result<bool> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let until = Instant::now() + time;
        while Instant::now() < until {
            while event::poll(Duration::ZERO)? {
                match event::read()? {
                    Event::Key(key) if leaves(key) => return Ok(true),
                    Event::Resize(..) => self.show(view)?,
                    _ => {}
                }
            }
            tokio::select! {
                () = tokio::time::sleep(KEYS) => {}
                _ = terminate.recv() => return Ok(true),
                _ = hang_up.recv() => return Ok(true),
            }
        }
        Ok(false)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    // There may be no terminal left to give back.
    let _ = disable_raw_mode();
    let _ = execute!(io::stderr(), LeaveAlternateScreen, cursor::Show);
}

fn leaves(key: KeyEvent) -> bool {
    let is_control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind != KeyEventKind::Release && (is_control_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
}

fn draw(frame: &mut Frame<'_>, view: &View<'_>) {
    let area = frame.area();
    let words = words(view);
    let width = usize::from(area.width.max(1));
    let rows = words.iter().map(|line| line.width().div_ceil(width).max(1)).sum::<usize>();
    let rows = u16::try_from(rows).unwrap_or(u16::MAX).min(area.height);
    let [above, below] = match area.height.saturating_sub(rows) >= CURVE_ROWS {
        true => Layout::vertical([Constraint::Fill(1), Constraint::Length(rows)]).areas(area),
        false => [Rect::ZERO, area],
    };
    if !above.is_empty() {
        curve(frame, view, above);
    }
    frame.render_widget(Paragraph::new(words).wrap(Wrap { trim: true }), below);
}

fn words(view: &View<'_>) -> Vec<Line<'static>> {
    let mut now = view.stage.line();
    let left = view.curve.left_ms(view.stage.all.saturating_sub(view.stage.done));
    if let Some(left) = left.filter(|_| view.stage.all > view.stage.done) {
        now.push_str(&format!(" · {} left", text::duration(left)));
    }
    let mut lines = vec![Line::raw(now)];
    lines.extend(view.curve.evaluation().map(Line::raw));
    lines.push(Line::styled("q leaves; the run goes on", Style::new().add_modifier(Modifier::DIM)));
    lines
}

fn curve(frame: &mut Frame<'_>, view: &View<'_>, area: Rect) {
    let (trained, held_out) = (view.curve.trained(), view.curve.held_out());
    let all = || trained.iter().chain(&held_out);
    let (low, high) = bounds(all().map(|point| point.1));
    let last = all().map(|point| point.0).fold(1.0, f64::max);
    let named = |name: &'static str, colour: Color, kind: GraphType| {
        Dataset::default().name(name).marker(Marker::Braille).graph_type(kind).style(Style::new().fg(colour))
    };
    let mut sets = Vec::new();
    if !trained.is_empty() {
        sets.push(named("training", Color::Cyan, GraphType::Line).data(&trained));
    }
    if !held_out.is_empty() {
        let kind = if held_out.len() > 1 { GraphType::Line } else { GraphType::Scatter };
        sets.push(named("held out", Color::Yellow, kind).data(&held_out));
    }
    let title = format!(" {} · loss in nats per token ", text::line(view.name));
    let middle = |from: f64, to: f64| f64::midpoint(from, to);
    let steps = ["0".to_owned(), format!("{:.0}", middle(0.0, last)), format!("{last:.0} steps")];
    let y = [low, middle(low, high), high].map(|loss| format!("{loss:.2}"));
    let y = Axis::default().bounds([low, high]).labels(y);
    let chart = Chart::new(sets)
        .block(Block::bordered().title(title))
        .x_axis(Axis::default().bounds([0.0, last]).labels(steps))
        .y_axis(y)
        .legend_position(Some(LegendPosition::TopRight));
    frame.render_widget(chart, area);
}

/// The least and the largest number, apart.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values.filter(|value| value.is_finite()) {
        (low, high) = (low.min(value), high.max(value));
    }
    if low > high {
        return (0.0, 1.0);
    }
    let room = ((high - low) * 0.05).max(0.01);
    ((low - room).max(0.0), high + room)
}

#[cfg(test)]
mod tests {
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    fn shown(width: u16, height: u16, lines: usize) -> String {
        let mut curve = Curve::default();
        let line = |step: usize| {
            let mut line = json!({"trains": "all", "step": step, "elapsed_ms": step * 100, "loss": 4.0 / step as f64, "tokens_per_s": 9});
            if step.is_multiple_of(10) {
                line["held_out"] = json!({"loss": 1.0, "perplexity": 2.72});
            }
            line
        };
        curve.take(&json!({"lines": (1..=lines).map(line).collect::<Vec<_>>()}));
        let run = json!({"state": "training", "main": {
            "phase": "leased", "worker": {"account": "aabbccddeeff"},
            "progress": {"step": lines, "steps": 100, "loss_micro_nats": 1_500_000, "tokens_per_s": 4300},
        }});
        let stage = Stage::of(&run);
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let view = View { name: "mill", stage: &stage, curve: &curve };
        terminal.draw(|frame| draw(frame, &view)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_screen_has_curve_axes_and_words() {
        let screen = shown(80, 24, 60);
        for part in ["mill", "held out: loss 1.000", "training 60/100: loss 1.5", "4 s left", "q leaves", "60 steps"] {
            assert!(screen.contains(part), "{part} is missing in\n{screen}");
        }
        assert!(screen.chars().filter(|letter| ('\u{2801}'..='\u{28ff}').contains(letter)).count() > 20, "{screen}");
    }

    #[test]
    fn small_terminals_show_what_fits() {
        let narrow = shown(34, 12, 60);
        assert!(narrow.contains("training 60/100") && narrow.contains("q leaves"), "{narrow}");
        for (width, height) in [(80, 3), (10, 4), (1, 1), (200, 60)] {
            shown(width, height, 0);
            shown(width, height, 60);
        }
        assert!(shown(80, 4, 60).contains("training 60/100"));
    }

    #[test]
    fn keys_that_leave_are_q_escape_and_control_c() {
        let key = |code, modifiers| leaves(KeyEvent::new(code, modifiers));
        assert!(key(KeyCode::Char('q'), KeyModifiers::NONE) && key(KeyCode::Esc, KeyModifiers::NONE));
        assert!(key(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(!key(KeyCode::Char('c'), KeyModifiers::NONE) && !key(KeyCode::Enter, KeyModifiers::NONE));
    }
}
