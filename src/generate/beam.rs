//! Beam search with the semantics of Hugging Face's `generate(num_beams=n, early_stopping=False)`: candidates beyond
//! the n best keep n beams open when some end, only an ending among the n best is kept, and the search stops when no
//! open beam can beat the worst of n finished ones at the present length.

use rayon::prelude::*;

use super::{Completion, Finish, StopCriteria};

/// An open beam.
#[derive(Debug, Clone, PartialEq)]
struct Beam {
    ids: Vec<u32>,
    log_likelihood: f64,
}

/// State and arithmetic of one beam search, without model and rows.
pub(super) struct BeamSearch {
    width: usize,
    length_penalty: f64,
    max_new_tokens: usize,
    open: Vec<Beam>,
    /// The best finished beams with their penalised scores, best first.
    finished: Vec<(f64, Completion)>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    beam: usize,
    token: u32,
    log_likelihood: f64,
}

/// Returns the `kept` likeliest tokens that are not suppressed, in no order.
pub(super) fn best_tokens(log_probs: &[f32], kept: usize, criteria: &StopCriteria) -> Vec<u32> {
    let mut order: Vec<u32> =
        (0..log_probs.len() as u32).filter(|t| !criteria.suppressed.contains(t)).collect();
    let by_score = |a: &u32, b: &u32| log_probs[*b as usize].total_cmp(&log_probs[*a as usize]);
    if order.len() > kept {
        order.select_nth_unstable_by(kept - 1, by_score);
        order.truncate(kept);
    }
    order
}

impl BeamSearch {
    pub(super) fn new(width: usize, length_penalty: f64, max_new_tokens: usize) -> Self {
        let open = vec![Beam { ids: Vec::new(), log_likelihood: 0.0 }];
        Self { width, length_penalty, max_new_tokens, open, finished: Vec::new() }
    }

    /// Takes the scores of the next token of every open beam. Returns the index of the parent of every beam that stays
    /// open.
    pub(super) fn advance(&mut self, log_probs: &[&[f32]], criteria: &StopCriteria) -> Vec<usize> {
        let kept = self.width * (1 + criteria.stop.len()).max(2);
        let candidates = self.best_candidates(log_probs, kept, criteria);
        let length = self.open[0].ids.len() + 1;
        let mut next: Vec<(usize, Beam)> = Vec::with_capacity(self.width);
        for (rank, candidate) in candidates.into_iter().enumerate() {
            let ends = criteria.stop.contains(&candidate.token);
            let parent = &self.open[candidate.beam];
            if ends || length == self.max_new_tokens {
                if rank < self.width {
                    self.finish(candidate, ends, length);
                }
            } else if next.len() < self.width {
                let ids = parent.ids.iter().copied().chain([candidate.token]).collect();
                next.push((candidate.beam, Beam { ids, log_likelihood: candidate.log_likelihood }));
            }
        }
        let (parents, open) = next.into_iter().unzip();
        self.open = open;
        parents
    }

    fn best_candidates(&self, log_probs: &[&[f32]], kept: usize, criteria: &StopCriteria) -> Vec<Candidate> {
        let mut candidates: Vec<Candidate> = (0..self.open.len())
            .into_par_iter()
            .flat_map_iter(|beam| {
                let (past, log_probs) = (self.open[beam].log_likelihood, log_probs[beam]);
                best_tokens(log_probs, kept, criteria).into_iter().map(move |token| Candidate {
                    beam,
                    token,
                    log_likelihood: past + f64::from(log_probs[token as usize]),
                })
            })
            .collect();
        candidates.sort_by(|a, b| b.log_likelihood.total_cmp(&a.log_likelihood).then(a.beam.cmp(&b.beam)));
        candidates.truncate(kept);
        candidates
    }

    fn finish(&mut self, candidate: Candidate, ends: bool, length: usize) {
        let mut ids = self.open[candidate.beam].ids.clone();
        if !ends {
            ids.push(candidate.token);
        }
        let finish = if ends { Finish::Stop } else { Finish::Length };
        let score = self.penalised(candidate.log_likelihood, length);
        self.finished.push((score, Completion { ids, log_likelihood: candidate.log_likelihood, finish }));
        self.finished.sort_by(|a, b| b.0.total_cmp(&a.0));
        self.finished.truncate(self.width);
    }

    fn penalised(&self, log_likelihood: f64, length: usize) -> f64 {
        log_likelihood / (length as f64).powf(self.length_penalty)
    }

    fn is_done(&self) -> bool {
        let Some(best) = self.open.first() else { return true };
        self.finished.len() == self.width
            && self.penalised(best.log_likelihood, best.ids.len()) <= self.finished[self.width - 1].0
    }

    /// Returns the answer when no open beam can become better.
    pub(super) fn best_if_done(&self) -> Option<Completion> {
        self.is_done().then(|| self.finished.first().expect("a search ends with a finished beam").1.clone())
    }

    /// Returns the last token of each open beam.
    pub(super) fn last_tokens(&self) -> impl Iterator<Item = u32> {
        self.open.iter().map(|beam| *beam.ids.last().expect("an advanced beam has a token"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u32 = 0;

    /// Runs a search over a table of probabilities after each generated prefix.
    fn check(
        width: usize,
        length_penalty: f64,
        max: usize,
        table: &[(&[u32], [f32; 4])],
        expected: (&[u32], Finish),
    ) {
        let criteria = StopCriteria { stop: vec![END], suppressed: vec![3] };
        let mut search = BeamSearch::new(width, length_penalty, max);
        let best = loop {
            if let Some(best) = search.best_if_done() {
                break best;
            }
            let rows: Vec<[f32; 4]> = search
                .open
                .iter()
                .map(|beam| {
                    let row = table.iter().find(|(prefix, _)| *prefix == beam.ids);
                    row.unwrap_or_else(|| panic!("no scores after {:?}", beam.ids)).1.map(f32::ln)
                })
                .collect();
            search.advance(&rows.iter().map(|r| &r[..]).collect::<Vec<_>>(), &criteria);
        };
        assert_eq!((&best.ids[..], best.finish), expected);
    }

    // Token 2 is likelier at first, but only the continuation of 1 is likely.
    const GARDEN_PATH: &[(&[u32], [f32; 4])] = &[
        (&[], [0.05, 0.35, 0.40, 0.20]),
        (&[1], [0.90, 0.04, 0.03, 0.03]),
        (&[2], [0.30, 0.30, 0.30, 0.10]),
        (&[1, 1], [0.9, 0.04, 0.03, 0.03]),
        (&[1, 2], [0.9, 0.04, 0.03, 0.03]),
        (&[2, 1], [0.25, 0.25, 0.25, 0.25]),
        (&[2, 2], [0.25, 0.25, 0.25, 0.25]),
    ];

    #[test]
    fn finds_likelier_answer_than_greedy() {
        check(1, 0.0, 2, GARDEN_PATH, (&[2], Finish::Stop));
        check(2, 0.0, 3, GARDEN_PATH, (&[1], Finish::Stop));
    }

    #[test]
    fn beam_at_length_limit_competes_with_ended_beams() {
        check(2, 0.0, 1, &[(&[], [0.05, 0.35, 0.40, 0.20])], (&[2], Finish::Length));
    }

    #[test]
    fn suppressed_token_is_never_generated() {
        check(2, 0.0, 1, &[(&[], [0.05, 0.10, 0.15, 0.70])], (&[2], Finish::Length));
    }

    #[test]
    fn length_penalty_favours_longer_answers() {
        let table: &[(&[u32], [f32; 4])] = &[
            (&[], [0.45, 0.30, 0.05, 0.20]),
            (&[1], [0.02, 0.90, 0.04, 0.04]),
            (&[2], [0.02, 0.90, 0.04, 0.04]),
            (&[1, 1], [0.96, 0.02, 0.01, 0.01]),
            (&[2, 1], [0.96, 0.02, 0.01, 0.01]),
            (&[1, 2], [0.96, 0.02, 0.01, 0.01]),
            (&[2, 2], [0.96, 0.02, 0.01, 0.01]),
            (&[1, 1, 1], [0.96, 0.02, 0.01, 0.01]),
            (&[1, 1, 2], [0.96, 0.02, 0.01, 0.01]),
        ];
        check(2, 0.0, 3, table, (&[], Finish::Stop));
        check(2, 1.0, 3, table, (&[1, 1], Finish::Stop));
    }
}
