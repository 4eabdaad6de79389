//! What a clip is made of, before a pixel is drawn. Lengths are fractions of the frame, times are seconds.

use super::icons::Drawing;

/// What one sprite does while it is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Motion {
    Still,
    Left,
    Right,
    Up,
    Down,
    Growing,
    Shrinking,
    Turning,
}

impl Motion {
    pub const ALL: [Motion; 8] = [
        Motion::Still,
        Motion::Left,
        Motion::Right,
        Motion::Up,
        Motion::Down,
        Motion::Growing,
        Motion::Shrinking,
        Motion::Turning,
    ];
    pub const DIRECTIONS: [Motion; 4] = [Motion::Left, Motion::Right, Motion::Up, Motion::Down];

    /// The same frames played backwards.
    pub fn backwards(self) -> Motion {
        match self {
            Motion::Left => Motion::Right,
            Motion::Right => Motion::Left,
            Motion::Up => Motion::Down,
            Motion::Down => Motion::Up,
            Motion::Growing => Motion::Shrinking,
            Motion::Shrinking => Motion::Growing,
            Motion::Still | Motion::Turning => self,
        }
    }

    /// The axis on which the sprite changes its place.
    pub fn axis(self) -> Option<Axis> {
        match self {
            Motion::Left | Motion::Right => Some(Axis::Horizontal),
            Motion::Up | Motion::Down => Some(Axis::Vertical),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    Horizontal,
    Vertical,
}

impl Axis {
    pub fn other(self) -> Axis {
        match self {
            Axis::Horizontal => Axis::Vertical,
            Axis::Vertical => Axis::Horizontal,
        }
    }

    /// The two motions on this axis, the one with falling coordinates first.
    pub fn motions(self) -> [Motion; 2] {
        match self {
            Axis::Horizontal => [Motion::Left, Motion::Right],
            Axis::Vertical => [Motion::Up, Motion::Down],
        }
    }

    /// The two relations on this axis, the one with smaller coordinates first.
    pub fn relations(self) -> [Relation; 2] {
        match self {
            Axis::Horizontal => [Relation::Left, Relation::Right],
            Axis::Vertical => [Relation::Above, Relation::Below],
        }
    }
}

/// Where one sprite is, seen from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relation {
    Left,
    Right,
    Above,
    Below,
}

impl Relation {
    pub const ALL: [Relation; 4] = [Relation::Left, Relation::Right, Relation::Above, Relation::Below];

    pub fn opposite(self) -> Relation {
        match self {
            Relation::Left => Relation::Right,
            Relation::Right => Relation::Left,
            Relation::Above => Relation::Below,
            Relation::Below => Relation::Above,
        }
    }
}

/// When in the clip something is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    Start,
    Middle,
    End,
}

impl Moment {
    pub const ALL: [Moment; 3] = [Moment::Start, Moment::Middle, Moment::End];
}

/// What a clip tells. Concepts are indices into the world's list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Fact {
    /// One sprite and what it does.
    Does { who: usize, motion: Motion },
    /// Two sprites at rest: `who` is `relation` of `than`.
    Placed { who: usize, relation: Relation, than: usize },
    /// Two sprites side by side that do different things across the line between them.
    DoesEach { who: usize, motion: Motion, other: usize, other_motion: Motion },
    /// `count` sprites of one concept.
    Count { who: usize, count: usize },
    /// `first` is there from the start and leaves; `then` comes later and stays.
    Order { first: usize, then: usize },
    /// `who` is there for a part of the clip only, `host` (if any) all the time.
    Visit { who: usize, when: Moment, host: Option<usize> },
    /// `who` passes `other`, which is at rest, and hides a part of it (`in_front`) or is partly hidden by it.
    Passes { who: usize, motion: Motion, in_front: bool, other: usize },
    /// One frame with these concepts.
    Together { who: Vec<usize> },
}

impl Fact {
    /// The concepts that are seen, each once.
    pub fn concepts(&self) -> Vec<usize> {
        match self {
            Fact::Does { who, .. } | Fact::Count { who, .. } => vec![*who],
            Fact::Placed { who, than: other, .. }
            | Fact::DoesEach { who, other, .. }
            | Fact::Passes { who, other, .. } => vec![*who, *other],
            Fact::Order { first, then } => vec![*first, *then],
            Fact::Visit { who, host, .. } => [Some(*who), *host].into_iter().flatten().collect(),
            Fact::Together { who } => who.clone(),
        }
    }
}

/// Where and how a sprite stands at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pose {
    /// Centre, as fractions of the frame's width and height from its top left corner.
    pub x: f64,
    pub y: f64,
    /// Side of the square around the drawing, as a fraction of the frame's shorter side.
    pub side: f64,
    /// Degrees, clockwise.
    pub angle: f64,
}

impl Pose {
    fn towards(&self, to: &Pose, part: f64) -> Pose {
        let mix = |a: f64, b: f64| a + (b - a) * part;
        Pose {
            x: mix(self.x, to.x),
            y: mix(self.y, to.y),
            side: mix(self.side, to.side),
            angle: mix(self.angle, to.angle),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sprite {
    pub concept: usize,
    /// Which icon set it is drawn from.
    pub style: usize,
    pub mirrored: bool,
    pub motion: Motion,
    pub from: Pose,
    pub to: Pose,
    /// Seconds: seen from the first, up to and without the second.
    pub seen: (f64, f64),
}

/// Linear from colour to colour. Colours are red, green, blue, 0 to 255.
pub type Colour = [f32; 3];

/// Two colours that differ little, in a pattern. Lengths are fractions of the shorter side, angles radians.
#[derive(Debug, Clone, PartialEq)]
pub struct Background {
    pub colours: [Colour; 2],
    pub pattern: Pattern,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Pattern {
    Plain,
    Gradient {
        angle: f32,
    },
    Stripes {
        angle: f32,
        period: f32,
    },
    Checks {
        side: f32,
    },
    /// Soft discs: centre (fractions of the frame) and radius.
    Blobs {
        discs: Vec<[f32; 3]>,
    },
}

/// Changes of the whole picture that make no caption false.
#[derive(Debug, Clone, PartialEq)]
pub struct Light {
    /// Added to every channel, of 255.
    pub brightness: f32,
    /// Factor around middle grey.
    pub contrast: f32,
    /// Factor for red, green, blue.
    pub tint: [f32; 3],
    /// Largest value of the noise, of 255.
    pub noise: f32,
    pub noise_seed: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    pub fact: Fact,
    /// Pixels.
    pub width: u32,
    pub height: u32,
    /// Length; also the number of frames at one per second.
    pub seconds: usize,
    /// From the back to the front.
    pub sprites: Vec<Sprite>,
    pub background: Background,
    pub light: Light,
}

impl Scene {
    /// The sprites that are seen at a moment with their poses, from the back to the front.
    ///
    /// Motion goes from half a second before the first frame to half a second after the last one, so that the frames
    /// of a clip and of the same clip played backwards are the same.
    pub fn seen_at(&self, seconds: f64) -> impl Iterator<Item = (&Sprite, Pose)> {
        let part = ((seconds + 0.5) / self.seconds as f64).clamp(0.0, 1.0);
        let seen = self.sprites.iter().filter(move |s| s.seen.0 <= seconds && seconds < s.seen.1);
        seen.map(move |sprite| (sprite, sprite.from.towards(&sprite.to, part)))
    }

    pub fn shorter_side(&self) -> f64 {
        f64::from(self.width.min(self.height))
    }
}

/// Drawings by style and concept; a style may lack a concept.
pub type Drawings = Vec<Vec<Option<Drawing>>>;
