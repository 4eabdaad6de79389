//! One interface to all classifiers on feature vectors.

use super::error::positive;
use super::label_vectors::LabelVectors;
use super::linear_probe::LinearProbe;
use super::neighbours::Neighbours;
use super::prototypes::Prototypes;
use super::vectors::{check, normalised};
use super::{ClassifierError, Examples};

/// Method that learns a classifier from the features of examples. All methods compare directions only: the length of a feature
/// vector has no influence, and a zero vector has the cosine 0 to every other.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Method {
    /// Cosine to the mean of each class, softmax with a temperature that leave-one-out chooses (after Snell et al.,
    /// arXiv 1703.05175).
    Prototypes,
    /// Vote of the nearest examples, each with (1 + cosine) / 2 of a vote; one more vote is spread over all labels.
    Neighbours {
        /// Greatest number of neighbours; no more vote than the smallest class has examples.
        most: usize,
    },
    /// Multinomial logistic regression on features that are centred and divided by their common spread.
    LinearProbe {
        /// Inverse strength of the L2 penalty, as in scikit-learn.
        c: f64,
    },
}

impl Method {
    /// Every method with its usual parameter, the cheapest first.
    pub const ALL: [Self; 3] =
        [Self::Prototypes, Self::Neighbours { most: 5 }, Self::LinearProbe { c: 10.0 }];

    /// Name of the method.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prototypes => "prototypes",
            Self::Neighbours { .. } => "neighbours",
            Self::LinearProbe { .. } => "linear-probe",
        }
    }

    /// Rank of the cost: of two methods, the cheaper one has the lower rank.
    pub fn cost(self) -> u32 {
        match self {
            Self::Prototypes => 1,
            Self::Neighbours { .. } => 2,
            Self::LinearProbe { .. } => 3,
        }
    }

    /// Learns from all examples. The same examples always give the same classifier.
    ///
    /// # Errors
    /// The parameter of the method is not positive.
    pub fn fit(self, examples: &Examples) -> Result<Classifier, ClassifierError> {
        self.check()?;
        Ok(Classifier { fitted: self.fit_on(examples, &examples.labels().all()), width: examples.width() })
    }

    /// Checks the parameter.
    pub(super) fn check(self) -> Result<(), ClassifierError> {
        match self {
            Self::Prototypes => Ok(()),
            Self::Neighbours { most } => positive("the number of neighbours", most as f64),
            Self::LinearProbe { c } => positive("the inverse penalty", c),
        }
    }

    /// Learns from some of the examples, at least one. Labels that have none of them get the least probability.
    pub(super) fn fit_on(self, examples: &Examples, train: &[usize]) -> Fitted {
        match self {
            Self::Prototypes => Fitted::Prototypes(Prototypes::fit(examples, train)),
            Self::Neighbours { most } => Fitted::Neighbours(Neighbours::fit(examples, train, most)),
            Self::LinearProbe { c } => Fitted::LinearProbe(LinearProbe::fit(examples, train, c)),
        }
    }
}

/// Classifier that can be asked.
#[derive(Debug, Clone)]
pub struct Classifier {
    fitted: Fitted,
    width: usize,
}

impl Classifier {
    /// Returns the logarithm of the probability of each label, in the order of the labels. `query`: features (d) of the same
    /// encoder as those of the examples.
    ///
    /// # Errors
    /// The query has another width than the examples, or a value is not finite.
    pub fn scores(&self, query: &[f32]) -> Result<Vec<f64>, ClassifierError> {
        check(query, self.width, || "the query".into())?;
        Ok(self.fitted.scores(&normalised(query)))
    }
}

impl From<LabelVectors> for Classifier {
    fn from(vectors: LabelVectors) -> Self {
        Self { width: vectors.width(), fitted: Fitted::LabelVectors(vectors) }
    }
}

/// Parameters of a classifier.
#[derive(Debug, Clone)]
pub(super) enum Fitted {
    Prototypes(Prototypes),
    Neighbours(Neighbours),
    LinearProbe(LinearProbe),
    LabelVectors(LabelVectors),
}

impl Fitted {
    /// Scores of a query (d) of length 1 or 0.
    pub(super) fn scores(&self, query: &[f32]) -> Vec<f64> {
        match self {
            Self::Prototypes(fitted) => fitted.scores(query),
            Self::Neighbours(fitted) => fitted.scores(query),
            Self::LinearProbe(fitted) => fitted.scores(query),
            Self::LabelVectors(fitted) => fitted.scores(query),
        }
    }
}

#[cfg(test)]
mod tests;
