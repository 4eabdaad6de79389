//! HTTP status of a worker: `/live`, `/ready` and `/metrics`.

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
use jobs::ledger::LedgerError;
use jobs::queue::{Address, Lane, Route};
use jobs::worker::{Observer, Step};
use jobs::{ItemId, JobId};
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;

use super::metrics::scrape::SharedResources;
use super::metrics::{WorkerMetrics, scrape};
use crate::api::ItemReport;
use crate::app::Backends;
use crate::jobs::VideoService;
use inference::decoder::Confinement;

/// Prefix of all metric names.
const PREFIX: &str = "flamingo";

/// Metrics and state of a worker, for the status routes and the pages.
pub struct Status {
    registry: Registry,
    metrics: WorkerMetrics,
    backends: OnceLock<Backends>,
    /// Info of the loaded model.
    model: OnceLock<ModelInfo>,
    confinement: OnceLock<Confinement>,
    shared: OnceLock<SharedResources>,
    draining: AtomicBool,
}

/// Time limit for a check of queue, database or store.
const CHECK_TIMEOUT: Duration = Duration::from_secs(6);

impl Default for Status {
    fn default() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        Self {
            metrics: WorkerMetrics::register(&mut registry),
            registry,
            backends: OnceLock::new(),
            model: OnceLock::new(),
            confinement: OnceLock::new(),
            shared: OnceLock::new(),
            draining: AtomicBool::new(false),
        }
    }
}

impl Observer<ItemReport> for Status {
    fn step(&self, step: Step<'_>, job: Option<&JobId>, item: Option<&ItemId>) {
        tracing::debug!(?step, job = job.map(JobId::as_str), item = item.map(ItemId::as_str));
        self.metrics.record_step(step);
    }

    fn report(&self, report: &ItemReport) {
        self.metrics.record_report(report);
    }
}

impl Status {
    /// Sets the backends that readiness checks.
    pub fn set_backends(&self, backends: Backends) {
        let _ = self.backends.set(backends);
    }

    /// Sets the confinement of decoders.
    pub fn set_confinement(&self, confinement: Confinement) {
        let _ = self.confinement.set(confinement);
        self.metrics.set_confinement(confinement);
    }

    /// Sets the info of the loaded model.
    pub fn set_model(&self, info: ModelInfo) {
        let _ = self.model.set(info);
    }

    /// Sets the service whose use of disk, memory and engine `/metrics` shows.
    pub fn set_service(&self, service: &VideoService) {
        let _ = self.shared.set(SharedResources {
            disk: service.inputs.disk_budget().clone(),
            memory: service.limits.memory.clone(),
            engine: service.engine.stats().clone(),
        });
    }

    /// Marks the worker as draining: alive, but not ready.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Returns the backends; `None` while the worker starts.
    pub fn backends(&self) -> Option<&Backends> {
        self.backends.get()
    }

    /// Returns the model info; `None` while the model loads.
    pub fn model(&self) -> Option<&ModelInfo> {
        self.model.get()
    }

    /// Returns the confinement of decoders; `None` before the first decoder starts.
    pub fn confinement(&self) -> Option<Confinement> {
        self.confinement.get().copied()
    }

    /// Returns the number of items that this worker has claimed.
    pub fn in_flight(&self) -> i64 {
        self.metrics.in_flight()
    }

    /// Returns the messages of each lane that wait for this worker: for any worker, or for one with this model. `None` if the
    /// queue does not tell.
    pub async fn waiting(&self) -> Vec<(Lane, Option<u64>)> {
        let lanes = Lane::ALL.map(|lane| async move {
            let route = self.model().filter(|_| lane != Lane::Jobs).map(|model| Route::new(&model.name));
            let of_route = route.map(|route| Address { lane, route: Some(route) });
            let queues = std::iter::once(Address::from(lane)).chain(of_route);
            join_all(queues.map(|queue| self.waiting_in(queue))).await.into_iter().sum()
        });
        Lane::ALL.into_iter().zip(join_all(lanes).await).collect()
    }

    async fn waiting_in(&self, queue: Address) -> Option<u64> {
        let waiting = self.backends.get()?.queue.waiting(&queue);
        tokio::time::timeout(CHECK_TIMEOUT, waiting).await.ok()?.ok()
    }

    /// Lists the backends that are missing for work, one line each.
    pub async fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        let mut note = |what: &str, result: Result<(), String>| {
            if let Err(why) = result {
                missing.push(format!("{what}: {why}"));
            }
        };
        let flag = |set: bool, text: &str| if set { Err(text.to_owned()) } else { Ok(()) };
        note("worker", flag(self.draining.load(Ordering::Relaxed), "is draining"));
        note("model", flag(self.model.get().is_none(), "is being loaded"));
        let Some(Backends { queue, ledger, store }) = self.backends.get() else {
            note("worker", Err("is starting".into()));
            return missing;
        };
        let (queue, ledger, store) = tokio::join!(
            with_timeout(async { queue.check().await.map_err(|e| e.to_string()) }),
            with_timeout(async { ledger.check().await.map_err(|e| e.to_string()) }),
            with_timeout(async { store.head("manifest.json").await.map(|_| ()).map_err(|e| e.to_string()) }),
        );
        note("queue", queue);
        note("database", ledger);
        note("store", store);
        missing
    }

    async fn metrics(&self) -> Result<String, std::fmt::Error> {
        let mut scraped = Registry::with_prefix(PREFIX);
        if let Some(backends) = self.backends.get() {
            let ledger = &backends.ledger;
            let missing = async { ledger.missing_routes(ledger.now().await?).await };
            let (messages, events, missing, skew) = tokio::join!(
                self.waiting(),
                answered(ledger.outbox_pending()),
                answered(missing),
                answered(ledger.clock_skew())
            );
            scrape::backlog(&mut scraped, &messages, events);
            scrape::models(&mut scraped, missing);
            scrape::clock(&mut scraped, skew);
        }
        if let Some(shared) = self.shared.get() {
            scrape::resources(&mut scraped, shared);
        }
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        encode_registry(&mut text, &scraped)?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}

/// Returns the answer of the database; `None` if it does not respond.
async fn answered<T>(answer: impl Future<Output = Result<T, LedgerError>>) -> Option<T> {
    tokio::time::timeout(CHECK_TIMEOUT, answer).await.ok()?.ok()
}

/// Bounds a check: backends retry internally for longer than a status request may take.
async fn with_timeout(check: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let late = || format!("does not respond within {} s", CHECK_TIMEOUT.as_secs());
    tokio::time::timeout(CHECK_TIMEOUT, check).await.unwrap_or_else(|_| Err(late()))
}

/// Returns the routes `/live`, `/ready` and `/metrics`.
pub fn routes(status: Arc<Status>) -> Router {
    Router::new()
        .route("/live", get(async || "alive\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(status)
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
