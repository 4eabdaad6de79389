//! Scores of a decoder step: log-probabilities of next tokens and of given targets.

use std::ops::Range;

use candle_core::{D, Tensor};
use rayon::prelude::*;

use crate::error::Result;
use crate::model::Flamingo;

/// Identity of a row of a [`Decoder`](super::Decoder).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(pub(super) u64);

/// Scores of the next token of one row.
pub struct Scores {
    /// The row.
    pub row: RowId,
    /// Log-probability of every token of the vocabulary. Empty for a row with targets.
    pub log_probs: Vec<f32>,
    /// Log-probability of each target of [`Decoder::push_scored`](super::Decoder::push_scored) that the step has scored.
    pub targets: Vec<f32>,
}

/// Returns the scores of one row; `scores` are sorted by row.
pub(super) fn find(scores: &[Scores], row: RowId) -> Option<&Scores> {
    scores.binary_search_by_key(&row, |s| s.row).ok().map(|i| &scores[i])
}

/// Scores the targets of rows, whose hidden states are at the given positions of `hidden` (n, d).
pub(super) fn target_scores(
    model: &Flamingo,
    hidden: &Tensor,
    rows: Vec<(RowId, Range<usize>, Vec<u32>)>,
) -> Result<Vec<Scores>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let at = |positions: &Range<usize>| positions.clone().map(|i| i as u32);
    let positions: Vec<u32> = rows.iter().flat_map(|(_, positions, _)| at(positions)).collect();
    let targets: Vec<u32> = rows.iter().flat_map(|(.., targets)| targets).copied().collect();
    let hidden = hidden.index_select(&Tensor::new(positions, hidden.device())?, 0)?;
    let log_probs = candle_nn::ops::log_softmax(&model.logits(&hidden)?, D::Minus1)?;
    let targets = Tensor::new(targets, hidden.device())?.unsqueeze(1)?;
    let mut scored = log_probs.gather(&targets, 1)?.flatten_all()?.to_vec1::<f32>()?.into_iter();
    let of_row = |(row, positions, _): (RowId, Range<usize>, _)| Scores {
        row,
        log_probs: Vec::new(),
        targets: scored.by_ref().take(positions.len()).collect(),
    };
    Ok(rows.into_iter().map(of_row).collect())
}

/// Converts logits (n, vocabulary) to log-probabilities of each row, on the host.
pub(super) fn log_probabilities(logits: &Tensor) -> Result<Vec<Vec<f32>>> {
    if !logits.device().is_cpu() {
        return Ok(candle_nn::ops::log_softmax(logits, D::Minus1)?.to_vec2()?);
    }
    // On the CPU candle's log_softmax makes five passes over the vocabulary, in one thread.
    let mut rows = logits.to_vec2::<f32>()?;
    rows.par_iter_mut().for_each(|row| {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|x| f64::from((x - most).exp())).sum();
        let norm = most + sum.ln() as f32;
        row.iter_mut().for_each(|x| *x -= norm);
    });
    Ok(rows)
}
