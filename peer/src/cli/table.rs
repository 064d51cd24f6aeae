//! Tables for people.
//!
//! Invariant: a table is never wider than [`WIDTH`], or what it is told to be; the widest columns give way, cut with `…`, but for a last column that
//! is told to go on in the next line.

/// The width of a terminal that everybody has.
pub(super) const WIDTH: usize = 80;
/// Between columns.
const GAP: usize = 2;
/// No column becomes narrower than this.
const NARROWEST: usize = 4;

/// Rows under heads.
pub(super) struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    wraps: bool,
    width: usize,
}

impl Table {
    pub(super) fn new(heads: &[&'static str]) -> Self {
        Self { heads: heads.to_vec(), rows: Vec::new(), wraps: false, width: WIDTH }
    }

    /// The same, and nothing of the last column is cut.
    pub(super) fn wrapping(heads: &[&'static str]) -> Self {
        Self { wraps: true, ..Self::new(heads) }
    }

    /// The same, and no wider than this: for what stands under a heading.
    pub(super) fn within(self, width: usize) -> Self {
        Self { width, ..self }
    }

    /// Adds a row: as many cells as there are heads.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(self.heads.len(), N, "a table's rows have its columns");
        self.rows.push(cells.into());
    }

    /// The text; nothing when there are no rows.
    pub(super) fn render(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let widths = self.widths();
        let heads = self.heads.iter().map(|head| (*head).to_owned()).collect();
        std::iter::once(&heads).chain(&self.rows).map(|row| self.lines(row, &widths)).collect()
    }

    /// The line of a row, or its lines.
    fn lines(&self, row: &[String], widths: &[usize]) -> String {
        let (Some((last, others)), Some(width), true) = (row.split_last(), widths.last(), self.wraps) else {
            return render_row(row, widths);
        };
        let mut cells = others.to_vec();
        let mut text = String::new();
        for part in parts(last, *width) {
            cells.push(part);
            text.push_str(&render_row(&cells, widths));
            cells = vec![String::new(); others.len()];
        }
        text
    }

    fn widths(&self) -> Vec<usize> {
        let width_of = |(column, head): (usize, &&str)| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([head.chars().count()]).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = self.heads.iter().enumerate().map(width_of).collect();
        let gaps = GAP * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > self.width {
            let Some(widest) = widths.iter_mut().max().filter(|width| **width > NARROWEST) else { break };
            *widest -= 1;
        }
        widths
    }
}

fn render_row(cells: &[String], widths: &[usize]) -> String {
    let mut text = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        let length = cell.chars().count();
        let shown = if length > *width { cut(cell, *width) } else { cell.clone() };
        let padded = format!("{shown:width$}{:GAP$}", "");
        text.push_str(&padded);
    }
    format!("{}\n", text.trim_end())
}

/// The cell in parts of at most `width` characters, ended between words where that is possible.
fn parts(cell: &str, width: usize) -> Vec<String> {
    let mut parts = vec![String::new()];
    for word in cell.split(' ') {
        let letters: Vec<char> = word.chars().collect();
        for piece in letters.chunks(width.max(1)) {
            let last = parts.last().map_or(0, |part| part.chars().count());
            let gap = usize::from(last > 0);
            if last + gap + piece.len() > width && last > 0 {
                parts.push(String::new());
            }
            if let Some(part) = parts.last_mut() {
                part.push_str(if part.is_empty() { "" } else { " " });
                part.extend(piece);
            }
        }
    }
    parts
}

fn cut(cell: &str, width: usize) -> String {
    let kept: String = cell.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["ID", "NAME"]);
        table.row(["12".into(), "long name".into()]);
        table.row(["12345".into(), "ä".into()]);
        assert_eq!(table.render(), "ID     NAME\n12     long name\n12345  ä\n");
    }

    #[test]
    fn an_empty_table_is_empty() {
        assert_eq!(Table::new(&["ID"]).render(), "");
    }

    #[test]
    fn the_widest_column_gives_way() {
        let mut table = Table::new(&["ID", "NAME", "SIZE"]);
        table.row(["0123456789".into(), "x".repeat(200), "12 MB".into()]);
        let text = table.render();
        assert!(text.contains("0123456789") && text.contains("12 MB") && text.contains('…'), "{text}");
    }

    #[test]
    fn a_wrapping_column_loses_no_word() {
        let mut table = Table::wrapping(&["ID", "NOW"]);
        let reason = format!("no worker bids: {} {}", "each asks more ".repeat(12).trim(), "x".repeat(100));
        table.row(["0123456789".into(), reason.clone()]);
        table.row(["ab".into(), String::new()]);
        let text = table.render();
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        let words = |text: &str| text.split_whitespace().collect::<String>();
        assert_eq!(words(&text), words(&format!("ID NOW 0123456789 {reason} ab")));
        assert!(text.lines().nth(2).unwrap().starts_with(&" ".repeat(12)), "{text}");
    }

    #[test]
    fn no_line_is_wider_than_a_terminal() {
        for width in [0, 1, 5, 13, 14, 40, 79, 80, 81, 500] {
            let mut table = Table::new(&["A", "B", "C", "D", "E", "F"]);
            let cell = |part: usize| "ü".repeat(width / part);
            table.row([cell(1), cell(2), cell(3), cell(1), cell(5), cell(7)]);
            let widest = table.render().lines().map(|line| line.chars().count()).max();
            assert!(widest.unwrap_or(0) <= WIDTH, "cells of {width} made {widest:?}");
        }
    }
}
