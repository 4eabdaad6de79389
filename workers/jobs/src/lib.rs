//! The machinery of jobs, generic over what a job is about.
//!
//! A **job** is accepted, expanded into **items**, and finalised when every item has ended. The **ledger** is the truth
//! about both; the **queue** is the bell that says where to look; the **store** keeps what came out. A worker **claims**
//! an item for the length of a **lease**, does it, writes its result whole, enters that in the ledger and only then
//! acknowledges the message: each of these steps may be the last one of this process, and each may be repeated.

pub mod trace;
pub mod job;
pub mod retry;
pub mod queue;
pub mod store;
pub mod ledger;
pub mod worker;

pub use job::{Failure, ItemId, JobId};
