//! Hidden share of a sprite, counted on the drawn pixels, because few drawings fill their square.

use super::scene::{Drawings, Pose, Scene, Sprite};

/// Least alpha of a drawn pixel.
const DRAWN: u8 = 128;

/// Largest share, over all sprites, of drawn pixels that are covered by sprites in front, 0 to 1.
pub fn most_hidden(drawings: &Drawings, scene: &Scene, seconds: f64) -> f64 {
    let visible: Vec<(&Sprite, Pose)> = scene.visible_at(seconds).collect();
    let hidden = (0..visible.len()).map(|i| hidden_share(drawings, scene, &visible[i], &visible[i + 1..]));
    hidden.fold(0.0, f64::max)
}

fn hidden_share(
    drawings: &Drawings,
    scene: &Scene,
    back: &(&Sprite, Pose),
    front: &[(&Sprite, Pose)],
) -> f64 {
    let steps = 24;
    let (mut drawn, mut hidden) = (0, 0);
    for i in 0..steps * steps {
        let local = [i % steps, i / steps].map(|step| (f64::from(step) + 0.5) / f64::from(steps) - 0.5);
        if draws(drawings, back.0, local) {
            let place = outward(scene, back, local);
            drawn += 1;
            hidden += i32::from(front.iter().any(|f| draws(drawings, f.0, inward(scene, f, place))));
        }
    }
    f64::from(hidden) / f64::from(drawn.max(1))
}

/// Whether the sprite draws at a point of its square. The corners of the square are at ±0.5.
fn draws(drawings: &Drawings, sprite: &Sprite, [x, y]: [f64; 2]) -> bool {
    let Some(drawing) = &drawings[sprite.style][sprite.concept] else { return false };
    let pixmap = drawing.raster().for_side(0.0);
    let side = f64::from(pixmap.width());
    let pixel = |v: f64| ((v + 0.5) * side).floor() as i64;
    let inside = |v: i64| (0..i64::from(pixmap.width())).contains(&v);
    let (x, y) = (pixel(x), pixel(y));
    inside(x) && inside(y) && pixmap.pixel(x as u32, y as u32).is_some_and(|p| p.alpha() >= DRAWN)
}

/// Maps a point from the sprite's square to the frame, in units of the shorter side.
fn outward(scene: &Scene, (sprite, pose): &(&Sprite, Pose), [x, y]: [f64; 2]) -> [f64; 2] {
    let [x, y] = [if sprite.mirrored { -x } else { x }, y].map(|v| v * pose.side);
    let (sin, cos) = pose.angle.to_radians().sin_cos();
    let [left, top] = centre(scene, pose);
    [left + x * cos - y * sin, top + x * sin + y * cos]
}

/// Maps a point from the frame to the sprite's square.
fn inward(scene: &Scene, (sprite, pose): &(&Sprite, Pose), [x, y]: [f64; 2]) -> [f64; 2] {
    let [left, top] = centre(scene, pose);
    let [x, y] = [x - left, y - top].map(|v| v / pose.side);
    let (sin, cos) = pose.angle.to_radians().sin_cos();
    let [x, y] = [x * cos + y * sin, y * cos - x * sin];
    [if sprite.mirrored { -x } else { x }, y]
}

fn centre(scene: &Scene, pose: &Pose) -> [f64; 2] {
    [pose.x * f64::from(scene.width), pose.y * f64::from(scene.height)].map(|v| v / scene.shorter_side())
}
