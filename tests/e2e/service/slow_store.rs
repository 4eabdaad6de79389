//! S3 is slow, breaks off, or holds another video than was listed: every video has one report, about one version of it.

use std::time::Duration;

use serde_json::{Value, json};
use support::clips::clip;
use support::relay::{Pace, Relay};
use support::servers::{Kind, shared};

use super::outages::{address, variable};
use super::world::{World, wait};

/// Larger than every other answer of the store, by more than what follows the cut.
const LARGE: usize = 700_000;
const CUT: usize = 600_000;
const SMALL: [(&str, &str); 2] = [("b.webm", "vp8"), ("c.avi", "mjpeg")];

/// A world whose programs reach S3 through a relay, and whose own uploads do not.
pub(super) fn behind_a_relay(name: &str) -> (World, Relay) {
    let relay = Relay::to(address(&variable(&shared(Kind::S3), "AWS_ENDPOINT_URL")));
    let mut world = World::new(name);
    world.set("AWS_ENDPOINT_URL", &format!("http://{}", relay.addr()));
    (world, relay)
}

/// A clip that a `free` box makes as large as is wanted.
pub(super) fn padded(name: &str, bytes: usize) -> Vec<u8> {
    let mut video = std::fs::read(clip(name)).unwrap();
    let rest = bytes.checked_sub(video.len()).filter(|rest| *rest >= 8).expect("a clip that is small enough");
    video.extend((rest as u32).to_be_bytes());
    video.extend(b"free");
    video.resize(bytes, 0);
    video
}

#[track_caller]
pub(super) fn check_failed(world: &World, job: &str, item: &str, code: &str, said: &str) {
    let errors = world.result_lines(&format!("{job}/errors.jsonl"));
    assert_eq!((&errors[0]["item_id"], &errors[0]["error"]["code"]), (&json!(item), &json!(code)));
    let report = world.result_json(&format!("{job}/items/{item}.json"));
    assert_eq!((&report["status"], &report["attempt"]), (&json!("failed"), &json!(1)), "{report:#}");
    assert!(report["error"]["message"].as_str().unwrap().contains(said), "{report:#}");
}

/// What may not last for long is silence; how long a video takes as a whole does not matter.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn a_slow_store_is_waited_for() {
    let (mut world, relay) = behind_a_relay("slow-store");
    world.set("FLAMINGO__STORE__READ_TIMEOUT", "3s");
    // All share the relay's pace: many at once would each be silent for long.
    world.set("FLAMINGO__WORKER__ITEMS", "2");
    world.upload("a.mp4", padded("short", LARGE));
    world.upload_clips(&SMALL);
    relay.slow(Pace { latency: Duration::from_millis(300), bytes_per_s: Some(200_000) });
    let worker = world.worker("worker");
    world.submit(&[world.job("slow", json!({}))]).exits(0);
    world.check_whole("slow", "succeeded", 3, 0);
    let lines = world.result_lines("slow/results.jsonl");
    assert!(lines.iter().all(|line| line["attempt"] == 1), "{lines:#?}");
    let seconds = |line: &Value| line["fetch_s"].as_f64().unwrap();
    assert!(seconds(&lines[0]) > 3.0 && lines[0]["item_id"] == "a.mp4", "{lines:#?}");
    assert!(!worker.log().contains("store_unavailable"));
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn a_body_that_breaks_off_is_read_to_its_end() {
    let (mut world, relay) = behind_a_relay("broken-off");
    let temporary = world.folder.join("temporary");
    std::fs::create_dir(&temporary).unwrap();
    world.set("FLAMINGO__WORKER__TEMPORARY", temporary.to_str().unwrap());
    world.upload("a.mp4", padded("short", LARGE));
    world.upload_clips(&SMALL);
    let _worker = world.worker("worker");
    relay.cut_after(CUT);
    world.submit(&[world.job("cut", json!({}))]).exits(0);
    world.check_whole("cut", "succeeded", 3, 0);
    assert_eq!(relay.broken_off(), 1);
    let report = world.result_json("cut/items/a.mp4.json");
    assert_eq!(report["input"]["bytes"], LARGE);
    wait("the end of the temporary files", || {
        (std::fs::read_dir(&temporary).unwrap().count() == 0).then_some(())
    });
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn a_video_that_changed_after_the_listing_is_not_answered() {
    let (world, relay) = behind_a_relay("changed");
    world.upload("a.mp4", padded("short", LARGE));
    world.upload_clips(&SMALL);
    let _worker = world.worker("worker");
    relay.hold("/b.webm HTTP/1.1");
    world.submit(&[world.job("changed", json!({}))]).exits(0);
    wait("the request for the video", || (relay.held() > 0).then_some(()));
    world.upload("b.webm", std::fs::read(clip("vp9")).unwrap());
    relay.let_go();
    world.check_whole("changed", "partially_succeeded", 2, 1);
    check_failed(&world, "changed", "b.webm", "changed", "b.webm: has changed since it was listed");
}

/// The rest is not that of what was begun.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn a_video_that_changes_while_it_is_read_is_not_answered() {
    let (world, relay) = behind_a_relay("mixed");
    world.upload("a.mp4", padded("short", LARGE));
    world.upload_clips(&SMALL);
    let _worker = world.worker("worker");
    relay.cut_after(CUT);
    relay.hold("ange: bytes=");
    world.submit(&[world.job("mixed", json!({}))]).exits(0);
    wait("the request for the rest", || (relay.held() > 0).then_some(()));
    world.upload("a.mp4", padded("short", LARGE + 1));
    relay.let_go();
    world.check_whole("mixed", "partially_succeeded", 2, 1);
    assert_eq!(relay.broken_off(), 1);
    check_failed(&world, "mixed", "a.mp4", "changed", "a.mp4: has changed since it was listed");
}
