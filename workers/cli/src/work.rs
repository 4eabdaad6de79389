//! `flamingo work`: runs a worker until it is stopped.

use std::io::IsTerminal;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Args;
use jobs::worker::Stop;
use tokio::signal::unix::{SignalKind, signal};
use video_worker::app::{Backends, build_worker, check_confinement, worker_name};
use video_worker::http::health::{self, Status};
use video_worker::http::pages::{self, Pages};
use video_worker::http::serve;
use video_worker::settings::Settings;

use crate::args::{GATES_CLOSED, ModelArgs};
use crate::process::own_executable;
use crate::settings::{ModelOverrides, SettingsArgs, block_on, cache_bytes, model_args};

#[derive(Debug, Args)]
pub struct Work {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    model: ModelOverrides,
    /// Address of health checks, metrics and pages, such as 127.0.0.1:9464; empty for none.
    #[arg(long, value_name = "ADDR", help_heading = "Settings")]
    status_addr: Option<String>,
}

impl Work {
    pub fn run(self) -> anyhow::Result<bool> {
        let mut flags = self.model.settings();
        flags.extend(self.status_addr.map(|address| ("status.address".to_owned(), address)));
        let (settings, _) = self.settings.load(&flags)?;
        let model = model_args(&settings)?;
        model.device.fix_threads()?;
        block_on(work(settings, model))
    }
}

async fn work(settings: Settings, model: ModelArgs) -> anyhow::Result<bool> {
    let stop = Stop::default();
    let status = Arc::new(Status::default());
    // Listen before anything is opened: a readiness check then tells what is still missing.
    let pages = listen(&settings, &status, &stop).await?;
    let signalled = tokio::spawn(stop_on_signal(stop.clone(), status.clone())?);
    status.set_confinement(check_confinement(&settings, &own_executable()?)?);
    let backends = Backends::open(&settings).await?;
    status.set_backends(backends.clone());
    let started = tokio::select! {
        started = start(&settings, &backends, model) => Some(started?),
        () = stop.draining() => None,
    };
    if let Some(pipeline) = started {
        status.set_model(pipeline.loaded().info.clone());
        let decoder = own_executable()?;
        let worker = build_worker(&settings, &backends, pipeline, decoder, status.clone(), stop.clone())?;
        status.set_service(&worker.service);
        worker.run().await?;
    }
    signalled.abort();
    stop.abort();
    if let Some(pages) = pages {
        pages.await??;
    }
    tracing::info!("stopped");
    Ok(true)
}

async fn start(
    settings: &Settings,
    backends: &Backends,
    model: ModelArgs,
) -> anyhow::Result<flamingo::Pipeline> {
    if settings.database.url.scheme() == "sqlite" {
        backends.ledger.migrate().await?;
    }
    let caches = cache_bytes(settings);
    let load = tokio::task::spawn_blocking(move || model.load_with_caches(caches));
    let (waited, loaded) = tokio::join!(backends.wait(settings), load);
    waited?;
    let pipeline = loaded.map_err(|panic| anyhow!("the thread that loads the model panicked: {panic}"))??;
    if !pipeline.loaded().info.gates_open {
        // Through the log: every line of it has the same format.
        tracing::warn!("{GATES_CLOSED}");
    }
    Ok(pipeline)
}

type Server = tokio::task::JoinHandle<std::io::Result<()>>;

async fn listen(settings: &Settings, status: &Arc<Status>, stop: &Stop) -> anyhow::Result<Option<Server>> {
    let address = settings.status.address.clone();
    if address.is_empty() {
        return Ok(None);
    }
    let stop = stop.clone();
    let listener = tokio::net::TcpListener::bind(&address).await;
    let listener = listener.with_context(|| format!("status.address {address}: cannot listen"))?;
    let mut routes = health::routes(status.clone());
    if settings.status.pages {
        let token = settings.status.token.clone();
        routes = routes.merge(pages::routes(Pages::new(status.clone(), worker_name(settings), token)));
    }
    Ok(Some(tokio::spawn(serve(listener, routes, async move { stop.aborted().await }))))
}

/// Future that handles SIGTERM and Ctrl-C: the first one drains the worker (it takes nothing new), the second one aborts it
/// (it requeues the items in flight).
///
/// # Errors
/// The signal handlers cannot be installed.
pub fn stop_on_signal(stop: Stop, status: Arc<Status>) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        for again in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!(again, "stopping");
            // `run` logs errors only, and its progress bar does not show this.
            if std::io::stderr().is_terminal() {
                eprintln!(
                    "{}",
                    if again {
                        "requeuing the items in flight"
                    } else {
                        "finishing the items in flight; press Ctrl-C again to requeue them"
                    }
                );
            }
            status.set_draining();
            if again { stop.abort() } else { stop.drain() }
        }
    })
}
