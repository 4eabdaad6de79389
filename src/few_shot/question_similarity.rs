//! Similarity of questions by their words.

use std::collections::BTreeMap;

/// Returns the cosine of each text to `query`, for texts as token ids. A token counts as often as it occurs, times the logarithm of
/// the number of all texts divided by that of the texts with it: words that all questions have in common do not count. Texts without
/// other words are equal to those with the same tokens, and else have the cosine 0.
pub fn question_similarities(texts: &[Vec<u32>], query: &[u32]) -> Vec<f64> {
    let bags: Vec<BTreeMap<u32, f64>> = texts.iter().map(|ids| bag(ids)).collect();
    let query_bag = bag(query);
    let mut documents: BTreeMap<u32, f64> = BTreeMap::new();
    for token in bags.iter().chain([&query_bag]).flat_map(BTreeMap::keys) {
        *documents.entry(*token).or_default() += 1.0;
    }
    let all = 1.0 + texts.len() as f64;
    let weighted = |bag: &BTreeMap<u32, f64>| -> BTreeMap<u32, f64> {
        bag.iter().map(|(token, count)| (*token, count * (all / documents[token]).ln())).collect()
    };
    let weighted_query = weighted(&query_bag);
    let similarity = |(text, bag): (&Vec<u32>, &BTreeMap<u32, f64>)| {
        if text == query { 1.0 } else { cosine(&weighted(bag), &weighted_query) }
    };
    texts.iter().zip(&bags).map(similarity).collect()
}

fn bag(ids: &[u32]) -> BTreeMap<u32, f64> {
    let mut bag = BTreeMap::new();
    ids.iter().for_each(|id| *bag.entry(*id).or_default() += 1.0);
    bag
}

fn cosine(a: &BTreeMap<u32, f64>, b: &BTreeMap<u32, f64>) -> f64 {
    let dot: f64 = a.iter().filter_map(|(token, x)| Some(x * b.get(token)?)).sum();
    let square = |bag: &BTreeMap<u32, f64>| bag.values().map(|x| x * x).sum::<f64>();
    let norms = (square(a) * square(b)).sqrt();
    if norms > 0.0 { dot / norms } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tokens 1 and 2 stand for words that every question has.
    #[test]
    fn rare_words_decide() {
        let texts = [vec![1, 2, 7], vec![1, 2, 8, 9], vec![1, 2, 9], vec![1, 2]];
        let found = question_similarities(&texts, &[1, 2, 9]);
        assert_eq!((found[0], found[2], found[3]), (0.0, 1.0, 0.0));
        // 9 is in three of five texts, 8 in one: the cosine is ln(5/3) / sqrt(ln(5/3)^2 + ln(5)^2).
        let (nine, eight) = ((5.0f64 / 3.0).ln(), 5.0f64.ln());
        assert!((found[1] - nine / nine.hypot(eight)).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn equal_questions_are_equal_though_no_word_is_rare() {
        assert_eq!(question_similarities(&[vec![1, 2], vec![1, 2]], &[1, 2]), [1.0, 1.0]);
        assert_eq!(question_similarities(&[vec![]], &[1]), [0.0]);
    }
}
