//! Overhead per item: a job whose items only write a report, through queue, ledger and store.
//!
//! `bench-service ITEMS SLOTS` prints one JSON object for the backends that the usual variables name
//! (`FLAMINGO__QUEUE__URL` and so on).

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_trait::async_trait;
use jobs::client::Client;
use jobs::job::{NewItem, NewJob};
use jobs::ledger::{ItemClaim, JobClaim, JobRecord};
use jobs::queue::{Event, Lane, Message};
use jobs::state::ItemEnd;
use jobs::store::{Put, Store, StoreError};
use jobs::trace::TraceContext;
use jobs::worker::{
    Claimed, EndedJob, Observer, Page, RunContext, Service, Step, Stop, Worker, WorkerSettings,
};
use jobs::{Failure, ItemId, JobId, Stopped};
use video_worker::app::Backends;
use video_worker::settings;

/// Bytes of a report, as large as that of a short video.
const REPORT: usize = 1500;

/// Service whose items finish immediately.
struct Trivial {
    store: Store,
    items: usize,
}

struct NoObserver;

impl<R> Observer<R> for NoObserver {
    fn step(&self, _: Step<'_>, _: Option<&JobId>, _: Option<&ItemId>) {}
}

fn unavailable(error: StoreError) -> Stopped {
    Stopped::retry_free(Failure::new(error.code(), error.to_string()))
}

fn key(claim: &ItemClaim) -> String {
    format!("{}/items/{}.json", claim.job, claim.item)
}

fn event(topic: &str) -> Event {
    Event { topic: topic.into(), message: Message::new(topic.into(), "bench.event/1", "{}") }
}

#[async_trait]
impl Service for Trivial {
    type Item = ();
    type Report = Vec<u8>;
    type Summary = ();

    const JOB_SCHEMA: &'static str = "bench.job/1";
    const ITEM_SCHEMA: &'static str = "bench.item/1";

    fn parse_job(&self, message: &Message) -> Result<NewJob, Stopped> {
        Ok(new_job(JobId::try_from(message.id.clone()).map_err(Stopped::fail)?))
    }

    fn parse_item(&self, _: &ItemClaim) -> Result<(), Stopped> {
        Ok(())
    }

    async fn expand(&self, _: &JobRecord, _: Option<&str>) -> Result<Page, Stopped> {
        let item = |n: usize| {
            let id = ItemId::try_from(format!("item-{n:06}")).expect("a valid id");
            NewItem { id, queue: Lane::Items.into(), message: String::new() }
        };
        Ok(Page::until((0..self.items).map(item).collect(), None))
    }

    async fn find_report(&self, item: &Claimed<()>) -> Result<Option<ItemEnd>, Stopped> {
        let found = self.store.head(&key(&item.claim)).await.map_err(unavailable)?;
        Ok(found.map(|_| ItemEnd::Succeeded))
    }

    async fn run(&self, _: &Claimed<()>, _: &RunContext) -> Result<Vec<u8>, Stopped> {
        Ok(vec![b'x'; REPORT])
    }

    async fn write(
        &self,
        item: &Claimed<()>,
        result: Result<&Vec<u8>, &Failure>,
    ) -> Result<ItemEnd, Stopped> {
        let report = result.cloned().unwrap_or_default();
        match self.store.put_new(&key(&item.claim), report.into()).await.map_err(unavailable)? {
            Put::Created | Put::Same | Put::Other(_) => Ok(ItemEnd::Succeeded),
        }
    }

    async fn gather(&self, _: &JobClaim) -> Result<(), Stopped> {
        Ok(())
    }

    async fn complete(&self, ended: &EndedJob, (): &()) -> Result<(), Stopped> {
        let manifest = format!("{}/manifest.json", ended.record.id);
        self.store.put_new(&manifest, "{}".into()).await.map(drop).map_err(unavailable)
    }

    fn end_event(&self, _: &EndedJob) -> Event {
        event("job.ended")
    }

    fn refusal_event(&self, _: &Message, _: &Failure) -> Event {
        event("job.refused")
    }
}

fn new_job(id: JobId) -> NewJob {
    NewJob {
        key: id.to_string(),
        request_sha256: String::new(),
        message: "{}".into(),
        id,
        not_before: None,
        deadline: None,
        trace: TraceContext::default(),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |name: &str| -> Result<usize> {
        arguments
            .next()
            .with_context(|| format!("bench-service ITEMS SLOTS: no {name}"))?
            .parse()
            .context("a number")
    };
    let (items, slots) = (number("ITEMS")?, number("SLOTS")?);
    let (settings, _) = settings::load(None, &[])?;
    let backends = Backends::open(&settings).await?;
    backends.ledger.migrate().await?;
    backends.wait(&settings).await?;

    let id = JobId::generate();
    let job = new_job(id.clone());
    let client = Client {
        queue: backends.queue.clone(),
        ledger: backends.ledger.clone(),
        job_schema: Trivial::JOB_SCHEMA,
    };
    client.submit(&job).await?;

    let stop = Stop::default();
    let worker = Worker {
        service: Arc::new(Trivial { store: backends.store.clone(), items }),
        queue: backends.queue.clone(),
        ledger: backends.ledger.clone(),
        settings: WorkerSettings { name: "bench".into(), items: slots, ..settings.worker.clone() },
        observer: Arc::new(NoObserver),
        stop: stop.clone(),
    };
    let start = Instant::now();
    let working = tokio::spawn(worker.run());
    let record = loop {
        let record = backends.ledger.job(&id).await?.context("the job is gone")?;
        if record.state.is_end() {
            break record;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let seconds = start.elapsed().as_secs_f64();
    stop.drain();
    working.await??;
    let counts = backends.ledger.counts(&id).await?;
    anyhow::ensure!(counts.succeeded == items as u64, "{} of {items} items succeeded", counts.succeeded);
    let result = serde_json::json!({
        "queue": settings.queue.url.scheme(),
        "database": settings.database.url.reveal().split(':').next(),
        "store": settings.store.url.split("://").next(),
        "state": record.state,
        "items": items,
        "slots": slots,
        "seconds": seconds,
        "items_per_s": items as f64 / seconds,
        "ms_per_item": seconds * 1000.0 / items as f64,
    });
    println!("{result}");
    Ok(())
}
