//! Job machinery, generic over the content of a job.
//!
//! A **job** is accepted, expanded into **items**, and finalized when every item has ended. The **ledger** holds the
//! state of both. **Queue** messages are notifications only. The **store** keeps the results. A worker **claims** an item
//! under a **lease**, runs it, writes its report whole, records the end in the ledger and then acknowledges the message.
//! The process may crash after each of these steps, and each step may be repeated.

pub mod duration;
pub mod time;
pub mod failure;
pub mod disposition;
pub mod id;
pub mod secret_url;
pub mod tls;
pub mod trace;
pub mod state;
pub mod job;
pub mod retry;
pub mod queue;
pub mod message;
pub mod store;
pub mod ledger;
pub mod client;
pub mod worker;

pub use disposition::{Disposition, RetryCost, Stopped};
pub use failure::Failure;
pub use id::{ItemId, JobId};
