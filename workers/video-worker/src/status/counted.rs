//! What is counted while a worker works.

use jobs::state::ItemEnd;
use jobs::worker::Step;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use crate::decoder::Confinement;
use crate::item_report::ItemReport;
use crate::report::{Outcome, Timing};

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
pub(super) struct OfLane {
    pub(super) lane: &'static str,
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

/// From a cached answer to a film on a slow machine.
const SECONDS: [f64; 14] = [0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0];

type Seconds = Family<Stage, Histogram, fn() -> Histogram>;

fn seconds() -> Seconds {
    Family::new_with_constructor(|| Histogram::new(SECONDS))
}

pub(super) struct Counted {
    deliveries: Family<OfLane, Counter>,
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
}

/// A metric that stands in the registry, too.
fn kept<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Counted {
    pub(super) fn in_registry(r: &mut Registry) -> Self {
        let build = kept(r, "build", "1: this version runs", Family::<Build, Gauge>::default());
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        let lost = "Acknowledgements whose connection was gone";
        let found = "Reports that an earlier attempt had written";
        Self {
            deliveries: kept(r, "deliveries", "Messages that were taken", Family::default()),
            in_flight: kept(r, "items_in_flight", "Items that this worker has claimed", Gauge::default()),
            items: kept(r, "items", "Items that have ended here", Family::default()),
            retries: kept(r, "item_retries", "Items that will be tried again", Family::default()),
            refused: kept(r, "messages_refused", "Messages that became dead letters", Family::default()),
            jobs: kept(r, "jobs", "Jobs that were finished here", Family::default()),
            acknowledgements_lost: kept(r, "acknowledgements_lost", lost, Counter::default()),
            fenced_off: kept(
                r,
                "claims_fenced_off",
                "Claims that another worker took over",
                Counter::default(),
            ),
            reports_found: kept(r, "reports_found", found, Counter::default()),
            swept: kept(r, "messages_swept", "Messages that the sweep sent again", Counter::default()),
            sandbox: kept(r, "decoder_sandbox", "1: this wall confines the decoders", Family::default()),
            stages: kept(r, "stage_seconds", "Seconds of each stage of an item", seconds()),
            frames: kept(r, "frames", "Frames that were looked at", Counter::default()),
            tokens: kept(r, "tokens", "Tokens that were read and written", Family::default()),
            recalled: kept(r, "videos_recalled", "Videos that were not looked at again", Counter::default()),
        }
    }

    /// Items that this worker has claimed.
    pub(super) fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }

    pub(super) fn confined(&self, Confinement { system_calls, files }: Confinement) {
        for (wall, stands) in [("system_calls", system_calls), ("files", files)] {
            self.sandbox.get_or_create(&Wall { wall }).set(stands.into());
        }
    }

    pub(super) fn step(&self, step: Step<'_>) {
        match step {
            Step::Received(lane) => {
                self.deliveries.get_or_create(&OfLane { lane: lane.as_str() }).inc();
            }
            Step::Claimed => {
                self.in_flight.inc();
            }
            Step::Ended(end) => {
                let (outcome, code) = match end {
                    ItemEnd::Succeeded => ("succeeded", String::new()),
                    ItemEnd::Failed(why) => ("failed", why.code.clone()),
                };
                self.items.get_or_create(&Ending { outcome, code }).inc();
                self.in_flight.dec();
            }
            Step::Retried(why) => {
                self.retries.get_or_create(&Code { code: why.code.clone() }).inc();
                self.in_flight.dec();
            }
            Step::Released | Step::Unsettled => {
                self.in_flight.dec();
            }
            Step::StaleClaim => {
                self.fenced_off.inc();
                self.in_flight.dec();
            }
            Step::Refused(why) => {
                self.refused.get_or_create(&Code { code: why.code.clone() }).inc();
            }
            Step::AcknowledgementLost => {
                self.acknowledgements_lost.inc();
            }
            Step::ReportFound => {
                self.reports_found.inc();
            }
            Step::Republished(sent) => {
                self.swept.inc_by(sent as u64);
            }
            Step::Finished(state) => {
                self.jobs.get_or_create(&JobEnding { state: state.as_str() }).inc();
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

    /// A video was looked at and asked about.
    pub(super) fn looked(&self, report: &ItemReport) {
        let Timing { decode_s, encode_s, answer_s, .. } = report.timing;
        for (stage, seconds) in
            [("fetch", report.fetch_s), ("decode", decode_s), ("encode", encode_s), ("answer", answer_s)]
        {
            self.stages.get_or_create(&Stage { stage }).observe(seconds);
        }
        self.recalled.inc_by(report.recalled.into());
        let (Outcome::Succeeded { answers } | Outcome::Failed { answers, .. }) = &report.outcome;
        let mut frames = 0;
        let mut of: Option<f64> = None;
        for answer in answers {
            let tokens = [("prompt", answer.prompt_tokens), ("completion", answer.completion_tokens)];
            for (kind, tokens) in tokens {
                self.tokens.get_or_create(&Tokens { kind }).inc_by(tokens as u64);
            }
            // Further questions about a window look at its frames no more.
            if of != Some(answer.start) {
                frames += answer.frame_times.iter().map(Vec::len).sum::<usize>();
                of = Some(answer.start);
            }
        }
        if !report.recalled {
            self.frames.inc_by(frames as u64);
        }
    }
}
