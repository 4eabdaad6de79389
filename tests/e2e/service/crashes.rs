//! A worker is killed after each step of its loop: no item is lost and none is reported twice.

use std::process::Command;

use serde_json::json;

use super::broker::Broker;
use super::world::World;
use crate::program::{binary, model};

/// Steps of the loop, in order.
const STEPS: [&str; 13] = [
    "Received(Jobs)",
    "Accepted",
    "PageListed",
    "PageSent",
    "Expanded",
    "Received(Items)",
    "Claimed",
    "ReportWritten",
    "Ended",
    "Acknowledged",
    "ResultsGathered",
    "Finished",
    "EventPublished",
];

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn recovers_from_a_kill_after_each_step() {
    // Each part has its own deployment: the worker of another part would take messages before the crash.
    std::thread::scope(|threads| {
        for part in STEPS.chunks(5) {
            threads.spawn(move || check_crashes(part));
        }
    });
}

fn check_crashes(steps: &[&str]) {
    let mut world = World::new("killed");
    world.set("FLAMINGO__WORKER__LEASE", "2s");
    world.set("FLAMINGO__WORKER__HEARTBEAT", "500ms");
    // Three videos make two pages.
    world.set("FLAMINGO__INPUTS__PAGE", "2");
    world.upload_clips(&[("a.mp4", "short"), ("b.webm", "vp8"), ("c.avi", "mjpeg")]);
    let events = format!("{}.events-test", world.name);
    for (n, step) in steps.iter().enumerate() {
        let id = format!("job-{n}");
        world.submit(&[world.job(&id, json!({}))]).exits(0);
        let broker = Broker::of(&world);
        broker.subscribe(&events, Some("job.*"));
        let mut crashing = Command::new(binary().with_file_name("crashing-worker"));
        crashing.env("FLAMINGO_MODEL", model()).env("DECODER", binary()).env("CRASH_AFTER", step);
        let mut crashing = world.spawn("crashing", &mut crashing);
        assert_eq!(crashing.wait(), None, "the worker did not crash after {step}: {}", crashing.log());
        assert!(crashing.log().contains(&format!("crashes after {step}")), "{}", crashing.log());

        let second = world.worker("second");
        world.check_whole(&id, "succeeded", 3, 0);
        let items = world.show(&id)["items"].clone();
        let attempts: Vec<_> =
            items.as_array().unwrap().iter().map(|i| i["attempts"].as_i64().unwrap()).collect();
        assert!(
            attempts.iter().all(|n| *n == 1),
            "a lost worker counts as an attempt after {step}: {attempts:?}"
        );
        // A crash between sending an event and marking it as published causes a second event.
        let times = if *step == "EventPublished" { 2 } else { 1 };
        for _ in 0..times {
            assert_eq!(broker.take(&events).json()["job_id"], id.as_str(), "after {step}");
        }
        drop(second);
        assert!(broker.try_take(&events).is_none(), "an event was sent too often after {step}");
    }
}
