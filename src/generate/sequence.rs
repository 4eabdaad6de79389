//! One answer that is being written: its rows in a decoder, and the strategy that chooses their tokens.

use std::sync::Arc;

use super::beam::Search;
use super::decoder::{Decoder, Demand, RowId, Scores};
use super::sample::Draw;
use super::{Generated, Generation, Strategy, TokenRules};
use crate::error::Result;
use crate::model::MediaKeys;

/// An answer between two steps. Any number of them share a decoder, join it and leave it at any step.
pub struct Sequence {
    rows: Vec<RowId>,
    choice: Choice,
    rules: TokenRules,
}

enum Choice {
    Draw(Box<Draw>),
    Search(Search),
}

impl Sequence {
    /// What an answer as `generation` says may come to hold, after a prompt of so many tokens.
    pub fn demand(prompt: usize, generation: &Generation) -> Demand {
        let rows = match generation.strategy {
            Strategy::Beam { beams, .. } => beams,
            Strategy::Greedy {} | Strategy::Sample { .. } => 1,
        };
        Demand { prompt, new_tokens: generation.max_new_tokens, rows }
    }

    /// Admits the prompt.
    ///
    /// # Errors
    /// The settings mean nothing; else as [`Decoder::admit`].
    pub fn begin(
        decoder: &mut Decoder,
        prompt: &[u32],
        media: &[Arc<MediaKeys>],
        generation: &Generation,
        rules: &TokenRules,
    ) -> Result<Self> {
        generation.check()?;
        let Demand { new_tokens, rows, .. } = Self::demand(prompt.len(), generation);
        let row = decoder.admit(prompt.to_vec(), media.to_vec(), new_tokens, rows)?;
        let choice = match generation.strategy {
            Strategy::Beam { beams, length_penalty } if beams > 1 => {
                Choice::Search(Search::new(beams, length_penalty, new_tokens))
            }
            Strategy::Greedy {} | Strategy::Beam { .. } => {
                Choice::Draw(Box::new(Draw::likeliest(new_tokens)))
            }
            Strategy::Sample { temperature, top_k, top_p, seed } => {
                Choice::Draw(Box::new(Draw::sampled(temperature, top_k, top_p, seed, new_tokens)))
            }
        };
        Ok(Self { rows: vec![row], choice, rules: rules.clone() })
    }

    /// Goes on with what a step of the decoder has scored: -> the answer, once it is written; its rows are retired then.
    /// Nothing happens while its prompt is still being read.
    ///
    /// # Errors
    /// The scores cannot be drawn from.
    pub fn advance(&mut self, decoder: &mut Decoder, scores: &[Scores]) -> Result<Option<Generated>> {
        // The rows of a search are always scored in the same step.
        let mine: Option<Vec<&[f32]>> = self
            .rows
            .iter()
            .map(|row| Some(&scores[scores.binary_search_by_key(row, |s| s.row).ok()?].log_probs[..]))
            .collect();
        let Some(mine) = mine else { return Ok(None) };
        let written = match &mut self.choice {
            Choice::Draw(draw) => {
                let (token, written) = draw.next(mine[0], &self.rules)?;
                if let Some(token) = token {
                    decoder.push(self.rows[0], token);
                }
                written
            }
            Choice::Search(search) => {
                let parents = search.advance(&mine, &self.rules);
                let written = search.best_if_done();
                if written.is_none() {
                    self.rows = reorder(decoder, &self.rows, &parents);
                    for (&row, token) in self.rows.iter().zip(search.last_tokens()) {
                        decoder.push(row, token);
                    }
                }
                written
            }
        };
        if written.is_some() {
            self.retire(decoder);
        }
        Ok(written)
    }

    /// Forgets its rows: nobody wants the answer any more.
    pub fn retire(&mut self, decoder: &mut Decoder) {
        self.rows.drain(..).for_each(|row| decoder.retire(row));
    }
}

/// The rows of the next step: beam i goes on from `parents[i]`. A row is forked only for its second and later child.
fn reorder(decoder: &mut Decoder, rows: &[RowId], parents: &[usize]) -> Vec<RowId> {
    let next = |(i, &parent): (usize, &usize)| {
        let again = parents[..i].contains(&parent);
        if again { decoder.fork(rows[parent]) } else { rows[parent] }
    };
    let next = parents.iter().enumerate().map(next).collect();
    for (i, &row) in rows.iter().enumerate() {
        if !parents.contains(&i) {
            decoder.retire(row);
        }
    }
    next
}
