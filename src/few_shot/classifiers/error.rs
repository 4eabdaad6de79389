//! Reasons why a classifier cannot be fitted or asked.

/// Reason why features or scores cannot be used. Examples and labels are numbered from 1.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ClassifierError {
    /// There are fewer than two different labels.
    #[error("a classification has at least two different labels, not {0}")]
    TooFewLabels(usize),
    /// The output of an example is not among the labels.
    #[error("example {number}: {output:?} is not among the labels")]
    UnknownLabel {
        /// Number of the example.
        number: usize,
        /// Its output.
        output: String,
    },
    /// A label has no example to learn from.
    #[error("the label {0:?} has no example")]
    LabelWithoutExample(String),
    /// No label has two examples, so none can be left out.
    #[error("no label has two examples")]
    NoPairs,
    /// Two lists belong together and have different lengths.
    #[error("the number of {what} is {found}, expected {expected}")]
    Count {
        /// Name of the counted things, in the plural.
        what: &'static str,
        /// Their number.
        found: usize,
        /// Length of the other list.
        expected: usize,
    },
    /// A list has nothing in it.
    #[error("there are no {0}")]
    Empty(&'static str),
    /// A vector has another width than the others, or none.
    #[error("{subject}: the vector has {found} values, expected {expected}")]
    Width {
        /// Name of the example, label or query.
        subject: String,
        /// Width of the vector.
        found: usize,
        /// Width of the others.
        expected: usize,
    },
    /// A number is NaN or infinite.
    #[error("{0}: a value is not a finite number")]
    NotFinite(String),
    /// A parameter is not a positive finite number.
    #[error("{name} is {value}, which is not a positive finite number")]
    Parameter {
        /// Name of the parameter.
        name: &'static str,
        /// Its value.
        value: f64,
    },
}

/// Checks that a parameter is positive and finite.
pub(super) fn positive(name: &'static str, value: f64) -> Result<(), ClassifierError> {
    let good = value.is_finite() && value > 0.0;
    if good { Ok(()) } else { Err(ClassifierError::Parameter { name, value }) }
}
