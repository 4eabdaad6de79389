//! Icon sets: Iconify JSON -> drawings, rasterised once at first use.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rayon::prelude::*;
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg;
use serde::Deserialize;

use super::concepts::WorldError;

/// Raster sides of a drawing in pixels, largest first. Bilinear sampling skips pixels if the raster is more
/// than twice as large as the sprite.
const SIDES: [u32; 4] = [256, 128, 64, 32];

/// The used part of Iconify JSON: `icons.<name>.body` is SVG without the outer element.
#[derive(Deserialize)]
struct IconifyFile {
    icons: BTreeMap<String, IconifyIcon>,
    #[serde(default = "iconify_side")]
    width: f64,
    #[serde(default = "iconify_side")]
    height: f64,
}

#[derive(Deserialize)]
struct IconifyIcon {
    body: String,
    width: Option<f64>,
    height: Option<f64>,
}

/// Default size of Iconify for sets and icons without a size.
fn iconify_side() -> f64 {
    16.0
}

/// Icon set read from a file.
pub struct IconFile {
    path: PathBuf,
    file: IconifyFile,
}

impl IconFile {
    /// Reads a file of Iconify JSON.
    ///
    /// # Errors
    /// The file cannot be read or is not Iconify JSON.
    pub fn read(path: &Path) -> Result<Self, WorldError> {
        let bytes = std::fs::read(path)
            .map_err(|source| WorldError::Unreadable { path: path.to_path_buf(), source })?;
        let file = serde_json::from_slice(&bytes)
            .map_err(|e| WorldError::NotIconify { path: path.to_path_buf(), reason: e.to_string() })?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Names of all icons.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.file.icons.keys().map(String::as_str)
    }

    /// Whether the set has an icon of this name.
    pub fn has(&self, concept: &str) -> bool {
        self.file.icons.contains_key(concept)
    }

    /// Parses the drawings of `concepts`, in their order; `None` for a concept that this set lacks.
    ///
    /// # Errors
    /// A drawing is not valid SVG, or is empty.
    pub fn drawings(&self, concepts: &[String]) -> Result<Vec<Option<Drawing>>, WorldError> {
        let drawing = |concept: &String| match self.file.icons.get(concept) {
            Some(icon) => self.drawing(concept, icon).map(Some),
            None => Ok(None),
        };
        concepts.par_iter().map(drawing).collect()
    }

    fn drawing(&self, concept: &str, icon: &IconifyIcon) -> Result<Drawing, WorldError> {
        let (width, height) =
            (icon.width.unwrap_or(self.file.width), icon.height.unwrap_or(self.file.height));
        let svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" xmlns:xlink=\"http://www.w3.org/1999/xlink\" \
             viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">{}</svg>",
            icon.body
        );
        let bad = |reason: String| WorldError::BadDrawing {
            path: self.path.clone(),
            concept: concept.to_string(),
            reason,
        };
        let tree = usvg::Tree::from_str(&svg, &usvg::Options::default()).map_err(|e| bad(e.to_string()))?;
        if !draws(tree.root()) {
            return Err(bad("it draws nothing".into()));
        }
        Ok(Drawing { tree, raster: OnceLock::new() })
    }
}

/// Whether the group contains a node that is not a group.
fn draws(group: &usvg::Group) -> bool {
    group.children().iter().any(|node| match node {
        usvg::Node::Group(group) => draws(group),
        _ => true,
    })
}

/// Drawing of one concept in one style.
pub struct Drawing {
    tree: usvg::Tree,
    raster: OnceLock<Raster>,
}

/// Pixels of a drawing.
pub struct Raster {
    /// Square premultiplied pixmaps, one for each of `SIDES`.
    sizes: Vec<Pixmap>,
    /// Mean red, green and blue of the drawn pixels, 0 to 255.
    pub colour: [f32; 3],
}

impl Drawing {
    /// Returns the pixels; the first call rasterises the drawing.
    pub fn raster(&self) -> &Raster {
        self.raster.get_or_init(|| Raster::of(&self.tree))
    }
}

impl Raster {
    fn of(tree: &usvg::Tree) -> Self {
        let ink = ink(tree);
        let sizes: Vec<Pixmap> = SIDES.iter().map(|side| draw(tree, ink, *side)).collect();
        let colour = mean_colour(&sizes[2]);
        Self { sizes, colour }
    }

    /// Returns the smallest raster of at least `side` pixels, or the largest one.
    pub fn for_side(&self, side: f32) -> &Pixmap {
        let enough = self.sizes.iter().rev().find(|pixmap| pixmap.width() as f32 >= side);
        enough.unwrap_or(&self.sizes[0])
    }
}

/// Bounding square of the drawn pixels: (left, top, side) in units of the drawing. Icon sets have different
/// margins, and some drawings use only a strip of their square. The side of a sprite is that of its drawn
/// pixels.
fn ink(tree: &usvg::Tree) -> (f32, f32, f32) {
    let size = tree.size();
    let whole = size.width().max(size.height());
    let probe = draw(tree, ((size.width() - whole) / 2.0, (size.height() - whole) / 2.0, whole), SIDES[1]);
    let n = probe.width() as usize;
    let drawn = |i: usize| probe.pixels()[i].alpha() > 16;
    let (mut left, mut top, mut right, mut bottom) = (n, n, 0, 0);
    for i in (0..n * n).filter(|i| drawn(*i)) {
        (left, right) = (left.min(i % n), right.max(i % n + 1));
        (top, bottom) = (top.min(i / n), bottom.max(i / n + 1));
    }
    if left >= right {
        return ((size.width() - whole) / 2.0, (size.height() - whole) / 2.0, whole);
    }
    let unit = whole / n as f32;
    let side = (right - left).max(bottom - top) as f32 * unit;
    let x = (left + right) as f32 / 2.0 * unit + (size.width() - whole) / 2.0;
    let y = (top + bottom) as f32 / 2.0 * unit + (size.height() - whole) / 2.0;
    (x - side / 2.0, y - side / 2.0, side)
}

/// Rasterises the square (left, top, side) of the drawing to `pixels` x `pixels`.
fn draw(tree: &usvg::Tree, (left, top, side): (f32, f32, f32), pixels: u32) -> Pixmap {
    let mut pixmap = Pixmap::new(pixels, pixels).expect("the side is not zero");
    let scale = pixels as f32 / side;
    let place = Transform::from_scale(scale, scale).pre_translate(-left, -top);
    resvg::render(tree, place, &mut pixmap.as_mut());
    pixmap
}

fn mean_colour(pixmap: &Pixmap) -> [f32; 3] {
    let mut sum = [0f32; 4];
    for p in pixmap.pixels() {
        for (s, v) in sum.iter_mut().zip([p.red(), p.green(), p.blue(), p.alpha()]) {
            *s += f32::from(v);
        }
    }
    // The values are premultiplied, so the sum of a colour over the sum of alpha is the mean of the drawn
    // pixels.
    [0, 1, 2].map(|c| sum[c] / sum[3].max(1.0) * 255.0)
}
