//! Metrics that are read from their sources at each scrape.
//!
//! Series carry a renamed label under its old name too (`of`), for one version.

use std::hash::Hash;
use std::sync::atomic::AtomicU64;

use jobs::queue::Lane;
use jobs::time::Millis;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::LaneLabel;
use crate::admission::Budget;
use inference::engine::{EngineSnapshot, EngineStats, PrefixCounts};

/// Resources that running videos share.
#[derive(Clone)]
pub(in crate::http) struct SharedResources {
    pub(in crate::http) disk: Budget,
    pub(in crate::http) memory: Budget,
    pub(in crate::http) engine: EngineStats,
}

/// A shared resource; `of` is the old name of the label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabel {
    resource: &'static str,
    of: &'static str,
}

/// A thread of the engine; `of` is the old name of the label, with the old values.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EngineStageLabel {
    stage: &'static str,
    of: &'static str,
}

/// Whether a cache had the value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabel {
    cache: &'static str,
}

const DISK: ResourceLabel = ResourceLabel { resource: "disk", of: "disk" };
const MEMORY: ResourceLabel = ResourceLabel { resource: "memory", of: "memory" };
const KV: ResourceLabel = ResourceLabel { resource: "kv", of: "kv" };
const PREFIX_KV: ResourceLabel = ResourceLabel { resource: "prefix_kv", of: "prefix_kv" };
const MEDIA_KV: ResourceLabel = ResourceLabel { resource: "media_kv", of: "media_keys" };
const ENCODE: EngineStageLabel = EngineStageLabel { stage: "encode", of: "look" };
const GENERATE: EngineStageLabel = EngineStageLabel { stage: "generate", of: "write" };

/// Registers waiting messages of each lane and unpublished outbox events. Unknown values are omitted.
pub(in crate::http) fn backlog(
    registry: &mut Registry,
    messages: &[(Lane, Option<u64>)],
    events: Option<u64>,
) {
    let messages = messages.iter().filter_map(|(lane, n)| Some((LaneLabel { lane: lane.as_str() }, (*n)?)));
    gauges(registry, "messages_waiting", "Messages waiting in the queue", messages);
    if let Some(events) = events {
        gauge(registry, "outbox_pending", "Events that are not published yet", events);
        gauge(registry, "news_waiting", "Old name of outbox_pending", events);
    }
}

/// Registers the number of models that no worker has. An unknown value is omitted.
pub(in crate::http) fn models(registry: &mut Registry, missing: Option<u64>) {
    if let Some(missing) = missing {
        gauge(registry, "models_missing", "Models that queued videos need and no worker has", missing);
    }
}

/// Registers by how much this machine's clock is ahead of the database's. An unknown value is omitted.
pub(in crate::http) fn clock(registry: &mut Registry, skew: Option<Millis>) {
    if let Some(skew) = skew {
        let help = "Seconds by which the clock of this machine is ahead of the database's";
        float_gauge(registry, "clock_skew_seconds", help, skew as f64 / 1000.0);
    }
}

/// Registers the use of shared resources.
pub(in crate::http) fn resources(registry: &mut Registry, shared: &SharedResources) {
    let SharedResources { disk, memory, engine } = shared;
    let (limits, snapshot) = (engine.limits(), engine.snapshot());
    let reserved = [
        (DISK, disk.reserved()),
        (MEMORY, memory.reserved()),
        (KV, snapshot.kv_bytes),
        (PREFIX_KV, snapshot.prefix_bytes),
        (MEDIA_KV, snapshot.media_bytes),
    ];
    gauges(registry, "reserved_bytes", "Bytes in use or reserved", reserved);
    let budgets = [(DISK, disk.limit()), (MEMORY, memory.limit())];
    let limited = budgets.into_iter().filter_map(|(label, limit)| Some((label, limit?)));
    let limited = limited.chain([(KV, limits.kv_bytes), (MEDIA_KV, limits.media_bytes)]);
    gauges(registry, "limit_bytes", "Bytes that may be in use or reserved", limited);
    let waiting = [(DISK, disk.waiting() as u64), (MEMORY, memory.waiting() as u64)];
    gauges(registry, "videos_waiting", "Videos waiting for room", waiting);
    gauge(registry, "engine_rows", "Rows that running sequences may come to have", snapshot.rows as u64);
    gauge(registry, "engine_rows_limit", "Largest number of rows of a batch", limits.rows as u64);
    threads(registry, &snapshot);
    prefixes(registry, &snapshot);
}

/// Registers the use of the cache of prefixes.
fn prefixes(registry: &mut Registry, snapshot: &EngineSnapshot) {
    let family = Family::<CacheLabel, Counter>::default();
    let PrefixCounts { memory, disk, missed } = snapshot.prefixes;
    for (cache, count) in [("hit", memory), ("disk", disk), ("miss", missed)] {
        family.get_or_create(&CacheLabel { cache }).inc_by(count);
    }
    registry.register(
        "engine_prefixes",
        "Sequences with a prefix, by whether its KV was cached, or on disk",
        family,
    );
}

/// Registers the statistics of the engine's threads.
fn threads(registry: &mut Registry, EngineSnapshot { encoder, generator, .. }: &EngineSnapshot) {
    let threads = [(ENCODE, encoder), (GENERATE, generator)];
    let waiting = threads.clone().map(|(label, thread)| (label, thread.waiting as u64));
    gauges(registry, "engine_waiting", "Requests waiting in the engine", waiting);
    let passes = Family::<EngineStageLabel, Counter>::default();
    let seconds = Family::<EngineStageLabel, Counter<f64, AtomicU64>>::default();
    for (label, thread) in threads {
        passes.get_or_create(&label).inc_by(thread.passes);
        seconds.get_or_create(&label).inc_by(thread.busy.as_secs_f64());
    }
    registry.register("engine_passes", "Encoder batches and decode steps", passes);
    registry.register("engine_seconds", "Seconds that the engine's threads were busy", seconds);
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(saturating(value));
    registry.register(name, help, gauge);
}

fn float_gauge(registry: &mut Registry, name: &str, help: &str, value: f64) {
    let gauge = Gauge::<f64, AtomicU64>::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn gauges<L>(registry: &mut Registry, name: &str, help: &str, values: impl IntoIterator<Item = (L, u64)>)
where
    L: EncodeLabelSet + Clone + Hash + Eq + std::fmt::Debug + Send + Sync + 'static,
{
    let family = Family::<L, Gauge>::default();
    for (label, value) in values {
        family.get_or_create(&label).set(saturating(value));
    }
    registry.register(name, help, family);
}

fn saturating(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn exports_metrics_and_old_names_of_renamed_ones() {
        let mut registry = Registry::with_prefix("flamingo");
        backlog(&mut registry, &[(Lane::Items, Some(3)), (Lane::Jobs, None)], Some(2));
        threads(&mut registry, &EngineSnapshot::default());
        let counts = PrefixCounts { memory: 5, disk: 2, missed: 1 };
        prefixes(&mut registry, &EngineSnapshot { prefixes: counts, ..EngineSnapshot::default() });
        clock(&mut registry, Some(-600_250));
        models(&mut registry, Some(4));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "flamingo_messages_waiting{lane=\"items\"} 3",
            "flamingo_outbox_pending 2",
            "flamingo_news_waiting 2",
            "flamingo_clock_skew_seconds -600.25",
            "flamingo_models_missing 4",
            "flamingo_engine_prefixes_total{cache=\"hit\"} 5",
            "flamingo_engine_prefixes_total{cache=\"disk\"} 2",
            "flamingo_engine_passes_total{stage=\"generate\",of=\"write\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
        }
    }
}
