//! Random streams: everything in a clip is a function of (seed, split, index).

use rand::{RngExt, SeedableRng};

/// Xoshiro256++, seeded by `seed_from_u64`: small, fast, and the same on every machine.
pub type Stream = rand::rngs::Xoshiro256PlusPlus;

/// Which part of the world a clip is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    Train,
    /// The distribution of `Train`, from random streams that `Train` never sees.
    HeldOutSeeds,
    /// Every clip has a sprite whose (concept, motion) the other splits never show.
    HeldOutCombinations,
}

/// What a stream is for; streams of different purposes have nothing in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Clip,
    Image,
    Episode,
}

/// The stream of one clip, image or episode.
pub fn stream(seed: u64, split: Split, purpose: Purpose, index: u64) -> Stream {
    let mut state = mix(seed ^ 0x5350_5249_5445);
    for part in [split as u64, purpose as u64, index] {
        state = mix(state ^ part);
    }
    Stream::seed_from_u64(state)
}

/// A hash of a text under a seed, stable between builds (unlike the standard library's).
pub fn hash(seed: u64, text: &str) -> u64 {
    text.bytes().fold(mix(seed), |state, byte| mix(state ^ u64::from(byte)))
}

/// One step of SplitMix64: a bijection that scatters neighbours.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A number from `low` to `high`; `low` where the range is empty.
pub fn between(rng: &mut Stream, low: f64, high: f64) -> f64 {
    low + (high - low).max(0.0) * rng.random::<f64>()
}

/// One of `options`, each as likely. There must be one.
pub fn one_of<T: Copy>(rng: &mut Stream, options: &[T]) -> T {
    options[rng.random_range(0..options.len())]
}
