//! What a worker says about itself over HTTP: whether it lives, whether it can work, and what it has done.

use std::fmt::Write;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flamingo::family::About;
use futures_util::future::join_all;
use jobs::job::ItemEnd;
use jobs::queue::Lane;
use jobs::worker::{Observer, Step};
use jobs::{ItemId, JobId};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::budget::Budget;
use crate::decoder::Confinement;
use crate::item_report::ItemReport;
use crate::report::{Outcome, Timing};
use crate::service::Watcher;
use crate::start::Backends;

/// What has been counted, and what the pages are made of.
pub struct Status {
    registry: Registry,
    counted: Counted,
    backends: OnceLock<Backends>,
    /// The model that is loaded.
    model: OnceLock<About>,
    confinement: OnceLock<Confinement>,
    /// What videos share of disk and memory.
    shared: OnceLock<[(&'static str, Budget); 2]>,
    draining: AtomicBool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ending {
    outcome: &'static str,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LaneLabel {
    lane: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobEnding {
    state: &'static str,
}

/// What confines the decoders.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Wall {
    wall: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stage {
    stage: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Tokens {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// How long queue, database and store have to say that they are there.
const PATIENCE: Duration = Duration::from_secs(6);

/// From a cached answer to a film on a slow machine.
const SECONDS: [f64; 14] = [0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0];

type Seconds = Family<Stage, Histogram, fn() -> Histogram>;

fn seconds() -> Seconds {
    Family::new_with_constructor(|| Histogram::new(SECONDS))
}

struct Counted {
    deliveries: Family<LaneLabel, Counter>,
    in_flight: Gauge,
    items: Family<Ending, Counter>,
    retries: Family<Code, Counter>,
    refused: Family<Code, Counter>,
    jobs: Family<JobEnding, Counter>,
    acknowledgements_lost: Counter,
    fenced_off: Counter,
    reports_found: Counter,
    swept: Counter,
    sandbox: Family<Wall, Gauge>,
    stages: Seconds,
    frames: Counter,
    tokens: Family<Tokens, Counter>,
    recalled: Counter,
    build: Family<Build, Gauge>,
}

impl Default for Status {
    fn default() -> Self {
        let counted = Counted {
            deliveries: Family::default(),
            in_flight: Gauge::default(),
            items: Family::default(),
            retries: Family::default(),
            refused: Family::default(),
            jobs: Family::default(),
            acknowledgements_lost: Counter::default(),
            fenced_off: Counter::default(),
            reports_found: Counter::default(),
            swept: Counter::default(),
            sandbox: Family::default(),
            stages: seconds(),
            frames: Counter::default(),
            tokens: Family::default(),
            recalled: Counter::default(),
            build: Family::default(),
        };
        counted.build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        let mut registry = Registry::with_prefix("flamingo");
        let c = &counted;
        registry.register("deliveries", "Messages that were taken", c.deliveries.clone());
        registry.register("items_in_flight", "Items that this worker has claimed", c.in_flight.clone());
        registry.register("items", "Items that have ended here", c.items.clone());
        registry.register("item_retries", "Items that will be tried again", c.retries.clone());
        registry.register("messages_refused", "Messages that became dead letters", c.refused.clone());
        registry.register("jobs", "Jobs that were finished here", c.jobs.clone());
        registry.register(
            "acknowledgements_lost",
            "Acknowledgements whose connection was gone",
            c.acknowledgements_lost.clone(),
        );
        registry.register("claims_fenced_off", "Claims that another worker took over", c.fenced_off.clone());
        registry.register(
            "reports_found",
            "Reports that an earlier attempt had written",
            c.reports_found.clone(),
        );
        registry.register("messages_swept", "Messages that the sweep sent again", c.swept.clone());
        registry.register("decoder_sandbox", "1: this wall confines the decoders", c.sandbox.clone());
        registry.register("stage_seconds", "Seconds of each stage of an item", c.stages.clone());
        registry.register("frames", "Frames that were looked at", c.frames.clone());
        registry.register("tokens", "Tokens that were read and written", c.tokens.clone());
        registry.register("videos_recalled", "Videos that were not looked at again", c.recalled.clone());
        registry.register("build", "1: this version runs", c.build.clone());
        Self {
            registry,
            counted,
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
        let c = &self.counted;
        match step {
            Step::Received(lane) => {
                c.deliveries.get_or_create(&LaneLabel { lane: lane.as_str() }).inc();
            }
            Step::Claimed => {
                c.in_flight.inc();
            }
            Step::Ended(end) => {
                let (outcome, code) = match end {
                    ItemEnd::Succeeded => ("succeeded", String::new()),
                    ItemEnd::Failed(why) => ("failed", why.code.clone()),
                };
                c.items.get_or_create(&Ending { outcome, code }).inc();
                c.in_flight.dec();
            }
            Step::Retried(why) => {
                c.retries.get_or_create(&Code { code: why.code.clone() }).inc();
                c.in_flight.dec();
            }
            Step::GivenBack | Step::Unsettled => {
                c.in_flight.dec();
            }
            Step::FencedOff => {
                c.fenced_off.inc();
                c.in_flight.dec();
            }
            Step::Refused(why) => {
                c.refused.get_or_create(&Code { code: why.code.clone() }).inc();
            }
            Step::AcknowledgementLost => {
                c.acknowledgements_lost.inc();
            }
            Step::ReportFound => {
                c.reports_found.inc();
            }
            Step::Swept(sent) => {
                c.swept.inc_by(sent as u64);
            }
            Step::Finished(state) => {
                c.jobs.get_or_create(&JobEnding { state: state.as_str() }).inc();
            }
            Step::ReportWritten
            | Step::Acknowledged
            | Step::Accepted
            | Step::PageListed
            | Step::PageSent
            | Step::Expanded
            | Step::ResultsGathered
            | Step::Announced => {}
        }
    }
}

impl Watcher for Status {
    fn videos_share(&self, disk: &Budget, memory: &Budget) {
        let _ = self.shared.set([("disk", disk.clone()), ("memory", memory.clone())]);
    }

    fn looked(&self, report: &ItemReport) {
        let c = &self.counted;
        let Timing { decode_s, encode_s, answer_s, .. } = report.timing;
        for (stage, seconds) in
            [("fetch", report.fetch_s), ("decode", decode_s), ("encode", encode_s), ("answer", answer_s)]
        {
            c.stages.get_or_create(&Stage { stage }).observe(seconds);
        }
        c.recalled.inc_by(report.recalled.into());
        let (Outcome::Succeeded { answers } | Outcome::Failed { answers, .. }) = &report.outcome;
        let mut frames = 0;
        let mut of: Option<f64> = None;
        for answer in answers {
            let tokens = [("prompt", answer.prompt_tokens), ("completion", answer.completion_tokens)];
            for (kind, tokens) in tokens {
                c.tokens.get_or_create(&Tokens { kind }).inc_by(tokens as u64);
            }
            // Further questions about a window look at its frames no more.
            if of != Some(answer.start) {
                frames += answer.frame_times.iter().map(Vec::len).sum::<usize>();
                of = Some(answer.start);
            }
        }
        if !report.recalled {
            c.frames.inc_by(frames as u64);
        }
    }
}

impl Status {
    /// From now on readiness is asked of these.
    pub fn stand_on(&self, backends: Backends) {
        let _ = self.backends.set(backends);
    }

    pub fn decoders_are(&self, confinement: Confinement) {
        let _ = self.confinement.set(confinement);
        for (wall, stands) in [("system_calls", confinement.system_calls), ("files", confinement.files)] {
            self.counted.sandbox.get_or_create(&Wall { wall }).set(stands.into());
        }
    }

    pub fn model_is_loaded(&self, about: About) {
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
    pub fn model(&self) -> Option<&About> {
        self.model.get()
    }

    /// `None`: no decoder was started yet.
    pub fn confinement(&self) -> Option<Confinement> {
        self.confinement.get().copied()
    }

    /// Items that this worker has claimed.
    pub fn in_flight(&self) -> i64 {
        self.counted.in_flight.get()
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
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        // What the registry has ends with a marker; the figures that must be asked for go before it.
        let mut asked = String::new();
        if let Some(backends) = self.backends.get() {
            let (waiting, news) = tokio::join!(self.waiting(), news_waiting(backends));
            let waiting: Vec<_> =
                waiting.into_iter().filter_map(|(lane, n)| Some((lane.as_str(), n?))).collect();
            gauge(&mut asked, "messages_waiting", "Messages that nobody has taken", "lane", &waiting)?;
            let news: Vec<_> = news.into_iter().map(|news| ("", news)).collect();
            gauge(&mut asked, "news_waiting", "News that are not sent yet", "", &news)?;
        }
        if let Some(shared) = self.shared.get() {
            let of = |figure: fn(&Budget) -> Option<u64>| -> Vec<_> {
                shared.iter().filter_map(|(of, budget)| Some((*of, figure(budget)?))).collect()
            };
            let reserved = of(|budget| Some(budget.reserved()));
            gauge(
                &mut asked,
                "reserved_bytes",
                "Bytes that videos in flight have reserved",
                "of",
                &reserved,
            )?;
            gauge(&mut asked, "limit_bytes", "Bytes that they may reserve", "of", &of(Budget::limit))?;
            let waiting = of(|budget| Some(budget.waiting() as u64));
            gauge(&mut asked, "videos_waiting", "Videos that wait for room", "of", &waiting)?;
        }
        let end = text.rfind("# EOF").unwrap_or(text.len());
        text.insert_str(end, &asked);
        Ok(text)
    }
}

/// A figure that is asked for, with one label or none; without values it is not said.
fn gauge(text: &mut String, name: &str, help: &str, label: &str, values: &[(&str, u64)]) -> std::fmt::Result {
    if values.is_empty() {
        return Ok(());
    }
    writeln!(text, "# HELP flamingo_{name} {help}.\n# TYPE flamingo_{name} gauge")?;
    for (value, number) in values {
        let of = if label.is_empty() { String::new() } else { format!("{{{label}=\"{value}\"}}") };
        writeln!(text, "flamingo_{name}{of} {number}")?;
    }
    Ok(())
}

/// `None`: the database does not say.
async fn news_waiting(backends: &Backends) -> Option<u64> {
    tokio::time::timeout(PATIENCE, backends.ledger.news_waiting()).await.ok()?.ok()
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
