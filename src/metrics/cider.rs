//! CIDEr-D of captions.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{MetricError, caption_words};

/// Greatest length of an n-gram in words.
const LONGEST: usize = 4;
/// Standard deviation of the penalty for other lengths, in words.
const SIGMA: f64 = 6.0;

/// Caption of one image or video, with its references.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptionedItem {
    /// Generated caption.
    pub caption: String,
    /// Captions by people; at least one.
    pub references: Vec<String>,
}

/// CIDEr-D of a set of captions.
#[derive(Debug, Clone, PartialEq)]
pub struct Cider {
    /// Mean over the items: the score that papers print times 100.
    pub mean: f64,
    /// Score of each item, from 0 to 10.
    pub items: Vec<f64>,
}

/// N-grams, each a list of word numbers, with a value: a count or a weight. The order makes sums the same in every run.
type Grams<T> = BTreeMap<Vec<u32>, T>;

/// A caption as vectors of weights, one for each length of n-grams.
struct Weights {
    grams: Grams<f64>,
    norms: [f64; LONGEST],
    /// Count of bigrams, as the reference counts the length of a caption.
    length: f64,
}

/// Computes CIDEr-D of all captions of a benchmark (COCO, Flickr30k, VATEX, NoCaps).
///
/// For n from 1 to 4, an n-gram that stands `c` times in a caption has the weight c · ln(items / items with the
/// n-gram in a reference). The score of a caption is 10 / (4 · references) times the sum over n and references of the
/// cosine of their weights, where each weight of the caption is at most that of the reference, times exp(-(difference
/// of the lengths)² / 72). The value for a single item is 0, because every n-gram of its references stands in all
/// items.
///
/// Source: Vedantam et al. 2015 (arXiv 1411.5726); `pycocoevalcap.cider` 1.2 after its PTB tokenizer
/// ([`caption_words`]).
///
/// # Errors
/// There are no items, or an item has no reference.
pub fn cider(items: &[CaptionedItem]) -> Result<Cider, MetricError> {
    if items.is_empty() {
        return Err(MetricError::NoItems);
    }
    if let Some(at) = items.iter().position(|item| item.references.is_empty()) {
        return Err(MetricError::NoReference(at));
    }
    let mut numbers = HashMap::new();
    let mut count = |caption: &String| count_grams(&caption_words(caption), &mut numbers);
    let captions: Vec<Grams<u32>> = items.iter().map(|item| count(&item.caption)).collect();
    let references: Vec<Vec<Grams<u32>>> =
        items.iter().map(|item| item.references.iter().map(&mut count).collect()).collect();
    let mut frequency: HashMap<&[u32], u32> = HashMap::new();
    for references in &references {
        let present: BTreeSet<&Vec<u32>> = references.iter().flat_map(BTreeMap::keys).collect();
        for gram in present {
            *frequency.entry(gram).or_default() += 1;
        }
    }
    let logarithm = (items.len() as f64).ln();
    let weigh = |counts: &Grams<u32>| {
        weigh(counts, |gram| logarithm - f64::from(frequency.get(gram).copied().unwrap_or(1)).ln())
    };
    let score = |(caption, references): (&Grams<u32>, &Vec<Grams<u32>>)| {
        let caption = weigh(caption);
        let sum: f64 = references.iter().map(|reference| similarity(&caption, &weigh(reference))).sum();
        10.0 * sum / (LONGEST * references.len()) as f64
    };
    let items: Vec<f64> = captions.iter().zip(&references).map(score).collect();
    Ok(Cider { mean: items.iter().sum::<f64>() / items.len() as f64, items })
}

fn count_grams(words: &[String], numbers: &mut HashMap<String, u32>) -> Grams<u32> {
    let mut number = |word: &String| {
        let next = numbers.len() as u32;
        *numbers.entry(word.clone()).or_insert(next)
    };
    let words: Vec<u32> = words.iter().map(&mut number).collect();
    let mut counts = Grams::new();
    for gram in (1..=LONGEST).flat_map(|length| words.windows(length)) {
        *counts.entry(gram.to_vec()).or_default() += 1;
    }
    counts
}

fn weigh(counts: &Grams<u32>, rarity: impl Fn(&[u32]) -> f64) -> Weights {
    let mut weights = Weights { grams: Grams::new(), norms: [0.0; LONGEST], length: 0.0 };
    for (gram, &count) in counts {
        let weight = f64::from(count) * rarity(gram);
        weights.norms[gram.len() - 1] += weight * weight;
        weights.length += if gram.len() == 2 { f64::from(count) } else { 0.0 };
        weights.grams.insert(gram.clone(), weight);
    }
    weights.norms = weights.norms.map(f64::sqrt);
    weights
}

/// Sum over the lengths of n-grams of the clipped cosine with the penalty for other lengths.
fn similarity(caption: &Weights, reference: &Weights) -> f64 {
    let mut products = [0.0; LONGEST];
    for (gram, &weight) in &caption.grams {
        let other = reference.grams.get(gram).copied().unwrap_or(0.0);
        products[gram.len() - 1] += weight.min(other) * other;
    }
    let norms = caption.norms.iter().zip(reference.norms).map(|(a, b)| a * b);
    let cosines =
        products.into_iter().zip(norms).map(|(product, norm)| if norm > 0.0 { product / norm } else { 0.0 });
    let difference = caption.length - reference.length;
    cosines.sum::<f64>() * (-difference * difference / (2.0 * SIGMA * SIGMA)).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(caption: &str, references: &[&str]) -> CaptionedItem {
        CaptionedItem {
            caption: caption.into(),
            references: references.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_caption_equal_to_its_reference_scores_ten() {
        let items = [
            item("A man rides a wave.", &["a man rides a wave"]),
            item("zebras", &["two dogs play in snow"]),
            item("", &["two dogs play in snow"]),
        ];
        let scores = cider(&items).unwrap();
        assert!((scores.items[0] - 10.0).abs() < 1e-9, "{scores:?}");
        assert_eq!(scores.items[1..], [0.0, 0.0]);
        assert!((scores.mean - 10.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn one_word_of_four_scores_by_hand() {
        // Every word stands in one of two items, so that all weights are ln 2 and the cosine of the unigrams is 1 / 2.
        let items = [item("red", &["red fox sleeps here"]), item("owl", &["a grey owl"])];
        let expected =
            [10.0 / 4.0 * 0.5 * (-9f64 / 72.0).exp(), 10.0 / 4.0 / 3f64.sqrt() * (-4f64 / 72.0).exp()];
        let scores = cider(&items).unwrap().items;
        assert!(scores.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{scores:?} {expected:?}");
    }

    #[test]
    fn items_need_references() {
        assert_eq!(cider(&[]), Err(MetricError::NoItems));
        assert_eq!(cider(&[item("a", &["a"]), item("a", &[])]), Err(MetricError::NoReference(1)));
        assert_eq!(cider(&[item("a dog", &["a dog"])]).unwrap().mean, 0.0);
    }
}
