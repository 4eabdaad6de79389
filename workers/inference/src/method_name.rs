//! Names of the methods of few-shot classification.

use flamingo::few_shot::classifiers::Method;
use serde::{Deserialize, Serialize};

use crate::medium_classifier::MediumClassifier;

/// Name of a method of few-shot classification. Part of the public contract: jobs and items contain it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MethodName {
    /// Likelihood of each label after the few-shot examples.
    #[default]
    InContext,
    /// Similarity of the vision features to the mean of each label's examples.
    Prototypes,
    /// Vote of the nearest examples by vision features.
    Neighbours,
    /// Logistic regression on vision features.
    LinearProbe,
    /// Vote of the few attention heads of the language model whose outputs distinguish the labels of the examples best.
    AttentionVectors,
    /// The method with the most right answers about left-out examples.
    Auto,
}

impl MethodName {
    /// Every method, the cheapest first.
    pub const ALL: [Self; 5] =
        [Self::Prototypes, Self::Neighbours, Self::LinearProbe, Self::AttentionVectors, Self::InContext];

    /// Name in jobs, reports and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::InContext => "in-context",
            Self::Prototypes => "prototypes",
            Self::Neighbours => "neighbours",
            Self::LinearProbe => "linear-probe",
            Self::AttentionVectors => MediumClassifier::ATTENTION_VECTORS,
            Self::Auto => "auto",
        }
    }

    /// Whether answers may be likelihoods of the language model, to which the options about its scores apply.
    pub fn has_likelihoods(self) -> bool {
        matches!(self, Self::InContext | Self::Auto)
    }

    /// Returns the method on vision features, if it is one.
    pub(crate) fn of_features(self) -> Option<Method> {
        let [prototypes, neighbours, linear_probe] = Method::ALL;
        match self {
            Self::Prototypes => Some(prototypes),
            Self::Neighbours => Some(neighbours),
            Self::LinearProbe => Some(linear_probe),
            Self::InContext | Self::AttentionVectors | Self::Auto => None,
        }
    }
}
