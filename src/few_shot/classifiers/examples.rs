//! Labelled features.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::ClassifierError;
use super::vectors::{add_scaled, check, dot, double, normalised};

/// The different labels, at least two, and the label of each example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExampleLabels {
    names: Vec<String>,
    /// Index of the label of each example.
    of_examples: Vec<usize>,
}

impl ExampleLabels {
    /// Finds the output of each example among the labels. White space at their ends does not count. Labels that are named twice
    /// are one label.
    ///
    /// # Errors
    /// There are fewer than two different labels, or an output is not among them.
    pub fn new(
        labels: impl IntoIterator<Item = impl AsRef<str>>,
        outputs: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, ClassifierError> {
        let mut names: Vec<String> = Vec::new();
        let mut indices = BTreeMap::new();
        for label in labels {
            let label = label.as_ref().trim();
            indices.entry(label.to_owned()).or_insert_with(|| {
                names.push(label.to_owned());
                names.len() - 1
            });
        }
        if names.len() < 2 {
            return Err(ClassifierError::TooFewLabels(names.len()));
        }
        let index = |(number, output): (usize, _)| {
            let output = AsRef::<str>::as_ref(&output).trim();
            let unknown = || ClassifierError::UnknownLabel { number, output: output.to_owned() };
            indices.get(output).copied().ok_or_else(unknown)
        };
        let of_examples = (1..).zip(outputs).map(index).collect::<Result<_, _>>()?;
        Ok(Self { names, of_examples })
    }

    /// The different labels, in the order of the scores.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Index of the label of each example.
    pub fn of_examples(&self) -> &[usize] {
        &self.of_examples
    }

    /// Checks that there are `examples` examples, and one for each label.
    pub(super) fn check(&self, examples: usize) -> Result<(), ClassifierError> {
        if examples != self.of_examples.len() {
            let expected = self.of_examples.len();
            return Err(ClassifierError::Count { what: "examples", found: examples, expected });
        }
        let counts = self.counts(&self.all());
        match counts.iter().position(|&count| count == 0) {
            Some(label) => Err(ClassifierError::LabelWithoutExample(self.names[label].clone())),
            None => Ok(()),
        }
    }

    /// Indices of all examples.
    pub(super) fn all(&self) -> Vec<usize> {
        (0..self.of_examples.len()).collect()
    }

    /// Number of these examples with each label.
    pub(super) fn counts(&self, examples: &[usize]) -> Vec<usize> {
        let mut counts = vec![0; self.names.len()];
        examples.iter().for_each(|&i| counts[self.of_examples[i]] += 1);
        counts
    }
}

/// Features of examples with their labels: at least one example for each label, all vectors of one width, all values finite.
/// Every classifier compares directions only: features are divided by their length, and a zero vector stays zero, with the
/// cosine 0 to every other.
#[derive(Debug, Clone)]
pub struct Examples {
    labels: ExampleLabels,
    /// (example, d), of length 1 or 0.
    rows: Vec<Arc<[f32]>>,
    span: OnceLock<Span>,
}

impl Examples {
    /// Joins features (example, d) and labels.
    ///
    /// # Errors
    /// The numbers of features and outputs differ, a label has no example, vectors have different widths or none, or a value is
    /// not finite.
    pub fn new(features: &[Vec<f32>], labels: ExampleLabels) -> Result<Self, ClassifierError> {
        labels.check(features.len())?;
        for (number, row) in (1..).zip(features) {
            check(row, features[0].len(), || format!("example {number}"))?;
        }
        let rows = features.iter().map(|row| normalised(row).into()).collect();
        Ok(Self { labels, rows, span: OnceLock::new() })
    }

    /// Labels of the examples.
    pub fn labels(&self) -> &ExampleLabels {
        &self.labels
    }

    /// Width of a feature vector.
    pub fn width(&self) -> usize {
        self.rows[0].len()
    }

    /// Index of the label of an example.
    pub(super) fn label(&self, example: usize) -> usize {
        self.labels.of_examples[example]
    }

    /// Feature vector of an example (d), of length 1 or 0.
    pub(super) fn row(&self, example: usize) -> &Arc<[f32]> {
        &self.rows[example]
    }

    /// Coordinates of all examples, computed when they are first needed.
    pub(super) fn span(&self) -> &Span {
        self.span.get_or_init(|| Span::new(&self.rows))
    }
}

/// Coordinates of vectors in an orthonormal basis of their span: n vectors need n coordinates, even if they are wider. Products
/// of two vectors stay what they are.
#[derive(Debug, Clone)]
pub(super) struct Span {
    /// (coordinate, d); absent where the coordinates are the values of the vectors.
    basis: Option<Vec<Vec<f64>>>,
    /// (vector, coordinate).
    pub(super) coordinates: Vec<Vec<f64>>,
}

impl Span {
    /// Computes coordinates by the Gram-Schmidt process if the vectors are fewer than half of their width: for more of them, the
    /// basis costs more than it saves.
    fn new(rows: &[Arc<[f32]>]) -> Self {
        if 2 * rows.len() >= rows[0].len() {
            return Self { basis: None, coordinates: rows.iter().map(|row| double(row)).collect() };
        }
        let mut basis: Vec<Vec<f64>> = Vec::new();
        let mut coordinates: Vec<Vec<f64>> = Vec::new();
        for row in rows {
            let mut rest = double(row);
            let mut of_row = vec![0.0; basis.len()];
            // The second time removes what rounding left.
            for _ in 0..2 {
                for (direction, sum) in basis.iter().zip(&mut of_row) {
                    let part = dot(direction, &rest);
                    add_scaled(&mut rest, -part, direction);
                    *sum += part;
                }
            }
            let length = dot(&rest, &rest).sqrt();
            if length > 1e-10 {
                basis.push(rest.iter().map(|x| x / length).collect());
                of_row.push(length);
            }
            coordinates.push(of_row);
        }
        coordinates.iter_mut().for_each(|of_row| of_row.resize(basis.len(), 0.0));
        Self { basis: Some(basis), coordinates }
    }

    /// The vector (d) with these coordinates.
    pub(super) fn vector(&self, coordinates: &[f64], width: usize) -> Vec<f64> {
        let Some(basis) = &self.basis else { return coordinates.to_vec() };
        let mut vector = vec![0.0; width];
        for (direction, &part) in basis.iter().zip(coordinates) {
            add_scaled(&mut vector, part, direction);
        }
        vector
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(names: &[&str], outputs: &[&str]) -> Result<ExampleLabels, ClassifierError> {
        ExampleLabels::new(names, outputs)
    }

    #[test]
    fn equal_labels_are_one() {
        let found = labels(&["frog", "owl ", "frog"], &["owl", " frog", "owl"]).unwrap();
        assert_eq!(
            (found.names(), found.of_examples()),
            (&["frog".into(), "owl".into()][..], &[1, 0, 1][..])
        );
        assert_eq!(labels(&["frog", "frog "], &["frog"]), Err(ClassifierError::TooFewLabels(1)));
    }

    #[test]
    fn wrong_examples_are_named() {
        let two = || labels(&["frog", "owl"], &["frog", "owl"]).unwrap();
        let error = |features: &[Vec<f32>], labels| Examples::new(features, labels).unwrap_err().to_string();
        assert_eq!(error(&[vec![1.0]], two()), "the number of examples is 1, expected 2");
        assert_eq!(
            error(&[vec![1.0], vec![1.0, 2.0]], two()),
            "example 2: the vector has 2 values, expected 1"
        );
        assert_eq!(error(&[vec![], vec![]], two()), "example 1: the vector has 0 values, expected 1");
        for bad in [f32::NAN, f32::INFINITY] {
            let message = error(&[vec![1.0], vec![bad]], two());
            assert_eq!(message, "example 2: a value is not a finite number");
        }
        let empty = labels(&["frog", "owl", "eel"], &["frog", "owl"]).unwrap();
        assert_eq!(error(&[vec![1.0], vec![2.0]], empty), "the label \"eel\" has no example");
        let unknown = labels(&["frog", "owl"], &["frog", "eel"]).unwrap_err();
        assert_eq!(unknown.to_string(), "example 2: \"eel\" is not among the labels");
    }

    /// Four vectors of width 40, of which the third is a sum of the first two, and the fourth is zero.
    #[test]
    fn coordinates_keep_products() {
        let vector = |seed: usize| -> Vec<f32> { (0..40).map(|i| ((i * seed) as f32).sin()).collect() };
        let (a, b) = (vector(3), vector(7));
        let c = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        let rows: Vec<Arc<[f32]>> = [a, b, c, vec![0.0; 40]].into_iter().map(Arc::from).collect();
        let span = Span::new(&rows);
        assert!(span.coordinates.iter().all(|row| row.len() <= 3));
        for (row, coordinates) in rows.iter().zip(&span.coordinates) {
            for (other, others) in rows.iter().zip(&span.coordinates) {
                assert!((dot(row, other) - dot(coordinates, others)).abs() < 1e-9);
            }
            let back = span.vector(coordinates, 40);
            assert!(back.iter().zip(row.iter()).all(|(x, &y)| (x - f64::from(y)).abs() < 1e-9));
        }
    }
}
