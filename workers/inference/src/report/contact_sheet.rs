//! Contact sheet: one picture with thumbnails of the sampled frames and their times.

use flamingo::video::Frame;
use image::{Rgb, RgbImage, imageops};

pub use sampler::FrameSampler;

mod sampler;

/// Layout of a contact sheet. Lengths are in pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Thumbnails per row; `None` makes the sheet about as wide as high.
    pub columns: Option<u32>,
    /// Side of the square that every thumbnail fits into. The aspect ratio is kept, and smaller frames are
    /// not enlarged.
    pub thumbnail: u32,
    /// Gap between thumbnails.
    pub gap: u32,
}

impl Default for Layout {
    fn default() -> Self {
        Layout { columns: None, thumbnail: 240, gap: 8 }
    }
}

/// Largest number of thumbnails. More are not readable and do not fit into a picture.
const MAX_THUMBNAILS: usize = 1000;
const PAPER: Rgb<u8> = Rgb([24, 24, 27]);
const INK: Rgb<u8> = Rgb([228, 228, 231]);
/// Side of a dot of a glyph in pixels.
const DOT: u32 = 2;
const GLYPH: (u32, u32) = (5, 7);
const LABEL: u32 = GLYPH.1 * DOT + 6;
/// Every cell has room for it.
const LONGEST_TIME: &str = "0:00:00.000";

/// Contact sheet under construction: thumbnails row by row with the time below each (`0:01:02.345`, hours
/// only if needed), and the number of sampled moments if there are several (`x59`). Without frames the sheet is one
/// empty cell.
pub struct ContactSheet {
    layout: Layout,
    thumbnails: Vec<Thumbnail>,
}

struct Thumbnail {
    pts: f64,
    moments: usize,
    image: RgbImage,
}

impl ContactSheet {
    /// Creates a sheet without frames.
    pub fn new(layout: Layout) -> Self {
        ContactSheet { layout, thumbnails: Vec::new() }
    }

    /// Adds a thumbnail of a frame. Frames after the first 1,000 are left out.
    pub fn add(&mut self, frame: &Frame) {
        if self.thumbnails.len() == MAX_THUMBNAILS {
            return;
        }
        let side = self.layout.thumbnail.max(1);
        let (width, height) = frame.image.dimensions();
        let scale = (f64::from(side) / f64::from(width.max(height))).min(1.0);
        let scaled = |n: u32| ((f64::from(n) * scale).round() as u32).max(1);
        let small =
            imageops::resize(&frame.image, scaled(width), scaled(height), imageops::FilterType::Triangle);
        self.thumbnails.push(Thumbnail { pts: frame.pts, moments: frame.moments.len(), image: small });
    }

    /// Removes every second thumbnail.
    pub fn halve(&mut self) {
        let mut kept = false;
        self.thumbnails.retain(|_| {
            kept = !kept;
            kept
        });
    }

    /// Draws the picture.
    pub fn draw(&self) -> RgbImage {
        let n = self.thumbnails.len().max(1) as u32;
        let gap = self.layout.gap;
        let widths = self.thumbnails.iter().map(|t| t.image.width().max(label_width(&t.label())));
        let cell_width = widths.max().unwrap_or_default().max(label_width(LONGEST_TIME));
        let thumb_height = self.thumbnails.iter().map(|t| t.image.height()).max().unwrap_or(1);
        let cell_height = thumb_height + LABEL;
        let square = (f64::from(n) * f64::from(cell_height) / f64::from(cell_width)).sqrt().ceil() as u32;
        let columns = self.layout.columns.unwrap_or(square).clamp(1, n);
        let rows = n.div_ceil(columns);
        let side = |count: u32, size: u32| count * (size + gap) + gap;
        let mut sheet = RgbImage::from_pixel(side(columns, cell_width), side(rows, cell_height), PAPER);
        for (i, thumbnail) in self.thumbnails.iter().enumerate() {
            let (column, row) = (i as u32 % columns, i as u32 / columns);
            let (x, y) = (gap + column * (cell_width + gap), gap + row * (cell_height + gap));
            let image = &thumbnail.image;
            let (left, top) = ((cell_width - image.width()) / 2, thumb_height - image.height());
            imageops::replace(&mut sheet, image, i64::from(x + left), i64::from(y + top));
            let text = thumbnail.label();
            write(&mut sheet, &text, x + (cell_width - label_width(&text)) / 2, y + thumb_height + 4);
        }
        sheet
    }
}

impl Thumbnail {
    fn label(&self) -> String {
        match self.moments {
            0 | 1 => clock(self.pts),
            moments => format!("{} x{moments}", clock(self.pts)),
        }
    }
}

fn label_width(text: &str) -> u32 {
    text.len() as u32 * (GLYPH.0 + 1) * DOT
}

/// Formats a time as `m:ss.mmm`, or as `h:mm:ss.mmm` from an hour on.
fn clock(seconds: f64) -> String {
    let millis = (seconds.max(0.0) * 1000.0).round() as u64;
    let (h, m, s, ms) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1000 % 60, millis % 1000);
    if h > 0 { format!("{h}:{m:02}:{s:02}.{ms:03}") } else { format!("{m}:{s:02}.{ms:03}") }
}

fn write(sheet: &mut RgbImage, text: &str, x: u32, y: u32) {
    for (i, character) in text.chars().enumerate() {
        let x = x + i as u32 * (GLYPH.0 + 1) * DOT;
        for (row, bits) in glyph(character).iter().enumerate() {
            for column in (0..GLYPH.0).filter(|column| bits >> (GLYPH.0 - 1 - column) & 1 == 1) {
                square(sheet, x + column * DOT, y + row as u32 * DOT);
            }
        }
    }
}

fn square(sheet: &mut RgbImage, x: u32, y: u32) {
    for (dx, dy) in (0..DOT).flat_map(|dx| (0..DOT).map(move |dy| (dx, dy))) {
        if let Some(pixel) = sheet.get_pixel_mut_checked(x + dx, y + dy) {
            *pixel = INK;
        }
    }
}

/// Labels need thirteen glyphs: not worth a font file and its licence.
fn glyph(character: char) -> [u8; 7] {
    match character {
        '0' => [0b01110, 0b10001, 0b10011, 0b10101, 0b11001, 0b10001, 0b01110],
        '1' => [0b00100, 0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110],
        '2' => [0b01110, 0b10001, 0b00001, 0b00110, 0b01000, 0b10000, 0b11111],
        '3' => [0b11111, 0b00010, 0b00100, 0b00010, 0b00001, 0b10001, 0b01110],
        '4' => [0b00010, 0b00110, 0b01010, 0b10010, 0b11111, 0b00010, 0b00010],
        '5' => [0b11111, 0b10000, 0b11110, 0b00001, 0b00001, 0b10001, 0b01110],
        '6' => [0b00110, 0b01000, 0b10000, 0b11110, 0b10001, 0b10001, 0b01110],
        '7' => [0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b01000, 0b01000],
        '8' => [0b01110, 0b10001, 0b10001, 0b01110, 0b10001, 0b10001, 0b01110],
        '9' => [0b01110, 0b10001, 0b10001, 0b01111, 0b00001, 0b00010, 0b01100],
        ':' => [0b00000, 0b00100, 0b00100, 0b00000, 0b00100, 0b00100, 0b00000],
        'x' => [0b00000, 0b00000, 0b10001, 0b01010, 0b00100, 0b01010, 0b10001],
        '.' => [0b00000, 0b00000, 0b00000, 0b00000, 0b00000, 0b01100, 0b01100],
        _ => [0; 7],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_times() {
        let check = |seconds: f64, text: &str| assert_eq!(clock(seconds), text);
        check(0.0, "0:00.000");
        check(1.0016, "0:01.002");
        check(59.9996, "1:00.000");
        check(3723.5, "1:02:03.500");
    }

    #[test]
    fn halve_removes_every_second_frame() {
        let mut sheet = ContactSheet::new(Layout::default());
        for n in 0..5 {
            sheet.add(&Frame::at(f64::from(n), RgbImage::new(8, 8)));
        }
        sheet.halve();
        assert_eq!(sheet.thumbnails.iter().map(|t| t.pts).collect::<Vec<_>>(), [0.0, 2.0, 4.0]);
    }

    #[test]
    fn lays_out_a_grid() {
        let frames: Vec<Frame> =
            (0..5).map(|i| Frame::at(f64::from(i), RgbImage::new(320 + i, 180))).collect();
        let draw = |frames: &[Frame], layout| {
            let mut sheet = ContactSheet::new(layout);
            frames.iter().for_each(|frame| sheet.add(frame));
            sheet.draw()
        };
        let sheet = draw(&frames, Layout { columns: Some(3), thumbnail: 160, gap: 4 });
        assert_eq!(sheet.dimensions(), (3 * 164 + 4, 2 * (90 + LABEL + 4) + 4));
        assert_eq!(draw(&[], Layout::default()).height(), 1 + LABEL + 16);
        let tall = Frame::at(7200.0, RgbImage::new(20, 400));
        assert!(draw(&[tall], Layout::default()).width() >= label_width(LONGEST_TIME));
    }
}
