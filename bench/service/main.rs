//! Overhead per item: a job whose items only write a report, through queue, ledger and store.
//!
//! `bench-service ITEMS SLOTS` prints one JSON object for the backends that the usual variables name
//! (`FLAMINGO__QUEUE__URL` and so on).

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_trait::async_trait;
use jobs::job::{NewItem, NewJob};
use jobs::ledger::{ItemClaim, JobRecord};
use jobs::queue::{Event, Lane, Message};
use jobs::state::ItemEnd;
use jobs::store::{Put, Store, StoreError};
use jobs::time::now;
use jobs::trace::TraceContext;
use jobs::worker::{
    EndedJob, Observer, Outcome, Page, Refusal, RunContext, Service, Step, Stop, Trouble, Worker,
};
use jobs::{Failure, ItemId, JobId};
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

impl Observer for NoObserver {
    fn step(&self, _: Step<'_>, _: Option<&JobId>, _: Option<&ItemId>) {}
}

fn trouble(error: StoreError) -> Trouble {
    Trouble::Transient(Failure::new(error.code(), error.to_string()))
}

fn key(claim: &ItemClaim) -> String {
    format!("{}/items/{}.json", claim.job, claim.item)
}

fn refused(error: impl std::fmt::Display) -> Refusal {
    Refusal::Permanent(Failure::new("malformed_message", error.to_string()))
}

fn event(topic: &str) -> Event {
    Event { topic: topic.into(), message: Message::new(topic.into(), "bench.event/1", "{}") }
}

#[async_trait]
impl Service for Trivial {
    type Report = Vec<u8>;

    const JOB_KIND: &'static str = "bench.job/1";
    const ITEM_KIND: &'static str = "bench.item/1";

    fn parse_job(&self, message: &Message) -> Result<NewJob, Refusal> {
        Ok(new_job(JobId::try_from(message.id.clone()).map_err(refused)?))
    }

    fn parse_item(&self, message: &Message) -> Result<(JobId, ItemId), Refusal> {
        serde_json::from_slice(&message.body).map_err(refused)
    }

    async fn expand(&self, job: &JobRecord, _: Option<&str>) -> Result<Page, Trouble> {
        let item = |n: usize| {
            let id = ItemId::try_from(format!("item-{n:06}")).expect("a plain name");
            let message = serde_json::to_string(&(&job.id, &id)).expect("names become JSON");
            NewItem { id, message }
        };
        Ok(Page { items: (0..self.items).map(item).collect(), next: None })
    }

    async fn find_report(&self, claim: &ItemClaim) -> Result<Option<ItemEnd>, Trouble> {
        let found = self.store.head(&key(claim)).await.map_err(trouble)?;
        Ok(found.map(|_| ItemEnd::Succeeded))
    }

    fn is_urgent(&self, _: &str) -> bool {
        false
    }

    async fn run(&self, _: &ItemClaim, _: &RunContext) -> Outcome<Vec<u8>> {
        Outcome::Done(vec![b'x'; REPORT])
    }

    async fn write(&self, claim: &ItemClaim, result: Result<&Vec<u8>, &Failure>) -> Result<ItemEnd, Trouble> {
        let report = result.cloned().unwrap_or_default();
        match self.store.put_new(&key(claim), report.into()).await.map_err(trouble)? {
            Put::Created | Put::Same | Put::Other(_) => Ok(ItemEnd::Succeeded),
        }
    }

    async fn finalize(&self, ended: &EndedJob) -> Result<(), Trouble> {
        let manifest = format!("{}/manifest.json", ended.record.id);
        self.store.put_new(&manifest, "{}".into()).await.map(drop).map_err(trouble)
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
    backends.ledger.accept(&job, now()).await?;
    let message = Message::new(id.to_string(), Trivial::JOB_KIND, job.message);
    backends.queue.send(Lane::Jobs, &message).await?;

    let stop = Stop::default();
    let mut worker_settings = settings.worker("bench".into());
    worker_settings.slots = slots;
    let worker = Worker {
        service: Arc::new(Trivial { store: backends.store.clone(), items }),
        queue: backends.queue.clone(),
        ledger: backends.ledger.clone(),
        settings: worker_settings,
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
