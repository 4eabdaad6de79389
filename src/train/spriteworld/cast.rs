//! Concepts and styles of the sprites, and the held-out (concept, motion) pairs.

use rand::RngExt;

use super::random::{Split, Stream, hash, one_of};
use super::scene::{Drawings, Motion};
use super::words::is_countable;

/// One (concept, motion) pair in this many is held out.
const HELD_OUT: usize = 8;

/// Concepts with their styles, and the held-out (concept, motion) pairs.
pub struct Cast {
    concepts: usize,
    countable: Vec<usize>,
    /// Indexed by `[concept]`: the styles that have a drawing of it.
    styles: Vec<Vec<usize>>,
    /// Indexed by `[motion][concept]`.
    held_out: Vec<Vec<bool>>,
}

impl Cast {
    /// Collects the styles of every concept and chooses the held-out pairs from the seed.
    pub fn new(concepts: &[String], drawings: &Drawings, seed: u64) -> Self {
        let able = |concept: usize| (0..drawings.len()).filter(|s| drawings[*s][concept].is_some()).collect();
        let countable: Vec<usize> = (0..concepts.len()).filter(|c| is_countable(&concepts[*c])).collect();
        Self {
            concepts: concepts.len(),
            // Counting scenes need a concept even if no noun of the list is countable.
            countable: if countable.is_empty() { (0..concepts.len()).collect() } else { countable },
            styles: (0..concepts.len()).map(able).collect(),
            held_out: Motion::ALL.map(|motion| held_out(concepts, motion, seed)).into(),
        }
    }

    /// Whether the pair is held out.
    pub fn is_held_out(&self, concept: usize, motion: Motion) -> bool {
        self.held_out[motion as usize][concept]
    }

    /// Draws the main concept of a clip of this split with this motion. The pair is held out if and only if
    /// the split is that of held-out combinations.
    pub fn lead(&self, rng: &mut Stream, split: Split, motion: Motion) -> usize {
        let wanted = split == Split::HeldOutCombinations && motion != Motion::Still;
        self.find(rng, |concept| self.is_held_out(concept, motion) == wanted)
    }

    /// Draws a second concept, different from `others`, that this split allows with this motion.
    pub fn companion(&self, rng: &mut Stream, split: Split, motion: Motion, others: &[usize]) -> usize {
        let any = split == Split::HeldOutCombinations;
        let free = |concept| any || !self.is_held_out(concept, motion);
        self.find(rng, |concept| !others.contains(&concept) && free(concept))
    }

    /// Draws a motion that this split allows for `concept`.
    pub fn motion_of(&self, rng: &mut Stream, split: Split, concept: usize) -> Motion {
        let free = |m: &Motion| split == Split::HeldOutCombinations || !self.is_held_out(concept, *m);
        let motions: Vec<Motion> = Motion::ALL.into_iter().filter(free).collect();
        one_of(rng, &motions)
    }

    /// Draws a concept with a countable noun.
    pub fn countable(&self, rng: &mut Stream) -> usize {
        one_of(rng, &self.countable)
    }

    /// Draws any concept except `others`.
    pub fn other_than(&self, rng: &mut Stream, others: &[usize]) -> usize {
        self.find(rng, |concept| !others.contains(&concept))
    }

    /// Returns the concepts `among` and random others, `count` together if the world has so many, in random
    /// order.
    pub fn choices(&self, rng: &mut Stream, count: usize, among: &[usize]) -> Vec<usize> {
        let mut chosen = among.to_vec();
        while chosen.len() < count.min(self.concepts) {
            let next = self.other_than(rng, &chosen);
            chosen.push(next);
        }
        for i in (1..chosen.len()).rev() {
            chosen.swap(i, rng.random_range(0..=i));
        }
        chosen
    }

    /// Draws a style for `concept`: the wanted one if it has a drawing.
    pub fn style(&self, rng: &mut Stream, concept: usize, wanted: Option<usize>) -> usize {
        let able = &self.styles[concept];
        wanted.filter(|style| able.contains(style)).unwrap_or_else(|| one_of(rng, able))
    }

    fn find(&self, rng: &mut Stream, fits: impl Fn(usize) -> bool) -> usize {
        // Some concept always fits: a world has at least four, and of every motion some pairs but not most
        // are held out.
        loop {
            let concept = rng.random_range(0..self.concepts);
            if fits(concept) {
                return concept;
            }
        }
    }
}

/// Marks the concepts that are held out with `motion`: those with the lowest hashes, so every motion has
/// some. Pairs with `Still` are never held out, because most concepts appear still.
fn held_out(concepts: &[String], motion: Motion, seed: u64) -> Vec<bool> {
    let mut held = vec![false; concepts.len()];
    if motion == Motion::Still {
        return held;
    }
    let mut order: Vec<usize> = (0..concepts.len()).collect();
    order.sort_by_key(|c| hash(seed, &format!("{} {motion:?}", concepts[*c])));
    for concept in order.into_iter().take((concepts.len() / HELD_OUT).max(1)) {
        held[concept] = true;
    }
    held
}
