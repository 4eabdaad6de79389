//! Metrics that are counted while a worker runs.
//!
//! A metric or label with a new name is exported under the old one too, for one version.

use jobs::state::ItemEnd;
use jobs::worker::Step;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

pub(in crate::http) mod scrape;

use crate::api::ItemReport;
use inference::decoder::Confinement;
use inference::report::Timing;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ItemEndLabel {
    outcome: &'static str,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(in crate::http) struct LaneLabel {
    pub(in crate::http) lane: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobStateLabel {
    state: &'static str,
}

/// A confinement mechanism; `wall` is the old name of the label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SandboxLabel {
    mechanism: &'static str,
    wall: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabel {
    stage: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabel {
    version: &'static str,
}

/// Histogram buckets, from a cached answer to a long video on a slow machine.
const BUCKETS: [f64; 14] = [0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0];

type StageSeconds = Family<StageLabel, Histogram, fn() -> Histogram>;

fn stage_seconds() -> StageSeconds {
    Family::new_with_constructor(|| Histogram::new(BUCKETS))
}

/// Counters, gauges and histograms of a worker.
pub(in crate::http) struct WorkerMetrics {
    deliveries: Family<LaneLabel, Counter>,
    in_flight: Gauge,
    items: Family<ItemEndLabel, Counter>,
    retries: Family<CodeLabel, Counter>,
    refused: Family<CodeLabel, Counter>,
    jobs: Family<JobStateLabel, Counter>,
    acknowledgements_lost: Counter,
    stale_claims: Counter,
    reports_reused: Counter,
    republished: Counter,
    sandbox: Family<SandboxLabel, Gauge>,
    stages: StageSeconds,
    frames: Counter,
    tokens: Family<TokenLabel, Counter>,
    cache_hits: Counter,
}

/// Registers a metric and returns a handle to it.
fn register<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

/// Registers a counter under its name and its old name.
fn register_renamed(registry: &mut Registry, name: &str, old_name: &str, help: &str) -> Counter {
    let counter = register(registry, name, help, Counter::default());
    registry.register(old_name, format!("Old name of {name}"), counter.clone());
    counter
}

impl WorkerMetrics {
    pub(in crate::http) fn register(r: &mut Registry) -> Self {
        let build = register(r, "build", "1 for the running version", Family::<BuildLabel, Gauge>::default());
        build.get_or_create(&BuildLabel { version: env!("CARGO_PKG_VERSION") }).set(1);
        let lost = "Acknowledgements lost with their connection";
        let stale = "Claims that another worker took over";
        let reused = "Reports that an earlier attempt had written";
        let republished = "Messages sent again by the sweep";
        let hits = "Videos answered from cached visual tokens";
        Self {
            deliveries: register(r, "deliveries", "Messages received", Family::default()),
            in_flight: register(r, "items_in_flight", "Items claimed by this worker", Gauge::default()),
            items: register(r, "items", "Items finished by this worker", Family::default()),
            retries: register(r, "item_retries", "Items that will be retried", Family::default()),
            refused: register(r, "messages_refused", "Messages that became dead letters", Family::default()),
            jobs: register(r, "jobs", "Jobs finished by this worker", Family::default()),
            acknowledgements_lost: register(r, "acknowledgements_lost", lost, Counter::default()),
            stale_claims: register_renamed(r, "stale_claims", "claims_fenced_off", stale),
            reports_reused: register_renamed(r, "reports_reused", "reports_found", reused),
            republished: register_renamed(r, "messages_republished", "messages_swept", republished),
            sandbox: register(
                r,
                "decoder_sandbox",
                "1 if the mechanism confines decoders",
                Family::default(),
            ),
            stages: register(r, "stage_seconds", "Seconds of each stage of an item", stage_seconds()),
            frames: register(r, "frames", "Encoded frames", Counter::default()),
            tokens: register(r, "tokens", "Prompt and generated tokens", Family::default()),
            cache_hits: register_renamed(r, "cache_hits", "videos_recalled", hits),
        }
    }

    /// Returns the number of items that this worker has claimed.
    pub(in crate::http) fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }

    pub(in crate::http) fn set_confinement(&self, Confinement { system_calls, files }: Confinement) {
        for (mechanism, active) in [("system_calls", system_calls), ("files", files)] {
            self.sandbox.get_or_create(&SandboxLabel { mechanism, wall: mechanism }).set(active.into());
        }
    }

    pub(in crate::http) fn record_step(&self, step: Step<'_>) {
        match step {
            Step::Received(lane) => {
                self.deliveries.get_or_create(&LaneLabel { lane: lane.as_str() }).inc();
            }
            Step::Claimed => {
                self.in_flight.inc();
            }
            Step::Ended(end) => {
                let (outcome, code) = match end {
                    ItemEnd::Succeeded => ("succeeded", String::new()),
                    ItemEnd::Failed(why) => ("failed", why.code.clone()),
                };
                self.items.get_or_create(&ItemEndLabel { outcome, code }).inc();
                self.in_flight.dec();
            }
            Step::Retried(why) => {
                self.retries.get_or_create(&CodeLabel { code: why.code.clone() }).inc();
                self.in_flight.dec();
            }
            Step::Released | Step::Unsettled => {
                self.in_flight.dec();
            }
            Step::StaleClaim => {
                self.stale_claims.inc();
                self.in_flight.dec();
            }
            Step::Refused(why) => {
                self.refused.get_or_create(&CodeLabel { code: why.code.clone() }).inc();
            }
            Step::AcknowledgementLost => {
                self.acknowledgements_lost.inc();
            }
            Step::ReportFound => {
                self.reports_reused.inc();
            }
            Step::Republished(sent) => {
                self.republished.inc_by(sent as u64);
            }
            Step::Finished(state) => {
                self.jobs.get_or_create(&JobStateLabel { state: state.as_str() }).inc();
            }
            Step::ReportWritten
            | Step::Acknowledged
            | Step::Accepted
            | Step::PageListed
            | Step::PageSent
            | Step::Expanded
            | Step::ResultsGathered
            | Step::EventPublished => {}
        }
    }

    /// Counts a finished analysis.
    pub(in crate::http) fn record_report(&self, report: &ItemReport) {
        let Timing { decode_s, encode_s, answer_s, .. } = report.body.timing;
        for (stage, seconds) in
            [("fetch", report.fetch_s), ("decode", decode_s), ("encode", encode_s), ("answer", answer_s)]
        {
            self.stages.get_or_create(&StageLabel { stage }).observe(seconds);
        }
        self.cache_hits.inc_by(report.body.cache_hit.into());
        let mut frames = 0;
        let mut window: Option<f64> = None;
        for answer in report.body.answers() {
            let tokens = [("prompt", answer.prompt_tokens), ("completion", answer.completion_tokens)];
            for (kind, tokens) in tokens {
                self.tokens.get_or_create(&TokenLabel { kind }).inc_by(tokens as u64);
            }
            // Answers about the same window share its frames.
            if window != Some(answer.start) {
                frames += answer.frames();
                window = Some(answer.start);
            }
        }
        if !report.body.cache_hit {
            self.frames.inc_by(frames as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn exports_old_names_of_renamed_metrics() {
        let mut registry = Registry::with_prefix("flamingo");
        let metrics = WorkerMetrics::register(&mut registry);
        metrics.record_step(Step::ReportFound);
        metrics.set_confinement(Confinement { system_calls: true, files: false });
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "flamingo_reports_reused_total 1",
            "flamingo_reports_found_total 1",
            "flamingo_stale_claims_total 0",
            "flamingo_claims_fenced_off_total 0",
            "flamingo_messages_republished_total 0",
            "flamingo_messages_swept_total 0",
            "flamingo_cache_hits_total 0",
            "flamingo_videos_recalled_total 0",
            "flamingo_decoder_sandbox{mechanism=\"files\",wall=\"files\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
        }
    }
}
