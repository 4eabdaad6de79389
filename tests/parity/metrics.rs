//! Metrics equal to their references on the cases of `golden/metrics.json` (`golden/generate_metrics.py`).

use std::num::NonZeroUsize;

use flamingo::metrics::{self, CaptionedItem, OkVqaStemmer, WordNet};
use serde_json::Value;
use support::golden;

/// Greatest difference from a reference.
const TOLERANCE: f64 = 1e-3;

fn cases(name: &str) -> Value {
    let text = std::fs::read_to_string(golden::folder().join("metrics.json")).unwrap();
    let mut golden: Value = serde_json::from_str(&text).unwrap();
    golden[name].take()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn texts(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

fn assert_close(found: f64, golden: &Value, case: &dyn std::fmt::Debug) {
    let expected = golden.as_f64().expect("a number");
    assert!((found - expected).abs() <= TOLERANCE, "{case:?}: {found}, the reference has {expected}");
}

#[test]
fn words_of_captions_equal_stanfords_tokenizer() {
    let cases = cases("captions");
    assert!(list(&cases).len() >= 60);
    for case in list(&cases) {
        assert_eq!(metrics::caption_words(text(&case[0])), texts(&case[1]), "{}", case[0]);
    }
}

#[test]
fn cider_equals_pycocoevalcap() {
    let golden = cases("cider");
    let item = |item: &Value| CaptionedItem {
        caption: text(&item["caption"]).into(),
        references: texts(&item["references"]),
    };
    let items: Vec<CaptionedItem> = list(&golden["items"]).iter().map(item).collect();
    let scores = metrics::cider(&items).unwrap();
    assert_close(scores.mean, &golden["mean"], &"mean");
    assert_eq!(scores.items.len(), list(&golden["scores"]).len());
    for ((score, golden), item) in scores.items.iter().zip(list(&golden["scores"])).zip(&items) {
        assert_close(*score, golden, item);
    }
}

#[test]
fn vqa_accuracy_equals_open_flamingo() {
    let golden = cases("vqa");
    for case in list(&golden["normalised"]) {
        assert_eq!(metrics::normalise_answer(text(&case[0])), text(&case[1]), "{}", case[0]);
    }
    for case in list(&golden["items"]) {
        let accuracy = metrics::vqa_accuracy(text(&case["prediction"]), &texts(&case["answers"])).unwrap();
        assert_close(accuracy, &case["accuracy"], case);
    }
}

#[test]
fn auc_equals_scikit_learn() {
    for case in list(&cases("auc")) {
        let positive: Vec<bool> = serde_json::from_value(case["positive"].clone()).unwrap();
        assert_close(metrics::roc_auc(&numbers(&case["scores"]), &positive).unwrap(), &case["auc"], case);
    }
}

#[test]
fn ranking_equals_visdial() {
    let golden = cases("visdial");
    let mut ranks: Vec<NonZeroUsize> = Vec::new();
    for (i, scores) in list(&golden["scores"]).iter().map(numbers).enumerate() {
        let relevance = numbers(&golden["relevance"][i]);
        assert_close(metrics::ndcg(&scores, &relevance).unwrap(), &golden["ndcg"][i], &scores);
        ranks.push(metrics::rank(&scores, golden["targets"][i].as_u64().unwrap() as usize).unwrap());
    }
    let expected = &golden["ranks"];
    for (k, name) in [(1, "r@1"), (5, "r@5"), (10, "r@10")] {
        assert_close(metrics::recall_at(&ranks, k).unwrap(), &expected[name], &name);
    }
    assert_close(metrics::mean_rank(&ranks).unwrap(), &expected["mean"], &"mean");
    assert_close(metrics::mean_reciprocal_rank(&ranks).unwrap(), &expected["mrr"], &"mrr");
}

fn wordnet() -> WordNet {
    WordNet::open(&golden::folder().join("wordnet")).unwrap()
}

#[test]
fn similarities_equal_nltk() {
    let (golden, words) = (cases("wordnet"), wordnet());
    for case in list(&golden["pairs"]) {
        match words.wup_similarity(text(&case[0]), text(&case[1])) {
            Some(similarity) => assert_close(similarity, &case[2], case),
            None => assert!(case[2].is_null(), "{case:?}: no similarity"),
        }
    }
}

#[test]
fn wups_equals_next_qa() {
    let (golden, words) = (cases("wordnet"), wordnet());
    for case in list(&golden["answers"]) {
        for (threshold, expected) in [(0.0, &case[2]), (0.9, &case[3])] {
            assert_close(words.wups(text(&case[0]), &[text(&case[1])], threshold).unwrap(), expected, case);
        }
    }
}

#[test]
fn stems_equal_open_flamingo() {
    let words = wordnet();
    let stemmer = OkVqaStemmer::new(&words);
    for case in list(&cases("stems")) {
        assert_eq!(stemmer.stem_word(text(&case[0]), case[1].as_bool().unwrap()), text(&case[2]), "{case:?}");
    }
}
