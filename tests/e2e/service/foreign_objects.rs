//! Objects of others in the folder of a job never count as its results: the item or the job fails and names the object.

use serde_json::{Value, json};

use super::broker::Broker;
use super::world::{CLIPS, World, wait};

const VIDEOS: [&str; 6] = ["a.mp4", "b.webm", "c.avi", "d.mp4", "e.mp4", "f.mp4"];

/// Returns the report of a video in the job `donor`, with some fields replaced. `null` removes a field.
fn donated(world: &World, video: &str, over: Value) -> Vec<u8> {
    let mut report = world.result_json(&format!("donor/items/{video}.json"));
    report.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
    report.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    report.to_string().into_bytes()
}

/// Each kind of object in the place of a report.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn only_own_reports_count() {
    let world = World::new("foreign");
    world.upload_clips(&CLIPS);
    let worker = world.worker("worker");
    world.submit(&[world.job("donor", json!({}))]).exits(0);
    world.check_whole("donor", "succeeded", 6, 0);
    let hash = &world.result_json("donor/items/a.mp4.json")["request_sha256"];
    assert_eq!(hash.as_str().map(str::len), Some(64), "{hash}");

    let own = json!({ "job_id": "mixed", "worker": "earlier" });
    let objects = [
        ("a.mp4", b"rubbish".to_vec()),
        ("b.webm", donated(&world, "b.webm", json!({}))),
        ("c.avi", donated(&world, "d.mp4", own.clone())),
        // The report of the same video in a job with this id that asked for something else.
        ("d.mp4", donated(&world, "d.mp4", json!({ "job_id": "mixed", "request_sha256": "0".repeat(64) }))),
        // The request is that of the job, and the version before had no hash.
        ("e.mp4", donated(&world, "e.mp4", own)),
        (
            "f.mp4",
            donated(
                &world,
                "f.mp4",
                json!({ "job_id": "mixed", "worker": "earlier", "request_sha256": null }),
            ),
        ),
    ];
    for (video, object) in &objects {
        world.put_result(&format!("mixed/items/{video}.json"), object);
    }
    world.submit(&[world.job("mixed", json!({}))]).exits(0);
    world.check_whole("mixed", "partially_succeeded", 2, 4);
    for (video, object) in &objects {
        let stays = world.result(&format!("mixed/items/{video}.json")).unwrap();
        assert!(stays == *object, "{video}: the object was replaced");
    }
    let results = world.result_lines("mixed/results.jsonl");
    let earlier = |line: &Value| (line["item_id"].clone(), line["worker"].clone());
    assert_eq!(
        results.iter().map(earlier).collect::<Vec<_>>(),
        [("e.mp4", "earlier"), ("f.mp4", "earlier")].map(|(video, worker)| (json!(video), json!(worker)))
    );
    let errors = world.result_lines("mixed/errors.jsonl");
    for (video, line) in VIDEOS.iter().zip(&errors) {
        assert_eq!((&line["item_id"], &line["error"]["code"]), (&json!(video), &json!("foreign_report")));
        let text = line["error"]["message"].as_str().unwrap();
        assert!(text.contains(&format!("/results/mixed/items/{video}.json: is not the report")), "{text}");
        assert!(line["input"]["url"].as_str().unwrap().ends_with(video), "{line}");
    }
    assert_eq!(Broker::of(&world).take_dead().header("x-reason-code").as_deref(), Some("foreign_report"));
    // One attempt each: a repetition would find the same object.
    assert_eq!(worker.logged("step=Claimed"), 12);
}

/// An object that appears while a worker runs the video is found by the next worker, which does not run the video.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn a_foreign_report_is_found_before_the_next_attempt() {
    let world = World::new("found");
    world.upload_clips(&CLIPS[..1]);
    let over = json!({
        "sampling": { "fps": { "fps": 10.0 } },
        "window": 0.1,
        "generation": { "strategy": { "kind": "greedy" }, "max_new_tokens": 24 },
    });
    let first = world.worker("first");
    world.submit(&[world.job("found", over)]).exits(0);
    first.wait_for_log("step=Claimed");
    first.signal("KILL");
    drop(first);
    assert_eq!(world.result("found/items/a.mp4.json"), None, "the first worker was too fast");
    world.put_result("found/items/a.mp4.json", b"{}");
    let second = world.worker("second");
    world.check_whole("found", "failed", 0, 1);
    let errors = world.result_lines("found/errors.jsonl");
    assert_eq!(errors[0]["error"]["code"], "foreign_report");
    assert_eq!((second.logged("step=Claimed"), second.logged("step=ReportWritten")), (1, 0));
}

/// A manifest marks the end of a job, so a job does not begin in a folder with the manifest of another one.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn a_job_with_a_foreign_manifest_fails_before_it_begins() {
    let world = World::new("taken");
    world.upload_clips(&CLIPS[..2]);
    let _worker = world.worker("worker");
    world.submit(&[world.job("donor", json!({}))]).exits(0);
    world.check_whole("donor", "succeeded", 2, 0);
    let manifest = world.result("donor/manifest.json").unwrap();
    for (job, object) in [("rubbish", b"{}".to_vec()), ("another", manifest.clone())] {
        world.put_result(&format!("{job}/manifest.json"), &object);
        world.submit(&[world.job(job, json!({}))]).exits(0);
        let shown = world.ended(job);
        assert_eq!(
            (&shown["status"], &shown["error"]["code"]),
            (&json!("failed"), &json!("foreign_manifest"))
        );
        let text = shown["error"]["message"].as_str().unwrap();
        assert!(text.contains(&format!("/results/{job}/manifest.json: is not the manifest")), "{text}");
        assert_eq!(shown["counts"]["total"], 0, "{shown:#}");
        assert_eq!(world.results(job), ["manifest.json"], "something was written into the folder");
        assert!(world.result(&format!("{job}/manifest.json")).unwrap() == object);
    }

    // The manifest of this job and request is no obstacle: the ledger may be older than the store.
    let own = String::from_utf8(manifest).unwrap().replace("\"donor\"", "\"restored\"");
    world.put_result("restored/manifest.json", own.as_bytes());
    world.submit(&[world.job("restored", json!({}))]).exits(0);
    world.check_whole("restored", "succeeded", 2, 0);
    assert_eq!(world.result("restored/manifest.json").unwrap(), own.into_bytes());
}

/// A manifest that appears while the job runs is not taken as its end, and its folder stays as it is.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn a_manifest_that_appears_during_the_job_fails_it() {
    let mut world = World::new("appears");
    world.set("FLAMINGO__WORKER__ITEMS", "1");
    world.upload_clips(&CLIPS);
    let _worker = world.worker("worker");
    let over = json!({ "sampling": { "fps": { "fps": 10.0 } }, "window": 2.0 });
    world.submit(&[world.job("appears", over)]).exits(0);
    wait("a video", || (world.counts("appears").succeeded > 0).then_some(()));
    world.put_result("appears/manifest.json", b"{\"job_id\": \"another\"}");
    let shown = world.ended("appears");
    assert_eq!((&shown["status"], &shown["error"]["code"]), (&json!("failed"), &json!("foreign_manifest")));
    assert_eq!(shown["counts"]["succeeded"], 6);
    assert_eq!(world.result("appears/manifest.json").unwrap(), b"{\"job_id\": \"another\"}");
    assert_eq!(world.result("appears/results.jsonl"), None);
}
