//! Draws the sample clips of `samples/` and encodes them with the `ffmpeg` program.
//!
//! `cargo run --release --example render_samples [FOLDER]`: every scene is a function from a time to a
//! picture of a few soft-edged shapes. The pictures are not random, so each run draws the same ones.

use std::f32::consts::{PI, TAU};
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use image::{Rgb, RgbImage};

const WIDTH: u32 = 480;
const HEIGHT: u32 = 270;
const GROUND: f32 = 205.0;

type Point = (f32, f32);
type Colour = [u8; 3];

const WHITE: Colour = [250, 250, 248];
const INK: Colour = [42, 36, 48];
const PINK: Colour = [250, 130, 165];
const ROSE: Colour = [232, 90, 135];
const RED: Colour = [214, 50, 52];
const YELLOW: Colour = [252, 208, 66];
const ORANGE: Colour = [245, 148, 50];
const GREEN: Colour = [66, 150, 78];
const BLUE: Colour = [52, 104, 200];
const BROWN: Colour = [120, 80, 52];

struct Clip {
    file: &'static str,
    fps: u32,
    seconds: u32,
    /// Draws the picture at a time, given in seconds and as a share of the clip.
    scene: fn(f32, f32) -> Canvas,
    codec: &'static [&'static str],
}

const H264: &[&str] = &["-c:v", "libx264", "-preset", "veryslow", "-crf", "27", "-movflags", "+faststart"];
const VP9: &[&str] = &["-c:v", "libvpx-vp9", "-crf", "40", "-b:v", "0", "-row-mt", "0", "-threads", "1"];

const CLIPS: &[Clip] = &[
    Clip { file: "flamingo.mp4", fps: 15, seconds: 8, scene: flamingo, codec: H264 },
    Clip { file: "sunset.mp4", fps: 10, seconds: 10, scene: sunset, codec: H264 },
    Clip { file: "sunflower.mp4", fps: 12, seconds: 6, scene: sunflower, codec: H264 },
    Clip { file: "shapes.mp4", fps: 25, seconds: 6, scene: shapes, codec: H264 },
    Clip { file: "fish.webm", fps: 15, seconds: 5, scene: fish, codec: VP9 },
];

fn main() -> ExitCode {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "samples".into());
    for clip in CLIPS {
        let path = Path::new(&folder).join(clip.file);
        if let Err(error) = render(clip, &path) {
            eprintln!("{}: {error}", path.display());
            return ExitCode::FAILURE;
        }
        println!("{}", path.display());
    }
    ExitCode::SUCCESS
}

fn render(clip: &Clip, path: &Path) -> std::io::Result<()> {
    let (size, fps) = (format!("{WIDTH}x{HEIGHT}"), clip.fps.to_string());
    let mut ffmpeg = Command::new("ffmpeg")
        .args([
            "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", &size, "-r", &fps, "-i", "-",
        ])
        .args(["-pix_fmt", "yuv420p", "-fflags", "+bitexact", "-flags:v", "+bitexact"])
        .args(clip.codec)
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()?;
    let mut pipe = ffmpeg.stdin.take().expect("stdin was piped");
    for frame in 0..clip.fps * clip.seconds {
        let time = frame as f32 / clip.fps as f32;
        pipe.write_all((clip.scene)(time, time / clip.seconds as f32).0.as_raw())?;
    }
    drop(pipe);
    if ffmpeg.wait()?.success() {
        Ok(())
    } else {
        Err(std::io::Error::other("ffmpeg failed to encode the clip"))
    }
}

// ---- scenes ----

/// A pink flamingo walks from left to right through shallow water.
fn flamingo(time: f32, share: f32) -> Canvas {
    let mut c = Canvas::gradient([176, 222, 240], [244, 240, 222]);
    c.ellipse((400.0, 50.0), (24.0, 24.0), [255, 236, 150]);
    for (x, y, r) in [(90.0, 52.0, 30.0), (250.0, 78.0, 22.0)] {
        c.cloud((x + time * 3.0, y), r);
    }
    c.ellipse((110.0, GROUND), (190.0, 42.0), [150, 190, 140]);
    c.ellipse((400.0, GROUND), (170.0, 28.0), [132, 176, 132]);
    c.rectangle((0.0, GROUND - 8.0), (480.0, 270.0), [112, 186, 196]);
    for i in 0..9_u8 {
        let (i, row) = (f32::from(i), f32::from(i % 3));
        let x = (i * 97.0 + row * 40.0 + (time + i).sin() * 6.0) % 470.0;
        c.line((x, GROUND + 14.0 + row * 17.0), (x + 26.0, GROUND + 14.0 + row * 17.0), 1.4, [168, 216, 220]);
    }
    c.wading_bird((-70.0 + share * 590.0, 132.0), time);
    c
}

/// The sun sinks into the sea, the sky turns dark, stars appear; a sailing boat crosses from right to left.
fn sunset(time: f32, share: f32) -> Canvas {
    let day = 1.0 - ease(share * 1.15);
    let top = mix([20, 24, 62], [96, 164, 224], day);
    let low = mix([58, 44, 88], [255, 196, 128], day);
    let mut c = Canvas::gradient(top, low);
    for i in 0..24_u16 {
        let shows = ease((share - 0.55 - f32::from(i % 6) * 0.04) * 6.0);
        let (x, y) = (f32::from(i * 131 % 470) + 5.0, f32::from(i * 53 % 140) + 8.0);
        c.ellipse((x, y), (1.8, 1.8), mix(mix(top, low, y / HEIGHT as f32), WHITE, shows));
    }
    c.ellipse((300.0, 60.0 + share * 190.0), (34.0, 34.0), mix([240, 84, 60], [255, 226, 110], day));
    let sea = mix([16, 28, 58], [52, 120, 170], day);
    c.rectangle((0.0, 185.0), (480.0, 270.0), sea);
    for i in 0..8_u8 {
        let i = f32::from(i);
        let x = 300.0 + (time * 2.0 + i * 1.7).sin() * 7.0;
        let half = 26.0 - i * 2.4;
        c.line(
            (x - half, 192.0 + i * 9.0),
            (x + half, 192.0 + i * 9.0),
            1.5,
            mix(sea, [255, 190, 110], day * 0.7),
        );
    }
    let (x, y) = (430.0 - share * 350.0, 206.0 + (time * 2.0).sin() * 1.5);
    c.polygon(
        &[(x - 36.0, y), (x + 36.0, y), (x + 24.0, y + 15.0), (x - 26.0, y + 15.0)],
        mix(INK, BROWN, day),
    );
    c.line((x, y), (x, y - 66.0), 1.6, mix(INK, BROWN, day));
    c.polygon(
        &[(x + 4.0, y - 64.0), (x + 34.0, y - 6.0), (x + 4.0, y - 6.0)],
        mix([120, 116, 140], WHITE, day),
    );
    c.polygon(&[(x - 4.0, y - 56.0), (x - 28.0, y - 6.0), (x - 4.0, y - 6.0)], mix([110, 70, 90], RED, day));
    c
}

/// A sunflower grows out of the ground, opens, and a bee comes from the right.
fn sunflower(time: f32, share: f32) -> Canvas {
    let mut c = Canvas::gradient([150, 206, 246], [226, 242, 250]);
    c.cloud((350.0 - time * 4.0, 50.0), 28.0);
    c.rectangle((0.0, GROUND + 12.0), (480.0, 270.0), [128, 92, 62]);
    c.rectangle((0.0, GROUND + 4.0), (480.0, GROUND + 14.0), GREEN);
    let (grown, open) = (ease(share * 1.7), ease((share - 0.42) * 3.2));
    let (foot, sway) = (GROUND + 8.0, (time * 1.5).sin() * 4.0 * grown);
    let head = (220.0 + sway, foot - 135.0 * grown);
    c.line((220.0, foot), head, 1.0 + 3.0 * grown, GREEN);
    for (side, at) in [(-1.0, 0.35), (1.0, 0.55)] {
        let leaf = ease((grown - at) * 2.5);
        let y = foot - 135.0 * grown * at;
        c.polygon(
            &[
                (220.0, y),
                (220.0 + side * 26.0 * leaf, y - 18.0 * leaf),
                (220.0 + side * 46.0 * leaf, y - 14.0 * leaf),
                (220.0 + side * 28.0 * leaf, y + 2.0),
            ],
            [84, 168, 84],
        );
    }
    if grown > 0.3 {
        for i in 0..16_u8 {
            let angle = TAU * f32::from(i) / 16.0;
            let tip = (head.0 + angle.cos() * 46.0 * open, head.1 + angle.sin() * 46.0 * open);
            c.line(head, tip, 2.0 + 6.0 * open, if i % 2 == 0 { YELLOW } else { ORANGE });
        }
        c.ellipse(head, (7.0 + 16.0 * open, 7.0 + 16.0 * open), mix(GREEN, [96, 60, 34], open));
    }
    c.bee((620.0 - ease(share * 1.1) * 310.0, 70.0 + (time * 4.0).sin() * 10.0), time);
    c
}

/// A red square moves to the left, a blue circle appears and stays, a green triangle grows.
fn shapes(_: f32, share: f32) -> Canvas {
    let mut c = Canvas::gradient(WHITE, [232, 232, 228]);
    if share >= 0.35 {
        c.ellipse((120.0, 75.0), (44.0, 44.0), BLUE);
    }
    let size = 14.0 + 62.0 * share;
    c.polygon(
        &[
            (345.0, 125.0 - size),
            (345.0 + size * 0.9, 125.0 + size * 0.5),
            (345.0 - size * 0.9, 125.0 + size * 0.5),
        ],
        GREEN,
    );
    let x = 390.0 - share * 350.0;
    c.rectangle((x, 180.0), (x + 62.0, 242.0), RED);
    c
}

/// An orange fish swims from right to left under water; bubbles rise.
fn fish(time: f32, share: f32) -> Canvas {
    let mut c = Canvas::gradient([70, 166, 206], [16, 62, 112]);
    c.ellipse((130.0, 292.0), (260.0, 62.0), [204, 184, 134]);
    c.ellipse((420.0, 290.0), (190.0, 50.0), [190, 168, 120]);
    for (i, x) in [52.0, 66.0, 84.0, 402.0, 420.0].into_iter().enumerate() {
        let mut at = (x, 262.0);
        for joint in 1..=7_u8 {
            let bend = (time * 1.6 + f32::from(joint) * 0.6 + i as f32).sin() * 4.0;
            let next = (x + bend, 262.0 - f32::from(joint) * (11.0 + i as f32 * 1.5));
            c.line(at, next, 3.4, if i % 2 == 0 { [40, 120, 84] } else { [60, 146, 92] });
            at = next;
        }
    }
    let (x, y) = (560.0 - share * 560.0, 128.0 + (time * 2.2).sin() * 9.0);
    for i in 0..5_u8 {
        let rise = (time * 0.45 + f32::from(i) * 0.2) % 1.0;
        let wobble = (time * 3.0 + f32::from(i)).sin() * 5.0;
        c.ring(
            (150.0 + f32::from(i % 3) * 14.0 + wobble, 236.0 - rise * 230.0),
            3.0 + f32::from(i),
            [196, 228, 240],
        );
    }
    let wag = (time * 8.0).sin();
    c.polygon(
        &[(x + 44.0, y), (x + 86.0, y - 30.0 + wag * 8.0), (x + 74.0, y), (x + 86.0, y + 30.0 + wag * 8.0)],
        [235, 110, 40],
    );
    c.polygon(&[(x - 12.0, y - 28.0), (x + 16.0, y - 52.0), (x + 36.0, y - 18.0)], [235, 110, 40]);
    c.ellipse((x, y), (58.0, 33.0), ORANGE);
    for stripe in [-12.0, 22.0] {
        c.line((x + stripe, y - 22.0), (x + stripe, y + 22.0), 5.0, WHITE);
    }
    c.polygon(&[(x + 2.0, y + 6.0), (x + 26.0, y + 18.0 + wag * 4.0), (x + 4.0, y + 20.0)], [235, 110, 40]);
    c.ellipse((x - 36.0, y - 8.0), (8.0, 8.0), WHITE);
    c.ellipse((x - 38.0, y - 8.0), (4.0, 4.0), INK);
    c.line((x - 55.0, y + 10.0), (x - 46.0, y + 12.0), 1.2, INK);
    c
}

// ---- drawing ----

struct Canvas(RgbImage);

impl Canvas {
    /// Fills the canvas with a gradient from the top colour to the bottom colour.
    fn gradient(top: Colour, bottom: Colour) -> Self {
        Self(RgbImage::from_fn(WIDTH, HEIGHT, |_, y| Rgb(mix(top, bottom, y as f32 / HEIGHT as f32))))
    }

    /// Paints the pixels inside a shape with a soft edge. `distance` gives the distance of a point to the
    /// shape in pixels, negative inside; only pixels of the given box are tested.
    fn paint(&mut self, (x0, y0): Point, (x1, y1): Point, colour: Colour, distance: impl Fn(Point) -> f32) {
        let range = |from: f32, to: f32, end: u32| {
            (from - 1.0).max(0.0) as u32..((to + 2.0).max(0.0) as u32).min(end)
        };
        for y in range(y0, y1, HEIGHT) {
            for x in range(x0, x1, WIDTH) {
                let cover = (0.5 - distance((x as f32 + 0.5, y as f32 + 0.5))).clamp(0.0, 1.0);
                let pixel = self.0.get_pixel_mut(x, y);
                pixel.0 = mix(pixel.0, colour, cover);
            }
        }
    }

    fn ellipse(&mut self, (x, y): Point, (rx, ry): Point, colour: Colour) {
        self.paint((x - rx, y - ry), (x + rx, y + ry), colour, |p| {
            (((p.0 - x) / rx).hypot((p.1 - y) / ry) - 1.0) * rx.min(ry)
        });
    }

    fn ring(&mut self, (x, y): Point, radius: f32, colour: Colour) {
        self.paint((x - radius, y - radius), (x + radius, y + radius), colour, |p| {
            ((p.0 - x).hypot(p.1 - y) - radius + 1.0).abs() - 0.8
        });
    }

    fn rectangle(&mut self, from: Point, to: Point, colour: Colour) {
        self.polygon(&[from, (to.0, from.1), to, (from.0, to.1)], colour);
    }

    /// Draws a line with round ends, `radius` pixels to each side.
    fn line(&mut self, a: Point, b: Point, radius: f32, colour: Colour) {
        let (low, high) = ((a.0.min(b.0), a.1.min(b.1)), (a.0.max(b.0), a.1.max(b.1)));
        let reach = ((low.0 - radius, low.1 - radius), (high.0 + radius, high.1 + radius));
        self.paint(reach.0, reach.1, colour, |p| to_segment(p, a, b) - radius);
    }

    fn polygon(&mut self, corners: &[Point], colour: Colour) {
        let fold = |pick: fn(&Point) -> f32, best: fn(f32, f32) -> f32| {
            corners.iter().map(pick).reduce(best).unwrap_or(0.0)
        };
        let low = (fold(|p| p.0, f32::min), fold(|p| p.1, f32::min));
        let high = (fold(|p| p.0, f32::max), fold(|p| p.1, f32::max));
        let edges = || corners.iter().copied().zip(corners.iter().copied().cycle().skip(1));
        self.paint(low, high, colour, |p| {
            let crosses = |&(a, b): &(Point, Point)| {
                (a.1 > p.1) != (b.1 > p.1) && p.0 < (b.0 - a.0) * (p.1 - a.1) / (b.1 - a.1) + a.0
            };
            let edge = edges().map(|(a, b)| to_segment(p, a, b)).fold(f32::MAX, f32::min);
            if edges().filter(crosses).count() % 2 == 1 { -edge } else { edge }
        });
    }

    fn cloud(&mut self, (x, y): Point, r: f32) {
        for (dx, dy, size) in [(-1.1, 0.25, 0.6), (0.0, 0.0, 0.85), (0.9, 0.2, 0.65)] {
            self.ellipse((x + dx * r, y + dy * r), (r * size * 1.3, r * size * 0.75), WHITE);
        }
    }

    /// Draws a flamingo that walks to the right; the point is the middle of its body.
    fn wading_bird(&mut self, (x, y): Point, time: f32) {
        let step = time * 5.0;
        let bob = (step * 2.0).sin() * 1.5;
        let y = y + bob;
        for (phase, colour) in [(PI, ROSE), (0.0, [240, 112, 150])] {
            let swing = (step + phase).sin();
            let lift = (step + phase).cos().max(0.0) * 13.0;
            let hip = (x - 2.0, y + 18.0);
            let knee = (x - 4.0 + swing * 11.0 - lift * 0.3, y + 52.0 - lift * 0.5);
            let foot = (x + 2.0 + swing * 22.0, GROUND + 18.0 - lift);
            self.line(hip, knee, 2.4, colour);
            self.line(knee, foot, 2.0, colour);
            self.line(foot, (foot.0 + 10.0, foot.1 + 1.5), 1.8, colour);
            self.ring((foot.0, GROUND + 19.0), 1.5, WHITE);
        }
        self.polygon(&[(x - 30.0, y - 8.0), (x - 62.0, y + 14.0), (x - 24.0, y + 16.0)], ROSE);
        self.ellipse((x, y), (40.0, 24.0), PINK);
        self.ellipse((x - 10.0, y - 1.0), (29.0, 15.0), ROSE);
        self.ellipse((x - 6.0, y - 4.0), (26.0, 12.0), [255, 158, 186]);
        // The neck has the shape of an S.
        let nod = (step * 2.0 + 0.6).sin() * 2.5;
        let curve = |s: f32| {
            let bow = (s * TAU * 0.9).sin() * 15.0;
            (x + 30.0 + bow + s * (12.0 + nod), y - 4.0 - s * 84.0)
        };
        for i in 0..24_u8 {
            let (s, next) = (f32::from(i) / 24.0, f32::from(i + 1) / 24.0);
            self.line(curve(s), curve(next), 8.0 - 3.4 * s, PINK);
        }
        let head = (curve(1.0).0 + 5.0, curve(1.0).1 - 1.0);
        self.ellipse(head, (13.0, 9.5), PINK);
        let (hx, hy) = head;
        self.polygon(
            &[(hx + 8.0, hy - 6.0), (hx + 27.0, hy + 3.0), (hx + 24.0, hy + 12.0), (hx + 9.0, hy + 6.0)],
            [250, 226, 214],
        );
        self.polygon(
            &[(hx + 24.0, hy + 1.0), (hx + 30.0, hy + 7.0), (hx + 25.0, hy + 22.0), (hx + 18.0, hy + 11.0)],
            INK,
        );
        self.ellipse((hx + 3.0, hy - 3.0), (2.9, 2.9), YELLOW);
        self.ellipse((hx + 3.5, hy - 3.0), (1.5, 1.5), INK);
    }

    /// Draws a bee that flies to the left.
    fn bee(&mut self, (x, y): Point, time: f32) {
        let beat = (time * 40.0).sin() * 5.0;
        self.ellipse((x + 2.0, y - 15.0 + beat * 0.4), (8.0, 12.0 + beat), [226, 238, 250]);
        self.ellipse((x + 12.0, y - 14.0 - beat * 0.3), (7.0, 10.0 - beat), [238, 246, 252]);
        self.ellipse((x, y), (21.0, 13.0), YELLOW);
        for stripe in [-3.0, 7.0] {
            self.line((x + stripe, y - 9.5), (x + stripe, y + 9.5), 2.4, INK);
        }
        self.ellipse((x - 18.0, y - 1.0), (8.0, 8.0), INK);
        self.ellipse((x - 20.0, y - 3.0), (2.2, 2.2), WHITE);
    }
}

/// Distance of `p` from the segment `a`-`b`.
fn to_segment(p: Point, a: Point, b: Point) -> f32 {
    let (ab, ap) = ((b.0 - a.0, b.1 - a.1), (p.0 - a.0, p.1 - a.1));
    let along = (ap.0 * ab.0 + ap.1 * ab.1) / (ab.0 * ab.0 + ab.1 * ab.1).max(1e-6);
    let along = along.clamp(0.0, 1.0);
    (ap.0 - ab.0 * along).hypot(ap.1 - ab.1 * along)
}

fn mix(from: Colour, to: Colour, share: f32) -> Colour {
    let share = share.clamp(0.0, 1.0);
    std::array::from_fn(|i| {
        (f32::from(from[i]) + (f32::from(to[i]) - f32::from(from[i])) * share).round() as u8
    })
}

/// 0 to 1 with a soft start and end.
fn ease(share: f32) -> f32 {
    let x = share.clamp(0.0, 1.0);
    x * x * (3.0 - 2.0 * x)
}
