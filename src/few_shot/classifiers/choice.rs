//! Choice among methods by cross-validation, and the accuracy of the chosen one on examples that took no part in the choice.

use super::folds::{FOLDS, LEAVE_ONE_OUT, comparable, fold_count, folds, right_of, without};
use super::{ClassifierError, ExampleLabels, Examples, Method};
use crate::statistics::Accuracy;

/// Greatest number of examples on which methods are compared.
const MOST_EXAMPLES: usize = 1024;
/// Outer folds where the inner ones leave out one example each.
const OUTER_FOLDS: usize = 10;

/// Method to choose from.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    name: String,
    cost: u32,
    source: Source<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Source<'a> {
    /// Fitted again for every fold.
    Method(Method),
    /// Whether the method is right, for each example.
    Known(&'a [bool]),
}

impl<'a> Candidate<'a> {
    /// A method on the features of the examples.
    pub fn method(method: Method) -> Self {
        Self { name: method.name().into(), cost: method.cost(), source: Source::Method(method) }
    }

    /// A method that is not fitted here, such as in-context learning. `cost`: its rank, see [`Method::cost`]. `right`: for each
    /// example, whether the method gives it its label without knowing it. Its answers are not computed again for each fold, so
    /// they may depend on other examples that the fold leaves out: as shots, or for the choice of attention heads.
    pub fn external(name: impl Into<String>, cost: u32, right: &'a [bool]) -> Self {
        Self { name: name.into(), cost, source: Source::Known(right) }
    }

    /// Tells for each of the examples `held` whether the method is right after learning from `train`.
    fn right(&self, examples: &Examples, train: &[usize], held: &[usize]) -> Vec<bool> {
        match self.source {
            Source::Method(method) => right_of(method, examples, train, held),
            Source::Known(right) => held.iter().map(|&i| right[i]).collect(),
        }
    }

    fn check(&self, examples: usize) -> Result<(), ClassifierError> {
        match self.source {
            Source::Method(method) => method.check(),
            Source::Known(right) if right.len() != examples => Err(ClassifierError::Count {
                what: "answers of an external method",
                found: right.len(),
                expected: examples,
            }),
            Source::Known(_) => Ok(()),
        }
    }
}

/// Accuracy of a candidate on left-out examples.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Name of the candidate.
    pub name: String,
    /// Rank of its cost.
    pub cost: u32,
    /// Right answers about left-out examples.
    pub accuracy: Accuracy,
    /// 95 % interval of the share of right answers.
    pub interval: (f64, f64),
}

/// Chosen method with its reason.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Index of the chosen candidate.
    pub chosen: usize,
    /// The candidates in their order. The accuracy of the chosen one is too high as an estimate, because it is the greatest of
    /// several: see `nested`.
    pub candidates: Vec<Measured>,
    /// Accuracy of choice and method together, on examples that took part in neither.
    pub nested: Accuracy,
    /// 95 % interval of the nested share of right answers.
    pub nested_interval: (f64, f64),
    /// Examples that are alone in their class. They are learnt from, but count for no candidate, as no other example has their
    /// label.
    pub alone: usize,
    /// Sentence that says why the method was chosen.
    pub reason: String,
}

/// Chooses the candidate with the most right answers about left-out examples; of equal ones, the cheapest, of equal cost, the
/// first. All candidates are compared on the same examples: up to 64 are left out one by one, more of them in 5 folds, and of more
/// than 1024 a random part of at most that size counts, with equal shares of the labels. The nested accuracy comes from an outer
/// loop of at most 10 folds, 5 for more than 64 examples: each time the choice is made without the examples of a fold, and the
/// chosen candidate answers these. A method is fitted at most 650 times on at most 64 examples, or 35 times on at most 1024.
/// `seed` alone decides folds and part.
///
/// # Errors
/// There is no candidate, an external one has another number of answers than there are examples, or a parameter is not positive.
pub fn choose_method(
    examples: &Examples,
    candidates: &[Candidate<'_>],
    seed: u64,
) -> Result<Choice, ClassifierError> {
    if candidates.is_empty() {
        return Err(ClassifierError::Empty("methods to choose from"));
    }
    let all = examples.labels().all();
    candidates.iter().try_for_each(|candidate| candidate.check(all.len()))?;
    let pool = part(examples.labels(), all, seed);
    let comparison = Comparison { examples, candidates, seed };
    let counted = comparable(examples.labels(), &pool);
    let accuracies = comparison.accuracies(&pool);
    let chosen = best(candidates, &accuracies);
    let nested = comparison.nested(&pool);
    let measured = candidates.iter().zip(&accuracies).map(|(candidate, &accuracy)| Measured {
        name: candidate.name.clone(),
        cost: candidate.cost,
        accuracy,
        interval: accuracy.interval(),
    });
    Ok(Choice {
        chosen,
        candidates: measured.collect(),
        nested,
        nested_interval: nested.interval(),
        alone: pool.len() - counted.len(),
        reason: reason(candidates, &accuracies, chosen),
    })
}

struct Comparison<'a> {
    examples: &'a Examples,
    candidates: &'a [Candidate<'a>],
    seed: u64,
}

impl Comparison<'_> {
    /// Accuracy of every candidate on left-out examples of the pool.
    fn accuracies(&self, pool: &[usize]) -> Vec<Accuracy> {
        let labels = self.examples.labels();
        let counted = comparable(labels, pool);
        let folds = folds(labels, &counted, fold_count(counted.len()), self.seed);
        let accuracy = |candidate: &Candidate<'_>| {
            folds.iter().flat_map(|held| candidate.right(self.examples, &without(pool, held), held)).collect()
        };
        self.candidates.iter().map(accuracy).collect()
    }

    /// Accuracy of candidates that are chosen without the examples that they answer.
    fn nested(&self, pool: &[usize]) -> Accuracy {
        let labels = self.examples.labels();
        let counted = comparable(labels, pool);
        let most = if counted.len() <= LEAVE_ONE_OUT { OUTER_FOLDS } else { FOLDS };
        let outer = folds(labels, &counted, counted.len().min(most), self.seed);
        let right = |held: Vec<usize>| {
            let train = without(pool, &held);
            let chosen = best(self.candidates, &self.accuracies(&train));
            self.candidates[chosen].right(self.examples, &train, &held)
        };
        outer.into_iter().flat_map(right).collect()
    }
}

/// At most [`MOST_EXAMPLES`] of the examples.
fn part(labels: &ExampleLabels, all: Vec<usize>, seed: u64) -> Vec<usize> {
    let parts = all.len().div_ceil(MOST_EXAMPLES);
    if parts < 2 { all } else { folds(labels, &all, parts, seed).swap_remove(0) }
}

/// Index of the candidate with the most right answers; of equal ones, the cheapest and then the first.
fn best(candidates: &[Candidate<'_>], accuracies: &[Accuracy]) -> usize {
    let rank = |&i: &usize| (std::cmp::Reverse(accuracies[i].right), candidates[i].cost);
    (0..candidates.len()).min_by_key(rank).unwrap_or(0)
}

fn reason(candidates: &[Candidate<'_>], accuracies: &[Accuracy], chosen: usize) -> String {
    let Accuracy { right, asked } = accuracies[chosen];
    let name = &candidates[chosen].name;
    if asked == 0 {
        return format!("No label has two examples, so that nothing can be left out: {name} costs least.");
    }
    if candidates.len() == 1 {
        return format!("{name} is the only method: it is right for {right} of {asked} left-out examples.");
    }
    let equal = |i: &usize| *i != chosen && accuracies[*i].right == right;
    let equals: Vec<&str> =
        (0..candidates.len()).filter(equal).map(|i| candidates[i].name.as_str()).collect();
    match equals.as_slice() {
        [] => {
            format!("{name} is right for {right} of {asked} left-out examples, more than any other method.")
        }
        _ => format!(
            "{name} is right for {right} of {asked} left-out examples, as many as {}, and costs least of these.",
            equals.join(" and ")
        ),
    }
}

#[cfg(test)]
mod tests;
