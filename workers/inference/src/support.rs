//! Encoded support sets, and the examples that they give to a query.

use std::sync::Arc;

use flamingo::Result;
use flamingo::few_shot::classifiers::Ensemble;
use flamingo::few_shot::question_similarities;
use flamingo::language::Tokenizer;
use flamingo::pipeline::{Medium, Shot};

use crate::encoded_video::features;
use crate::shot_options::{SelectName, ShotOptions};

/// Examples with the nearest vision features per shot, whose questions are compared with that of the query.
const NEAREST_PER_SHOT: usize = 8;

/// Examples whose media are encoded once, for all queries.
#[derive(Debug)]
pub struct EncodedSet {
    shots: Vec<Shot>,
    /// Vision features of each medium.
    features: Vec<Vec<f32>>,
}

/// An encoded set, and the options that choose examples of it.
#[derive(Debug, Clone)]
pub struct EncodedSupport {
    set: Arc<EncodedSet>,
    options: ShotOptions,
}

impl EncodedSet {
    /// Joins encoded examples.
    ///
    /// # Errors
    /// A medium has no vision features.
    pub fn new(shots: Vec<Shot>) -> Result<Self> {
        let features = shots.iter().map(|shot| features(&shot.medium)).collect::<Result<_>>()?;
        Ok(Self { shots, features })
    }

    /// Returns the number of examples.
    pub fn len(&self) -> usize {
        self.shots.len()
    }

    /// Returns the vision features (d) of every example.
    pub fn features(&self) -> &[Vec<f32>] {
        &self.features
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.shots.is_empty()
    }

    /// Returns the approximate size in bytes: visual tokens, vision features and texts.
    pub fn bytes(&self) -> usize {
        let shot = |Shot { name, medium, text }: &Shot| {
            let tokens = &medium.visual_tokens;
            let texts = name.len() + text.output.len() + text.question.as_ref().map_or(0, String::len);
            tokens.elem_count() * tokens.dtype().size_in_bytes() + texts + size_of::<Shot>()
        };
        let features: usize = self.features.iter().map(|features| 4 * features.len()).sum();
        self.shots.iter().map(shot).sum::<usize>() + 2 * features
    }
}

impl EncodedSupport {
    /// Chooses examples of `set` for each query as `options` say.
    pub fn new(set: Arc<EncodedSet>, options: ShotOptions) -> Self {
        Self { set, options }
    }

    /// Returns the orders of the examples in which a classification is answered.
    pub fn ensemble(&self) -> Ensemble {
        self.options.ensemble()
    }

    /// Whether the examples depend on the question.
    pub fn compares_questions(&self) -> bool {
        self.options.select == SelectName::NearestQuestion
    }

    /// Chooses the examples for a query, in the order of the prompt. `question` is that of the query.
    ///
    /// # Errors
    /// The query has no vision features, or the tokenizer refuses a question.
    pub fn choose(&self, query: &Medium, question: Option<&str>, tokenizer: &Tokenizer) -> Result<Vec<Shot>> {
        let all: Vec<usize> = (0..self.set.shots.len()).collect();
        self.choose_among(&all, &features(query)?, question, tokenizer)
    }

    /// Chooses the examples for a query with these features (d) among some of the examples, in the order of the prompt.
    ///
    /// # Errors
    /// The tokenizer refuses a question.
    pub fn choose_among(
        &self,
        among: &[usize],
        query: &[f32],
        question: Option<&str>,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<Shot>> {
        let features: Vec<&[f32]> = among.iter().map(|&i| &self.set.features[i][..]).collect();
        let (rule, count) = (self.options.selection(), self.options.shots);
        let chosen = match question.filter(|_| self.compares_questions()) {
            None => rule.choose(&features, query, count),
            Some(question) => {
                let near = rule.choose(&features, query, NEAREST_PER_SHOT.saturating_mul(count));
                let near: Vec<usize> = near.into_iter().map(|i| among[i]).collect();
                return self.most_similar_questions(&near, question, tokenizer);
            }
        };
        Ok(chosen.into_iter().map(|i| self.set.shots[among[i]].clone()).collect())
    }

    /// Chooses the examples with the most similar questions among `near`, the most similar one last. Of equal ones, the later in
    /// `near` is later.
    fn most_similar_questions(
        &self,
        near: &[usize],
        question: &str,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<Shot>> {
        let tokens = |text: &str| tokenizer.encode_plain(&text.trim().to_lowercase());
        let of_example = |&i: &usize| tokens(self.set.shots[i].text.question.as_deref().unwrap_or(question));
        let texts = near.iter().map(of_example).collect::<Result<Vec<_>>>()?;
        let similarities = question_similarities(&texts, &tokens(question)?);
        let mut order: Vec<usize> = (0..near.len()).collect();
        order.sort_by(|&a, &b| similarities[a].total_cmp(&similarities[b]));
        let first = order.len().saturating_sub(self.options.shots);
        Ok(order[first..].iter().map(|&i| self.set.shots[near[i]].clone()).collect())
    }

    /// Returns all examples.
    pub fn shots(&self) -> &[Shot] {
        &self.set.shots
    }

    /// Returns the vision features (d) of every example.
    pub fn features(&self) -> &[Vec<f32>] {
        &self.set.features
    }
}
