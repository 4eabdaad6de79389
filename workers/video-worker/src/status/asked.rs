//! Figures that are asked for at the moment when somebody looks.

use std::hash::Hash;
use std::sync::atomic::AtomicU64;

use jobs::queue::Lane;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::counted::OfLane;
use crate::budget::Budget;
use crate::engine::{Load, Meter};

/// What the videos in flight share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) disk: Budget,
    pub(super) memory: Budget,
    pub(super) engine: Meter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    of: &'static str,
}

/// Messages of each lane that nobody has taken, and news that are not sent; what nobody knows is not said.
pub(super) fn outstanding(asked: &mut Registry, messages: &[(Lane, Option<u64>)], news: Option<u64>) {
    let messages = messages.iter().filter_map(|(lane, n)| Some((OfLane { lane: lane.as_str() }, (*n)?)));
    gauges(asked, "messages_waiting", "Messages that nobody has taken", messages);
    if let Some(news) = news {
        gauge(asked, "news_waiting", "News that are not sent yet", news);
    }
}

pub(super) fn shared(asked: &mut Registry, Shared { disk, memory, engine }: &Shared) {
    let budgets = [("disk", disk), ("memory", memory)];
    let (limits, load) = (engine.limits(), engine.read());
    let reserved = budgets.map(|(of, budget)| (of, budget.reserved()));
    let reserved = reserved.into_iter().chain([("kv", load.kv_bytes), ("media_keys", load.media_bytes)]);
    gauges(asked, "reserved_bytes", "Bytes that are in use or promised", of(reserved));
    let limited = budgets.into_iter().filter_map(|(of, budget)| Some((of, budget.limit()?)));
    let limited = limited.chain([("kv", limits.kv_bytes), ("media_keys", limits.media_bytes)]);
    gauges(asked, "limit_bytes", "Bytes that may be in use or promised", of(limited));
    let waiting = budgets.map(|(of, budget)| (of, budget.waiting() as u64));
    gauges(asked, "videos_waiting", "Videos that wait for room", of(waiting));
    gauge(asked, "engine_rows", "Rows that answers being written may come to have", load.rows as u64);
    gauge(asked, "engine_rows_limit", "Rows that may be written side by side", limits.rows as u64);
    threads(asked, &load);
}

/// Of the engine's two threads.
fn threads(asked: &mut Registry, Load { looking, writing, .. }: &Load) {
    let threads = [("look", looking), ("write", writing)];
    let waiting = threads.map(|(of, work)| (of, work.waiting as u64));
    gauges(asked, "engine_waiting", "Media and answers that wait for their turn at the model", of(waiting));
    let (passes, seconds) = <(Family<Of, Counter>, Family<Of, Counter<f64, AtomicU64>>)>::default();
    for (of, work) in threads {
        passes.get_or_create(&Of { of }).inc_by(work.passes);
        seconds.get_or_create(&Of { of }).inc_by(work.busy.as_secs_f64());
    }
    asked.register("engine_passes", "Batches that were looked at, steps of the language model", passes);
    asked.register("engine_seconds", "Seconds that the engine's threads were at work", seconds);
}

fn of(figures: impl IntoIterator<Item = (&'static str, u64)>) -> impl Iterator<Item = (Of, u64)> {
    figures.into_iter().map(|(of, number)| (Of { of }, number))
}

fn gauge(asked: &mut Registry, name: &str, help: &str, number: u64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(whole(number));
    asked.register(name, help, gauge);
}

fn gauges<L>(asked: &mut Registry, name: &str, help: &str, figures: impl IntoIterator<Item = (L, u64)>)
where
    L: EncodeLabelSet + Clone + Hash + Eq + std::fmt::Debug + Send + Sync + 'static,
{
    let family = Family::<L, Gauge>::default();
    for (label, number) in figures {
        family.get_or_create(&label).set(whole(number));
    }
    asked.register(name, help, family);
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
