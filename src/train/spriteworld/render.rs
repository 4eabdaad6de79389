//! Rendering: a scene at one moment -> pixels.

use image::RgbImage;
use rand::{Rng, SeedableRng};
use resvg::tiny_skia::{FilterQuality, Pixmap, PixmapPaint, PremultipliedColorU8, Transform};

use super::augmentation::silhouette;
use super::random::Stream;
use super::scene::{Background, Colour, Drawings, Light, Pattern, Pose, Scene, Sprite};

/// Copies of a silhouette that form an outline.
const OUTLINE_STEPS: u32 = 8;

/// Draws frames of one scene. The constant background is painted once.
pub struct Renderer<'a> {
    drawings: &'a Drawings,
    scene: &'a Scene,
    background: Pixmap,
    /// Maps `[channel][value]` to the value under the light of the scene.
    light: [[u8; 256]; 3],
}

impl<'a> Renderer<'a> {
    /// Paints the background of a scene.
    pub fn new(drawings: &'a Drawings, scene: &'a Scene) -> Self {
        Self { drawings, scene, background: paint(scene), light: light_table(&scene.light) }
    }

    /// Draws the frame of one moment, in seconds.
    pub fn frame_at(&self, seconds: f64) -> RgbImage {
        let mut canvas = self.background.clone();
        for (sprite, pose) in self.scene.visible_at(seconds) {
            self.draw(&mut canvas, sprite, &pose);
        }
        self.apply_light(&canvas, seconds)
    }

    fn draw(&self, canvas: &mut Pixmap, sprite: &Sprite, pose: &Pose) {
        let Some(drawing) = &self.drawings[sprite.style][sprite.concept] else { return };
        let side = (pose.side * self.scene.shorter_side()) as f32;
        let pixmap = drawing.raster().for_side(side);
        let paint = PixmapPaint { quality: FilterQuality::Bilinear, ..PixmapPaint::default() };
        let place = self.place(sprite, pose, side, pixmap.width());
        let Some(augmentation) = &sprite.augmentation else {
            canvas.draw_pixmap(0, 0, pixmap.as_ref(), &paint, place, None);
            return;
        };
        let changed = augmentation.applied(pixmap);
        if let Some((width, colour)) = augmentation.outline {
            let outline = silhouette(&changed, colour);
            for step in 0..OUTLINE_STEPS {
                let (sin, cos) = (step as f32 / OUTLINE_STEPS as f32 * std::f32::consts::TAU).sin_cos();
                let shifted = place.post_translate(cos * width * side, sin * width * side);
                canvas.draw_pixmap(0, 0, outline.as_ref(), &paint, shifted, None);
            }
        }
        canvas.draw_pixmap(0, 0, changed.as_ref(), &paint, place, None);
    }

    /// Maps the `pixels` x `pixels` of a drawing to the frame.
    fn place(&self, sprite: &Sprite, pose: &Pose, side: f32, pixels: u32) -> Transform {
        let scale = side / pixels as f32;
        let half = pixels as f32 / 2.0;
        let x = (pose.x * f64::from(self.scene.width)) as f32;
        let y = (pose.y * f64::from(self.scene.height)) as f32;
        let augmentation = sprite.augmentation.map_or(Transform::identity(), |change| change.transform());
        Transform::from_translate(x, y)
            .pre_rotate(pose.angle as f32)
            .pre_scale(if sprite.mirrored { -scale } else { scale }, scale)
            .pre_concat(augmentation)
            .pre_translate(-half, -half)
    }

    /// Applies the light and the noise to an opaque canvas. The noise differs between frames and is the same
    /// each time a frame is drawn.
    fn apply_light(&self, canvas: &Pixmap, seconds: f64) -> RgbImage {
        let noise = self.scene.light.noise;
        let mut rng = Stream::seed_from_u64(self.scene.light.noise_seed ^ seconds.to_bits());
        let mut bytes = Vec::with_capacity(canvas.pixels().len() * 3);
        // One random number gives a byte to each of eight pixels: grey noise in steps of 1/128 of its largest
        // value.
        let amplitude = (noise * 2.0) as i32;
        for eight in canvas.pixels().chunks(8) {
            let draw = rng.next_u64().to_le_bytes();
            for (pixel, random) in eight.iter().zip(draw) {
                let grain = ((i32::from(random) - 128) * amplitude) >> 8;
                for (table, value) in self.light.iter().zip([pixel.red(), pixel.green(), pixel.blue()]) {
                    bytes.push((i32::from(table[usize::from(value)]) + grain).clamp(0, 255) as u8);
                }
            }
        }
        let frame = RgbImage::from_raw(canvas.width(), canvas.height(), bytes)
            .expect("three bytes were written for every pixel");
        match self.scene.light.blur {
            0.0 => frame,
            deviation => image::imageops::fast_blur(&frame, deviation),
        }
    }
}

fn light_table(light: &Light) -> [[u8; 256]; 3] {
    light.tint.map(|tint| {
        std::array::from_fn(|value| {
            let contrasted = (value as f32 - 128.0) * light.contrast + 128.0;
            (contrasted * tint + light.brightness).round().clamp(0.0, 255.0) as u8
        })
    })
}

fn paint(scene: &Scene) -> Pixmap {
    let Background { colours: [first, second], pattern } = &scene.background;
    let mut pixmap = Pixmap::new(scene.width, scene.height).expect("a scene has pixels");
    let (width, height) = (scene.width as f32, scene.height as f32);
    let shorter = width.min(height);
    for (i, pixel) in pixmap.pixels_mut().iter_mut().enumerate() {
        let (x, y) = ((i as u32 % scene.width) as f32 + 0.5, (i as u32 / scene.width) as f32 + 0.5);
        let part = second_colour(pattern, [x, y], [width, height], shorter);
        *pixel = opaque(first, second, part);
    }
    pixmap
}

/// Share of the second colour in a pixel, 0 to 1.
fn second_colour(pattern: &Pattern, [x, y]: [f32; 2], [width, height]: [f32; 2], shorter: f32) -> f32 {
    match pattern {
        Pattern::Plain => 0.0,
        Pattern::Gradient { angle } => {
            let (sin, cos) = angle.sin_cos();
            (((x / width - 0.5) * cos + (y / height - 0.5) * sin) + 0.5).clamp(0.0, 1.0)
        }
        Pattern::Stripes { angle, period } => {
            let (sin, cos) = angle.sin_cos();
            let along = (x * cos + y * sin) / (shorter * period);
            // The edge of a stripe is one or two pixels soft.
            (((along * std::f32::consts::TAU).sin() * shorter * period / 6.0) + 0.5).clamp(0.0, 1.0)
        }
        Pattern::Checks { side } => {
            let cell = shorter * side;
            (((x / cell) as u32 + (y / cell) as u32) % 2) as f32
        }
        Pattern::Blobs { discs } => {
            let soft = |[cx, cy, radius]: &[f32; 3]| {
                let (dx, dy) = ((x - cx * width) / shorter, (y - cy * height) / shorter);
                (1.0 - (dx * dx + dy * dy) / (radius * radius)).max(0.0)
            };
            discs.iter().map(soft).sum::<f32>().min(1.0)
        }
        Pattern::Waves { waves } => {
            let value = |[frequency, angle, phase, amplitude]: &[f32; 4]| {
                let (sin, cos) = angle.sin_cos();
                amplitude * ((x / width * cos + y / height * sin) * frequency + phase).sin()
            };
            (0.5 + waves.iter().map(value).sum::<f32>() / 3.0).clamp(0.0, 1.0)
        }
    }
}

fn opaque(first: &Colour, second: &Colour, part: f32) -> PremultipliedColorU8 {
    let [r, g, b] = [0, 1, 2].map(|c| (first[c] + (second[c] - first[c]) * part).round() as u8);
    PremultipliedColorU8::from_rgba(r, g, b, 255).expect("no channel is above an alpha of 255")
}
