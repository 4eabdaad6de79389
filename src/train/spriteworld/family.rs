//! Families of scenes. Each family shows one kind of fact; its sprites are placed so that the fact is visible
//! and no other property of the frames reveals it.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::cast::Cast;
use super::overlap;
use super::random::{Split, Stream, between, one_of};
use super::scene::{Axis, Drawings, Fact, Moment, Motion, Pose, Scene, Sprite};
use super::stage::{self, Stage};

/// Visible during the whole clip.
const ALWAYS: (f64, f64) = (f64::NEG_INFINITY, f64::INFINITY);

/// Hidden share of the sprite behind when one sprite passes another: enough to see which one is in front.
const HIDDEN_SHARE: std::ops::Range<f64> = 0.12..0.7;
/// Number of attempts to reach that share.
const TRIES: usize = 24;

/// Kind of scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// One sprite does something.
    Single,
    /// Two sprites at rest, one left of, right of, above or below the other.
    Pair,
    /// Two sprites side by side that do different things.
    Each,
    /// One to four sprites of one concept.
    Several,
    /// One sprite first, then another.
    Order,
    /// A sprite that is visible at the start, in the middle or at the end only.
    Visit,
    /// One sprite passes in front of or behind another.
    Passing,
}

impl Family {
    /// All families.
    pub const ALL: [Family; 7] = [
        Family::Single,
        Family::Pair,
        Family::Each,
        Family::Several,
        Family::Order,
        Family::Visit,
        Family::Passing,
    ];

    /// Whether its sprites move, so that it can show a held-out (concept, motion) pair.
    pub fn moves(self) -> bool {
        matches!(self, Family::Single | Family::Each | Family::Passing)
    }
}

/// Builder of scenes.
pub struct SceneBuilder<'a> {
    /// Concepts and styles.
    pub cast: &'a Cast,
    /// Drawings by style and concept.
    pub drawings: &'a Drawings,
    /// Split of the clip.
    pub split: Split,
    /// Frame size and length of the clip.
    pub stage: Stage,
    /// Style of all sprites, if they share one.
    pub style: Option<usize>,
}

impl SceneBuilder<'_> {
    /// Builds a scene of this family.
    pub fn scene(&self, rng: &mut Stream, family: Family) -> Scene {
        match family {
            Family::Single => self.single(rng, None),
            Family::Pair => self.pair(rng),
            Family::Each => self.each(rng),
            Family::Several => self.several(rng),
            Family::Order => self.order(rng),
            Family::Visit => self.visit(rng),
            Family::Passing => self.passing(rng),
        }
    }

    /// Builds a scene of one sprite, of `concept` if it is given.
    pub fn single(&self, rng: &mut Stream, concept: Option<usize>) -> Scene {
        let (subject, motion) = match concept {
            Some(subject) => (subject, self.cast.motion_of(rng, self.split, subject)),
            None => {
                let held_out = self.split == Split::HeldOutCombinations;
                let motion = one_of(rng, &Motion::ALL[usize::from(held_out)..]);
                (self.cast.lead(rng, self.split, motion), motion)
            }
        };
        let side = match motion {
            Motion::Growing | Motion::Shrinking => between(rng, 0.5, 0.8),
            _ => between(rng, 0.26, 0.55),
        };
        let side = motion.axis().map_or(side, |axis| side.min(self.stage.largest_traveller(axis)));
        let poses = self.stage.perform(rng, motion, side);
        let sprite = self.sprite(rng, subject, motion, poses, ALWAYS);
        self.finish(rng, Fact::Does { subject, motion }, vec![sprite])
    }

    fn pair(&self, rng: &mut Stream) -> Scene {
        let axis = one_of(rng, &[Axis::Horizontal, Axis::Vertical]);
        let subject = self.cast.lead(rng, self.split, Motion::Still);
        let than = self.cast.companion(rng, self.split, Motion::Still, &[subject]);
        let swapped = rng.random_bool(0.5);
        let relation = axis.relations()[usize::from(swapped)];
        // The sprites are nearly level, so that "left of" never looks like "above".
        let level = self.level(rng, axis.other());
        let sprites = [subject, than].into_iter().enumerate().map(|(i, concept)| {
            let side = self.side_in_half(rng, axis);
            let along = self.centre_in_half(rng, axis, side, (i == 1) != swapped);
            let across = self.within(axis.other(), side, level + between(rng, -0.05, 0.05));
            let pose = at(rng, axis, along, across, side);
            self.sprite(rng, concept, Motion::Still, (pose, pose), ALWAYS)
        });
        let sprites = sprites.collect();
        self.finish(rng, Fact::Placed { subject, relation, than }, sprites)
    }

    fn each(&self, rng: &mut Stream) -> Scene {
        let line = one_of(rng, &[Axis::Horizontal, Axis::Vertical]);
        let [back, forth] = line.other().motions();
        let moving = one_of(rng, &[back, forth]);
        let second_motion = one_of(rng, &[Motion::Still, moving.backwards()]);
        let subject = self.cast.lead(rng, self.split, moving);
        let other = self.cast.companion(rng, self.split, second_motion, &[subject]);
        let swapped = rng.random_bool(0.5);
        let sprites = [(subject, moving), (other, second_motion)].into_iter().enumerate().map(
            |(i, (concept, motion))| {
                let side = self.side_in_half(rng, line).min(self.stage.largest_traveller(line.other()));
                let along = self.centre_in_half(rng, line, side, (i == 1) != swapped);
                let (mut from, mut to) = self.stage.perform(rng, motion, side);
                for pose in [&mut from, &mut to] {
                    match line {
                        Axis::Horizontal => pose.x = along,
                        Axis::Vertical => pose.y = along,
                    }
                }
                self.sprite(rng, concept, motion, (from, to), ALWAYS)
            },
        );
        let sprites = sprites.collect();
        let fact = Fact::DoesEach { subject, motion: moving, other, other_motion: second_motion };
        self.finish(rng, fact, sprites)
    }

    fn several(&self, rng: &mut Stream) -> Scene {
        let subject = self.cast.countable(rng);
        let count = rng.random_range(1..=4);
        let other = rng.random_bool(0.4).then(|| self.cast.other_than(rng, &[subject]));
        let mut roles = vec![(subject, ALWAYS); count];
        roles.extend(other.map(|other| (other, ALWAYS)));
        let sprites = self.scattered(rng, &roles, (0.24, 0.36));
        self.finish(rng, Fact::Count { subject, count, other }, sprites)
    }

    /// Builds a scene in which only the order of the frames reveals the order of the two sprites: each is
    /// alone for some frames, and both are visible equally long on average.
    fn order(&self, rng: &mut Stream) -> Scene {
        let first = self.cast.lead(rng, self.split, Motion::Still);
        let then = self.cast.companion(rng, self.split, Motion::Still, &[first]);
        let frames = self.stage.seconds;
        let both = if rng.random_bool(0.4) { rng.random_range(1..=frames - 2) } else { 0 };
        let first_only = rng.random_range(1..frames - both);
        let visible = [(f64::NEG_INFINITY, before(first_only + both)), (before(first_only), f64::INFINITY)];
        let mut sprites = self.scattered(rng, &[(first, visible[0]), (then, visible[1])], (0.28, 0.5));
        if rng.random_bool(0.5) {
            sprites.reverse();
        }
        self.finish(rng, Fact::Order { first, then }, sprites)
    }

    fn visit(&self, rng: &mut Stream) -> Scene {
        let subject = self.cast.lead(rng, self.split, Motion::Still);
        let host =
            rng.random_bool(0.6).then(|| self.cast.companion(rng, self.split, Motion::Still, &[subject]));
        let when = one_of(rng, &Moment::ALL);
        let frames = self.stage.seconds;
        let stay = rng.random_range(1..=(frames / 3).max(1));
        let start = match when {
            Moment::Start => 0,
            Moment::Middle => (frames - stay + usize::from(rng.random_bool(0.5))) / 2,
            Moment::End => frames - stay,
        };
        // A video continues after its last frame, so a sprite of the last frame stays visible.
        let until = if when == Moment::End { f64::INFINITY } else { before(start + stay) };
        let roles: Vec<_> =
            [(subject, (before(start), until))].into_iter().chain(host.map(|host| (host, ALWAYS))).collect();
        let sprites = self.scattered(rng, &roles, (0.28, 0.5));
        self.finish(rng, Fact::Visit { subject, when, host }, sprites)
    }

    fn passing(&self, rng: &mut Stream) -> Scene {
        let axis = self.stage.longer_axis(rng);
        let motion = one_of(rng, &axis.motions());
        let subject = self.cast.lead(rng, self.split, motion);
        let other = self.cast.companion(rng, self.split, Motion::Still, &[subject]);
        let fact = Fact::Passes { subject, motion, in_front: rng.random_bool(0.5), other };
        // A thin drawing overlaps only near the middle, and a small one is covered there completely. The loop
        // changes the distance until the hidden share is in the range.
        let mut aside = between(rng, 0.36, 0.45);
        for _ in 1..TRIES {
            let sprites = self.pass(rng, &fact, axis, aside);
            let scene = self.finish(rng, fact.clone(), sprites);
            let hidden = |second| overlap::most_hidden(self.drawings, &scene, second as f64);
            let most = (0..scene.seconds).map(hidden).fold(0.0, f64::max);
            if HIDDEN_SHARE.contains(&most) {
                return scene;
            }
            aside = (aside + if most < HIDDEN_SHARE.start { -0.06 } else { 0.05 }).clamp(0.0, 0.6);
        }
        let sprites = self.pass(rng, &fact, axis, aside);
        self.finish(rng, fact, sprites)
    }

    /// Places a sprite that moves along `axis` past another one at rest, at a distance of `aside` times the
    /// side of the other one from its centre.
    fn pass(&self, rng: &mut Stream, fact: &Fact, axis: Axis, aside: f64) -> Vec<Sprite> {
        let Fact::Passes { subject, motion, in_front, other } = *fact else { return Vec::new() };
        let side = between(rng, 0.32, 0.4);
        let small = side * between(rng, 0.65, 0.85);
        let (low, high) = self.stage.room(axis, small * 1.1);
        // The sprites overlap in one of the inner frames.
        let meeting = (rng.random_range(1..self.stage.seconds - 1) as f64 + 0.5) / self.stage.seconds as f64;
        let nudge = between(rng, -0.15, 0.15) * small / self.stage.length(axis);
        let aside = aside * side * one_of(rng, &[-1.0, 1.0]) / self.stage.length(axis.other());
        let level = between(rng, 0.4, 0.6);
        let place = self.within(axis, side, low + (high - low) * meeting + nudge);
        let rest = at(rng, axis, place, level, side);
        let first = at(rng, axis, low, level + aside, small);
        let last = match axis {
            Axis::Horizontal => Pose { x: high, ..first },
            Axis::Vertical => Pose { y: high, ..first },
        };
        let poses = if motion == axis.motions()[0] { (last, first) } else { (first, last) };
        let mover = self.sprite(rng, subject, motion, poses, ALWAYS);
        let still = self.sprite(rng, other, Motion::Still, (rest, rest), ALWAYS);
        if in_front { vec![still, mover] } else { vec![mover, still] }
    }

    /// Builds a scene of one frame with one to three concepts.
    pub fn together(&self, rng: &mut Stream) -> Scene {
        let count = rng.random_range(1..=3);
        let mut subject = Vec::new();
        for _ in 0..count {
            let next = self.cast.other_than(rng, &subject);
            subject.push(next);
        }
        let roles: Vec<_> = subject.iter().map(|concept| (*concept, ALWAYS)).collect();
        let sides = if count == 1 { (0.28, 0.85) } else { (0.28, 0.5) };
        let sprites = self.scattered(rng, &roles, sides);
        self.finish(rng, Fact::Together { subject }, sprites)
    }

    /// Places still sprites that do not overlap, one for each (concept, visible interval).
    fn scattered(&self, rng: &mut Stream, roles: &[(usize, (f64, f64))], sides: (f64, f64)) -> Vec<Sprite> {
        let wanted = between(rng, sides.0, sides.1);
        let (places, side) = self.stage.scatter(rng, roles.len(), wanted);
        let mut sprites = Vec::new();
        for ((x, y), (concept, visible)) in places.into_iter().zip(roles) {
            let side = side * between(rng, 0.85, 1.0);
            let pose = Pose { x, y, side, angle: between(rng, -12.0, 12.0) };
            sprites.push(self.sprite(rng, *concept, Motion::Still, (pose, pose), *visible));
        }
        sprites
    }

    fn sprite(
        &self,
        rng: &mut Stream,
        concept: usize,
        motion: Motion,
        (from, to): (Pose, Pose),
        visible: (f64, f64),
    ) -> Sprite {
        let style = self.cast.style(rng, concept, self.style);
        Sprite {
            concept,
            style,
            mirrored: rng.random_bool(0.5),
            motion,
            from,
            to,
            visible,
            augmentation: None,
        }
    }

    fn finish(&self, rng: &mut Stream, fact: Fact, sprites: Vec<Sprite>) -> Scene {
        let drawing = |s: &Sprite| self.drawings[s.style][s.concept].as_ref();
        let colours: Vec<_> = sprites.iter().filter_map(drawing).map(|d| d.raster().colour).collect();
        let Stage { width, height, seconds } = self.stage;
        let background = stage::background(rng, &colours);
        Scene { fact, width, height, seconds, sprites, background, light: stage::light(rng) }
    }

    /// Draws the side of one of two sprites that share an axis.
    fn side_in_half(&self, rng: &mut Stream, axis: Axis) -> f64 {
        between(rng, 0.25, (0.34 * self.stage.length(axis)).min(0.46))
    }

    /// Draws the centre of one of two sprites that share an axis, in the first or second half of the axis,
    /// away from the middle.
    fn centre_in_half(&self, rng: &mut Stream, axis: Axis, side: f64, second: bool) -> f64 {
        let (low, _) = self.stage.room(axis, side * 1.1);
        let inner = 0.48 - side * 1.1 / 2.0 / self.stage.length(axis);
        let centre = between(rng, low.min(inner), inner.min(0.33).max(low.min(inner)));
        if second { 1.0 - centre } else { centre }
    }

    fn level(&self, rng: &mut Stream, axis: Axis) -> f64 {
        let (low, high) = self.stage.room(axis, 0.3);
        between(rng, low, high)
    }

    fn within(&self, axis: Axis, side: f64, place: f64) -> f64 {
        let (low, high) = self.stage.room(axis, side * 1.1);
        place.clamp(low, high)
    }
}

/// Returns the moment half a second before a frame. Sprites appear and disappear there, so that no frame is
/// at a change.
fn before(frame: usize) -> f64 {
    frame as f64 - 0.5
}

fn at(rng: &mut Stream, axis: Axis, along: f64, across: f64, side: f64) -> Pose {
    let (x, y) = match axis {
        Axis::Horizontal => (along, across),
        Axis::Vertical => (across, along),
    };
    Pose { x, y, side, angle: between(rng, -12.0, 12.0) }
}
