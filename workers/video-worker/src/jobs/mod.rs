//! The video service: implements the job machinery's `Service` with inference, inputs and the store.

use std::time::Duration;

use async_trait::async_trait;
use inference::decoder::DecoderConfig;
use inference::engine::Engine;
use inference::model::Model;
use jobs::job::NewJob;
use jobs::ledger::{ItemClaim, JobClaim, JobRecord, Ledger};
use jobs::queue::{Event, Message};
use jobs::state::ItemEnd;
use jobs::store::Store;
use jobs::worker::{Claimed, EndedJob, Page, RunContext, Service};
use jobs::{Failure, Stopped};

use crate::admission::Budget;
use crate::api::{ITEM_MESSAGE_SCHEMA, ITEM_SCHEMA, Item, ItemReport, JOB_SCHEMA, JobMessage};
use crate::cache::VisualTokenCache;
use crate::inputs::Inputs;
use crate::support::{EncodedSets, StoredSets};

pub mod progress;
pub mod reports;
pub mod manifest;
pub mod retry_policy;
pub mod expand;
mod few_shot;
mod methods;
mod run_item;
mod finalize;
mod events;
pub mod dead_letters;
#[cfg(test)]
mod tests;

use expand::Listing;
use manifest::Tokens;

/// Runs jobs about videos.
pub struct VideoService {
    pub engine: Engine,
    pub decoder: DecoderConfig,
    pub inputs: Inputs,
    /// Cached visual tokens.
    pub cache: VisualTokenCache,
    /// Encoded support sets.
    pub support: EncodedSets,
    pub outputs: Outputs,
    pub limits: ServiceLimits,
    /// Name of this worker.
    pub worker: String,
}

/// Store and ledger: reports, results and the states of items.
pub struct Outputs {
    pub store: Store,
    pub ledger: Ledger,
    /// Whether to store a contact sheet with each report.
    pub sheets: bool,
}

/// Limits of listing and running items.
pub struct ServiceLimits {
    /// Inputs of one page.
    pub page: usize,
    pub max_manifest_bytes: u64,
    /// Memory budget of running analyses.
    pub memory: Budget,
    /// Bytes of a prepared frame.
    pub frame_bytes: u64,
    /// Time that a video waits for memory.
    pub retry_timeout: Duration,
}

#[async_trait]
impl Service for VideoService {
    type Item = Item;
    type Report = ItemReport;
    type Summary = Tokens;

    const JOB_SCHEMA: &'static str = JOB_SCHEMA;
    const ITEM_SCHEMA: &'static str = ITEM_MESSAGE_SCHEMA;
    const PREVIOUS_ITEM_SCHEMA: Option<&'static str> = Some(ITEM_SCHEMA);

    fn parse_job(&self, message: &Message) -> Result<NewJob, Stopped> {
        JobMessage::parse(message)?.to_new().map_err(Stopped::fail)
    }

    fn parse_item(&self, claim: &ItemClaim) -> Result<Item, Stopped> {
        Item::parse(&claim.message)
    }

    async fn expand(&self, job: &JobRecord, cursor: Option<&str>) -> Result<Page, Stopped> {
        let Self { inputs, outputs, limits, .. } = self;
        // The store of the submitter may have been another one.
        let message = JobMessage::from_ledger(&job.message).map_err(Stopped::fail)?;
        message.check_store(&outputs.store).map_err(Stopped::fail)?;
        if cursor.is_none() {
            outputs.check_manifest(job).await?;
        }
        let sets = StoredSets::new(outputs.store.clone());
        Listing { inputs, ledger: &outputs.ledger, sets: &sets, limits }.page(job, cursor).await
    }

    async fn find_report(&self, item: &Claimed<Item>) -> Result<Option<ItemEnd>, Stopped> {
        self.written_end(item).await
    }

    async fn run(&self, item: &Claimed<Item>, context: &RunContext) -> Result<ItemReport, Stopped> {
        self.run_item(item, context).await
    }

    async fn write(
        &self,
        item: &Claimed<Item>,
        result: Result<&ItemReport, &Failure>,
    ) -> Result<ItemEnd, Stopped> {
        self.write_report(item, result).await
    }

    async fn gather(&self, claim: &JobClaim) -> Result<Tokens, Stopped> {
        self.outputs.gather(claim).await
    }

    async fn complete(&self, ended: &EndedJob, tokens: &Tokens) -> Result<(), Stopped> {
        self.outputs.write_manifest(ended, self.engine.info(), *tokens).await
    }

    fn end_event(&self, ended: &EndedJob) -> Event {
        self.job_event(ended)
    }

    fn refusal_event(&self, message: &Message, why: &Failure) -> Event {
        events::refusal_event(message, why)
    }
}
