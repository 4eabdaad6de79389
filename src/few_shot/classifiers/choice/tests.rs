//! Tests of the choice among methods.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// Examples of labels 0 and 1 in equal numbers, and the first axis tells which.
fn examples(count: usize) -> Examples {
    let labels: Vec<String> = (0..count).map(|i| (i % 2).to_string()).collect();
    let row = |i: usize| vec![if i.is_multiple_of(2) { 1.0 } else { -1.0 }, (i as f32 * 0.7).sin()];
    let features: Vec<Vec<f32>> = (0..count).map(row).collect();
    Examples::new(&features, ExampleLabels::new(["0", "1"], labels).unwrap()).unwrap()
}

#[test]
fn most_right_answers_win_and_equal_ones_cost_least() {
    let examples = examples(20);
    let (all, most): (Vec<bool>, Vec<bool>) = (vec![true; 20], (0..20).map(|i| i != 3).collect());
    let choose = |candidates: &[Candidate<'_>]| choose_method(&examples, candidates, 0).unwrap();
    let of = |name: &str, cost, right| Candidate::external(name.to_string(), cost, right);
    let choice = choose(&[of("in-context", 20, &all), of("label-text", 0, &most)]);
    assert_eq!(choice.chosen, 0);
    assert_eq!(
        choice.reason,
        "in-context is right for 20 of 20 left-out examples, more than any other method."
    );
    assert_eq!((choice.candidates[1].accuracy, choice.alone), (Accuracy { right: 19, asked: 20 }, 0));
    let (low, high) = choice.candidates[1].interval;
    assert!((low - 0.7639).abs() < 1e-3 && (high - 0.9911).abs() < 1e-3, "{low} to {high}");
    let choice = choose(&[of("in-context", 20, &all), of("label-text", 0, &all), of("other", 7, &most)]);
    assert_eq!(choice.chosen, 1);
    assert_eq!(
        choice.reason,
        "label-text is right for 20 of 20 left-out examples, as many as in-context, and costs least of these."
    );
    let choice = choose(&[of("in-context", 20, &most)]);
    assert_eq!(choice.reason, "in-context is the only method: it is right for 19 of 20 left-out examples.");
}

#[test]
fn methods_on_features_are_fitted_without_the_left_out_examples() {
    let examples = examples(24);
    let wrong = [false; 24];
    let mut candidates = Method::ALL.map(Candidate::method).to_vec();
    candidates.push(Candidate::external("in-context", 20, &wrong));
    let choice = choose_method(&examples, &candidates, 1).unwrap();
    assert_eq!((choice.chosen, choice.nested), (0, Accuracy { right: 24, asked: 24 }));
    assert!(choice.reason.contains("as many as neighbours and linear-probe, and costs least"), "{choice:?}");
    // Labels that have nothing to do with the features: no method is right more often than by chance, as it would be on the
    // examples that it learned from.
    let mut random = StdRng::seed_from_u64(5);
    let features: Vec<Vec<f32>> =
        (0..60).map(|_| (0..100).map(|_| random.random_range(-1.0..1.0)).collect()).collect();
    let labels = ExampleLabels::new(["0", "1"], (0..60).map(|i| (i % 2).to_string())).unwrap();
    let examples = Examples::new(&features, labels).unwrap();
    let choice = choose_method(&examples, &candidates[..3], 1).unwrap();
    for measured in &choice.candidates {
        assert!(measured.interval.0 < 0.5, "{measured:?}");
    }
    assert!(choice.nested.interval().0 < 0.5, "{choice:?}");
}

/// Six examples: without one that A knows, B is chosen, and the reverse; so the choice is always wrong about it.
#[test]
fn nested_accuracy_is_about_examples_outside_of_the_choice() {
    let examples = examples(6);
    let (a, b) = ([true, true, true, false, false, false], [false, false, false, true, true, true]);
    let candidates = [Candidate::external("a", 1, &a), Candidate::external("b", 2, &b)];
    let choice = choose_method(&examples, &candidates, 0).unwrap();
    assert_eq!(choice.candidates[0].accuracy, Accuracy { right: 3, asked: 6 });
    assert_eq!(choice.nested, Accuracy { right: 0, asked: 6 });
    // The best of many random answers is right more often than chance, the nested choice among them is not.
    let examples = self::examples(60);
    let mut random = StdRng::seed_from_u64(9);
    let answers: Vec<Vec<bool>> = (0..40).map(|_| (0..60).map(|_| random.random()).collect()).collect();
    let candidates: Vec<_> =
        answers.iter().map(|answers| Candidate::external("random", 1, answers)).collect();
    let choice = choose_method(&examples, &candidates, 0).unwrap();
    let best = choice.candidates[choice.chosen].accuracy;
    assert!(best.interval().0 > 0.5, "{best:?}");
    assert!(choice.nested.share() < best.share() && choice.nested.interval().0 < 0.5, "{choice:?}");
}

#[test]
fn examples_alone_in_their_class_count_for_no_method() {
    let labels = ExampleLabels::new(["a", "b", "c"], ["a", "a", "b", "c"]).unwrap();
    let features = [vec![1.0, 0.0], vec![1.0, 0.1], vec![0.0, 1.0], vec![-1.0, 0.0]];
    let examples = Examples::new(&features, labels).unwrap();
    let external = [true, false, true, true];
    let candidates =
        [Candidate::method(Method::Prototypes), Candidate::external("in-context", 20, &external)];
    let choice = choose_method(&examples, &candidates, 0).unwrap();
    let accuracies: Vec<_> = choice.candidates.iter().map(|c| (c.accuracy.right, c.accuracy.asked)).collect();
    assert_eq!((accuracies, choice.alone), (vec![(2, 2), (1, 2)], 2));
    // Without a pair, nothing can be measured.
    let labels = ExampleLabels::new(["a", "b"], ["a", "b"]).unwrap();
    let examples = Examples::new(&features[1..3], labels).unwrap();
    let candidates =
        [Candidate::external("in-context", 20, &external[..2]), Candidate::method(Method::Prototypes)];
    let choice = choose_method(&examples, &candidates, 0).unwrap();
    assert_eq!((choice.chosen, choice.alone, choice.nested.asked), (1, 2, 0));
    assert_eq!(choice.nested_interval, (0.0, 1.0));
    assert!(choice.reason.ends_with("prototypes costs least."), "{}", choice.reason);
}

#[test]
fn large_sets_are_measured_in_part() {
    let examples = examples(2500);
    let right: Vec<bool> = (0..2500).map(|i| i % 4 != 0).collect();
    let choice = choose_method(&examples, &[Candidate::external("in-context", 20, &right)], 0).unwrap();
    let Accuracy { asked, .. } = choice.nested;
    assert!((800..=1024).contains(&asked) && (choice.nested.share() - 0.75).abs() < 0.05, "{choice:?}");
}

#[test]
fn wrong_candidates_are_refused() {
    let examples = examples(4);
    let error =
        |candidates: &[Candidate<'_>]| choose_method(&examples, candidates, 0).unwrap_err().to_string();
    assert_eq!(error(&[]), "there are no methods to choose from");
    let short = [Candidate::external("in-context", 20, &[true; 3])];
    assert_eq!(error(&short), "the number of answers of an external method is 3, expected 4");
    let bad = [Candidate::method(Method::Neighbours { most: 0 })];
    assert_eq!(error(&bad), "the number of neighbours is 0, which is not a positive finite number");
}
