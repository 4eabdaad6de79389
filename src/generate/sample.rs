//! Greedy decoding and sampling: one row, one token per step.

use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};

use super::beam::best_tokens;
use super::{Completion, Finish, StopCriteria};
use crate::error::Result;

/// State of an answer of one row.
pub(super) struct Sampler {
    /// `None`: greedy.
    random: Option<RandomChoice>,
    max_new_tokens: usize,
    completion: Completion,
}

/// Seeded choice among the likeliest tokens.
struct RandomChoice {
    /// Number of likeliest tokens to sample from.
    top_k: usize,
    processor: LogitsProcessor,
}

impl Sampler {
    /// Creates a greedy sampler.
    pub(super) fn greedy(max_new_tokens: usize) -> Self {
        let completion = Completion { ids: Vec::new(), log_likelihood: 0.0, finish: Finish::Length };
        Self { random: None, max_new_tokens, completion }
    }

    /// Creates a seeded sampler; `top_k` 0: from all tokens.
    pub(super) fn sampled(
        temperature: f64,
        top_k: usize,
        top_p: f64,
        seed: u64,
        max_new_tokens: usize,
    ) -> Self {
        let sampling = if top_p < 1.0 {
            Sampling::TopP { p: top_p, temperature }
        } else {
            Sampling::All { temperature }
        };
        let processor = LogitsProcessor::from_sampling(seed, sampling);
        let top_k = if top_k == 0 { usize::MAX } else { top_k };
        Self { random: Some(RandomChoice { top_k, processor }), ..Self::greedy(max_new_tokens) }
    }

    /// Takes the scores of the next token. Returns the chosen token, or the answer when it is complete.
    pub(super) fn next(
        &mut self,
        log_probs: &[f32],
        criteria: &StopCriteria,
    ) -> Result<(Option<u32>, Option<Completion>)> {
        let token = match &mut self.random {
            None => likeliest(log_probs, criteria),
            Some(random) => random.choose(log_probs, criteria)?,
        };
        self.completion.log_likelihood += f64::from(log_probs[token as usize]);
        if criteria.stop.contains(&token) {
            self.completion.finish = Finish::Stop;
            return Ok((None, Some(self.completion.clone())));
        }
        self.completion.ids.push(token);
        let full = self.completion.ids.len() == self.max_new_tokens;
        Ok(if full { (None, Some(self.completion.clone())) } else { (Some(token), None) })
    }
}

impl RandomChoice {
    fn choose(&mut self, log_probs: &[f32], criteria: &StopCriteria) -> Result<u32> {
        // Sorted by id: in the order of the selection, which candle's own top-k uses, the last bit of a score would decide
        // which token a seed picks.
        let mut tokens = best_tokens(log_probs, self.top_k, criteria);
        tokens.sort_unstable();
        let scores: Vec<f32> = tokens.iter().map(|&token| log_probs[token as usize]).collect();
        let picked = self.processor.sample(&Tensor::new(&scores[..], &Device::Cpu)?)?;
        Ok(tokens[picked as usize])
    }
}

fn likeliest(log_probs: &[f32], criteria: &StopCriteria) -> u32 {
    let allowed = (0..log_probs.len() as u32).filter(|token| !criteria.suppressed.contains(token));
    allowed.max_by(|a, b| log_probs[*a as usize].total_cmp(&log_probs[*b as usize])).unwrap_or(0)
}
