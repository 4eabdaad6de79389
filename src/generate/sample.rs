//! One row, one token after the other: greedy or sampled.

use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};

use super::beam::best_tokens;
use super::{Finish, Generated, TokenRules};
use crate::error::Result;

/// An answer of one row so far.
pub(super) struct Draw {
    /// Without one the likeliest token is taken.
    sampler: Option<Sampler>,
    max_new_tokens: usize,
    written: Generated,
}

struct Sampler {
    /// How many of the likeliest tokens there are to choose from.
    top_k: usize,
    among_them: LogitsProcessor,
}

impl Draw {
    pub(super) fn likeliest(max_new_tokens: usize) -> Self {
        let written = Generated { ids: Vec::new(), log_likelihood: 0.0, finish: Finish::Length };
        Self { sampler: None, max_new_tokens, written }
    }

    /// Drawn with a seed; `top_k` 0: from all.
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
        let among_them = LogitsProcessor::from_sampling(seed, sampling);
        let top_k = if top_k == 0 { usize::MAX } else { top_k };
        Self { sampler: Some(Sampler { top_k, among_them }), ..Self::likeliest(max_new_tokens) }
    }

    /// Takes the scores of the next token: -> the token to go on from, or the answer.
    pub(super) fn next(
        &mut self,
        log_probs: &[f32],
        rules: &TokenRules,
    ) -> Result<(Option<u32>, Option<Generated>)> {
        let token = match &mut self.sampler {
            None => likeliest(log_probs, rules),
            Some(sampler) => sampler.sample(log_probs, rules)?,
        };
        self.written.log_likelihood += f64::from(log_probs[token as usize]);
        if rules.stop.contains(&token) {
            self.written.finish = Finish::Stop;
            return Ok((None, Some(self.written.clone())));
        }
        self.written.ids.push(token);
        let full = self.written.ids.len() == self.max_new_tokens;
        Ok(if full { (None, Some(self.written.clone())) } else { (Some(token), None) })
    }
}

impl Sampler {
    fn sample(&mut self, log_probs: &[f32], rules: &TokenRules) -> Result<u32> {
        // In the order of their ids: in that of a selection, in which candle's own top-k draws, the last bit of a score
        // decides which token a seed hits.
        let mut tokens = best_tokens(log_probs, self.top_k, rules);
        tokens.sort_unstable();
        let scores: Vec<f32> = tokens.iter().map(|&token| log_probs[token as usize]).collect();
        let hit = self.among_them.sample(&Tensor::new(&scores[..], &Device::Cpu)?)?;
        Ok(tokens[hit as usize])
    }
}

fn likeliest(log_probs: &[f32], rules: &TokenRules) -> u32 {
    let allowed = (0..log_probs.len() as u32).filter(|token| !rules.forbidden.contains(token));
    allowed.max_by(|a, b| log_probs[*a as usize].total_cmp(&log_probs[*b as usize])).unwrap_or(0)
}
