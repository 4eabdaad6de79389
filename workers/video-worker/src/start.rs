//! Settings -> what a worker stands on, and the worker.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use flamingo::Pipeline;
use jobs::ledger::{Ledger, LedgerError, LedgerSettings};
use jobs::queue::{MemoryQueue, Queue, RabbitQueue, RabbitSettings, TracedQueue};
use jobs::retry::retry_with_backoff;
use jobs::store::{Store, StoreError, StoreSettings};
use jobs::worker::{Stop, Worker};

use crate::budget::Budget;
use crate::decoder::{self, Confinement};
use crate::engine::Engine;
use crate::fetch::{Disk, FetchError, Inputs, sweep_leftovers};
use crate::model::Model;
use crate::seen_cache::SeenCache;
use crate::service::{VideoService, Watcher};
use crate::settings::{Sandbox, Settings};

/// Queue, ledger and store. None of them need be there when they are opened.
#[derive(Clone)]
pub struct Backends {
    pub queue: Arc<dyn Queue>,
    pub ledger: Ledger,
    pub store: Store,
}

/// Why there is no worker. The sentence says what is missing and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

fn refused(error: impl std::fmt::Display) -> StartError {
    StartError(error.to_string())
}

impl Backends {
    /// Opens what the URLs name.
    ///
    /// # Errors
    /// A URL names nothing that this build has.
    pub async fn open(settings: &Settings) -> Result<Self, StartError> {
        let url = &settings.queue.url;
        let queue: Arc<dyn Queue> = match url.scheme() {
            "memory" => Arc::new(MemoryQueue::new()),
            "amqp" | "amqps" => Arc::new(RabbitQueue::open(rabbit(settings)?).map_err(refused)?),
            _ => {
                return Err(StartError(format!(
                    "queue.url {url}: a queue is memory://, amqp:// or amqps://"
                )));
            }
        };
        let queue = Arc::new(TracedQueue::new(queue));
        let ledger =
            Ledger::open(&settings.database.url, &LedgerSettings::default()).await.map_err(refused)?;
        let store = Store::open(&settings.store.url, &store_settings(settings)).map_err(refused)?;
        Ok(Self { queue, ledger, store })
    }

    /// Waits until everything is there and fit for work, for as long as the worker's patience.
    ///
    /// # Errors
    /// What was missing at last.
    pub async fn wait(&self, settings: &Settings) -> Result<(), StartError> {
        let backoff = settings.worker(String::new()).backoff;
        let patience = settings.worker.patience;
        let queue = retry_with_backoff(backoff, patience, |_| true, || self.queue.check());
        let ledger = retry_with_backoff(backoff, patience, LedgerError::is_transient, || self.ledger.check());
        let store = retry_with_backoff(backoff, patience, StoreError::is_transient, || self.store.probe());
        let (queue, ledger, store) = tokio::join!(queue, ledger, store);
        queue.map_err(refused)?;
        ledger.map_err(refused)?;
        store.map_err(refused)
    }
}

fn rabbit(settings: &Settings) -> Result<RabbitSettings, StartError> {
    let queue = &settings.queue;
    Ok(RabbitSettings {
        name: queue.name.clone(),
        declare: queue.declare,
        delivery_limit: queue.delivery_limit,
        retry_delays: settings.retry_delays().map_err(refused)?,
        ..RabbitSettings::new(queue.url.clone())
    })
}

fn store_settings(settings: &Settings) -> StoreSettings {
    StoreSettings {
        connect_timeout: settings.store.connect_timeout,
        read_timeout: settings.store.read_timeout,
        retry_for: settings.worker.patience,
    }
}

/// How far the decoders that `program` starts are confined here.
///
/// # Errors
/// No decoder starts, or one is confined less than the settings want.
pub fn confined(settings: &Settings, program: &Path) -> Result<Confinement, StartError> {
    let confinement = decoder::confinement(program, settings.process()).map_err(refused)?;
    match settings.decoder.sandbox {
        Sandbox::Full if !confinement.is_full() => Err(StartError(format!(
            "decoder.sandbox is full, and this kernel confines a decoder to {confinement}; use another kernel or \
             container runtime, or set decoder.sandbox to best"
        ))),
        _ => {
            tracing::info!(
                system_calls = confinement.system_calls,
                files = confinement.files,
                "decoders are confined"
            );
            Ok(confinement)
        }
    }
}

/// A worker that answers with `pipeline`, and decodes with the program `decoder`.
///
/// # Errors
/// The settings contradict themselves.
pub fn worker(
    settings: &Settings,
    backends: &Backends,
    pipeline: Pipeline,
    decoder: PathBuf,
    watcher: Arc<dyn Watcher>,
    stop: Stop,
) -> Result<Worker<VideoService>, StartError> {
    let name = name(settings);
    let side = u64::from(pipeline.loaded().preprocess.size);
    let engine = Engine::start(pipeline, settings.engine).map_err(refused)?;
    tracing::info!(worker = name, model = engine.about().name, items = settings.worker.items, "at work");
    let disk = Disk {
        folder: settings.temporary(),
        room: Budget::new(settings.worker.temporary_bytes),
        patience: settings.worker.patience,
    };
    match sweep_leftovers(&disk.folder) {
        Ok(0) => {}
        Ok(files) => tracing::info!(files, "dead workers had left files, which are removed"),
        Err(why) => return Err(refused(FetchError::Temporary { folder: disk.folder, source: why })),
    }
    let memory = Budget::new(settings.worker.memory);
    watcher.videos_share(&disk.room, &memory, engine.meter());
    let shared = settings.cache.store.then(|| backends.store.clone());
    let service = VideoService {
        watcher: watcher.clone(),
        seen: SeenCache::new(engine.revision(), settings.cache.memory, shared),
        engine,
        decoder,
        process: settings.process(),
        inputs: Inputs::new(settings.places().map_err(refused)?, store_settings(settings), disk),
        store: backends.store.clone(),
        ledger: backends.ledger.clone(),
        worker: name.clone(),
        page: settings.inputs.page,
        max_bytes: settings.inputs.max_bytes,
        memory,
        frame_bytes: 3 * side * side,
        patience: settings.worker.patience,
        max_manifest_bytes: settings.inputs.max_manifest_bytes,
        sheets: settings.store.sheets,
    };
    Ok(Worker {
        service: Arc::new(service),
        queue: backends.queue.clone(),
        ledger: backends.ledger.clone(),
        settings: settings.worker(name),
        observer: watcher,
        stop,
    })
}

/// What the worker is called.
pub fn name(settings: &Settings) -> String {
    if settings.worker.name.is_empty() { own_name() } else { settings.worker.name.clone() }
}

/// Different on every machine and in every process.
fn own_name() -> String {
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
    fn the_example_settings_are_accepted() {
        for (name, remote) in [("embedded", false), ("production", true)] {
            let (settings, _) = load(Some(&file(&format!("config/{name}.toml"))), &[]).unwrap();
            assert_eq!(settings.is_remote(), remote, "{name}");
        }
    }

    /// What an operator imports is what a worker that may declare would make.
    #[test]
    fn the_definitions_are_the_topology() {
        let (settings, _) = load(Some(&file("config/production.toml")), &[]).unwrap();
        let wanted = topology(&rabbit(&settings).unwrap());
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
        let wanted: [(&str, Vec<Value>); 3] = [
            ("exchanges", wanted.exchanges.iter().map(exchange).collect()),
            ("queues", wanted.queues.iter().map(queue).collect()),
            ("bindings", wanted.bindings.iter().map(binding).collect()),
        ];
        for (kind, wanted) in wanted {
            assert_eq!(definitions[kind], Value::Array(wanted), "{kind}");
        }
    }
}
