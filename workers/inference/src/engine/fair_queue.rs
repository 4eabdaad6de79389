//! Fair queue between jobs, whatever the number of their videos.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use crate::context::{Priority, RequestContext};

/// Weight of an urgent job: while others wait it gets so many times their share, and never all.
const URGENT_WEIGHT: u64 = 16;

/// Waiting requests, in a FIFO per job. The job that has received the least service is next (start-time fair queueing,
/// Goyal et al. 1996; "virtual token counter" in arXiv 2401.00588).
#[derive(Debug)]
pub(super) struct FairQueue<T> {
    jobs: BTreeMap<(String, Priority), Job<T>>,
    /// Service received by the job that was served last. New jobs start here, so idle time earns no credit.
    virtual_time: u64,
}

#[derive(Debug)]
struct Job<T> {
    service_received: u64,
    waiting: VecDeque<(u64, T)>,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { jobs: BTreeMap::new(), virtual_time: 0 }
    }
}

impl<T> FairQueue<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.values().all(|job| job.waiting.is_empty())
    }

    /// Adds a request that will take `cost` units of service.
    pub(super) fn push(&mut self, context: &RequestContext, cost: u64, request: T) {
        let virtual_time = self.virtual_time;
        let job = self.jobs.entry((context.job.clone(), context.priority));
        let job = job.or_insert_with(|| Job { service_received: virtual_time, waiting: VecDeque::new() });
        if job.waiting.is_empty() {
            job.service_received = job.service_received.max(virtual_time);
        }
        let cost = match context.priority {
            Priority::Urgent => cost,
            Priority::Normal => cost * URGENT_WEIGHT,
        };
        job.waiting.push_back((cost.max(1), request));
    }

    /// Returns the next request.
    pub(super) fn peek(&self) -> Option<&T> {
        let waiting = self.jobs.values().filter(|job| !job.waiting.is_empty());
        waiting.min_by_key(|job| job.service_received)?.waiting.front().map(|(_, request)| request)
    }

    /// Removes the next request and charges its cost to its job.
    pub(super) fn pop(&mut self) -> Option<T> {
        let waiting = self.jobs.values_mut().filter(|job| !job.waiting.is_empty());
        let job = waiting.min_by_key(|job| job.service_received)?;
        let (cost, request) = job.waiting.pop_front()?;
        self.virtual_time = self.virtual_time.max(job.service_received);
        job.service_received += cost;
        let virtual_time = self.virtual_time;
        // Drop jobs with an empty queue and no debt.
        self.jobs.retain(|_, job| !job.waiting.is_empty() || job.service_received > virtual_time);
        Some(request)
    }

    /// Removes all requests that match `predicate`.
    pub(super) fn remove_if(&mut self, predicate: impl Fn(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        for job in self.jobs.values_mut() {
            let (matching, rest): (Vec<_>, Vec<_>) =
                job.waiting.drain(..).partition(|(_, request)| predicate(request));
            job.waiting = rest.into();
            removed.extend(matching.into_iter().map(|(_, request)| request));
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(job: &str, urgent: bool) -> RequestContext {
        let priority = if urgent { Priority::Urgent } else { Priority::Normal };
        RequestContext { job: job.into(), priority, ..RequestContext::default() }
    }

    fn order(queue: &mut FairQueue<&'static str>, n: usize) -> String {
        (0..n).map(|_| queue.pop().unwrap()).collect()
    }

    #[test]
    fn small_job_does_not_wait_for_large_job() {
        let mut queue = FairQueue::default();
        (0..100).for_each(|_| queue.push(&context("large", false), 4, "L"));
        assert_eq!(order(&mut queue, 10), "LLLLLLLLLL");
        (0..3).for_each(|_| queue.push(&context("small", false), 4, "s"));
        let next = order(&mut queue, 8);
        assert_eq!(next.matches('s').count(), 3, "{next}");
    }

    #[test]
    fn jobs_share_service_not_request_count() {
        let mut queue = FairQueue::default();
        (0..100).for_each(|_| queue.push(&context("long", false), 30, "L"));
        (0..100).for_each(|_| queue.push(&context("short", false), 10, "s"));
        let next = order(&mut queue, 40);
        assert_eq!((next.matches('L').count(), next.matches('s').count()), (10, 30), "{next}");
    }

    #[test]
    fn urgent_requests_go_first_without_starving_others() {
        let mut queue = FairQueue::default();
        (0..100).for_each(|_| queue.push(&context("batch", false), 1, "b"));
        order(&mut queue, 5);
        (0..100).for_each(|_| queue.push(&context("interactive", true), 1, "U"));
        let next = order(&mut queue, 51);
        let batch = next.matches('b').count();
        assert!((2..=4).contains(&batch), "{next}");
    }

    #[test]
    fn idle_time_earns_no_credit() {
        let mut queue = FairQueue::default();
        queue.push(&context("early", false), 1, "e");
        assert_eq!(order(&mut queue, 1), "e");
        (0..50).for_each(|_| queue.push(&context("other", false), 1, "o"));
        order(&mut queue, 40);
        (0..10).for_each(|_| queue.push(&context("early", false), 1, "e"));
        let next = order(&mut queue, 10);
        // One request more where both have received the same service.
        assert!((5..=6).contains(&next.matches('e').count()), "{next}");
    }

    #[test]
    fn removed_requests_are_not_served() {
        let mut queue = FairQueue::default();
        queue.push(&context("job", false), 1, "stays");
        queue.push(&context("job", false), 1, "goes");
        assert_eq!(queue.remove_if(|request| *request == "goes"), ["goes"]);
        assert_eq!(queue.pop(), Some("stays"));
        assert!(queue.is_empty() && queue.peek().is_none());
    }
}
