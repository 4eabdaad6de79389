//! Bytes of something that the videos of this process share: of its disk, of its memory. Who finds no room waits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::message::Priority;

/// A limit on bytes. Clones are the same one.
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
    urgent: VecDeque<Waiting>,
    normal: VecDeque<Waiting>,
}

/// One who waits for room. The reservation travels through the channel, so that it is given back when nobody takes it out.
struct Waiting {
    bytes: u64,
    granted: oneshot::Sender<Reserved>,
}

/// Bytes that are reserved until this is dropped.
pub struct Reserved {
    bytes: u64,
    shared: Arc<Shared>,
}

/// Why there is no room.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    #[error("it needs {asked} bytes, and {limit} are all there are")]
    Ever { asked: u64, limit: u64 },
    #[error("it needs {asked} of {limit} bytes, and too many were in use for {} s", waited.as_secs())]
    Now { asked: u64, limit: u64, waited: Duration },
}

impl Budget {
    /// `limit` 0: none, and nobody waits.
    pub fn new(limit: u64) -> Self {
        let limit = if limit == 0 { u64::MAX } else { limit };
        Self { shared: Arc::new(Shared { limit, state: Mutex::default() }) }
    }

    /// `None`: there is none.
    pub fn limit(&self) -> Option<u64> {
        (self.shared.limit < u64::MAX).then_some(self.shared.limit)
    }

    /// What is reserved now.
    pub fn reserved(&self) -> u64 {
        self.shared.state().reserved
    }

    /// How many wait for room.
    pub fn waiting(&self) -> usize {
        let state = self.shared.state();
        state.urgent.len() + state.normal.len()
    }

    /// Reserves so many bytes, and waits for them in line: behind all urgent ones, first come, first served. Dropped, the
    /// future leaves the line.
    ///
    /// # Errors
    /// There will never be so much, or there was not for as long as `patience`.
    pub async fn reserve(
        &self,
        bytes: u64,
        priority: Priority,
        patience: Duration,
    ) -> Result<Reserved, NoRoom> {
        self.check(bytes)?;
        // Declared before the channel, so dropped after it: whoever stood behind this one may have room now.
        let _leaving = Leaving(&self.shared);
        let (granted, room) = oneshot::channel();
        let waiting = Waiting { bytes, granted };
        match priority {
            Priority::Urgent => self.shared.state().urgent.push_back(waiting),
            Priority::Normal => self.shared.state().normal.push_back(waiting),
        }
        self.shared.admit();
        match tokio::time::timeout(patience, room).await {
            Ok(Ok(reserved)) => Ok(reserved),
            // The line lives as long as `self`, so it is the time that has passed.
            Ok(Err(_)) | Err(_) => {
                Err(NoRoom::Now { asked: bytes, limit: self.shared.limit, waited: patience })
            }
        }
    }

    /// # Errors
    /// There will never be so much.
    pub fn check(&self, bytes: u64) -> Result<(), NoRoom> {
        match self.shared.limit {
            limit if bytes > limit => Err(NoRoom::Ever { asked: bytes, limit }),
            _ => Ok(()),
        }
    }
}

impl Shared {
    /// Every change of the state is whole before anything can panic, so a poisoned lock holds a sound state.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets in whoever stands first in line, as long as there is room.
    fn admit(self: &Arc<Self>) {
        // What nobody takes is given back by being dropped, which asks for the lock: after it is free.
        let mut unwanted = Vec::new();
        let mut state = self.state();
        loop {
            let State { reserved, urgent, normal } = &mut *state;
            let line = if urgent.is_empty() { normal } else { urgent };
            let Some(first) = line.front() else { break };
            let fits = reserved.checked_add(first.bytes).is_some_and(|sum| sum <= self.limit);
            if !fits && !first.granted.is_closed() {
                break;
            }
            let Some(Waiting { bytes, granted }) = line.pop_front() else { break };
            if !granted.is_closed() {
                *reserved += bytes;
                unwanted.extend(granted.send(Reserved { bytes, shared: self.clone() }).err());
            }
        }
        drop(state);
    }
}

impl Reserved {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.shared.state().reserved -= self.bytes;
        self.shared.admit();
    }
}

impl std::fmt::Debug for Reserved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes)
    }
}

struct Leaving<'a>(&'a Arc<Shared>);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.admit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Priority::{Normal, Urgent};

    const LONG: Duration = Duration::from_secs(20);

    /// Asks, and stands in line when this returns.
    async fn ask(
        budget: &Budget,
        bytes: u64,
        priority: Priority,
    ) -> tokio::task::JoinHandle<Result<Reserved, NoRoom>> {
        let before = budget.waiting();
        let theirs = budget.clone();
        let asking = tokio::spawn(async move { theirs.reserve(bytes, priority, LONG).await });
        while !asking.is_finished() && budget.waiting() == before {
            tokio::task::yield_now().await;
        }
        asking
    }

    #[tokio::test]
    async fn who_finds_no_room_waits_in_line_and_urgent_ones_come_first() {
        let budget = Budget::new(10);
        let held = budget.reserve(7, Normal, LONG).await.unwrap();
        let large = ask(&budget, 9, Normal).await;
        // It would fit, but then the large one might wait for ever.
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
    async fn who_leaves_the_line_keeps_nobody_waiting() {
        let budget = Budget::new(10);
        let _held = budget.reserve(7, Normal, LONG).await.unwrap();
        let large = ask(&budget, 9, Normal).await;
        let small = ask(&budget, 3, Normal).await;
        large.abort();
        let small = small.await.unwrap().unwrap();
        assert_eq!(budget.reserved(), 10);
        drop(small);

        let late = budget.reserve(4, Urgent, Duration::from_millis(10)).await.unwrap_err();
        let said = "it needs 4 of 10 bytes, and too many were in use for 0 s";
        assert_eq!(late.to_string(), said);
        assert_eq!(budget.reserve(3, Normal, LONG).await.unwrap().bytes(), 3, "nobody stands before it");
    }

    #[tokio::test]
    async fn what_never_fits_is_refused_at_once() {
        let budget = Budget::new(10);
        let refused = budget.reserve(11, Urgent, LONG).await.unwrap_err();
        assert_eq!(refused, NoRoom::Ever { asked: 11, limit: 10 });
        let unlimited = Budget::new(0);
        let all: Vec<_> = [u64::MAX >> 1, 1 << 40].into_iter().map(|n| unlimited.check(n)).collect();
        assert!(all.iter().all(Result::is_ok));
        let _held = unlimited.reserve(1 << 62, Normal, LONG).await.unwrap();
        assert_eq!((unlimited.reserved(), unlimited.limit()), (1 << 62, None));
    }

    /// A room that was given in the moment in which its waiter left is given back.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_leaks_whenever_they_leave() {
        let budget = Budget::new(10);
        let tasks: Vec<_> = (0..200)
            .map(|n| {
                let budget = budget.clone();
                tokio::spawn(async move {
                    let patience = Duration::from_micros(n * 7 % 400);
                    let priority = if n % 5 == 0 { Urgent } else { Normal };
                    let held = budget.reserve(n % 10 + 1, priority, patience).await;
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
