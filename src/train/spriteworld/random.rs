//! Random streams. A clip is a function of (seed, split, index).

use rand::{RngExt, SeedableRng};

/// Random generator: Xoshiro256++, seeded by `seed_from_u64`. It is small, fast, and the same on every
/// machine.
pub type Stream = rand::rngs::Xoshiro256PlusPlus;

/// Split of the clips of a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// Clips for training.
    Train,
    /// The distribution of `Train`, from other random streams.
    HeldOutSeeds,
    /// Every clip has a sprite with a held-out (concept, motion) pair, which the other splits never show.
    HeldOutCombinations,
}

/// Purpose of a random stream. Streams of different purposes are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A clip.
    Clip,
    /// A clip of one frame.
    Image,
    /// A few-shot episode.
    Episode,
    /// Augmentation of a clip.
    ClipAugmentation,
    /// Augmentation of a clip of one frame.
    ImageAugmentation,
}

/// Returns the stream of one clip, image or episode.
pub fn stream(seed: u64, split: Split, purpose: Purpose, index: u64) -> Stream {
    let mut state = mix(seed ^ 0x5350_5249_5445);
    for part in [split as u64, purpose as u64, index] {
        state = mix(state ^ part);
    }
    Stream::seed_from_u64(state)
}

/// Hashes a text with a seed. The hash is stable between builds, unlike that of the standard library.
pub fn hash(seed: u64, text: &str) -> u64 {
    text.bytes().fold(mix(seed), |state, byte| mix(state ^ u64::from(byte)))
}

/// One step of SplitMix64, a bijection with well-distributed output.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Draws a number from `low` to `high`; returns `low` if the range is empty.
pub fn between(rng: &mut Stream, low: f64, high: f64) -> f64 {
    low + (high - low).max(0.0) * rng.random::<f64>()
}

/// Draws one of `options`, all equally likely.
///
/// # Panics
/// `options` is empty.
pub fn one_of<T: Copy>(rng: &mut Stream, options: &[T]) -> T {
    options[rng.random_range(0..options.len())]
}
