//! Operator commands: jobs are cancelled, retried, delayed and expired; dead letters are listed, redriven and dropped.

use std::time::Duration;

use lapin::BasicProperties;
use serde_json::{Value, json};

use super::broker::Broker;
use super::world::{CLIPS, World, wait};

/// Returns a job that keeps a worker busy: each `window` (seconds) of each video has its own answer.
pub fn slow(world: &World, id: &str, window: f64) -> Value {
    let over = json!({
        "sampling": { "fps": { "fps": 10.0 } },
        "window": window,
        "generation": { "strategy": { "kind": "greedy" }, "max_new_tokens": 24 },
    });
    world.job(id, over)
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn cancelling_stops_a_job_and_retry_does_the_rest() {
    let world = World::new("cancelled");
    world.upload_clips(&CLIPS);
    let worker = world.worker("worker");
    world.submit(&[slow(&world, "long", 2.0)]).exits(0);
    wait("an answer", || (world.counts("long").succeeded > 0).then_some(()));
    wait("another begun", || (world.counts("long").running > 0).then_some(()));
    let has_progress = |item: &Value| item["progress"]["frames"].as_u64().is_some_and(|frames| frames > 0);
    let shown = wait("a heartbeat with its progress", || {
        Some(world.show("long")).filter(|shown| shown["items"].as_array().unwrap().iter().any(has_progress))
    });
    let percent = shown["progress"]["percent"].as_f64().unwrap();
    assert!(percent > 10.0 && percent < 100.0 && shown["progress"]["left_s"].is_number(), "{shown:#}");

    assert_eq!(world.flamingo(&["jobs", "cancel", "long"]).exits(0).out, "long  is being cancelled\n");
    // This takes a heartbeat (one second) and the rest of the running answer; the machine may be busy.
    let shown = world.ended_within("long", Duration::from_secs(60));
    assert_eq!((&shown["status"], &shown["error"]["code"]), (&json!("cancelled"), &json!("cancelled")));
    let counts = &shown["counts"];
    let (done, cancelled) = (counts["succeeded"].as_u64().unwrap(), counts["cancelled"].as_u64().unwrap());
    assert!(done >= 1 && cancelled >= 1 && done + cancelled == CLIPS.len() as u64, "{counts}");
    assert!(worker.log().contains("step=Released"), "the worker did not release its item");
    // Cancelled items have no report.
    let reports = world.results("long").iter().filter(|key| key.starts_with("items/")).count();
    assert_eq!(reports as u64, done);

    // The results hold the finished items and name the cancelled ones.
    let manifest = world.result_json("long/manifest.json");
    assert_eq!(
        (&manifest["status"], &manifest["counts"]["cancelled"]),
        (&json!("cancelled"), &json!(cancelled))
    );
    assert_eq!(world.result_lines("long/results.jsonl").len() as u64, done);
    let errors = world.result_lines("long/errors.jsonl");
    assert!(errors.len() as u64 == cancelled && errors.iter().all(|e| e["error"]["code"] == "cancelled"));

    assert_eq!(world.flamingo(&["jobs", "cancel", "long"]).exits(0).out, "long  is cancelled\n");

    // The retry is a new job with the cancelled items only.
    assert_eq!(world.flamingo(&["jobs", "retry", "long"]).exits(0).out, "long.retry\n");
    world.check_whole("long.retry", "succeeded", cancelled as usize, 0);
    let names = |job: &str| {
        let lines = world.result_lines(&format!("{job}/results.jsonl"));
        lines.iter().map(|line| line["item_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut all = [names("long"), names("long.retry")].concat();
    all.sort();
    assert_eq!(all, CLIPS.map(|(name, _)| name));
    let late = world.flamingo(&["jobs", "cancel", "long.retry"]).exits(1);
    assert!(late.errors()[0].starts_with("error[too_late]: long.retry: is succeeded"), "{late:?}");
    let nothing = world.flamingo(&["jobs", "retry", "long.retry"]).exits(1);
    assert!(nothing.err.contains("nothing failed"), "{nothing:?}");
    let twice = world.flamingo(&["jobs", "retry", "long"]).exits(1);
    assert!(twice.err.contains("long.retry: exists already and is succeeded"), "{twice:?}");
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn an_urgent_job_does_not_wait_for_a_batch() {
    let mut world = World::new("urgent");
    world.set("FLAMINGO__WORKER__ITEMS", "1");
    world.upload_clips(&CLIPS);
    let _worker = world.worker("worker");
    world.submit(&[slow(&world, "batch", 0.2)]).exits(0);
    wait("the batch", || (world.counts("batch").running == 1).then_some(()));
    let one = json!({ "priority": "urgent", "input": { "video": format!("{}/a.mp4", world.videos()) } });
    world.submit(&[world.job("quick", one)]).exits(0);
    assert_eq!(world.ended("quick")["status"], "succeeded");
    let batch = world.show("batch");
    assert!(
        batch["counts"]["queued"].as_u64().unwrap() >= 3,
        "the urgent job waited for the batch: {batch:#}"
    );
    assert_eq!(world.flamingo(&["jobs", "cancel", "batch"]).exits(0).out, "batch  is being cancelled\n");
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn jobs_start_at_not_before_and_expire_at_their_deadline() {
    let world = World::new("timed");
    world.upload_clips(&CLIPS);
    let _worker = world.worker("worker");
    let at = |seconds: f64| {
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs_f64(seconds);
        at.to_string()
    };
    let mut late = slow(&world, "late", 0.1);
    late["deadline"] = json!(at(8.0));
    let mut later = world.job("later", json!({ "input": { "video": format!("{}/a.mp4", world.videos()) } }));
    later["not_before"] = json!(at(8.0));
    world.submit(&[late, later]).exits(0);

    let shown = world.ended("late");
    assert_eq!((&shown["status"], &shown["error"]["code"]), (&json!("expired"), &json!("deadline_exceeded")));
    let counts = &shown["counts"];
    assert!(counts["total"] == 0 || counts["cancelled"].as_u64().unwrap() > 0, "{shown:#}");
    let shown = world.ended("later");
    assert_eq!(shown["status"], "succeeded");
    let time = |text: &Value| text.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let waited =
        time(&shown["states"]["validating_at"]).duration_since(time(&shown["not_before"])).as_secs_f64();
    // A sweep every 500 ms sends its message; the machine may be busy.
    assert!((0.0..60.0).contains(&waited), "{waited} s after its time: {shown:#}");

    let senseless = world.job("senseless", json!({ "not_before": at(9.0), "deadline": at(8.0) }));
    assert!(world.submit(&[senseless]).exits(2).err.contains("is not after"));
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn dead_letters_are_listed_redriven_and_dropped() {
    let world = World::new("dead");
    world.upload("bad.mp4", b"no video".to_vec());
    let worker = world.worker("worker");
    let broker = Broker::of(&world);
    let named = BasicProperties::default().with_message_id("strange".into());
    broker.send(b"{\"schema\": \"flamingo.job/1\", ", named);
    world.submit(&[world.job("poor", json!({}))]).exits(0);
    world.ended("poor");

    let listed = || world.flamingo(&["jobs", "dead", "list", "--json"]).exits(0).reports();
    let mut letters = wait("two dead letters", || Some(listed()).filter(|letters| letters.len() == 2));
    letters.sort_by_key(|letter| letter["message"].to_string());
    let codes: Vec<_> = letters.iter().map(|letter| letter["error"]["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["unknown_container", "malformed_message"]);
    assert_eq!((&letters[0]["message"], &letters[1]["message"]), (&json!("poor/bad.mp4"), &json!("strange")));
    // Listing removes nothing.
    wait("both dead letters", || (listed().len() == 2).then_some(()));

    let in_vain = world.flamingo(&["jobs", "dead", "redrive", "poor/bad.mp4"]).exits(1);
    assert!(in_vain.errors()[0].contains("flamingo jobs retry poor"), "{in_vain:?}");
    wait("both dead letters", || (listed().len() == 2).then_some(()));
    let refused = worker.logged("malformed_message");
    let sent = world.flamingo(&["jobs", "dead", "redrive", "strange"]).exits(0);
    assert_eq!(sent.out, "strange  sent again\n");
    wait("the second refusal", || (worker.logged("malformed_message") > refused).then_some(()));
    wait("the dead letter", || (listed().len() == 2).then_some(()));
    world.flamingo(&["jobs", "dead", "drop", "--all"]).exits(0);
    wait("an empty list", || listed().is_empty().then_some(()));
    let missing = world.flamingo(&["jobs", "dead", "drop", "strange"]).exits(1);
    assert!(missing.errors()[0].contains("strange: no such dead letter"), "{missing:?}");
}
