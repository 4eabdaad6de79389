//! Description of a clip before rendering. Lengths are fractions of the frame, times are seconds.

use super::icons::Drawing;

/// Motion of a sprite while it is visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Motion {
    /// No motion.
    Still,
    /// Moves to the left.
    Left,
    /// Moves to the right.
    Right,
    /// Moves up.
    Up,
    /// Moves down.
    Down,
    /// Becomes larger.
    Growing,
    /// Becomes smaller.
    Shrinking,
    /// Rotates.
    Turning,
}

impl Motion {
    /// All motions.
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
    /// Motions that change the place.
    pub const DIRECTIONS: [Motion; 4] = [Motion::Left, Motion::Right, Motion::Up, Motion::Down];

    /// Motion of the same frames played backwards.
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

    /// Axis on which the sprite changes its place.
    pub fn axis(self) -> Option<Axis> {
        match self {
            Motion::Left | Motion::Right => Some(Axis::Horizontal),
            Motion::Up | Motion::Down => Some(Axis::Vertical),
            _ => None,
        }
    }
}

/// Axis of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// x, from left to right.
    Horizontal,
    /// y, from top to bottom.
    Vertical,
}

impl Axis {
    /// The other axis.
    pub fn other(self) -> Axis {
        match self {
            Axis::Horizontal => Axis::Vertical,
            Axis::Vertical => Axis::Horizontal,
        }
    }

    /// Both motions on this axis, the one with decreasing coordinates first.
    pub fn motions(self) -> [Motion; 2] {
        match self {
            Axis::Horizontal => [Motion::Left, Motion::Right],
            Axis::Vertical => [Motion::Up, Motion::Down],
        }
    }

    /// Both relations on this axis, the one with smaller coordinates first.
    pub fn relations(self) -> [Relation; 2] {
        match self {
            Axis::Horizontal => [Relation::Left, Relation::Right],
            Axis::Vertical => [Relation::Above, Relation::Below],
        }
    }
}

/// Place of one sprite relative to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relation {
    /// Left of the other.
    Left,
    /// Right of the other.
    Right,
    /// Above the other.
    Above,
    /// Below the other.
    Below,
}

impl Relation {
    /// All relations.
    pub const ALL: [Relation; 4] = [Relation::Left, Relation::Right, Relation::Above, Relation::Below];

    /// The relation with both sprites exchanged.
    pub fn opposite(self) -> Relation {
        match self {
            Relation::Left => Relation::Right,
            Relation::Right => Relation::Left,
            Relation::Above => Relation::Below,
            Relation::Below => Relation::Above,
        }
    }
}

/// Part of the clip in which a sprite is visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    /// At the start.
    Start,
    /// In the middle.
    Middle,
    /// At the end.
    End,
}

impl Moment {
    /// All moments.
    pub const ALL: [Moment; 3] = [Moment::Start, Moment::Middle, Moment::End];
}

/// Fact that a clip shows. Concepts are indices into the list of the world.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Fact {
    /// One sprite with a motion.
    Does {
        /// Concept of the sprite.
        subject: usize,
        /// Its motion.
        motion: Motion,
    },
    /// Two still sprites: `subject` is `relation` of `than`.
    Placed {
        /// Concept of the first sprite.
        subject: usize,
        /// Place of the first sprite relative to the second.
        relation: Relation,
        /// Concept of the second sprite.
        than: usize,
    },
    /// Two sprites side by side that do different things across the line between them.
    DoesEach {
        /// Concept of the first sprite.
        subject: usize,
        /// Motion of the first sprite.
        motion: Motion,
        /// Concept of the second sprite.
        other: usize,
        /// Motion of the second sprite.
        other_motion: Motion,
    },
    /// `count` sprites of one concept, and perhaps one of another.
    Count {
        /// The concept.
        subject: usize,
        /// Number of its sprites, 1 to 4.
        count: usize,
        /// Concept of a sprite that does not count.
        other: Option<usize>,
    },
    /// `first` is visible from the start and disappears; `then` appears later and stays.
    Order {
        /// Concept of the first sprite.
        first: usize,
        /// Concept of the second sprite.
        then: usize,
    },
    /// `subject` is visible in a part of the clip only, `host` (if any) in all of it.
    Visit {
        /// Concept of the visitor.
        subject: usize,
        /// Part of the clip in which it is visible.
        when: Moment,
        /// Concept of a second sprite.
        host: Option<usize>,
    },
    /// `subject` passes the still `other` and hides a part of it (`in_front`) or is partly hidden by it.
    Passes {
        /// Concept of the moving sprite.
        subject: usize,
        /// Its motion.
        motion: Motion,
        /// Whether it passes in front of the other.
        in_front: bool,
        /// Concept of the still sprite.
        other: usize,
    },
    /// One frame with several concepts.
    Together {
        /// The concepts.
        subject: Vec<usize>,
    },
}

impl Fact {
    /// The visible concepts, each once.
    pub fn concepts(&self) -> Vec<usize> {
        match self {
            Fact::Does { subject, .. } => vec![*subject],
            Fact::Placed { subject, than: other, .. }
            | Fact::DoesEach { subject, other, .. }
            | Fact::Passes { subject, other, .. } => vec![*subject, *other],
            Fact::Order { first, then } => vec![*first, *then],
            Fact::Visit { subject, host: other, .. } | Fact::Count { subject, other, .. } => {
                [Some(*subject), *other].into_iter().flatten().collect()
            }
            Fact::Together { subject } => subject.clone(),
        }
    }
}

/// Place, size and angle of a sprite at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pose {
    /// Centre from the left edge, as a fraction of the width of the frame.
    pub x: f64,
    /// Centre from the top edge, as a fraction of the height of the frame.
    pub y: f64,
    /// Side of the square around the drawing, as a fraction of the shorter side of the frame.
    pub side: f64,
    /// Degrees, clockwise.
    pub angle: f64,
}

impl Pose {
    fn interpolate(&self, to: &Pose, part: f64) -> Pose {
        let mix = |a: f64, b: f64| a + (b - a) * part;
        Pose {
            x: mix(self.x, to.x),
            y: mix(self.y, to.y),
            side: mix(self.side, to.side),
            angle: mix(self.angle, to.angle),
        }
    }
}

/// Change of one drawing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Augmentation {
    /// Matrix on red, green and blue.
    pub colours: [[f32; 3]; 3],
    /// Factors of width and height, at most 1.
    pub stretch: [f32; 2],
    /// Horizontal shift of the top against the bottom, relative to the height.
    pub shear: f32,
    /// Outline: its width relative to the side, and its colour.
    pub outline: Option<(f32, Colour)>,
    /// Hidden part: the points beyond this distance from the centre, relative to the side, in a direction in radians.
    pub cut: Option<(f32, f32)>,
}

/// Drawing that moves in a scene.
#[derive(Debug, Clone, PartialEq)]
pub struct Sprite {
    /// Index of its concept.
    pub concept: usize,
    /// Index of its icon set.
    pub style: usize,
    /// Mirrored left to right.
    pub mirrored: bool,
    /// Its motion.
    pub motion: Motion,
    /// Pose half a second before the first frame.
    pub from: Pose,
    /// Pose half a second after the last frame.
    pub to: Pose,
    /// Interval in which it is visible, in seconds; the end is exclusive.
    pub visible: (f64, f64),
    /// Change of the drawing.
    pub augmentation: Option<Augmentation>,
}

/// Red, green and blue, 0 to 255.
pub type Colour = [f32; 3];

/// Background of two similar colours in a pattern. Lengths are fractions of the shorter side, angles are in
/// radians.
#[derive(Debug, Clone, PartialEq)]
pub struct Background {
    /// Both colours.
    pub colours: [Colour; 2],
    /// Distribution of the colours.
    pub pattern: Pattern,
}

/// Pattern of a background.
#[derive(Debug, Clone, PartialEq)]
pub enum Pattern {
    /// The first colour only.
    Plain,
    /// A linear gradient.
    Gradient {
        /// Direction of the gradient.
        angle: f32,
    },
    /// Stripes of both colours.
    Stripes {
        /// Direction across the stripes.
        angle: f32,
        /// Width of two stripes.
        period: f32,
    },
    /// A checkerboard.
    Checks {
        /// Side of a square.
        side: f32,
    },
    /// Soft discs of the second colour.
    Blobs {
        /// Centre (x, y as fractions of the frame) and radius of each disc.
        discs: Vec<[f32; 3]>,
    },
    /// A sum of waves.
    Waves {
        /// Frequency per frame, direction, phase and amplitude of each wave.
        waves: Vec<[f32; 4]>,
    },
}

/// Changes of the whole picture that do not make a caption false.
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
    /// Seed of the noise.
    pub noise_seed: u64,
    /// Standard deviation of the blur in pixels; 0: sharp.
    pub blur: f32,
}

/// Scene of a clip.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// The fact that it shows.
    pub fact: Fact,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Length in seconds; also the number of frames at one per second.
    pub seconds: usize,
    /// Sprites from the back to the front.
    pub sprites: Vec<Sprite>,
    /// The background.
    pub background: Background,
    /// The light.
    pub light: Light,
}

impl Scene {
    /// Returns the visible sprites at a moment with their poses, from the back to the front.
    ///
    /// Motion lasts from half a second before the first frame to half a second after the last one, so a clip
    /// and the same clip played backwards have the same frames.
    pub fn visible_at(&self, seconds: f64) -> impl Iterator<Item = (&Sprite, Pose)> {
        let part = ((seconds + 0.5) / self.seconds as f64).clamp(0.0, 1.0);
        let visible = self.sprites.iter().filter(move |s| s.visible.0 <= seconds && seconds < s.visible.1);
        visible.map(move |sprite| (sprite, sprite.from.interpolate(&sprite.to, part)))
    }

    /// Shorter side of the frame in pixels.
    pub fn shorter_side(&self) -> f64 {
        f64::from(self.width.min(self.height))
    }
}

/// Drawings by style and concept. A style can lack a concept.
pub type Drawings = Vec<Vec<Option<Drawing>>>;
