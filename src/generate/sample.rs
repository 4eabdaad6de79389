//! One row, one token after the other: greedy or sampled.

use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};

use super::{Decoder, Finish, Generated, RowId, TokenRules};
use crate::error::Result;

/// A seeded sampler over log-probabilities.
pub(super) fn chooser(temperature: f64, top_k: usize, top_p: f64, seed: u64) -> LogitsProcessor {
    let sampling = match (top_k, top_p < 1.0) {
        (0, false) => Sampling::All { temperature },
        (0, true) => Sampling::TopP { p: top_p, temperature },
        (k, false) => Sampling::TopK { k, temperature },
        (k, true) => Sampling::TopKThenTopP { k, p: top_p, temperature },
    };
    LogitsProcessor::from_sampling(seed, sampling)
}

/// Writes until a stop token or the limit; without a chooser the likeliest token is taken.
pub(super) fn draw(
    decoder: &mut Decoder,
    row: RowId,
    mut chooser: Option<LogitsProcessor>,
    max_new_tokens: usize,
    rules: &TokenRules,
) -> Result<Generated> {
    let mut written = Generated { ids: Vec::new(), log_likelihood: 0.0, finish: Finish::Length };
    while written.ids.len() < max_new_tokens {
        let Some(mut scores) = decoder.step()?.pop() else { continue };
        for &id in &rules.forbidden {
            scores.log_probs[id as usize] = f32::NEG_INFINITY;
        }
        let token = match &mut chooser {
            None => likeliest(&scores.log_probs),
            Some(chooser) => chooser.sample(&Tensor::new(&scores.log_probs[..], &Device::Cpu)?)?,
        };
        written.log_likelihood += f64::from(scores.log_probs[token as usize]);
        if rules.stop.contains(&token) {
            written.finish = Finish::Stop;
            break;
        }
        written.ids.push(token);
        decoder.push(row, token);
    }
    decoder.retire(row);
    Ok(written)
}

fn likeliest(log_probs: &[f32]) -> u32 {
    let best = log_probs.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i);
    best as u32
}
