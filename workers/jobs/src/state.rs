//! States of jobs and items, and their ends.

use serde::{Deserialize, Serialize};

use crate::Failure;

/// State of a job. A job enters each state at most once, in this order; the last five are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// The ledger has a row for it.
    Accepted,
    /// A worker lists its inputs.
    Validating,
    /// Every item is known, and no worker has begun one since.
    Queued,
    Running,
    /// Every item has ended, and a worker gathers the results.
    Finalizing,
    Succeeded,
    PartiallySucceeded,
    Failed,
    /// A user cancelled it. Items that had ended keep their results.
    Cancelled,
    /// Its deadline passed first. Items that had ended keep their results.
    Expired,
}

impl JobState {
    pub const ALL: [JobState; 10] = [
        JobState::Accepted,
        JobState::Validating,
        JobState::Queued,
        JobState::Running,
        JobState::Finalizing,
        JobState::Succeeded,
        JobState::PartiallySucceeded,
        JobState::Failed,
        JobState::Cancelled,
        JobState::Expired,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Accepted => "accepted",
            JobState::Validating => "validating",
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Finalizing => "finalizing",
            JobState::Succeeded => "succeeded",
            JobState::PartiallySucceeded => "partially_succeeded",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
            JobState::Expired => "expired",
        }
    }

    /// Returns whether the state is final.
    pub fn is_end(self) -> bool {
        self > JobState::Finalizing
    }
}

/// State of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemState {
    Queued,
    Running,
    /// It has a report. If that is lost before the results of the job are gathered, the item fails.
    Succeeded,
    Failed,
    /// Its job ended early, before the item was done. The job's failure gives the reason.
    Cancelled,
}

impl ItemState {
    pub const ALL: [ItemState; 5] = [
        ItemState::Queued,
        ItemState::Running,
        ItemState::Succeeded,
        ItemState::Failed,
        ItemState::Cancelled,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            ItemState::Queued => "queued",
            ItemState::Running => "running",
            ItemState::Succeeded => "succeeded",
            ItemState::Failed => "failed",
            ItemState::Cancelled => "cancelled",
        }
    }

    /// Returns whether the state is final.
    pub fn is_end(self) -> bool {
        !matches!(self, ItemState::Queued | ItemState::Running)
    }
}

/// End of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemEnd {
    Succeeded,
    Failed(Failure),
}

impl ItemEnd {
    pub fn state(&self) -> ItemState {
        match self {
            ItemEnd::Succeeded => ItemState::Succeeded,
            ItemEnd::Failed(_) => ItemState::Failed,
        }
    }

    pub fn failure(&self) -> Option<&Failure> {
        match self {
            ItemEnd::Succeeded => None,
            ItemEnd::Failed(failure) => Some(failure),
        }
    }
}

/// End of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEnd {
    Succeeded,
    PartiallySucceeded,
    Failed(Failure),
    /// The job was cancelled, or its deadline passed.
    Early(EarlyEnd),
}

/// End of a job before all of its items have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyEnd {
    Cancelled,
    Expired,
}

impl EarlyEnd {
    /// Returns the early end that the code of a job's failure stands for. No other failure has one of these codes.
    pub fn of(code: &str) -> Option<Self> {
        [EarlyEnd::Cancelled, EarlyEnd::Expired].into_iter().find(|end| end.failure().code == code)
    }

    pub fn state(self) -> JobState {
        match self {
            EarlyEnd::Cancelled => JobState::Cancelled,
            EarlyEnd::Expired => JobState::Expired,
        }
    }

    /// Returns the failure of the job and of each item that had not ended.
    pub fn failure(self) -> Failure {
        match self {
            EarlyEnd::Cancelled => Failure::new("cancelled", "the job was cancelled"),
            EarlyEnd::Expired => Failure::new("deadline_exceeded", "the job's deadline has passed"),
        }
    }
}

impl JobEnd {
    pub fn state(&self) -> JobState {
        match self {
            JobEnd::Succeeded => JobState::Succeeded,
            JobEnd::PartiallySucceeded => JobState::PartiallySucceeded,
            JobEnd::Failed(_) => JobState::Failed,
            JobEnd::Early(end) => end.state(),
        }
    }

    pub fn failure(&self) -> Option<Failure> {
        match self {
            JobEnd::Succeeded | JobEnd::PartiallySucceeded => None,
            JobEnd::Failed(failure) => Some(failure.clone()),
            JobEnd::Early(end) => Some(end.failure()),
        }
    }
}

/// Number of a job's items in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub total: u64,
    pub queued: u64,
    pub running: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub cancelled: u64,
}

impl Counts {
    /// Returns the number of items that have not ended.
    pub fn open(&self) -> u64 {
        self.queued + self.running
    }
}
