//! Tests of all classifiers through one interface.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::super::cross_validate;
use super::super::probabilities::most_likely;
use super::*;
use crate::few_shot::classifiers::ExampleLabels;

fn examples(names: &[&str], rows: &[(&str, &[f32])]) -> Examples {
    let labels = ExampleLabels::new(names, rows.iter().map(|(label, _)| label)).unwrap();
    Examples::new(&rows.iter().map(|(_, row)| row.to_vec()).collect::<Vec<_>>(), labels).unwrap()
}

/// Features of some labels around different centres, in random order.
fn random(seed: u64, counts: &[usize], width: usize) -> Vec<(String, Vec<f32>)> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut rows = Vec::new();
    for (label, &count) in counts.iter().enumerate() {
        let centre: Vec<f32> = (0..width).map(|_| random.random_range(-0.9..1.1)).collect();
        for _ in 0..count {
            let row = centre.iter().map(|c| c + random.random_range(-1.0..1.0)).collect();
            rows.push((format!("label {label}"), row));
        }
    }
    rows.shuffle(&mut random);
    rows
}

fn joined(rows: &[(String, Vec<f32>)], labels: usize) -> Examples {
    let names = (0..labels).map(|label| format!("label {label}"));
    let labels = ExampleLabels::new(names, rows.iter().map(|(label, _)| label)).unwrap();
    Examples::new(&rows.iter().map(|(_, row)| row.clone()).collect::<Vec<_>>(), labels).unwrap()
}

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(expected) {
        assert!((f.exp() - e.exp()).abs() < tolerance, "{found:?}, expected {expected:?}");
    }
}

fn logarithms(probabilities: &[f64]) -> Vec<f64> {
    probabilities.iter().map(|p| p.ln()).collect()
}

#[test]
fn probabilities_sum_to_one_and_find_the_label() {
    for width in [6, 400] {
        let rows = random(1, &[9, 6, 12], width);
        let examples = joined(&rows, 3);
        for method in Method::ALL {
            let classifier = method.fit(&examples).unwrap();
            let mut right = 0;
            for (label, row) in &rows {
                let scores = classifier.scores(row).unwrap();
                let sum: f64 = scores.iter().map(|s| s.exp()).sum();
                assert!((sum - 1.0).abs() < 1e-9 && scores.iter().all(|s| s.is_finite()), "{scores:?}");
                right += usize::from(&examples.labels().names()[most_likely(&scores)] == label);
            }
            assert!(right >= 22, "{method:?}: {right} of 27");
        }
    }
}

#[test]
fn order_of_the_examples_has_no_influence() {
    let mut rows = random(2, &[5, 7, 4], 10);
    let query: Vec<f32> = (0..10).map(|i| (i as f32).cos()).collect();
    let first = Method::ALL.map(|method| method.fit(&joined(&rows, 3)).unwrap().scores(&query).unwrap());
    rows.reverse();
    rows.swap(3, 8);
    let second = Method::ALL.map(|method| method.fit(&joined(&rows, 3)).unwrap().scores(&query).unwrap());
    first.iter().zip(&second).for_each(|(first, second)| assert_close(first, second, 1e-5));
}

#[test]
fn length_of_a_vector_has_no_influence() {
    let mut rows = random(3, &[5, 7], 10);
    let query = rows[0].1.clone();
    let scores = |rows: &[(String, Vec<f32>)], query: &[f32]| {
        Method::ALL.map(|method| method.fit(&joined(rows, 2)).unwrap().scores(query).unwrap())
    };
    let first = scores(&rows, &query);
    rows.iter_mut().enumerate().for_each(|(i, (_, row))| row.iter_mut().for_each(|x| *x *= 1.0 + i as f32));
    let second = scores(&rows, &query.iter().map(|x| x * 1e-20).collect::<Vec<_>>());
    first.iter().zip(&second).for_each(|(first, second)| assert_close(first, second, 1e-5));
}

/// Cosines 1 and 0.6: votes of 1 and 0.8, and half a vote for each label.
#[test]
fn near_examples_vote_by_cosine() {
    let rows: [(&str, &[f32]); 4] =
        [("a", &[2.0, 0.0]), ("a", &[0.6, 0.8]), ("b", &[0.0, 1.0]), ("b", &[-1.0, 0.0])];
    let neighbours = Method::Neighbours { most: 5 }.fit(&examples(&["b", "a"], &rows)).unwrap();
    assert_close(&neighbours.scores(&[3.0, 0.0]).unwrap(), &logarithms(&[0.5 / 2.8, 2.3 / 2.8]), 1e-5);
}

#[test]
fn nearest_example_decides_between_equal_votes() {
    let at = |cosine: f32| [cosine, (1.0 - cosine * cosine).sqrt()];
    let (a1, a2, b1, b2) = (at(0.9), at(0.5), at(0.8), at(0.6));
    let rows: [(&str, &[f32]); 8] = [
        ("b", &b1),
        ("b", &b2),
        ("a", &a1),
        ("a", &a2),
        ("a", &[-1.0, 0.0]),
        ("a", &[-1.0, 0.0]),
        ("b", &[-1.0, 0.0]),
        ("b", &[-1.0, 0.0]),
    ];
    let neighbours = Method::Neighbours { most: 4 }.fit(&examples(&["b", "a"], &rows)).unwrap();
    let scores = neighbours.scores(&[1.0, 0.0]).unwrap();
    assert!(most_likely(&scores) == 1 && scores[1] - scores[0] < 1e-5, "{scores:?}");
    // Equally near examples of two labels: the first example wins, not the first label.
    let rows: [(&str, &[f32]); 4] =
        [("a", &[0.8, 0.6]), ("b", &[0.8, -0.6]), ("a", &[-1.0, 0.0]), ("b", &[-1.0, 0.0])];
    let neighbours = Method::Neighbours { most: 2 }.fit(&examples(&["b", "a"], &rows)).unwrap();
    assert_eq!(most_likely(&neighbours.scores(&[1.0, 0.0]).unwrap()), 1);
    // The same vector with two labels: the first example wins.
    let rows: [(&str, &[f32]); 2] = [("a", &[1.0, 0.0]), ("b", &[1.0, 0.0])];
    let neighbours = Method::Neighbours { most: 5 }.fit(&examples(&["b", "a"], &rows)).unwrap();
    assert_eq!(most_likely(&neighbours.scores(&[1.0, 0.0]).unwrap()), 1);
}

/// The second "a" is nearer to the query than any "b", but a class of one example allows one neighbour.
#[test]
fn large_class_does_not_outvote_a_small_one() {
    let rows: [(&str, &[f32]); 4] =
        [("a", &[0.9, 0.1]), ("a", &[0.9, 0.12]), ("a", &[0.9, 0.14]), ("b", &[1.0, 0.01])];
    let neighbours = Method::Neighbours { most: 5 }.fit(&examples(&["a", "b"], &rows)).unwrap();
    assert_eq!(most_likely(&neighbours.scores(&[1.0, 0.0]).unwrap()), 1);
}

/// Single examples: the usual factor 10 of the cosines 0.6 and 0.8.
#[test]
fn prototypes_compare_cosines_to_means() {
    let rows: [(&str, &[f32]); 2] = [("a", &[5.0, 0.0]), ("b", &[0.0, 1.0])];
    let prototypes = Method::Prototypes.fit(&examples(&["a", "b"], &rows)).unwrap();
    let expected = log_odds(10.0 * (0.6 - 0.8));
    assert_close(&prototypes.scores(&[0.3, 0.4]).unwrap(), &expected, 1e-6);
}

/// Probabilities of two labels with this difference of their logarithms.
fn log_odds(difference: f64) -> Vec<f64> {
    let p = 1.0 / (1.0 + (-difference).exp());
    logarithms(&[p, 1.0 - p])
}

/// Left-out examples that are always right make the softmax as sharp as possible; those that are always wrong, as flat.
#[test]
fn left_out_examples_choose_the_temperature() {
    let at = |degrees: f32| [degrees.to_radians().cos(), degrees.to_radians().sin()];
    let (a1, a2, b1, b2) = (at(0.0), at(2.0), at(14.0), at(16.0));
    let right: [(&str, &[f32]); 4] = [("a", &a1), ("a", &a2), ("b", &b1), ("b", &b2)];
    let prototypes = Method::Prototypes.fit(&examples(&["a", "b"], &right)).unwrap();
    let expected = 500.0 * (1_f64.to_radians().cos() - 15_f64.to_radians().cos());
    let scores = prototypes.scores(&a1).unwrap();
    assert!((scores[0] - scores[1] - expected).abs() < 1e-2, "{scores:?}, expected {expected}");
    let wrong: [(&str, &[f32]); 4] =
        [("a", &[1.0, 0.0]), ("a", &[-1.0, 0.1]), ("b", &[1.0, 0.1]), ("b", &[-1.0, 0.0])];
    let prototypes = Method::Prototypes.fit(&examples(&["a", "b"], &wrong)).unwrap();
    let scores = prototypes.scores(&[1.0, 0.0]).unwrap();
    assert!((scores[0] - scores[1]).abs() <= 2.0, "a factor of 1: {scores:?}");
}

#[test]
fn equal_features_give_the_shares_of_the_labels() {
    let rows: [(&str, &[f32]); 3] = [("a", &[3.0, 4.0]), ("a", &[3.0, 4.0]), ("b", &[3.0, 4.0])];
    let examples = examples(&["a", "b"], &rows);
    for query in [[3.0, 4.0], [-4.0, 3.0], [0.0, 0.0]] {
        let probe = Method::LinearProbe { c: 10.0 }.fit(&examples).unwrap();
        assert_close(&probe.scores(&query).unwrap(), &logarithms(&[2.0 / 3.0, 1.0 / 3.0]), 1e-6);
        let prototypes = Method::Prototypes.fit(&examples).unwrap();
        assert_close(&prototypes.scores(&query).unwrap(), &logarithms(&[0.5, 0.5]), 1e-6);
        // The first example votes.
        let neighbours = Method::Neighbours { most: 5 }.fit(&examples).unwrap();
        assert_eq!(most_likely(&neighbours.scores(&query).unwrap()), 0);
    }
}

#[test]
fn zero_vectors_are_vectors_without_direction() {
    let rows: [(&str, &[f32]); 4] =
        [("a", &[0.0, 0.0]), ("a", &[1.0, 0.0]), ("b", &[0.0, 0.0]), ("b", &[0.0, 1.0])];
    let examples = examples(&["a", "b"], &rows);
    for method in Method::ALL {
        let classifier = method.fit(&examples).unwrap();
        for (query, label) in [([0.9, 0.1], 0), ([0.1, 0.9], 1)] {
            assert_eq!(most_likely(&classifier.scores(&query).unwrap()), label, "{method:?}");
        }
        assert!(classifier.scores(&[0.0, 0.0]).unwrap().iter().all(|s| s.is_finite()));
    }
}

#[test]
fn wrong_queries_and_parameters_are_refused() {
    let rows: [(&str, &[f32]); 2] = [("a", &[1.0, 0.0]), ("b", &[0.0, 1.0])];
    let examples = examples(&["a", "b"], &rows);
    for method in Method::ALL {
        let classifier = method.fit(&examples).unwrap();
        let error = |query: &[f32]| classifier.scores(query).unwrap_err().to_string();
        assert_eq!(error(&[1.0]), "the query: the vector has 1 values, expected 2");
        assert_eq!(error(&[1.0, f32::NAN]), "the query: a value is not a finite number");
    }
    for method in
        [Method::Neighbours { most: 0 }, Method::LinearProbe { c: -1.0 }, Method::LinearProbe { c: f64::NAN }]
    {
        assert!(matches!(method.fit(&examples), Err(ClassifierError::Parameter { .. })));
        assert!(matches!(cross_validate(method, &examples, 0), Err(ClassifierError::Parameter { .. })));
    }
}

/// Every example left out by hand, in a narrow and a wide space. The last label has one example, which is always wrong.
#[test]
fn cross_validation_equals_fits_by_hand() {
    for width in [5, 200] {
        let rows = random(4, &[6, 8, 5, 1], width);
        let examples = joined(&rows, 4);
        for method in Method::ALL {
            let right = cross_validate(method, &examples, 0).unwrap();
            for (i, (label, row)) in rows.iter().enumerate() {
                let mut train = rows.clone();
                train.remove(i);
                let alone = label == "label 3";
                let labels = if alone { 3 } else { 4 };
                let scores = method.fit(&joined(&train, labels)).unwrap().scores(row).unwrap();
                let expected = !alone && format!("label {}", most_likely(&scores)) == *label;
                assert_eq!(right[i], expected, "{method:?}, example {i}: {scores:?}");
            }
            let count = right.iter().filter(|&&right| right).count();
            assert!((5..20).contains(&count), "{method:?}: {count} of 20");
        }
    }
}

#[test]
fn label_vectors_need_no_example() {
    let vectors = [vec![2.0, 0.0], vec![0.0, 3.0], vec![0.0, 0.0]];
    let vectors = LabelVectors::new(&vectors, 5.0).unwrap();
    let scores = Classifier::from(vectors).scores(&[3.0, 4.0]).unwrap();
    let total = 3f64.exp() + 4f64.exp() + 1.0;
    assert_close(&scores, &logarithms(&[3f64.exp() / total, 4f64.exp() / total, 1.0 / total]), 1e-6);
}

#[test]
fn wrong_label_vectors_are_named() {
    let error = |vectors: &[Vec<f32>], scale| LabelVectors::new(vectors, scale).unwrap_err().to_string();
    assert_eq!(error(&[vec![1.0]], 1.0), "a classification has at least two different labels, not 1");
    assert_eq!(error(&[vec![1.0], vec![f32::NAN]], 1.0), "label 2: a value is not a finite number");
    assert_eq!(error(&[vec![1.0], vec![]], 1.0), "label 2: the vector has 0 values, expected 1");
    assert_eq!(error(&[vec![1.0], vec![1.0]], 0.0), "the scale is 0, which is not a positive finite number");
}
