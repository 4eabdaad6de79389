//! `flamingo work`: takes jobs until it is told to end.

use std::io::IsTerminal;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Args;
use jobs::worker::Stop;
use tokio::signal::unix::{SignalKind, signal};
use video_worker::pages::{self, Pages};
use video_worker::settings::Settings;
use video_worker::start::{Backends, confined, name, worker};
use video_worker::status::{self, Status, serve};

use super::{ModelOver, SettingsArgs, block_on, model_args};
use crate::args::{BLIND, ModelArgs, program};

#[derive(Debug, Args)]
pub struct Work {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    model: ModelOver,
    /// Where health, metrics and pages answer, such as 127.0.0.1:9464; empty: nowhere.
    #[arg(long, value_name = "ADDR", help_heading = "Settings")]
    status_addr: Option<String>,
}

impl Work {
    pub fn run(self) -> anyhow::Result<bool> {
        let mut flags = self.model.settings();
        flags.extend(self.status_addr.map(|address| ("status.address".to_owned(), address)));
        let (settings, _) = self.settings.load(&flags)?;
        let model = model_args(&settings)?;
        model.device.settle_threads()?;
        block_on(work(settings, model))
    }
}

async fn work(settings: Settings, model: ModelArgs) -> anyhow::Result<bool> {
    let stop = Stop::default();
    let status = Arc::new(Status::default());
    // From the first moment, so that whoever waits for readiness can see what it waits for.
    let pages = listen(&settings, &status, &stop).await?;
    let signalled = tokio::spawn(end_on_signal(stop.clone(), status.clone())?);
    status.decoders_are(confined(&settings, &program()?)?);
    let backends = Backends::open(&settings).await?;
    status.stand_on(backends.clone());
    let started = tokio::select! {
        started = start(&settings, &backends, model) => Some(started?),
        () = stop.draining() => None,
    };
    if let Some(pipeline) = started {
        status.model_is_loaded(pipeline.loaded().info.clone());
        worker(&settings, &backends, pipeline, program()?, status, stop.clone())?.run().await?;
    }
    signalled.abort();
    stop.abort();
    if let Some(pages) = pages {
        pages.await??;
    }
    tracing::info!("ended");
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
    let (waited, loaded) =
        tokio::join!(backends.wait(settings), tokio::task::spawn_blocking(move || model.load()));
    waited?;
    let pipeline = loaded.map_err(|panic| anyhow!("the model could not be loaded: {panic}"))??;
    if !pipeline.loaded().info.gates_open {
        // In a log: every line of it has the same form.
        tracing::warn!("{BLIND}");
    }
    Ok(pipeline)
}

type Listening = tokio::task::JoinHandle<std::io::Result<()>>;

async fn listen(settings: &Settings, status: &Arc<Status>, stop: &Stop) -> anyhow::Result<Option<Listening>> {
    let address = settings.status.address.clone();
    if address.is_empty() {
        return Ok(None);
    }
    let end = stop.clone();
    let listener = tokio::net::TcpListener::bind(&address).await;
    let listener = listener.with_context(|| format!("status.address {address}: nothing can listen there"))?;
    let mut routes = status::routes(status.clone());
    if settings.status.pages {
        let token = settings.status.token.clone();
        routes = routes.merge(pages::routes(Pages::new(status.clone(), name(settings), token)));
    }
    Ok(Some(tokio::spawn(serve(listener, routes, async move { end.aborted().await }))))
}

/// The first SIGTERM or Ctrl-C: take nothing new. The second: give back what is in flight.
pub fn end_on_signal(stop: Stop, status: Arc<Status>) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        for again in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!(again, "told to end");
            // `run` keeps no log, and its bar says nothing of this.
            if std::io::stderr().is_terminal() {
                eprintln!(
                    "{}",
                    if again {
                        "giving back what is in flight"
                    } else {
                        "finishing what is in flight; once more gives it back"
                    }
                );
            }
            status.drains();
            if again { stop.abort() } else { stop.drain() }
        }
    })
}
