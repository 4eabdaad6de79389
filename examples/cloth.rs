//! Draws pictures of woven cloth, sound or with a defect, for a few-shot classification: `cloth DIR [SEED]`.
//!
//! `DIR/support/LABEL/*.png` are 32 labelled pictures, `DIR/queries/LABEL/*.png` 200 others. The labels are `sound` and `defect`;
//! a defect is a hole, a stain or a pulled thread. All pictures show one cloth, as a camera above a loom does; the seed
//! determines its colour and threads. Light and angle differ a little from picture to picture.

use std::path::Path;

use image::{Rgb, RgbImage};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const SIDE: u32 = 160;
const SUPPORT: usize = 32;
const QUERIES: usize = 200;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: cloth DIR [SEED]")?;
    let seed = arguments.next().map_or(Ok(1), |seed| seed.parse())?;
    let rng = &mut StdRng::seed_from_u64(seed);
    let cloth = Cloth::random(rng);
    for (part, count) in [("support", SUPPORT), ("queries", QUERIES)] {
        for i in 0..count {
            let label = ["sound", "defect"][i % 2];
            let folder = Path::new(&folder).join(part).join(label);
            std::fs::create_dir_all(&folder)?;
            picture(&cloth, rng, label == "defect").save(folder.join(format!("{i:03}.png")))?;
        }
    }
    Ok(())
}

/// A plain weave: threads of two directions that alternately pass over each other.
struct Cloth {
    colour: [f32; 3],
    /// Difference of brightness between the two directions.
    contrast: f32,
    /// Pixels per thread.
    thread: f32,
}

impl Cloth {
    fn random(rng: &mut StdRng) -> Self {
        Self {
            colour: std::array::from_fn(|_| rng.random_range(60.0..210.0)),
            contrast: rng.random_range(0.1..0.3),
            thread: rng.random_range(3.0..6.0),
        }
    }
}

/// A piece of the cloth under the camera.
struct Piece<'a> {
    cloth: &'a Cloth,
    angle: f32,
    /// Change of the light from the left to the right, and from the top to the bottom.
    light: (f32, f32),
    /// Brightness of each thread, of both directions.
    threads: [Vec<f32>; 2],
}

enum Defect {
    Hole {
        x: f32,
        y: f32,
        radius: f32,
        stretch: f32,
    },
    Stain {
        x: f32,
        y: f32,
        radius: f32,
        tint: [f32; 3],
    },
    /// A thread of one direction that lies on top of the others and shines.
    PulledThread {
        direction: usize,
        thread: usize,
        from: f32,
        to: f32,
    },
}

fn picture(cloth: &Cloth, rng: &mut StdRng, defective: bool) -> RgbImage {
    let mut brightness = || (0..128).map(|_| 1.0 + rng.random_range(-0.06..0.06)).collect();
    let threads = [brightness(), brightness()];
    let piece = Piece {
        cloth,
        angle: rng.random_range(-0.05..0.05),
        light: (rng.random_range(-0.1..0.1), rng.random_range(-0.1..0.1)),
        threads,
    };
    let defect = defective.then(|| Defect::random(rng));
    let mut picture = RgbImage::new(SIDE, SIDE);
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        let noise = rng.random_range(-4.0..4.0);
        let colour = piece.at(x as f32, y as f32, defect.as_ref());
        *pixel = Rgb(colour.map(|value| (value + noise).clamp(0.0, 255.0) as u8));
    }
    picture
}

impl Piece<'_> {
    fn at(&self, x: f32, y: f32, defect: Option<&Defect>) -> [f32; 3] {
        let (sin, cos) = self.angle.sin_cos();
        let side = SIDE as f32;
        let (u, v) = (x * cos + y * sin + side, y * cos - x * sin + side);
        let Cloth { colour, contrast, thread } = *self.cloth;
        let place = [u / thread, v / thread];
        let index = place.map(|p| p.max(0.0) as usize);
        let on_top = (index[0] + index[1]) % 2;
        // A thread is brightest in its middle, and lower where it goes under another.
        let across = (place[on_top].fract() - 0.5) * 2.0;
        let relief = 1.0 - 0.35 * across * across;
        let direction = if on_top == 0 { 1.0 + contrast / 2.0 } else { 1.0 - contrast / 2.0 };
        let light = 1.0 + self.light.0 * (x / side - 0.5) + self.light.1 * (y / side - 0.5);
        let threads = &self.threads[on_top];
        let mut brightness = relief * direction * light * threads[index[on_top] % threads.len()];
        let mut colour = colour;
        match defect {
            Some(Defect::Hole { x: cx, y: cy, radius, stretch }) => {
                let distance = ((x - cx).powi(2) + ((y - cy) * stretch).powi(2)).sqrt() / radius;
                // The edge frays: threads end at different places.
                let frayed = distance + 0.25 * (threads[index[on_top] % threads.len()] - 1.0) * 10.0;
                if frayed < 1.0 {
                    brightness *= 0.15;
                }
            }
            Some(Defect::Stain { x: cx, y: cy, radius, tint }) => {
                let distance = ((x - cx).powi(2) + (y - cy).powi(2)).sqrt() / radius;
                let strength = 0.55 * (1.0 - distance.powi(3)).clamp(0.0, 1.0);
                colour = std::array::from_fn(|i| colour[i] * (1.0 - strength) + tint[i] * strength);
            }
            Some(Defect::PulledThread { direction, thread: pulled, from, to }) => {
                let along = if *direction == 0 { v } else { u };
                let part = (along - side) / side;
                if index[*direction] == *pulled + (side / thread) as usize && (*from..*to).contains(&part) {
                    brightness = 1.55 * light;
                }
            }
            None => {}
        }
        colour.map(|channel| channel * brightness)
    }
}

impl Defect {
    fn random(rng: &mut StdRng) -> Self {
        let side = SIDE as f32;
        let (x, y) = (rng.random_range(0.2..0.8) * side, rng.random_range(0.2..0.8) * side);
        match rng.random_range(0..3) {
            0 => Defect::Hole {
                x,
                y,
                radius: rng.random_range(5.0..14.0),
                stretch: rng.random_range(0.6..1.6),
            },
            1 => {
                let tint = std::array::from_fn(|_| rng.random_range(10.0..90.0));
                Defect::Stain { x, y, radius: rng.random_range(14.0..34.0), tint }
            }
            _ => {
                let from = rng.random_range(0.0..0.4);
                let direction = rng.random_range(0..2);
                let thread = rng.random_range(6..20);
                Defect::PulledThread { direction, thread, from, to: from + rng.random_range(0.3..0.6) }
            }
        }
    }
}
