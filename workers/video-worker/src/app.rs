//! Composition: from settings to backends and a worker.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use flamingo::Pipeline;
use flamingo::video::VideoLimits;
use jobs::client::Client;
use jobs::ledger::{Ledger, LedgerError, LedgerSettings};
use jobs::queue::{MemoryQueue, Queue, RabbitQueue, RabbitSettings, Route};
use jobs::retry::retry_with_backoff;
use jobs::store::{Store, StoreError, StoreSettings};
use jobs::worker::{Observer, Stop, Worker, WorkerSettings};

use crate::admission::Budget;
use crate::api::{ItemReport, JOB_SCHEMA};
use crate::cache::VisualTokenCache;
use crate::inputs::{Disk, FetchError, Inputs, remove_abandoned_files};
use crate::jobs::{Outputs, ServiceLimits, VideoService};
use crate::settings::{Sandbox, Settings, SettingsError};
use crate::support::EncodedSets;
use inference::decoder::{self, Confinement, DecoderConfig};
use inference::engine::Engine;
use inference::model::Model;

/// Queue, ledger and store. Opening does not require that they are reachable.
#[derive(Clone)]
pub struct Backends {
    pub queue: Arc<dyn Queue>,
    pub ledger: Ledger,
    pub store: Store,
}

/// Error of starting a worker. The text says what is missing and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

fn start_error(error: impl std::fmt::Display) -> StartError {
    StartError(error.to_string())
}

impl Backends {
    /// Opens the backends of the configured URLs.
    ///
    /// # Errors
    /// A URL names a backend that this build does not have.
    pub async fn open(settings: &Settings) -> Result<Self, StartError> {
        let url = &settings.queue.url;
        let queue: Arc<dyn Queue> = match url.scheme() {
            "memory" => Arc::new(MemoryQueue::new()),
            "amqp" | "amqps" => Arc::new(RabbitQueue::open(rabbit(settings)?).map_err(start_error)?),
            _ => {
                return Err(StartError(format!(
                    "queue.url {url}: supported queues are memory://, amqp:// and amqps://"
                )));
            }
        };
        let ledger =
            Ledger::open(&settings.database.url, &LedgerSettings::default()).await.map_err(start_error)?;
        let store = Store::open(&settings.store.url, &store_settings(settings)).map_err(start_error)?;
        Ok(Self { queue, ledger, store })
    }

    /// Returns a client of ledger and queue.
    pub fn client(&self) -> Client {
        Client { queue: self.queue.clone(), ledger: self.ledger.clone(), job_schema: JOB_SCHEMA }
    }

    /// Waits up to `worker.retry_timeout` until all backends work.
    ///
    /// # Errors
    /// The last error of a backend.
    pub async fn wait(&self, settings: &Settings) -> Result<(), StartError> {
        let backoff = settings.worker.backoff();
        let timeout = settings.worker.retry_timeout;
        let queue = retry_with_backoff(backoff, timeout, |_| true, || self.queue.check());
        let ledger = retry_with_backoff(backoff, timeout, LedgerError::is_transient, || self.ledger.check());
        let store = retry_with_backoff(backoff, timeout, StoreError::is_transient, || self.store.probe());
        let (queue, ledger, store) = tokio::join!(queue, ledger, store);
        queue.map_err(start_error)?;
        ledger.map_err(start_error)?;
        store.map_err(start_error)
    }
}

fn rabbit(settings: &Settings) -> Result<RabbitSettings, StartError> {
    let queue = &settings.queue;
    Ok(RabbitSettings {
        name: queue.name.clone(),
        declare: queue.declare,
        delivery_limit: queue.delivery_limit,
        retry_delays: settings.retry_delays().map_err(start_error)?,
        ..RabbitSettings::new(queue.url.clone())
    })
}

/// Returns the time limits of stores.
pub fn store_settings(settings: &Settings) -> StoreSettings {
    StoreSettings {
        connect_timeout: settings.store.connect_timeout,
        read_timeout: settings.store.read_timeout,
        retry_for: settings.worker.retry_timeout,
    }
}

/// Starts a decoder and returns its confinement on this machine.
///
/// # Errors
/// The decoder cannot be started, or is confined less than the settings require.
pub fn check_confinement(settings: &Settings, program: &Path) -> Result<Confinement, StartError> {
    let confinement = decoder::confinement(program, settings.process()).map_err(start_error)?;
    match settings.decoder.sandbox {
        Sandbox::Full if !confinement.is_full() => Err(StartError(format!(
            "decoder.sandbox is full, but this kernel confines a decoder to {confinement}; use another kernel or container \
                         runtime, or set decoder.sandbox to best"
        ))),
        _ => {
            tracing::info!(
                system_calls = confinement.system_calls,
                files = confinement.files,
                "decoder confinement"
            );
            Ok(confinement)
        }
    }
}

/// Builds a worker that answers with `pipeline` and decodes with the program `decoder`.
///
/// # Errors
/// The settings are contradictory.
pub fn build_worker(
    settings: &Settings,
    backends: &Backends,
    pipeline: Pipeline,
    decoder: PathBuf,
    observer: Arc<dyn Observer<ItemReport>>,
    stop: Stop,
) -> Result<Worker<VideoService>, StartError> {
    let name = worker_name(settings);
    let frame_bytes = pipeline.loaded().preprocess.frame_bytes();
    let prefixes = settings.cache.prefix_folder();
    let engine = Engine::start_with_prefixes(pipeline, settings.engine, prefixes).map_err(start_error)?;
    let route = Route::new(&engine.info().name);
    tracing::info!(
        worker = name,
        model = engine.info().name,
        items = settings.worker.items,
        "worker started"
    );
    match remove_abandoned_files(&settings.temporary()) {
        Ok(0) => {}
        Ok(files) => tracing::info!(files, "removed files of dead workers"),
        Err(why) => {
            return Err(start_error(FetchError::Temporary { folder: settings.temporary(), source: why }));
        }
    }
    let shared = settings.cache.store.then(|| backends.store.clone());
    let service = VideoService {
        cache: VisualTokenCache::new(engine.visual_revision(), settings.cache.memory, shared),
        support: EncodedSets::new(settings.cache.support_memory),
        engine,
        decoder: DecoderConfig {
            program: decoder,
            limits: VideoLimits { max_bytes: settings.inputs.max_bytes, ..VideoLimits::default() },
            process: settings.process(),
        },
        inputs: inputs(settings).map_err(start_error)?,
        outputs: Outputs {
            store: backends.store.clone(),
            ledger: backends.ledger.clone(),
            sheets: settings.store.sheets,
        },
        limits: ServiceLimits {
            page: settings.inputs.page,
            max_manifest_bytes: settings.inputs.max_manifest_bytes,
            memory: Budget::new(settings.resources.memory),
            frame_bytes,
            retry_timeout: settings.worker.retry_timeout,
        },
        worker: name.clone(),
    };
    Ok(Worker {
        service: Arc::new(service),
        queue: backends.queue.clone(),
        ledger: backends.ledger.clone(),
        settings: WorkerSettings { name, route: Some(route), ..settings.worker.clone() },
        observer,
        stop,
    })
}

/// Returns the inputs that the settings allow.
///
/// # Errors
/// An allowed place is not a valid location.
pub fn inputs(settings: &Settings) -> Result<Inputs, SettingsError> {
    let disk = Disk {
        folder: settings.temporary(),
        room: Budget::new(settings.resources.temporary_bytes),
        timeout: settings.worker.retry_timeout,
    };
    Ok(Inputs::new(settings.places()?, store_settings(settings), disk))
}

/// Returns the name of the worker.
pub fn worker_name(settings: &Settings) -> String {
    if settings.worker.name.is_empty() { generated_name() } else { settings.worker.name.clone() }
}

/// Returns a name from host and process id.
fn generated_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use jobs::queue::{Binding, Exchange, QueueSpec, topology};
    use serde_json::{Value, json};

    use super::*;
    use crate::settings::load;

    fn file(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
    }

    #[test]
    fn accepts_example_settings() {
        for (name, remote) in [("embedded", false), ("production", true)] {
            let (settings, _) = load(Some(&file(&format!("config/{name}.toml"))), &[]).unwrap();
            assert_eq!(settings.is_remote(), remote, "{name}");
        }
    }

    /// The definitions that operators import equal the topology that a worker declares.
    #[test]
    fn definitions_equal_declared_topology() {
        let (settings, _) = load(Some(&file("config/production.toml")), &[]).unwrap();
        let declared = topology(&rabbit(&settings).unwrap());
        let text = std::fs::read_to_string(file("deploy/rabbitmq/definitions.json")).unwrap();
        let definitions: Value = serde_json::from_str(&text).unwrap();
        let exchange = |e: &Exchange| {
            json!({
                "vhost": "/", "name": e.name, "type": e.routes, "durable": true, "auto_delete": false,
                "internal": false, "arguments": {},
            })
        };
        let queue = |q: &QueueSpec| {
            json!({
                "vhost": "/", "name": q.name, "durable": true, "auto_delete": false, "arguments": q.arguments,
            })
        };
        let binding = |b: &Binding| {
            json!({
                "vhost": "/", "source": b.exchange, "destination": b.queue, "destination_type": "queue",
                "routing_key": b.key, "arguments": {},
            })
        };
        let expected: [(&str, Vec<Value>); 3] = [
            ("exchanges", declared.exchanges.iter().map(exchange).collect()),
            ("queues", declared.queues.iter().map(queue).collect()),
            ("bindings", declared.bindings.iter().map(binding).collect()),
        ];
        for (kind, expected) in expected {
            assert_eq!(definitions[kind], Value::Array(expected), "{kind}");
        }
    }
}
