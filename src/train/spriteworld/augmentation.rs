//! Augmentation of training clips: changed drawings, backgrounds and sharpness. It keeps every caption true, and teaches the
//! model to recognise drawings that were not in the training.

use rand::RngExt;
use resvg::tiny_skia::{Pixmap, PremultipliedColorU8, Transform};

use super::random::{Stream, between, one_of};
use super::scene::{Augmentation, Colour, Pattern, Scene};

impl Augmentation {
    fn new(rng: &mut Stream) -> Self {
        let outline = rng.random_bool(0.35).then(|| {
            let (low, high) = one_of(rng, &[(0.0, 60.0), (215.0, 255.0)]);
            (between(rng, 0.015, 0.05) as f32, [between(rng, low, high) as f32; 3])
        });
        let cut = rng
            .random_bool(0.25)
            .then(|| (between(rng, 0.18, 0.4) as f32, between(rng, 0.0, std::f64::consts::TAU) as f32));
        let stretch = [between(rng, 0.78, 1.0) as f32, between(rng, 0.78, 1.0) as f32];
        Self { colours: colours(rng), stretch, shear: between(rng, -0.18, 0.18) as f32, outline, cut }
    }

    /// Place of the drawing's square within the sprite's square, both of `side` pixels with the centre at 0.
    pub(super) fn transform(&self) -> Transform {
        let [x, y] = self.stretch;
        Transform::from_row(x, 0.0, self.shear * y, y, 0.0, 0.0)
    }

    /// Changes the colours of a drawing and hides a part of it.
    pub(super) fn applied(&self, drawing: &Pixmap) -> Pixmap {
        let mut changed = drawing.clone();
        let side = drawing.width();
        let direction = self.cut.map(|(distance, angle)| (distance, angle.sin_cos()));
        for (i, pixel) in changed.pixels_mut().iter_mut().enumerate() {
            let [x, y] = [i as u32 % side, i as u32 / side].map(|v| (v as f32 + 0.5) / side as f32 - 0.5);
            *pixel = match direction {
                Some((distance, (sin, cos))) if x * cos + y * sin > distance => {
                    PremultipliedColorU8::TRANSPARENT
                }
                _ => self.recoloured(*pixel),
            };
        }
        changed
    }

    fn recoloured(&self, pixel: PremultipliedColorU8) -> PremultipliedColorU8 {
        let alpha = pixel.alpha();
        let colour = [pixel.red(), pixel.green(), pixel.blue()].map(f32::from);
        let [red, green, blue] = self.colours.map(|row| {
            let value: f32 = row.iter().zip(colour).map(|(a, b)| a * b).sum();
            value.clamp(0.0, f32::from(alpha)) as u8
        });
        PremultipliedColorU8::from_rgba(red, green, blue, alpha).expect("no channel is above alpha")
    }
}

/// Fills a drawing with one colour.
pub(super) fn silhouette(drawing: &Pixmap, colour: Colour) -> Pixmap {
    let mut filled = drawing.clone();
    for pixel in filled.pixels_mut() {
        let alpha = pixel.alpha();
        let [red, green, blue] = colour.map(|c| (c * f32::from(alpha) / 255.0) as u8);
        *pixel = PremultipliedColorU8::from_rgba(red, green, blue, alpha).expect("no channel is above alpha");
    }
    filled
}

/// Changes a `share` of the drawings, backgrounds and sharpnesses of a scene.
pub(super) fn augment(scene: &mut Scene, share: f64, rng: &mut Stream) {
    for sprite in &mut scene.sprites {
        sprite.augmentation = rng.random_bool(share).then(|| Augmentation::new(rng));
    }
    if rng.random_bool(share) {
        let wave = |rng: &mut Stream| {
            [(2.0, 16.0), (-3.2, 3.2), (0.0, 6.3), (0.3, 1.0)].map(|(a, b)| between(rng, a, b) as f32)
        };
        scene.background.pattern = Pattern::Waves { waves: (0..3).map(|_| wave(rng)).collect() };
        let stronger = between(rng, 20.0, 70.0) as f32;
        let [base, second] = &mut scene.background.colours;
        *second = [0, 1, 2].map(|c| {
            let step = stronger * if rng.random_bool(0.5) { 1.0 } else { -1.0 };
            (base[c] + step).clamp(0.0, 255.0)
        });
    }
    if rng.random_bool(share / 2.0) {
        let relative = between(rng, 0.002, 0.012);
        scene.light.blur = (relative * scene.shorter_side()) as f32;
    }
}

/// Draws a rotation of the hue, a saturation and a brightness as one matrix.
fn colours(rng: &mut Stream) -> [[f32; 3]; 3] {
    let largest = if rng.random_bool(0.3) { std::f64::consts::PI } else { 0.45 };
    let (sin, cos) = between(rng, -largest, largest).sin_cos();
    let saturation = if rng.random_bool(0.12) { 0.0 } else { between(rng, 0.4, 1.4) };
    let gain = between(rng, 0.65, 1.3);
    // The rotation about the grey axis (1, 1, 1) by Rodrigues' formula; saturation scales what is off that axis.
    let root = 1.0 / 3f64.sqrt();
    let cross = [[0.0, -root, root], [root, 0.0, -root], [-root, root, 0.0]];
    std::array::from_fn(|i| {
        std::array::from_fn(|j| {
            let on_axis = 1.0 / 3.0;
            let off_axis = f64::from(u8::from(i == j)) - on_axis;
            (gain * (on_axis + saturation * (cos * off_axis + sin * cross[i][j]))) as f32
        })
    })
}
