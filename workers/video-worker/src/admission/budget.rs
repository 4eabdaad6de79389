//! Byte budgets that the videos of this process share: disk, memory. Requests wait in line for room.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::api::Priority;

/// A limit on bytes. Clones share it.
#[derive(Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

struct Shared {
    limit: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    reserved: u64,
    urgent: VecDeque<WaitingRequest>,
    normal: VecDeque<WaitingRequest>,
}

/// A waiting request. The reservation travels through the channel, so it is released if the receiver is gone.
struct WaitingRequest {
    bytes: u64,
    granted: oneshot::Sender<Reservation>,
}

/// Reserved bytes; released on drop.
pub struct Reservation {
    bytes: u64,
    shared: Arc<Shared>,
}

/// Error of a reservation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    #[error("needs {asked} bytes, the limit is {limit}")]
    NeverFits { asked: u64, limit: u64 },
    #[error("needs {asked} of {limit} bytes, which were not free within {} s", waited.as_secs())]
    TimedOut { asked: u64, limit: u64, waited: Duration },
}

impl Budget {
    /// Returns a budget of `limit` bytes; 0 means unlimited.
    pub fn new(limit: u64) -> Self {
        let limit = if limit == 0 { u64::MAX } else { limit };
        Self { shared: Arc::new(Shared { limit, state: Mutex::default() }) }
    }

    /// Returns the limit; `None` if unlimited.
    pub fn limit(&self) -> Option<u64> {
        (self.shared.limit < u64::MAX).then_some(self.shared.limit)
    }

    /// Returns the reserved bytes.
    pub fn reserved(&self) -> u64 {
        self.shared.state().reserved
    }

    /// Returns the number of waiting requests.
    pub fn waiting(&self) -> usize {
        let state = self.shared.state();
        state.urgent.len() + state.normal.len()
    }

    /// Reserves `bytes`, and waits in line for them: urgent requests first, then first come, first served. Dropping the future
    /// leaves the line.
    ///
    /// # Errors
    /// `bytes` exceed the limit, or were not free within `timeout`.
    pub async fn reserve(
        &self,
        bytes: u64,
        priority: Priority,
        timeout: Duration,
    ) -> Result<Reservation, NoRoom> {
        self.check(bytes)?;
        // Declared before the channel, so dropped after it: the next request in line may fit now.
        let _admit = AdmitOnDrop(&self.shared);
        let (granted, room) = oneshot::channel();
        let waiting = WaitingRequest { bytes, granted };
        match priority {
            Priority::Urgent => self.shared.state().urgent.push_back(waiting),
            Priority::Normal => self.shared.state().normal.push_back(waiting),
        }
        self.shared.admit();
        match tokio::time::timeout(timeout, room).await {
            Ok(Ok(reserved)) => Ok(reserved),
            // The queue lives as long as `self`, so a closed channel cannot happen here; both mean a timeout.
            Ok(Err(_)) | Err(_) => {
                Err(NoRoom::TimedOut { asked: bytes, limit: self.shared.limit, waited: timeout })
            }
        }
    }

    /// Checks `bytes` against the limit.
    ///
    /// # Errors
    /// `bytes` exceed the limit.
    pub fn check(&self, bytes: u64) -> Result<(), NoRoom> {
        match self.shared.limit {
            limit if bytes > limit => Err(NoRoom::NeverFits { asked: bytes, limit }),
            _ => Ok(()),
        }
    }
}

impl Shared {
    /// Locks the state. No code panics between related changes, so the state behind a poisoned lock is valid.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Grants requests from the front of the line while they fit.
    fn admit(self: &Arc<Self>) {
        // A reservation without a receiver is released by its drop, which takes the lock: drop it after the lock is free.
        let mut unclaimed = Vec::new();
        let mut state = self.state();
        loop {
            let State { reserved, urgent, normal } = &mut *state;
            let line = if urgent.is_empty() { normal } else { urgent };
            let Some(first) = line.front() else { break };
            let fits = reserved.checked_add(first.bytes).is_some_and(|sum| sum <= self.limit);
            if !fits && !first.granted.is_closed() {
                break;
            }
            let Some(WaitingRequest { bytes, granted }) = line.pop_front() else { break };
            if !granted.is_closed() {
                *reserved += bytes;
                unclaimed.extend(granted.send(Reservation { bytes, shared: self.clone() }).err());
            }
        }
        drop(state);
    }
}

impl Reservation {
    /// Returns the reserved bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shared.state().reserved -= self.bytes;
        self.shared.admit();
    }
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes)
    }
}

struct AdmitOnDrop<'a>(&'a Arc<Shared>);

impl Drop for AdmitOnDrop<'_> {
    fn drop(&mut self) {
        self.0.admit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Priority::{Normal, Urgent};

    const LONG: Duration = Duration::from_secs(20);

    /// Starts a reservation; returns when it is granted or in line.
    async fn ask(
        budget: &Budget,
        bytes: u64,
        priority: Priority,
    ) -> tokio::task::JoinHandle<Result<Reservation, NoRoom>> {
        let before = budget.waiting();
        let shared = budget.clone();
        let asking = tokio::spawn(async move { shared.reserve(bytes, priority, LONG).await });
        while !asking.is_finished() && budget.waiting() == before {
            tokio::task::yield_now().await;
        }
        asking
    }

    #[tokio::test]
    async fn waits_in_line_with_urgent_requests_first() {
        let budget = Budget::new(10);
        let held = budget.reserve(7, Normal, LONG).await.unwrap();
        let large = ask(&budget, 9, Normal).await;
        // It would fit, but then the large request might wait for ever.
        let small = ask(&budget, 3, Normal).await;
        let urgent = ask(&budget, 8, Urgent).await;
        assert!(!small.is_finished() && !large.is_finished() && !urgent.is_finished());
        assert_eq!(budget.reserved(), 7);

        drop(held);
        let held = urgent.await.unwrap().unwrap();
        assert_eq!(budget.reserved(), 8);
        drop(held);
        let held = large.await.unwrap().unwrap();
        assert_eq!(budget.reserved(), 9);
        drop(held);
        assert_eq!(small.await.unwrap().unwrap().bytes(), 3);
        assert_eq!(budget.reserved(), 0);
    }

    #[tokio::test]
    async fn cancelled_request_unblocks_the_line() {
        let budget = Budget::new(10);
        let _held = budget.reserve(7, Normal, LONG).await.unwrap();
        let large = ask(&budget, 9, Normal).await;
        let small = ask(&budget, 3, Normal).await;
        large.abort();
        let small = small.await.unwrap().unwrap();
        assert_eq!(budget.reserved(), 10);
        drop(small);

        let late = budget.reserve(4, Urgent, Duration::from_millis(10)).await.unwrap_err();
        let expected = "needs 4 of 10 bytes, which were not free within 0 s";
        assert_eq!(late.to_string(), expected);
        assert_eq!(budget.reserve(3, Normal, LONG).await.unwrap().bytes(), 3, "the line is empty");
    }

    #[tokio::test]
    async fn rejects_requests_above_the_limit_at_once() {
        let budget = Budget::new(10);
        let refused = budget.reserve(11, Urgent, LONG).await.unwrap_err();
        assert_eq!(refused, NoRoom::NeverFits { asked: 11, limit: 10 });
        let unlimited = Budget::new(0);
        let all: Vec<_> = [u64::MAX >> 1, 1 << 40].into_iter().map(|n| unlimited.check(n)).collect();
        assert!(all.iter().all(Result::is_ok));
        let _held = unlimited.reserve(1 << 62, Normal, LONG).await.unwrap();
        assert_eq!((unlimited.reserved(), unlimited.limit()), (1 << 62, None));
    }

    /// A reservation that is granted while its receiver leaves is released.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn releases_reservations_of_dropped_requests() {
        let budget = Budget::new(10);
        let tasks: Vec<_> = (0..200)
            .map(|n| {
                let budget = budget.clone();
                tokio::spawn(async move {
                    let timeout = Duration::from_micros(n * 7 % 400);
                    let priority = if n % 5 == 0 { Urgent } else { Normal };
                    let held = budget.reserve(n % 10 + 1, priority, timeout).await;
                    tokio::task::yield_now().await;
                    drop(held);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(budget.reserved(), 0);
        assert_eq!(budget.reserve(10, Normal, LONG).await.unwrap().bytes(), 10);
    }
}
