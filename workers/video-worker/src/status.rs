//! What a worker says about itself over HTTP: whether it lives, whether it can work, and what it has done.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flamingo::family::ModelInfo;
use futures_util::future::join_all;
use jobs::queue::Lane;
use jobs::worker::{Observer, Step};
use jobs::{ItemId, JobId};
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::budget::Budget;
use crate::decoder::Confinement;
use crate::engine::Meter;
use crate::item_report::ItemReport;
use crate::service::Watcher;
use crate::start::Backends;

mod counted;
mod asked;

use asked::Shared;
use counted::Counted;

/// Every metric's name begins with it.
const PREFIX: &str = "flamingo";

/// What has been counted, and what the pages are made of.
pub struct Status {
    registry: Registry,
    counted: Counted,
    backends: OnceLock<Backends>,
    /// The model that is loaded.
    model: OnceLock<ModelInfo>,
    confinement: OnceLock<Confinement>,
    shared: OnceLock<Shared>,
    draining: AtomicBool,
}

/// How long queue, database and store have to say that they are there.
const PATIENCE: Duration = Duration::from_secs(6);

impl Default for Status {
    fn default() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        Self {
            counted: Counted::in_registry(&mut registry),
            registry,
            backends: OnceLock::new(),
            model: OnceLock::new(),
            confinement: OnceLock::new(),
            shared: OnceLock::new(),
            draining: AtomicBool::new(false),
        }
    }
}

impl Observer for Status {
    fn step(&self, step: Step<'_>, job: Option<&JobId>, item: Option<&ItemId>) {
        tracing::debug!(?step, job = job.map(JobId::as_str), item = item.map(ItemId::as_str));
        self.counted.step(step);
    }
}

impl Watcher for Status {
    fn videos_share(&self, disk: &Budget, memory: &Budget, engine: &Meter) {
        let _ =
            self.shared.set(Shared { disk: disk.clone(), memory: memory.clone(), engine: engine.clone() });
    }

    fn looked(&self, report: &ItemReport) {
        self.counted.looked(report);
    }
}

impl Status {
    /// From now on readiness is asked of these.
    pub fn stand_on(&self, backends: Backends) {
        let _ = self.backends.set(backends);
    }

    pub fn decoders_are(&self, confinement: Confinement) {
        let _ = self.confinement.set(confinement);
        self.counted.confined(confinement);
    }

    pub fn model_is_loaded(&self, about: ModelInfo) {
        let _ = self.model.set(about);
    }

    /// No new work: not ready any more, though alive.
    pub fn drains(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// `None`: the worker is starting.
    pub fn backends(&self) -> Option<&Backends> {
        self.backends.get()
    }

    /// `None`: it is being loaded.
    pub fn model(&self) -> Option<&ModelInfo> {
        self.model.get()
    }

    /// `None`: no decoder was started yet.
    pub fn confinement(&self) -> Option<Confinement> {
        self.confinement.get().copied()
    }

    /// Items that this worker has claimed.
    pub fn in_flight(&self) -> i64 {
        self.counted.in_flight()
    }

    /// Messages of each lane that nobody has taken; `None`: the queue does not say.
    pub async fn waiting(&self) -> Vec<(Lane, Option<u64>)> {
        let asked = Lane::ALL.map(|lane| async move {
            let waiting = self.backends.get()?.queue.waiting(lane);
            tokio::time::timeout(PATIENCE, waiting).await.ok()?.ok()
        });
        Lane::ALL.into_iter().zip(join_all(asked).await).collect()
    }

    /// What is missing for work, one line each.
    pub async fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        let mut note = |what: &str, result: Result<(), String>| {
            if let Err(why) = result {
                missing.push(format!("{what}: {why}"));
            }
        };
        let flag = |set: bool, text: &str| if set { Err(text.to_owned()) } else { Ok(()) };
        note("worker", flag(self.draining.load(Ordering::Relaxed), "is told to end"));
        note("model", flag(self.model.get().is_none(), "is being loaded"));
        let Some(Backends { queue, ledger, store }) = self.backends.get() else {
            note("worker", Err("is starting".into()));
            return missing;
        };
        let (queue, ledger, store) = tokio::join!(
            in_time(async { queue.check().await.map_err(|e| e.to_string()) }),
            in_time(async { ledger.check().await.map_err(|e| e.to_string()) }),
            in_time(async { store.head("manifest.json").await.map(|_| ()).map_err(|e| e.to_string()) }),
        );
        note("queue", queue);
        note("database", ledger);
        note("store", store);
        missing
    }

    async fn metrics(&self) -> Result<String, std::fmt::Error> {
        let mut asked = Registry::with_prefix(PREFIX);
        if let Some(backends) = self.backends.get() {
            let (messages, news) = tokio::join!(self.waiting(), news_waiting(backends));
            asked::outstanding(&mut asked, &messages, news);
        }
        if let Some(shared) = self.shared.get() {
            asked::shared(&mut asked, shared);
        }
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        encode_registry(&mut text, &asked)?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}

/// `None`: the database does not say.
async fn news_waiting(backends: &Backends) -> Option<u64> {
    tokio::time::timeout(PATIENCE, backends.ledger.outbox_pending()).await.ok()?.ok()
}

/// A store tries again and again; whoever asks how things are wants to know now.
async fn in_time(check: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let late = || format!("does not answer within {} s", PATIENCE.as_secs());
    tokio::time::timeout(PATIENCE, check).await.unwrap_or_else(|_| Err(late()))
}

/// `/live`, `/ready` and `/metrics`.
pub fn routes(status: Arc<Status>) -> Router {
    Router::new()
        .route("/live", get(async || "alive\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(status)
}

/// Answers until `end`.
///
/// # Errors
/// The listener breaks.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    end: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    tracing::info!(address = %listener.local_addr()?, "says how it is: /live /ready /metrics");
    axum::serve(listener, routes).with_graceful_shutdown(end).await
}

async fn ready(State(status): State<Arc<Status>>) -> Response {
    let missing = status.missing().await;
    if missing.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n").into_response()
}

async fn metrics(State(status): State<Arc<Status>>) -> Response {
    match status.metrics().await {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
