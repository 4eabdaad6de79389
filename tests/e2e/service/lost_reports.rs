//! Reports that are deleted or replaced while the job runs are errors in its results, and a retry repeats their videos.

use std::process::Command;

use serde_json::{Value, json};

use super::broker::Broker;
use super::world::{CLIPS, World, wait};
use crate::program::{binary, model};

fn ids(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["item_id"].as_str().unwrap()).collect()
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn lost_reports_are_errors_and_are_retried() {
    let mut world = World::new("lost");
    world.set("FLAMINGO__WORKER__ITEMS", "1");
    world.upload_clips(&CLIPS);
    let events = format!("{}.ends", world.name);
    let _worker = world.worker("worker");
    Broker::of(&world).subscribe(&events, Some("job.*"));
    let over = json!({
        "sampling": { "fps": { "fps": 10.0 } },
        "window": 1.0,
        "generation": { "strategy": { "kind": "greedy" }, "max_new_tokens": 24 },
    });
    world.submit(&[world.job("lost", over)]).exits(0);
    let mut done = wait("three reports", || {
        let done: Vec<_> =
            world.results("lost").into_iter().filter(|key| key.starts_with("items/")).collect();
        (done.len() >= 3 && world.counts("lost").succeeded >= 3).then_some(done)
    });
    done.truncate(3);
    let another = world.result(&format!("lost/{}", done[0])).unwrap();
    world.delete_result(&format!("lost/{}", done[0]));
    world.put_result(&format!("lost/{}", done[1]), b"{\"status\": \"succeeded\"}");
    world.put_result(&format!("lost/{}", done[2]), &another);
    assert!(!world.record("lost").unwrap().state.is_end(), "the job ended too early");

    let shown = world.ended("lost");
    assert_eq!(shown["status"], "partially_succeeded", "{shown:#}");
    let expected =
        json!({ "total": 6, "queued": 0, "running": 0, "succeeded": 3, "failed": 3, "cancelled": 0 });
    assert_eq!(shown["counts"], expected);
    let event = Broker::of(&world).take(&events).json();
    assert_eq!((&event["event"], &event["counts"]), (&json!("job.partially_succeeded"), &expected));
    let manifest = world.result_json("lost/manifest.json");
    assert_eq!(
        (&manifest["status"], &manifest["counts"]["failed"]),
        (&json!("partially_succeeded"), &json!(3))
    );

    let results = world.result_lines("lost/results.jsonl");
    assert!(results.len() == 3 && results.iter().all(|line| !line["answers"].as_array().unwrap().is_empty()));
    let errors = world.result_lines("lost/errors.jsonl");
    for (key, code) in done.iter().zip(["report_missing", "report_changed", "report_changed"]) {
        let is_it = |line: &&Value| key == &format!("items/{}.json", line["item_id"].as_str().unwrap());
        let line = errors.iter().find(is_it).unwrap_or_else(|| panic!("{key}: {errors:#?}"));
        assert_eq!(line["error"]["code"], code, "{key}");
        assert!(line["error"]["message"].as_str().unwrap().contains(key), "{line:#}");
        let item = shown["items"].as_array().unwrap().iter().find(|item| item["item_id"] == line["item_id"]);
        assert_eq!(item.unwrap()["status"], "failed", "{shown:#}");
    }
    let states = |job: &str| world.record(job).map(|record| record.state);
    let ended = states("lost");

    assert_eq!(world.flamingo(&["jobs", "retry", "lost"]).exits(0).out, "lost.retry\n");
    world.check_whole("lost.retry", "succeeded", 3, 0);
    let retried = world.result_lines("lost.retry/results.jsonl");
    assert_eq!(ids(&retried), ids(&errors));
    assert_eq!(states("lost"), ended);
}

/// A job that has lost all reports has failed. Its worker dies between the last end and the results.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn a_job_without_any_report_has_failed() {
    let world = World::new("all-lost");
    world.upload_clips(&CLIPS[..1]);
    world.submit(&[world.job("all-lost", json!({}))]).exits(0);
    let mut crashing = Command::new(binary().with_file_name("crashing-worker"));
    crashing.env("FLAMINGO_MODEL", model()).env("DECODER", binary()).env("CRASH_AFTER", "Ended");
    let mut crashing = world.spawn("crashing", &mut crashing);
    assert_eq!(crashing.wait(), None, "{}", crashing.log());
    assert_eq!(world.counts("all-lost").succeeded, 1);
    world.delete_result("all-lost/items/a.mp4.json");

    let _worker = world.worker("worker");
    let shown = world.ended("all-lost");
    assert_eq!((&shown["status"], &shown["error"]["code"]), (&json!("failed"), &json!("all_items_failed")));
    assert_eq!(world.result_lines("all-lost/results.jsonl").len(), 0);
    assert_eq!(world.result_lines("all-lost/errors.jsonl")[0]["error"]["code"], "report_missing");
    world.flamingo(&["jobs", "retry", "all-lost"]).exits(0);
    world.check_whole("all-lost.retry", "succeeded", 1, 0);
}
