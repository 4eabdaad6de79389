//! A job is one trace, from `submit` to the last stage of its last video, and contains no secret.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use flamingo::digest::hex;
use serde_json::{Value, json};
use support::collector::{Collector, Kind, Span};

use super::broker::Broker;
use super::world::{World, wait};

const QUESTION: &str = "Which zebrafinch is this?";
/// A secret in the form that `check_secrets.sh` searches for.
const SECRET: &str = "hunter2-0123456789abcdef01234567";

/// Runs jobs that succeed, fail and lose their message. Returns the world and the log of the worker.
fn traced(collector: &Collector) -> (World, String) {
    let mut world = World::with_trace_log("tracing");
    world.upload_clips(&[("a.mp4", "short"), ("b.webm", "vp8")]);
    world.upload("broken.mp4", b"no video".to_vec());
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()),
        ("OTEL_EXPORTER_OTLP_HEADERS", format!("authorization=Bearer {SECRET}")),
        ("FLAMINGO_LOG_FORMAT", "json".into()),
        // Only the message that this test purges is sent twice.
        ("FLAMINGO__WORKER__LEASE", "60s".into()),
        ("FLAMINGO__WORKER__FORGOTTEN", "60s".into()),
    ] {
        world.set(name, &value);
    }
    let one = json!({ "input": { "video": format!("{}/b.webm", world.videos()) } });
    world.submit(&[world.job("lost", one.clone())]).exits(0);
    Broker::of(&world).purge("jobs");
    let mut worker = world.worker("worker");
    world.check_whole("lost", "succeeded", 1, 0);
    let job = json!({
        "input": { "prefix": { "url": world.videos(), "glob": "*.mp4" } },
        "tasks": [{ "kind": "question", "question": QUESTION }],
        "generation": { "strategy": { "kind": "greedy" }, "max_new_tokens": 12 },
    });
    world.submit(&[world.job("job", job)]).exits(0);
    world.check_whole("job", "partially_succeeded", 1, 1);
    let mut other = one;
    other["model"] = json!("another");
    world.submit(&[world.job("retried", other)]).exits(0);
    // A row of the version before, whose items had no route, so that this worker attempts it.
    wait("its item", || (world.counts("retried").queued == 1).then_some(()));
    world.sql("UPDATE items SET route = NULL WHERE job_id = 'retried'");
    world.check_whole("retried", "failed", 0, 1);
    worker.signal("TERM");
    assert_eq!(worker.wait(), Some(0));
    let log = worker.log().to_owned();
    (world, log)
}

/// Returns the spans of the only trace of a job, by their ids.
fn trace_of<'s>(spans: &'s [Span], job: &str) -> BTreeMap<&'s [u8], &'s Span> {
    let traces: BTreeSet<_> =
        spans.iter().filter(|s| s.attribute("job.id") == job).map(|s| &s.trace).collect();
    assert_eq!(traces.len(), 1, "{job} has one trace");
    spans.iter().filter(|s| traces.contains(&s.trace)).map(|s| (&s.id[..], s)).collect()
}

/// Returns the path of every span from its root, with its count.
fn paths(trace: &BTreeMap<&[u8], &Span>, queue: &str) -> BTreeMap<String, usize> {
    let mut paths = BTreeMap::new();
    for span in trace.values() {
        let (mut path, mut child) = (span.name.clone(), *span);
        while !child.parent.is_empty() {
            child = trace.get(&child.parent[..]).unwrap_or_else(|| panic!("the parent of {path} is missing"));
            path = format!("{} > {path}", child.name);
        }
        *paths.entry(path.replace(queue, "Q")).or_insert(0) += 1;
    }
    paths
}

#[track_caller]
fn check(trace: &BTreeMap<&[u8], &Span>, queue: &str, expected: &[(&str, usize)]) {
    let expected = expected.iter().map(|(path, count)| ((*path).to_owned(), *count)).collect();
    assert_eq!(paths(trace, queue), expected);
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn a_job_is_one_trace() {
    let collector = Collector::start();
    let (world, log) = traced(&collector);
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.service == "flamingo"));
    let queue = world.name.as_str();
    let model = world.result_json("job/manifest.json")["model"]["name"].as_str().unwrap().to_owned();

    let job = trace_of(&spans, "job");
    let listed = "submit job > send Q.jobs > process Q.jobs > list inputs";
    let item = format!("{listed} > send Q.items > process Q.items");
    check(
        &job,
        queue,
        &[
            ("submit job", 1),
            ("submit job > send Q.jobs", 1),
            ("submit job > send Q.jobs > process Q.jobs", 1),
            (listed, 1),
            (&format!("{listed} > send Q.items"), 2),
            (&item, 2),
            (&format!("{item} > fetch"), 2),
            (&format!("{item} > decode"), 2),
            (&format!("{item} > encode"), 1),
            (&format!("{item} > generate_content {model}"), 1),
            (&format!("{item} > write report"), 2),
            (&format!("{item} > gather results"), 1),
            (&format!("{item} > gather results > send Q.events"), 1),
        ],
    );
    check_conventions(&job, &world, &model);

    // Every attempt has the same parent span, here that of the message that the sweep has sent.
    let retried = paths(&trace_of(&spans, "retried"), queue);
    let swept = "submit job > send Q.items > process Q.items";
    assert_eq!((retried[swept], retried[&format!("{swept} > write report")]), (3, 1), "{retried:#?}");
    let attempts =
        trace_of(&spans, "retried").into_values().filter(|s| s.attribute("item.id") != Value::Null);
    let attempts: BTreeSet<_> = attempts.map(|s| (s.attribute("item.attempt").as_i64(), s.failed)).collect();
    assert_eq!(attempts, [1, 2, 3].map(|n| (Some(n), true)).into());
    // The sweep sent a second message in the same trace.
    let lost = paths(&trace_of(&spans, "lost"), queue);
    assert_eq!((lost["submit job > send Q.jobs"], lost[&item]), (2, 1), "{lost:#?}");

    check_secrets(&collector, &world, &log);
    check_json_log(&log, &job);
}

fn check_conventions(trace: &BTreeMap<&[u8], &Span>, world: &World, model: &str) {
    let find = |name: &str, id: &str| {
        let is = |span: &&&Span| {
            span.name == name && (id.is_empty() || span.attribute("messaging.message.id") == id)
        };
        *trace.values().find(is).unwrap_or_else(|| panic!("no {name} {id}"))
    };
    let queue = &world.name;
    for (operation, kind, destination) in [
        ("send", Kind::Producer, format!("{queue}:items")),
        ("process", Kind::Consumer, format!("{queue}:items:{queue}.items")),
    ] {
        let span = find(&format!("{operation} {queue}.items"), "job/a.mp4");
        assert_eq!((span.kind, span.failed), (kind, false));
        for (name, value) in [
            ("messaging.system", json!("rabbitmq")),
            ("messaging.operation.name", json!(operation)),
            ("messaging.operation.type", json!(operation)),
            ("messaging.destination.name", json!(destination)),
            ("messaging.rabbitmq.destination.routing_key", json!("items")),
        ] {
            assert_eq!(span.attribute(name), value, "{name} of {span:?}");
        }
        let size = span.attribute("messaging.message.body.size");
        assert!(size.as_i64().is_some_and(|size| size > 50), "{size:?} of {span:?}");
    }
    // A failed span has its error code.
    let failed = find(&format!("process {queue}.items"), "job/broken.mp4");
    let decode = trace.values().find(|s| s.name == "decode" && s.parent == failed.id);
    let decode = decode.unwrap_or_else(|| panic!("no decode under {failed:?} in {trace:#?}"));
    let code = &world.result_lines("job/errors.jsonl")[0]["error"]["code"];
    assert!(failed.failed && decode.failed);
    assert_eq!((&failed.attribute("error.type"), &decode.attribute("error.type")), (code, code));

    let report = world.result_json("job/items/a.mp4.json");
    let answer = find(&format!("generate_content {model}"), "");
    for (name, value) in [
        ("gen_ai.operation.name", json!("generate_content")),
        ("gen_ai.provider.name", json!("flamingo")),
        ("gen_ai.request.model", report["model"]["name"].clone()),
        ("gen_ai.request.max_tokens", json!(12)),
        ("gen_ai.usage.input_tokens", report["answers"][0]["prompt_tokens"].clone()),
        ("gen_ai.usage.output_tokens", report["answers"][0]["completion_tokens"].clone()),
        ("gen_ai.response.finish_reasons", json!([report["answers"][0]["finish"]])),
    ] {
        assert_eq!(answer.attribute(name), value, "{name}");
    }
    assert_eq!(answer.events, ["model.scheduled"]);
}

/// Checks that neither spans nor log contain questions, answers, passwords or keys.
fn check_secrets(collector: &Collector, world: &World, log: &str) {
    assert!(collector.heads().contains(SECRET), "the collector received no key");
    let report = world.result_json("job/items/a.mp4.json");
    let answer = report["answers"][0]["text"].as_str().unwrap().trim().to_owned();
    assert!(answer.len() > 8, "{answer:?} is too short to search for");
    for text in ["zebrafinch", &answer, "hunter2-", "X-Amz-", "s3://"] {
        assert!(!collector.received(text), "{text:?} was exported");
    }
    for text in ["zebrafinch", &answer, "hunter2-"] {
        assert!(!log.contains(text), "{text:?} was logged");
    }
}

/// Checks that every line is an object, and that lines about an item name it and the trace of its job.
fn check_json_log(log: &str, trace: &BTreeMap<&[u8], &Span>) {
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let matching = lines.iter().filter(|line| line["job"] == "job" && line["item"] == "a.mp4");
    let matching: Vec<_> = matching.filter(|line| line["step"] == "ReportWritten").collect();
    assert_eq!(matching.len(), 1, "{matching:?}");
    let span = trace.values().find(|s| s.attribute("item.id") == "a.mp4").unwrap();
    for (name, value) in [
        ("trace_id", hex(&span.trace)),
        ("span_id", hex(&span.id)),
        ("level", "DEBUG".into()),
        ("target", "video_worker::http::health".into()),
    ] {
        assert_eq!(matching[0][name], value, "{:#}", matching[0]);
    }
    assert!(matching[0]["timestamp"].as_str().unwrap().ends_with('Z'));
}

/// The worst collector accepts connections and never answers.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn a_silent_collector_does_not_affect_jobs() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut world = World::new("untraced");
    world.upload_clips(&[("a.mp4", "short"), ("b.webm", "vp8")]);
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", silent.local_addr().unwrap())),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "600000".into()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100".into()),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "4".into()),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4".into()),
    ] {
        world.set(name, &value);
    }
    let mut worker = world.worker("worker");
    let started = Instant::now();
    world.submit(&[world.job("job", json!({}))]).exits(0);
    world.check_whole("job", "succeeded", 2, 0);
    worker.signal("TERM");
    assert_eq!(worker.wait(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(120), "{:?}", started.elapsed());
}
