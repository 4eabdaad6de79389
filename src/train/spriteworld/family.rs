//! Families of scenes: each tells one kind of fact, placed so that the fact can be seen and nothing else gives it away.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::cast::Cast;
use super::overlap;
use super::random::{Split, Stream, between, one_of};
use super::scene::{Axis, Drawings, Fact, Moment, Motion, Pose, Scene, Sprite};
use super::stage::{self, Stage};

/// Seen all the time.
const ALWAYS: (f64, f64) = (f64::NEG_INFINITY, f64::INFINITY);

/// How much of what is behind should be hidden where one sprite passes another: enough to tell which is in front.
const MET: std::ops::Range<f64> = 0.12..0.7;
/// How often a scene is made anew until that is so.
const TRIES: usize = 24;

/// What kind of scene a clip is.
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
    /// One thing first, then another.
    Order,
    /// Something is there at the start, in the middle or at the end only.
    Visit,
    /// One sprite passes in front of or behind another.
    Passing,
}

impl Family {
    pub const ALL: [Family; 7] = [
        Family::Single,
        Family::Pair,
        Family::Each,
        Family::Several,
        Family::Order,
        Family::Visit,
        Family::Passing,
    ];

    /// Whether its sprites move, so that a held-out (concept, motion) pair can be in it.
    pub fn moves(self) -> bool {
        matches!(self, Family::Single | Family::Each | Family::Passing)
    }
}

/// What scenes are made from.
pub struct Maker<'a> {
    pub cast: &'a Cast,
    pub drawings: &'a Drawings,
    pub split: Split,
    pub stage: Stage,
    /// The style of all sprites, if they share one.
    pub style: Option<usize>,
}

impl Maker<'_> {
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

    /// One sprite; of `concept`, if one is wanted.
    pub fn single(&self, rng: &mut Stream, concept: Option<usize>) -> Scene {
        let (who, motion) = match concept {
            Some(who) => (who, self.cast.motion_of(rng, self.split, who)),
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
        let sprite = self.sprite(rng, who, motion, poses, ALWAYS);
        self.finish(rng, Fact::Does { who, motion }, vec![sprite])
    }

    fn pair(&self, rng: &mut Stream) -> Scene {
        let axis = one_of(rng, &[Axis::Horizontal, Axis::Vertical]);
        let who = self.cast.lead(rng, self.split, Motion::Still);
        let than = self.cast.beside(rng, self.split, Motion::Still, &[who]);
        let swapped = rng.random_bool(0.5);
        let relation = axis.relations()[usize::from(swapped)];
        // Nearly level, so that "left of" is never half an "above".
        let level = self.level(rng, axis.other());
        let sprites = [who, than].into_iter().enumerate().map(|(i, concept)| {
            let side = self.side_in_half(rng, axis);
            let along = self.centre_in_half(rng, axis, side, (i == 1) != swapped);
            let across = self.within(axis.other(), side, level + between(rng, -0.05, 0.05));
            let pose = at(rng, axis, along, across, side);
            self.sprite(rng, concept, Motion::Still, (pose, pose), ALWAYS)
        });
        let sprites = sprites.collect();
        self.finish(rng, Fact::Placed { who, relation, than }, sprites)
    }

    fn each(&self, rng: &mut Stream) -> Scene {
        let line = one_of(rng, &[Axis::Horizontal, Axis::Vertical]);
        let [back, forth] = line.other().motions();
        let moving = one_of(rng, &[back, forth]);
        let beside = one_of(rng, &[Motion::Still, moving.backwards()]);
        let who = self.cast.lead(rng, self.split, moving);
        let other = self.cast.beside(rng, self.split, beside, &[who]);
        let swapped = rng.random_bool(0.5);
        let sprites =
            [(who, moving), (other, beside)].into_iter().enumerate().map(|(i, (concept, motion))| {
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
            });
        let sprites = sprites.collect();
        let fact = Fact::DoesEach { who, motion: moving, other, other_motion: beside };
        self.finish(rng, fact, sprites)
    }

    fn several(&self, rng: &mut Stream) -> Scene {
        let who = self.cast.countable(rng);
        let count = rng.random_range(1..=4);
        let sprites = self.scattered(rng, &vec![(who, ALWAYS); count], (0.24, 0.36));
        self.finish(rng, Fact::Count { who, count }, sprites)
    }

    /// Only the order of the frames tells the order of the two: each is alone for a while, and both stay as long in
    /// one order as in the other.
    fn order(&self, rng: &mut Stream) -> Scene {
        let first = self.cast.lead(rng, self.split, Motion::Still);
        let then = self.cast.beside(rng, self.split, Motion::Still, &[first]);
        let frames = self.stage.seconds;
        let both = if rng.random_bool(0.4) { rng.random_range(1..=frames - 2) } else { 0 };
        let alone = rng.random_range(1..frames - both);
        let seen = [(f64::NEG_INFINITY, before(alone + both)), (before(alone), f64::INFINITY)];
        let mut sprites = self.scattered(rng, &[(first, seen[0]), (then, seen[1])], (0.28, 0.5));
        if rng.random_bool(0.5) {
            sprites.reverse();
        }
        self.finish(rng, Fact::Order { first, then }, sprites)
    }

    fn visit(&self, rng: &mut Stream) -> Scene {
        let who = self.cast.lead(rng, self.split, Motion::Still);
        let host = rng.random_bool(0.6).then(|| self.cast.beside(rng, self.split, Motion::Still, &[who]));
        let when = one_of(rng, &Moment::ALL);
        let frames = self.stage.seconds;
        let stay = rng.random_range(1..=(frames / 3).max(1));
        let start = match when {
            Moment::Start => 0,
            Moment::Middle => (frames - stay + usize::from(rng.random_bool(0.5))) / 2,
            Moment::End => frames - stay,
        };
        // A video goes on after its last frame, and so does what is seen in it.
        let until = if when == Moment::End { f64::INFINITY } else { before(start + stay) };
        let roles: Vec<_> =
            [(who, (before(start), until))].into_iter().chain(host.map(|host| (host, ALWAYS))).collect();
        let sprites = self.scattered(rng, &roles, (0.28, 0.5));
        self.finish(rng, Fact::Visit { who, when, host }, sprites)
    }

    fn passing(&self, rng: &mut Stream) -> Scene {
        let axis = self.stage.longer_axis(rng);
        let motion = one_of(rng, &axis.motions());
        let who = self.cast.lead(rng, self.split, motion);
        let other = self.cast.beside(rng, self.split, Motion::Still, &[who]);
        let fact = Fact::Passes { who, motion, in_front: rng.random_bool(0.5), other };
        // A thin drawing is met only near the middle, a small one vanishes there: try until it is well hidden.
        let mut aside = between(rng, 0.36, 0.45);
        for _ in 1..TRIES {
            let sprites = self.pass(rng, &fact, axis, aside);
            let scene = self.finish(rng, fact.clone(), sprites);
            let hidden = |second| overlap::most_hidden(self.drawings, &scene, second as f64);
            let most = (0..scene.seconds).map(hidden).fold(0.0, f64::max);
            if MET.contains(&most) {
                return scene;
            }
            aside = (aside + if most < MET.start { -0.06 } else { 0.05 }).clamp(0.0, 0.6);
        }
        let sprites = self.pass(rng, &fact, axis, aside);
        self.finish(rng, fact, sprites)
    }

    /// One sprite goes along `axis`, past another at rest: `aside` of the other's side away from its middle.
    fn pass(&self, rng: &mut Stream, fact: &Fact, axis: Axis, aside: f64) -> Vec<Sprite> {
        let Fact::Passes { who, motion, in_front, other } = *fact else { return Vec::new() };
        let side = between(rng, 0.32, 0.4);
        let small = side * between(rng, 0.65, 0.85);
        let (low, high) = self.stage.room(axis, small * 1.1);
        // One of the inner frames shows them on each other.
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
        let mover = self.sprite(rng, who, motion, poses, ALWAYS);
        let still = self.sprite(rng, other, Motion::Still, (rest, rest), ALWAYS);
        if in_front { vec![still, mover] } else { vec![mover, still] }
    }

    /// One frame with one to three concepts.
    pub fn together(&self, rng: &mut Stream) -> Scene {
        let count = rng.random_range(1..=3);
        let mut who = Vec::new();
        for _ in 0..count {
            let next = self.cast.other_than(rng, &who);
            who.push(next);
        }
        let roles: Vec<_> = who.iter().map(|concept| (*concept, ALWAYS)).collect();
        let sides = if count == 1 { (0.28, 0.85) } else { (0.28, 0.5) };
        let sprites = self.scattered(rng, &roles, sides);
        self.finish(rng, Fact::Together { who }, sprites)
    }

    /// Sprites at rest that do not overlap, one for each (concept, when it is seen).
    fn scattered(&self, rng: &mut Stream, roles: &[(usize, (f64, f64))], sides: (f64, f64)) -> Vec<Sprite> {
        let wanted = between(rng, sides.0, sides.1);
        let (places, side) = self.stage.scatter(rng, roles.len(), wanted);
        let mut sprites = Vec::new();
        for ((x, y), (concept, seen)) in places.into_iter().zip(roles) {
            let side = side * between(rng, 0.85, 1.0);
            let pose = Pose { x, y, side, angle: between(rng, -12.0, 12.0) };
            sprites.push(self.sprite(rng, *concept, Motion::Still, (pose, pose), *seen));
        }
        sprites
    }

    fn sprite(
        &self,
        rng: &mut Stream,
        concept: usize,
        motion: Motion,
        (from, to): (Pose, Pose),
        seen: (f64, f64),
    ) -> Sprite {
        let style = self.cast.style(rng, concept, self.style);
        Sprite { concept, style, mirrored: rng.random_bool(0.5), motion, from, to, seen }
    }

    fn finish(&self, rng: &mut Stream, fact: Fact, sprites: Vec<Sprite>) -> Scene {
        let drawing = |s: &Sprite| self.drawings[s.style][s.concept].as_ref();
        let colours: Vec<_> = sprites.iter().filter_map(drawing).map(|d| d.raster().colour).collect();
        let Stage { width, height, seconds } = self.stage;
        let background = stage::background(rng, &colours);
        Scene { fact, width, height, seconds, sprites, background, light: stage::light(rng) }
    }

    /// A side for one of two sprites that share an axis.
    fn side_in_half(&self, rng: &mut Stream, axis: Axis) -> f64 {
        between(rng, 0.25, (0.34 * self.stage.length(axis)).min(0.46))
    }

    /// The centre of one of two sprites that share an axis: in its first or second half, apart from the middle.
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

/// Half a second before a frame: where what is seen changes, so that no frame falls on a change.
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
