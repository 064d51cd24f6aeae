//! Marks as PNG: lines by tiny-skia, letters from a font of bitmaps, so that no font of the machine is needed.
//!
//! Invariant: the same marks give the same bytes on every machine.

use std::convert::Infallible;
use std::io;

use embedded_graphics::mono_font::iso_8859_1::{FONT_8X13, FONT_10X20};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::BinaryColor;
use embedded_graphics::prelude::{DrawTarget, Drawable, OriginDimensions, Pixel, Point, Size};
use embedded_graphics::text::{Alignment, Text};
use tiny_skia::{Color, FillRule, LineJoin, Paint, PathBuilder, Pixmap, Stroke, Transform};

use super::chart::{Anchor, Colour, Mark, PAGE};

/// The colour of letters.
const BLACK: [u8; 4] = [40, 44, 52, 255];

/// The page as a PNG file.
pub(super) fn drawn(marks: &[Mark]) -> io::Result<Vec<u8>> {
    let (width, height) = (whole(PAGE.0), whole(PAGE.1));
    let mut page = Pixmap::new(width.unsigned_abs(), height.unsigned_abs())
        .ok_or_else(|| io::Error::other("the page has no pixels"))?;
    page.fill(Color::WHITE);
    for mark in marks {
        draw(&mut page, mark);
    }
    page.encode_png().map_err(io::Error::other)
}

fn draw(page: &mut Pixmap, mark: &Mark) {
    match mark {
        Mark::Path { points, colour, width } => {
            let mut path = PathBuilder::new();
            for (at, (x, y)) in points.iter().enumerate() {
                let (x, y) = (narrow(*x), narrow(*y));
                if at == 0 { path.move_to(x, y) } else { path.line_to(x, y) }
            }
            let stroke = Stroke { width: narrow(*width), line_join: LineJoin::Round, ..Stroke::default() };
            if let Some(path) = path.finish() {
                page.stroke_path(&path, &paint(*colour), &stroke, Transform::identity(), None);
            }
        }
        Mark::Dot { at: (x, y), colour } => {
            if let Some(dot) = PathBuilder::from_circle(narrow(*x), narrow(*y), 3.5) {
                page.fill_path(&dot, &paint(*colour), FillRule::Winding, Transform::identity(), None);
            }
        }
        Mark::Text { at, text, anchor, is_large } => write(page, *at, text, *anchor, *is_large),
    }
}

fn write(page: &mut Pixmap, at: (f64, f64), text: &str, anchor: Anchor, is_large: bool) {
    let font: &MonoFont<'_> = if is_large { &FONT_10X20 } else { &FONT_8X13 };
    let alignment = match anchor {
        Anchor::Start => Alignment::Left,
        Anchor::Middle => Alignment::Center,
        Anchor::End => Alignment::Right,
    };
    let style = MonoTextStyle::new(font, BinaryColor::On);
    let text = Text::with_alignment(text, Point::new(whole(at.0), whole(at.1)), style, alignment);
    // Drawing on a page cannot fail.
    let _ = text.draw(&mut Page(page));
}

fn paint(colour: Colour) -> Paint<'static> {
    let [red, green, blue] = colour;
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color_rgba8(red, green, blue, 255);
    paint
}

#[expect(clippy::cast_possible_truncation, reason = "a place on a page of a thousand pixels")]
const fn narrow(value: f64) -> f32 {
    value as f32
}

#[expect(clippy::cast_possible_truncation, reason = "a place on a page of a thousand pixels")]
const fn whole(value: f64) -> i32 {
    value as i32
}

/// A page that letters are drawn on, pixel by pixel.
struct Page<'a>(&'a mut Pixmap);

impl OriginDimensions for Page<'_> {
    fn size(&self) -> Size {
        Size::new(self.0.width(), self.0.height())
    }
}

impl DrawTarget for Page<'_> {
    type Color = BinaryColor;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<BinaryColor>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        let (width, height) = (self.0.width(), self.0.height());
        for Pixel(Point { x, y }, colour) in pixels {
            let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { continue };
            if colour == BinaryColor::Off || x >= width || y >= height {
                continue;
            }
            let at = usize::try_from((y * width + x) * 4).unwrap_or(usize::MAX);
            if let Some(pixel) = self.0.data_mut().get_mut(at..at.saturating_add(4)) {
                pixel.copy_from_slice(&BLACK);
            }
        }
        Ok(())
    }
}
