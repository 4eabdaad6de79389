//! S3 is slow, cuts connections or changes a video after the listing: every video has one report about one version.

use std::time::Duration;

use serde_json::{Value, json};
use support::clips::clip;
use support::proxy::{Pace, Proxy};
use support::servers::{Kind, shared};

use super::outages::{address, variable};
use super::world::{World, wait};

/// Size of a video, in bytes: larger than all other responses of the store, even up to the cut.
const LARGE: usize = 700_000;
const CUT: usize = 600_000;
const SMALL: [(&str, &str); 2] = [("b.webm", "vp8"), ("c.avi", "mjpeg")];

/// Makes a world whose programs reach S3 through a proxy. Uploads of the test do not use it.
pub(super) fn behind_a_proxy(name: &str) -> (World, Proxy) {
    let proxy = Proxy::to(address(&variable(&shared(Kind::S3), "AWS_ENDPOINT_URL")));
    let mut world = World::new(name);
    world.set("AWS_ENDPOINT_URL", &format!("http://{}", proxy.addr()));
    (world, proxy)
}

/// Returns a clip, padded to `bytes` with a `free` box.
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

/// The read timeout bounds silence, not the whole download.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn slow_downloads_succeed() {
    let (mut world, proxy) = behind_a_proxy("slow-store");
    world.set("FLAMINGO__STORE__READ_TIMEOUT", "3s");
    // All downloads share the pace of the proxy: with many at once each would be silent for too long.
    world.set("FLAMINGO__WORKER__ITEMS", "2");
    world.upload("a.mp4", padded("short", LARGE));
    world.upload_clips(&SMALL);
    proxy.set_pace(Pace { latency: Duration::from_millis(300), bytes_per_s: Some(200_000) });
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
fn a_cut_download_resumes() {
    let (mut world, proxy) = behind_a_proxy("cut");
    let temporary = world.folder.join("temporary");
    std::fs::create_dir(&temporary).unwrap();
    world.set("FLAMINGO__WORKER__TEMPORARY", temporary.to_str().unwrap());
    world.upload("a.mp4", padded("short", LARGE));
    world.upload_clips(&SMALL);
    let _worker = world.worker("worker");
    proxy.cut_after(CUT);
    world.submit(&[world.job("cut", json!({}))]).exits(0);
    world.check_whole("cut", "succeeded", 3, 0);
    assert_eq!(proxy.truncated(), 1);
    let report = world.result_json("cut/items/a.mp4.json");
    assert_eq!(report["input"]["bytes"], LARGE);
    wait("the end of the temporary files", || {
        (std::fs::read_dir(&temporary).unwrap().count() == 0).then_some(())
    });
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn a_video_that_changed_after_the_listing_fails() {
    let (world, proxy) = behind_a_proxy("changed");
    world.upload("a.mp4", padded("short", LARGE));
    world.upload_clips(&SMALL);
    let _worker = world.worker("worker");
    proxy.hold("/b.webm HTTP/1.1");
    world.submit(&[world.job("changed", json!({}))]).exits(0);
    wait("the request for the video", || (proxy.held() > 0).then_some(()));
    world.upload("b.webm", std::fs::read(clip("vp9")).unwrap());
    proxy.release();
    world.check_whole("changed", "partially_succeeded", 2, 1);
    check_failed(&world, "changed", "b.webm", "changed", "b.webm: has changed since it was listed");
}

/// The second part of the download belongs to another version.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn a_video_that_changes_during_the_download_fails() {
    let (world, proxy) = behind_a_proxy("mixed");
    world.upload("a.mp4", padded("short", LARGE));
    world.upload_clips(&SMALL);
    let _worker = world.worker("worker");
    proxy.cut_after(CUT);
    proxy.hold("ange: bytes=");
    world.submit(&[world.job("mixed", json!({}))]).exits(0);
    wait("the request for the rest", || (proxy.held() > 0).then_some(()));
    world.upload("a.mp4", padded("short", LARGE + 1));
    proxy.release();
    world.check_whole("mixed", "partially_succeeded", 2, 1);
    assert_eq!(proxy.truncated(), 1);
    check_failed(&world, "mixed", "a.mp4", "changed", "a.mp4: has changed since it was listed");
}
