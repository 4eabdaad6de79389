//! Pictures of several tiles, as Llama 3.2 Vision takes them: the picture is resized into a canvas of square tiles.
//!
//! Source: `image_processing_mllama.py` of transformers 4.49.0. All choices are made in f64, because equal scales are found by
//! exact comparison.

use std::cmp::Ordering;

use image::{RgbImage, imageops};

use super::resize::bilinear;

/// Grid of the tiles of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TileGrid {
    /// Tiles from top to bottom.
    pub rows: u32,
    /// Tiles from left to right.
    pub columns: u32,
}

impl TileGrid {
    /// Returns all grids of at most `slots` tiles, in the order of their [`id`](Self::id).
    pub fn all(slots: u32) -> impl Iterator<Item = Self> {
        (1..=slots).flat_map(move |rows| (1..=slots / rows).map(move |columns| Self { rows, columns }))
    }

    /// Returns the number of tiles.
    pub fn tiles(self) -> usize {
        self.rows as usize * self.columns as usize
    }

    /// Returns the number of the grid among those of at most `slots` tiles, counted from 1 (0 means: no picture). `None` if the
    /// grid has more tiles.
    pub fn id(self, slots: u32) -> Option<u32> {
        Self::all(slots).zip(1..).find(|(grid, _)| *grid == self).map(|(_, id)| id)
    }

    /// Chooses the grid for a picture of `width` x `height` pixels: the canvas into which the picture grows least, else the one
    /// into which it shrinks least, else the smallest.
    pub fn choose(width: u32, height: u32, side: u32, slots: u32) -> Self {
        let scale = |grid: &Self| {
            let (canvas_width, canvas_height) = grid.canvas(side);
            let vertical = f64::from(canvas_height) / f64::from(height);
            (f64::from(canvas_width) / f64::from(width)).min(vertical)
        };
        let by_scale = |a: f64, b: f64| match (a >= 1.0, b >= 1.0) {
            (true, true) => a.total_cmp(&b),
            (false, false) => b.total_cmp(&a),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        };
        let better = |a: &Self, b: &Self| by_scale(scale(a), scale(b)).then(a.tiles().cmp(&b.tiles()));
        Self::all(slots.max(1)).min_by(better).expect("there is the grid of one tile")
    }

    /// Returns the width and height in pixels of the canvas.
    pub fn canvas(self, side: u32) -> (u32, u32) {
        (self.columns * side, self.rows * side)
    }

    /// Returns the width and height to which a picture of `width` x `height` pixels is resized: a small picture grows until one
    /// side reaches `side`, a large one shrinks into the canvas.
    pub fn fit(self, width: u32, height: u32, side: u32) -> (u32, u32) {
        let (canvas_width, canvas_height) = self.canvas(side);
        let (to_width, to_height) = (width.clamp(side, canvas_width), height.clamp(side, canvas_height));
        let horizontal = f64::from(to_width) / f64::from(width);
        let vertical = f64::from(to_height) / f64::from(height);
        let scaled = |length: u32, scale: f64, most: u32| ((f64::from(length) * scale) as u32).clamp(1, most);
        match horizontal < vertical {
            true => (to_width, scaled(height, horizontal, to_height)),
            false => (scaled(width, vertical, to_width), to_height),
        }
    }
}

/// Resizes a picture (bilinear, bit-equal to Pillow) into the canvas that fits it. The canvas is black right of the picture
/// and below it; its size is a multiple of `side` in both directions.
pub fn on_canvas(image: &RgbImage, side: u32, slots: u32) -> RgbImage {
    let (width, height) = image.dimensions();
    let grid = TileGrid::choose(width, height, side, slots);
    let (to_width, to_height) = grid.fit(width, height, side);
    let resized = bilinear(image, to_width, to_height);
    let (canvas_width, canvas_height) = grid.canvas(side);
    let mut canvas = RgbImage::new(canvas_width, canvas_height);
    imageops::replace(&mut canvas, &resized, 0, 0);
    canvas
}

/// Returns the grid of a canvas of [`on_canvas`]; `None` if its sides are no multiples of `side`.
pub fn grid_of(canvas: &RgbImage, side: u32) -> Option<TileGrid> {
    let (width, height) = canvas.dimensions();
    let whole = width > 0 && height > 0 && width.is_multiple_of(side) && height.is_multiple_of(side);
    whole.then(|| TileGrid { rows: height / side, columns: width / side })
}

/// Draws canvases of [`on_canvas`] into one canvas, in rows from the top left. The cells align with the tiles: one tile each for
/// up to 4 canvases where there are 4 slots, else a quarter of a tile each.
pub fn sheet(frames: &[&RgbImage], side: u32, slots: u32) -> RgbImage {
    let n = frames.len().max(1) as u32;
    let (cell, columns) = match (n, slots >= 4) {
        (1, _) => (side, 1),
        (2..=4, true) => (side, 2),
        (_, true) => ((side / 2).max(1), 4),
        (_, false) => ((side / 4).max(1), 4),
    };
    let rows = n.div_ceil(columns).min(4);
    let (width, height) = (columns * cell, (rows * cell).div_ceil(side) * side);
    let mut sheet = RgbImage::new(width.div_ceil(side) * side, height);
    for (frame, i) in frames.iter().zip(0..rows * columns) {
        let (width, height) = frame.dimensions();
        let scale = (f64::from(cell) / f64::from(width)).min(f64::from(cell) / f64::from(height));
        let scaled = |length: u32| ((f64::from(length) * scale) as u32).clamp(1, cell);
        let (x, y) = (i % columns * cell, i / columns * cell);
        imageops::replace(&mut sheet, &bilinear(frame, scaled(width), scaled(height)), x.into(), y.into());
    }
    sheet
}
