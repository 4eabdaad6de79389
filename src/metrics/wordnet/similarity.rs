//! Similarity of Wu and Palmer.

use std::collections::{HashMap, VecDeque};

use super::{NOUN, Part, WordNet};

/// Number of steps from a synset to each of its hypernyms, to itself 0.
type Distances = HashMap<u32, u32>;

impl WordNet {
    /// Similarity of Wu and Palmer of the first senses of two words, above 0 and at most 1: 2d / (2d + steps from
    /// both senses to their deepest common hypernym, by the shortest way), where d is the depth of that hypernym, 1
    /// for a root. Senses that are not both nouns have a common root above all roots. `None` if WordNet lacks a word.
    ///
    /// Source: Wu and Palmer 1994; `Synset.wup_similarity` of nltk 3.10, with its choice among hypernyms of equal
    /// depth.
    pub fn wup_similarity(&self, first: &str, second: &str) -> Option<f64> {
        let (first, second) = (self.first_sense(first)?, self.first_sense(second)?);
        let ways = [first, second].map(|(part, synset)| distances(&self.parts[part], synset));
        let synsets = &self.parts[first.0].synsets;
        let mut common: Vec<u32> = match first.0 == second.0 {
            true => ways[0].keys().filter(|synset| ways[1].contains_key(synset)).copied().collect(),
            false => Vec::new(),
        };
        let deepest = common.iter().map(|&synset| synsets[synset as usize].least_depth).max();
        common.retain(|&synset| Some(synsets[synset as usize].least_depth) == deepest);
        common.sort_by_key(|&synset| &synsets[synset as usize].name);
        let nouns = first.0 == NOUN && second.0 == NOUN;
        let subsumer = match common.contains(&first.1) {
            true => Some(first.1),
            // The root above the roots is as deep as they, and its name comes first.
            false => common.first().copied().filter(|_| nouns || deepest > Some(0)),
        };
        let (depth, steps) = match subsumer {
            Some(subsumer) => {
                let above = distances(&self.parts[first.0], subsumer);
                let steps = ways.iter().map(|way| between(way, &above, !nouns)).sum();
                (synsets[subsumer as usize].greatest_depth + 1, steps)
            }
            None if nouns => return None,
            None => (1, ways.iter().map(to_root).sum::<u32>()),
        };
        Some(f64::from(2 * depth) / f64::from(2 * depth + steps))
    }
}

/// Number of steps to the root above all roots: nltk places it above the farthest hypernym.
fn to_root(distances: &Distances) -> u32 {
    distances.values().max().map_or(0, |most| most + 1)
}

/// Number of steps from a synset to a hypernym of it over any common hypernym; the way down can be shorter than the
/// way up.
fn between(from: &Distances, to: &Distances, root: bool) -> u32 {
    let common = from.iter().filter_map(|(synset, steps)| Some(steps + to.get(synset)?));
    let over_root = root.then(|| to_root(from) + to_root(to));
    common.chain(over_root).min().unwrap_or(0)
}

/// Shortest ways to all hypernyms.
fn distances(part: &Part, synset: u32) -> Distances {
    let mut distances = Distances::new();
    let mut queue = VecDeque::from([(synset, 0)]);
    while let Some((synset, distance)) = queue.pop_front() {
        if let std::collections::hash_map::Entry::Vacant(entry) = distances.entry(synset) {
            entry.insert(distance);
            queue.extend(part.synsets[synset as usize].hypernyms.iter().map(|&next| (next, distance + 1)));
        }
    }
    distances
}
