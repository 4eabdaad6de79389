//! Reasons why a metric has no value.

/// Reason why a metric has no value for its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MetricError {
    /// No items.
    #[error("there are no items to score")]
    NoItems,
    /// An item without references.
    #[error("item {0} has no reference")]
    NoReference(usize),
    /// Lists of different lengths.
    #[error("there are {left} predictions and {right} references")]
    Lengths {
        /// Count of predictions.
        left: usize,
        /// Count of references.
        right: usize,
    },
    /// A score that is not a number.
    #[error("score {0} is not a number")]
    NotANumber(usize),
    /// A binary metric over items of one class.
    #[error("all items are of one class")]
    OneClass,
    /// A relevance that is negative or not finite.
    #[error("relevance {0} is negative or not finite")]
    Relevance(usize),
    /// Options of which none is relevant.
    #[error("no option is relevant")]
    NoRelevantOption,
    /// An option that is not there.
    #[error("there are {options} options, none with index {index}")]
    NoSuchOption {
        /// Index of the option.
        index: usize,
        /// Count of options.
        options: usize,
    },
}

/// Checks that two lists have one length and are not empty.
pub(super) fn check_lengths(left: usize, right: usize) -> Result<(), MetricError> {
    match (left, right) {
        _ if left != right => Err(MetricError::Lengths { left, right }),
        (0, _) => Err(MetricError::NoItems),
        _ => Ok(()),
    }
}

/// Checks that no score is NaN.
pub(super) fn check_numbers(scores: &[f64]) -> Result<(), MetricError> {
    scores.iter().position(|score| score.is_nan()).map_or(Ok(()), |at| Err(MetricError::NotANumber(at)))
}
