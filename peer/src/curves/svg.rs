//! Marks as SVG.
//!
//! Invariant: names of users stand in it as text, never as markup.

use std::fmt::Write;

use super::chart::{Anchor, Colour, Mark, PAGE};

/// The page as an SVG document.
pub(super) fn drawn(marks: &[Mark]) -> String {
    let (width, height) = PAGE;
    let mut page = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for mark in marks {
        // Writing to a string cannot fail.
        let _ = write_mark(&mut page, mark);
    }
    page.push_str("</svg>\n");
    page
}

fn write_mark(page: &mut String, mark: &Mark) -> std::fmt::Result {
    match mark {
        Mark::Path { points, .. } if points.len() < 2 => Ok(()),
        Mark::Path { points, colour, width } => {
            page.push_str("<polyline fill=\"none\" points=\"");
            for (x, y) in points {
                write!(page, "{x:.1},{y:.1} ")?;
            }
            writeln!(page, "\" stroke=\"{}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"/>", hex(*colour))
        }
        Mark::Dot { at: (x, y), colour } => {
            writeln!(page, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{}\"/>", hex(*colour))
        }
        Mark::Text { at: (x, y), text, anchor, is_large } => {
            let anchor = match anchor {
                Anchor::Start => "start",
                Anchor::Middle => "middle",
                Anchor::End => "end",
            };
            let size = if *is_large { 20 } else { 13 };
            let text = escaped(text);
            writeln!(
                page,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" text-anchor=\"{anchor}\">{text}</text>"
            )
        }
    }
}

fn hex(colour: Colour) -> String {
    let [red, green, blue] = colour;
    format!("#{red:02x}{green:02x}{blue:02x}")
}

fn escaped(text: &str) -> String {
    let shown: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    shown.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
