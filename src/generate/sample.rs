//! One row, one token after the other: greedy or sampled.

use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};

use super::{Finish, Generated, TokenRules};
use crate::error::Result;

/// An answer of one row so far.
pub(super) struct Draw {
    /// Without one the likeliest token is taken.
    chooser: Option<LogitsProcessor>,
    max_new_tokens: usize,
    written: Generated,
}

impl Draw {
    pub(super) fn likeliest(max_new_tokens: usize) -> Self {
        let written = Generated { ids: Vec::new(), log_likelihood: 0.0, finish: Finish::Length };
        Self { chooser: None, max_new_tokens, written }
    }

    /// Drawn with a seed; `top_k` 0: from all.
    pub(super) fn sampled(
        temperature: f64,
        top_k: usize,
        top_p: f64,
        seed: u64,
        max_new_tokens: usize,
    ) -> Self {
        let sampling = match (top_k, top_p < 1.0) {
            (0, false) => Sampling::All { temperature },
            (0, true) => Sampling::TopP { p: top_p, temperature },
            (k, false) => Sampling::TopK { k, temperature },
            (k, true) => Sampling::TopKThenTopP { k, p: top_p, temperature },
        };
        let chooser = Some(LogitsProcessor::from_sampling(seed, sampling));
        Self { chooser, ..Self::likeliest(max_new_tokens) }
    }

    /// Takes the scores of the next token: -> the token to go on from, or the answer.
    pub(super) fn next(
        &mut self,
        log_probs: &[f32],
        rules: &TokenRules,
    ) -> Result<(Option<u32>, Option<Generated>)> {
        let mut log_probs = log_probs.to_vec();
        for &id in &rules.forbidden {
            log_probs[id as usize] = f32::NEG_INFINITY;
        }
        let token = match &mut self.chooser {
            None => likeliest(&log_probs),
            Some(chooser) => chooser.sample(&Tensor::new(&log_probs[..], &Device::Cpu)?)?,
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

fn likeliest(log_probs: &[f32]) -> u32 {
    let best = log_probs.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i);
    best as u32
}
