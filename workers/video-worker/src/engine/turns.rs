//! Whose turn it is: fair between jobs, whatever the number of their videos.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use crate::model::Turn;

/// What an urgent job is given counts so much less: it gets so much more while others wait, and never all.
const URGENT: u64 = 16;

/// Those who wait, in a queue per job. The job that was given least so far is next (start-time fair queueing, Goyal et al.
/// 1996; as "virtual token counter" in arXiv 2401.00588), and within it who came first.
#[derive(Debug)]
pub(super) struct Turns<T> {
    jobs: BTreeMap<(String, bool), Job<T>>,
    /// What the job that was last served had been given: who comes anew begins here, and cannot save up.
    now: u64,
}

#[derive(Debug)]
struct Job<T> {
    given: u64,
    waiting: VecDeque<(u64, T)>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { jobs: BTreeMap::new(), now: 0 }
    }
}

impl<T> Turns<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.values().all(|job| job.waiting.is_empty())
    }

    /// One more waits, and will be given `cost`.
    pub(super) fn push(&mut self, turn: &Turn, cost: u64, one: T) {
        let given = self.now;
        let job = self.jobs.entry((turn.job.clone(), turn.urgent));
        let job = job.or_insert_with(|| Job { given, waiting: VecDeque::new() });
        if job.waiting.is_empty() {
            job.given = job.given.max(given);
        }
        let cost = if turn.urgent { cost } else { cost * URGENT };
        job.waiting.push_back((cost.max(1), one));
    }

    /// Who is next.
    pub(super) fn peek(&self) -> Option<&T> {
        let job = self.jobs.values().filter(|job| !job.waiting.is_empty()).min_by_key(|job| job.given)?;
        job.waiting.front().map(|(_, one)| one)
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let job = self.jobs.values_mut().filter(|job| !job.waiting.is_empty()).min_by_key(|job| job.given)?;
        let (cost, one) = job.waiting.pop_front()?;
        self.now = self.now.max(job.given);
        job.given += cost;
        let now = self.now;
        // A job that waits for nothing and owes nothing is as good as new.
        self.jobs.retain(|_, job| !job.waiting.is_empty() || job.given > now);
        Some(one)
    }

    /// Takes out all of whom `gone` is true.
    pub(super) fn remove_if(&mut self, gone: impl Fn(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        for job in self.jobs.values_mut() {
            let (out, stay): (Vec<_>, VecDeque<_>) = {
                let (out, stay): (Vec<_>, Vec<_>) = job.waiting.drain(..).partition(|(_, one)| gone(one));
                (out, stay.into())
            };
            job.waiting = stay;
            removed.extend(out.into_iter().map(|(_, one)| one));
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(job: &str, urgent: bool) -> Turn {
        Turn { job: job.into(), urgent, ..Turn::default() }
    }

    fn order(turns: &mut Turns<&'static str>, n: usize) -> String {
        (0..n).map(|_| turns.pop().unwrap()).collect()
    }

    #[test]
    fn a_small_job_does_not_wait_for_a_large_one() {
        let mut turns = Turns::default();
        (0..100).for_each(|_| turns.push(&turn("large", false), 4, "L"));
        assert_eq!(order(&mut turns, 10), "LLLLLLLLLL");
        (0..3).for_each(|_| turns.push(&turn("small", false), 4, "s"));
        let next = order(&mut turns, 8);
        assert_eq!(next.matches('s').count(), 3, "{next}");
    }

    #[test]
    fn jobs_share_what_is_given_and_not_the_number_of_turns() {
        let mut turns = Turns::default();
        (0..100).for_each(|_| turns.push(&turn("long", false), 30, "L"));
        (0..100).for_each(|_| turns.push(&turn("short", false), 10, "s"));
        let next = order(&mut turns, 40);
        assert_eq!((next.matches('L').count(), next.matches('s').count()), (10, 30), "{next}");
    }

    #[test]
    fn urgent_ones_come_first_and_starve_nobody() {
        let mut turns = Turns::default();
        (0..100).for_each(|_| turns.push(&turn("batch", false), 1, "b"));
        order(&mut turns, 5);
        (0..100).for_each(|_| turns.push(&turn("asker", true), 1, "U"));
        let next = order(&mut turns, 51);
        let batch = next.matches('b').count();
        assert!((2..=4).contains(&batch), "{next}");
    }

    #[test]
    fn who_was_away_has_saved_nothing_up() {
        let mut turns = Turns::default();
        turns.push(&turn("early", false), 1, "e");
        assert_eq!(order(&mut turns, 1), "e");
        (0..50).for_each(|_| turns.push(&turn("other", false), 1, "o"));
        order(&mut turns, 40);
        (0..10).for_each(|_| turns.push(&turn("early", false), 1, "e"));
        let next = order(&mut turns, 10);
        // A turn more where both have been given the same.
        assert!((5..=6).contains(&next.matches('e').count()), "{next}");
    }

    #[test]
    fn who_is_taken_out_is_not_served() {
        let mut turns = Turns::default();
        turns.push(&turn("job", false), 1, "stays");
        turns.push(&turn("job", false), 1, "goes");
        assert_eq!(turns.remove_if(|one| *one == "goes"), ["goes"]);
        assert_eq!(turns.pop(), Some("stays"));
        assert!(turns.is_empty() && turns.peek().is_none());
    }
}
