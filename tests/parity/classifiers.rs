//! Parity of the classifiers on features with scikit-learn (`golden/generate_classifiers.py`).

use flamingo::few_shot::classifiers::{ExampleLabels, Examples, Method, cross_validate};
use serde_json::Value;
use support::golden;

fn cases() -> Vec<Value> {
    let text = std::fs::read_to_string(golden::folder().join("classifiers.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn rows(value: &Value) -> Vec<Vec<f32>> {
    serde_json::from_value(value.clone()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Number of different labels, and the examples with them.
fn examples(case: &Value) -> (usize, Examples) {
    let labels: Vec<usize> = serde_json::from_value(case["labels"].clone()).unwrap();
    let count = labels.iter().max().unwrap() + 1;
    let names = (0..count).map(|label| label.to_string());
    let labels = ExampleLabels::new(names, labels.iter().map(ToString::to_string)).unwrap();
    (count, Examples::new(&rows(&case["features"]), labels).unwrap())
}

/// Two and more labels, unequal classes, a zero vector, wide and nearly parallel features, weak and strong penalties. The
/// implementations end their searches at different points, so probabilities are equal to 1e-4 only.
#[test]
fn linear_probe_equals_scikit_learn() {
    let cases = cases();
    assert_eq!(cases.len(), 6, "the golden is complete");
    for case in &cases {
        let (_, examples) = examples(case);
        for probe in case["probes"].as_array().unwrap() {
            let method = Method::LinearProbe { c: probe["c"].as_f64().unwrap() };
            let classifier = method.fit(&examples).unwrap();
            let mut greatest = 0.0_f64;
            for (query, expected) in
                rows(&case["queries"]).iter().zip(probe["probabilities"].as_array().unwrap())
            {
                let scores = classifier.scores(query).unwrap();
                let errors = scores.iter().zip(numbers(expected)).map(|(s, e)| (s.exp() - e).abs());
                greatest = errors.fold(greatest, f64::max);
            }
            println!("{}, {method:?}: {greatest:e}", case["name"]);
            assert!(greatest < 1e-4, "{}, {method:?}: {greatest}", case["name"]);
            let right = cross_validate(method, &examples, 0).unwrap();
            let margins = numbers(&probe["margins"]);
            for (i, expected) in probe["left_out"].as_array().unwrap().iter().enumerate() {
                // Where two labels are equally likely, rounding decides.
                assert!(margins[i] < 1e-4 || right[i] == expected.as_bool().unwrap(), "example {i}");
            }
        }
    }
}

/// scikit-learn's probabilities are shares of the votes, without the vote that is spread over all labels.
#[test]
fn neighbours_equal_scikit_learn() {
    for case in &cases() {
        let (count, examples) = examples(case);
        let classifier = Method::Neighbours { most: 5 }.fit(&examples).unwrap();
        for (query, expected) in rows(&case["queries"]).iter().zip(case["neighbours"].as_array().unwrap()) {
            let found: Vec<f64> = classifier.scores(query).unwrap().iter().map(|s| s.exp()).collect();
            let expected = numbers(expected);
            // found = (expected * votes + 1 / count) / (votes + 1) for one number of votes, up to the factor of the first vote.
            let even = 1.0 / count as f64;
            let (i, _) = (0..count)
                .map(|i| (i, (expected[i] - even).abs()))
                .max_by(|a, b| a.1.total_cmp(&b.1))
                .unwrap();
            let votes = (found[i] - even) / (expected[i] - found[i]);
            for (found, expected) in found.iter().zip(&expected) {
                let shares = (expected * votes + even) / (votes + 1.0);
                assert!((found - shares).abs() < 1e-5, "{}: {found}, expected {shares}", case["name"]);
            }
            assert!(votes > 0.5 && votes < 5.01, "{}: {votes} votes", case["name"]);
        }
    }
}
