//! Reservation of KV blocks, and the limits of a prompt.

use crate::error::{Error, Result};
use crate::language::kv_cache::{BLOCK, blocks_for};
use crate::model::Flamingo;

/// Reservation of KV blocks (16 tokens each) for a prompt and all tokens generated after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvReservation {
    /// Prompt tokens, which all rows share.
    pub prompt: usize,
    /// New tokens per row, at most.
    pub new_tokens: usize,
    /// Rows at the same time, at most.
    pub rows: usize,
}

impl KvReservation {
    /// Returns the number of blocks, at most: full blocks of the prompt once, the rest once per row.
    pub fn blocks(&self) -> usize {
        let shared = self.prompt / BLOCK;
        shared + self.rows * blocks_for(self.prompt % BLOCK + self.new_tokens)
    }
}

/// Checks that a prompt and its answer fit the positions of the language model.
///
/// # Errors
/// [`Error::Prompt`] with the numbers.
pub fn check_length(model: &Flamingo, prompt: usize, new_tokens: usize) -> Result<()> {
    let limit = model.language().sizes().max_positions;
    if prompt == 0 || prompt.saturating_add(new_tokens) > limit {
        return Err(Error::Prompt(format!(
            "a prompt of {prompt} tokens and an answer of up to {new_tokens} do not fit 1 to {limit} tokens"
        )));
    }
    Ok(())
}

/// Describes a reservation in words.
pub fn describe(reservation: &KvReservation) -> String {
    let KvReservation { prompt, new_tokens, rows } = reservation;
    let blocks = reservation.blocks();
    format!(
        "a prompt of {prompt} tokens and {rows} rows of up to {new_tokens} more need {blocks} blocks of {BLOCK} tokens"
    )
}
