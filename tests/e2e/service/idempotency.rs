//! Equal keys and equal requests are one job; equal keys and different requests are a conflict.

use lapin::BasicProperties;
use serde_json::{Value, json};

use super::broker::Broker;
use super::world::World;

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn equal_keys_are_one_job_or_a_conflict() {
    let world = World::new("idempotency");
    world.upload_clips(&[("a.mp4", "short"), ("b.webm", "vp8")]);
    let worker = world.worker("worker");
    let keyed = |id: &str, over: Value| {
        let mut job = world.job(id, over);
        job["idempotency_key"] = json!("order 66");
        job
    };
    let first = world.submit(&[keyed("first", json!({}))]).exits(0);
    assert_eq!(first.out.trim(), "first");
    world.check_whole("first", "succeeded", 2, 0);
    // Another id and a `reply_to` do not change the request.
    let again = world.submit(&[keyed("second", json!({ "reply_to": "replies" }))]).exits(0);
    assert_eq!(again.out.trim(), "first", "not the existing job");

    let other = world
        .submit(&[keyed("third", json!({ "tasks": [{ "kind": "question", "question": "Why?" }] }))])
        .exits(1);
    assert!(other.errors()[0].starts_with("error[idempotency_conflict]: third: job first"), "{other:?}");
    let same_name = world.submit(&[world.job("first", json!({ "max_frames": 7 }))]).exits(1);
    assert!(same_name.errors()[0].starts_with("error[idempotency_conflict]"), "{same_name:?}");

    // The same holds for messages from other programs.
    let broker = Broker::of(&world);
    let reply_to = format!("{}.mine", world.name);
    broker.subscribe(&reply_to, None);
    let properties = || BasicProperties::default().with_reply_to(reply_to.as_str().into());
    broker.send(keyed("fourth", json!({ "max_frames": 8 })).to_string().as_bytes(), properties());
    assert_eq!(broker.take_dead().header("x-reason-code").as_deref(), Some("idempotency_conflict"));
    assert_eq!(broker.take(&reply_to).json()["error"]["code"], "idempotency_conflict");
    broker.send(keyed("fifth", json!({})).to_string().as_bytes(), properties());
    let fresh = world.submit(&[world.job("fresh", json!({}))]).exits(0);
    assert_eq!(fresh.out.trim(), "fresh");
    world.check_whole("fresh", "succeeded", 2, 0);

    let claims = worker.logged("step=Claimed");
    assert_eq!(claims, 4, "not every video of the two jobs was claimed once");
    let listed = world.flamingo(&["jobs", "list", "--json"]).exits(0).reports();
    assert_eq!(listed.iter().map(|job| &job["job_id"]).collect::<Vec<_>>(), ["fresh", "first"]);
}
