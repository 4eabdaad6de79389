//! The frame of a scene: places that do not overlap, background and light.

use rand::RngExt;

use super::random::{Stream, between, one_of};
use super::scene::{Axis, Background, Colour, Light, Motion, Pattern, Pose};

/// Aspect ratios of videos, width and height.
const SHAPES: [(u32, u32); 5] = [(1, 1), (4, 3), (3, 4), (16, 9), (9, 16)];
/// Least distance that a moving sprite travels between the first and the last frame, as a fraction of the
/// axis.
pub const TRAVEL: f64 = 0.38;
/// Distance between a sprite and the border, as a fraction of the axis.
const BORDER: f64 = 0.02;
/// Width of a tilted square relative to its side.
const TILTED: f64 = 1.1;
/// Width of a rotating square relative to its side.
const ROTATING: f64 = 1.25;

/// Frame in which sprites are placed.
#[derive(Debug, Clone, Copy)]
pub struct Stage {
    /// Width in pixels, even as most video formats require.
    pub width: u32,
    /// Height in pixels, even.
    pub height: u32,
    /// Length of the clip.
    pub seconds: usize,
}

impl Stage {
    /// Draws a frame size with a longer side in the given range.
    pub fn new(rng: &mut Stream, long_side: (u32, u32), seconds: usize) -> Self {
        let long = rng.random_range(long_side.0..=long_side.1);
        let (a, b) = one_of(rng, &SHAPES);
        let side = |part: u32| (long * part / a.max(b)).max(2) & !1;
        Self { width: side(a), height: side(b), seconds }
    }

    /// The longer axis; either one in a square.
    pub fn longer_axis(&self, rng: &mut Stream) -> Axis {
        match self.width.cmp(&self.height) {
            std::cmp::Ordering::Greater => Axis::Horizontal,
            std::cmp::Ordering::Less => Axis::Vertical,
            std::cmp::Ordering::Equal => one_of(rng, &[Axis::Horizontal, Axis::Vertical]),
        }
    }

    /// Length of an axis in units of the shorter side, at least 1.
    pub fn length(&self, axis: Axis) -> f64 {
        let shorter = f64::from(self.width.min(self.height));
        let length = match axis {
            Axis::Horizontal => self.width,
            Axis::Vertical => self.height,
        };
        f64::from(length) / shorter
    }

    /// Range on an axis for the centre of a sprite of this side that keeps the whole sprite in the frame.
    pub fn room(&self, axis: Axis, side: f64) -> (f64, f64) {
        let half = side / 2.0 / self.length(axis) + BORDER;
        (half.min(0.5), (1.0 - half).max(0.5))
    }

    /// Largest side of a sprite that moves along `axis`.
    pub fn largest_traveller(&self, axis: Axis) -> f64 {
        (1.0 - 2.0 * BORDER - self.travel()) * self.length(axis) / TILTED
    }

    /// Share of an axis that a motion spans, including the half seconds before the first and after the last
    /// frame.
    fn travel(&self) -> f64 {
        let frames = self.seconds as f64;
        TRAVEL * frames / (frames - 1.0).max(1.0)
    }

    /// Draws the first and the last pose of a sprite with this motion, at a random place in the frame.
    pub fn perform(&self, rng: &mut Stream, motion: Motion, side: f64) -> (Pose, Pose) {
        let angle = between(rng, -12.0, 12.0);
        let reach = side * if motion == Motion::Turning { ROTATING } else { TILTED };
        let [across, down] = [Axis::Horizontal, Axis::Vertical].map(|axis| self.room(axis, reach));
        let x = between(rng, across.0, across.1);
        let y = between(rng, down.0, down.1);
        let mut from = Pose { x, y, side, angle };
        let mut to = from;
        // Each case draws one motion of a pair; the other one is the same played backwards.
        match motion {
            Motion::Left | Motion::Right => (from.x, to.x) = self.interval(rng, across),
            Motion::Up | Motion::Down => (from.y, to.y) = self.interval(rng, down),
            Motion::Growing | Motion::Shrinking => from.side = side * between(rng, 0.25, 0.4),
            Motion::Turning => {
                from.angle = between(rng, 0.0, 360.0);
                let most = 60.0 * self.seconds as f64;
                to.angle =
                    from.angle + one_of(rng, &[-1.0, 1.0]) * between(rng, most.min(150.0), most.min(300.0));
            }
            Motion::Still => {}
        }
        let backwards = matches!(motion, Motion::Left | Motion::Up | Motion::Shrinking);
        if backwards { (to, from) } else { (from, to) }
    }

    /// Draws a part of `room` that is long enough for a visible motion.
    fn interval(&self, rng: &mut Stream, room: (f64, f64)) -> (f64, f64) {
        let whole = room.1 - room.0;
        let length = between(rng, self.travel().min(whole), whole);
        let low = between(rng, room.0, room.1 - length);
        (low, low + length)
    }

    /// Draws `count` places with squares that do not overlap, and the side of the squares: `side`, or less
    /// until they fit.
    pub fn scatter(&self, rng: &mut Stream, count: usize, side: f64) -> (Vec<(f64, f64)>, f64) {
        let mut side = side;
        loop {
            for _ in 0..20 {
                if let Some(places) = self.try_scatter(rng, count, side) {
                    return (places, side);
                }
            }
            side *= 0.94;
        }
    }

    fn try_scatter(&self, rng: &mut Stream, count: usize, side: f64) -> Option<Vec<(f64, f64)>> {
        let [across, down] = [Axis::Horizontal, Axis::Vertical].map(|axis| self.room(axis, side * TILTED));
        let mut places: Vec<(f64, f64)> = Vec::new();
        for _ in 0..count {
            let place = (between(rng, across.0, across.1), between(rng, down.0, down.1));
            let apart = |other: &(f64, f64)| {
                (place.0 - other.0).abs() * self.length(Axis::Horizontal) >= side * 1.15
                    || (place.1 - other.1).abs() * self.length(Axis::Vertical) >= side * 1.15
            };
            places.iter().all(apart).then(|| places.push(place))?;
        }
        Some(places)
    }
}

/// Draws a muted background with colours that differ from those of the sprites.
pub fn background(rng: &mut Stream, sprites: &[Colour]) -> Background {
    let mut best = (f32::MIN, [0.0; 3]);
    for _ in 0..16 {
        let colour = muted(rng);
        let nearest = sprites.iter().map(|sprite| distance(*sprite, colour)).fold(f32::MAX, f32::min);
        if nearest > best.0 {
            best = (nearest, colour);
        }
        if nearest > 110.0 {
            break;
        }
    }
    let base = best.1;
    // The second colour differs by the same step in every channel and a small random shift.
    let step = one_of(rng, &[-1.0, 1.0]) * between(rng, 10.0, 28.0) as f32;
    let second = [0, 1, 2].map(|c| (base[c] + step + between(rng, -8.0, 8.0) as f32).clamp(0.0, 255.0));
    Background { colours: [base, second], pattern: pattern(rng) }
}

fn pattern(rng: &mut Stream) -> Pattern {
    let angle = between(rng, 0.0, std::f64::consts::TAU) as f32;
    match rng.random_range(0..5) {
        0 => Pattern::Plain,
        1 => Pattern::Gradient { angle },
        2 => Pattern::Stripes { angle, period: between(rng, 0.08, 0.3) as f32 },
        3 => Pattern::Checks { side: between(rng, 0.06, 0.2) as f32 },
        _ => {
            let disc = |rng: &mut Stream| {
                [(0.0, 1.0), (0.0, 1.0), (0.15, 0.5)].map(|(a, b)| between(rng, a, b) as f32)
            };
            let count = rng.random_range(3..8);
            Pattern::Blobs { discs: (0..count).map(|_| disc(rng)).collect() }
        }
    }
}

/// Draws a colour of low saturation, light or dark, because most drawings are in between.
fn muted(rng: &mut Stream) -> Colour {
    let grey = if rng.random_bool(0.7) { between(rng, 165.0, 240.0) } else { between(rng, 30.0, 90.0) };
    [0; 3].map(|_| (grey + between(rng, -28.0, 28.0)).clamp(0.0, 255.0) as f32)
}

fn distance(a: Colour, b: Colour) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
}

/// Draws the light of a scene.
pub fn light(rng: &mut Stream) -> Light {
    Light {
        brightness: between(rng, -14.0, 14.0) as f32,
        contrast: between(rng, 0.85, 1.12) as f32,
        tint: [0; 3].map(|_| between(rng, 0.96, 1.04) as f32),
        noise: between(rng, 0.0, 7.0) as f32,
        noise_seed: rng.random(),
        blur: 0.0,
    }
}
