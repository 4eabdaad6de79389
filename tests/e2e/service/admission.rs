//! Disk and memory of a worker are limited: videos wait or are rejected, and a full disk ends the worker.

use std::process::Command;

use serde_json::{Value, json};

use super::shutdown::get;
use super::slow_store::{behind_a_proxy, check_failed, padded};
use super::world::{World, wait};
use crate::program::binary;

fn attempts(world: &World, job: &str) -> Vec<Value> {
    let shown = world.show(job);
    shown["items"].as_array().unwrap().iter().map(|item| item["attempts"].clone()).collect()
}

fn set_status_address(world: &mut World) -> u16 {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    world.set("FLAMINGO__STATUS__ADDRESS", &format!("127.0.0.1:{port}"));
    port
}

#[track_caller]
fn wait_for_metric(port: u16, line: &str) {
    wait(line, || get(port, "/metrics").lines().any(|found| found.starts_with(line)).then_some(()));
}

/// One video is partly fetched, and there is no disk space for a second one.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn videos_wait_for_disk_space() {
    let (mut world, proxy) = behind_a_proxy("disk-space");
    world.set("FLAMINGO__WORKER__TEMPORARY_BYTES", "500000");
    world.set("FLAMINGO__WORKER__PATIENCE", "3s");
    // The held download must not time out before the metrics are read.
    world.set("FLAMINGO__STORE__READ_TIMEOUT", "300s");
    let port = set_status_address(&mut world);
    for (key, bytes) in [("a.mp4", 400_000), ("b.mp4", 300_000), ("c.mp4", 500_001)] {
        world.upload(key, padded("short", bytes));
    }
    let _worker = world.worker("worker");
    let videos = world.videos();
    let path = videos.strip_prefix("s3://").unwrap();
    proxy.hold(&format!("GET /{path}/a.mp4"));
    let only = |key: &str| json!({ "input": { "video": format!("{videos}/{key}") } });
    world.submit(&[world.job("a", only("a.mp4"))]).exits(0);
    wait("the request for the video", || (proxy.held() > 0).then_some(()));
    world.submit(&[world.job("b", only("b.mp4"))]).exits(0);
    wait_for_metric(port, "flamingo_videos_waiting{resource=\"disk\",of=\"disk\"} 1");
    wait_for_metric(port, "flamingo_reserved_bytes{resource=\"disk\",of=\"disk\"} 400000");
    // The message goes back: another worker may have space.
    wait_for_metric(port, "flamingo_item_retries_total{code=\"no_room\"}");
    proxy.release();
    world.check_whole("a", "succeeded", 1, 0);
    world.check_whole("b", "succeeded", 1, 0);
    assert_eq!((attempts(&world, "a"), attempts(&world, "b")), (vec![json!(1)], vec![json!(1)]));

    world.submit(&[world.job("c", only("c.mp4"))]).exits(0);
    world.check_whole("c", "failed", 0, 1);
    let item = world.show("c")["items"][0]["item_id"].as_str().unwrap().to_owned();
    let said = "needs 500001 bytes, the limit is 500000";
    check_failed(&world, "c", &item, "limit_temporary", said);
    wait_for_metric(port, "flamingo_reserved_bytes{resource=\"disk\",of=\"disk\"} 0");
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn rejects_jobs_that_need_too_much_memory() {
    let mut world = World::new("memory-limit");
    world.set("FLAMINGO__WORKER__MEMORY", "268435456");
    world.upload_clips(&[("a.mp4", "short"), ("b.webm", "vp8"), ("c.avi", "mjpeg")]);
    let _worker = world.worker("worker");
    world.submit(&[world.job("greedy", json!({ "max_frames": 4096 }))]).exits(0);
    world.check_whole("greedy", "failed", 0, 3);
    let said = "no memory for up to 4097 frames of one answer (worker.memory): needs ";
    check_failed(&world, "greedy", "a.mp4", "limit_memory", said);
    // Memory is enough for one of these at a time; two are in flight.
    world.submit(&[world.job("modest", json!({ "max_frames": 2000 }))]).exits(0);
    world.check_whole("modest", "succeeded", 3, 0);
    assert_eq!(attempts(&world, "modest"), [1, 1, 1].map(|n| json!(n)));
}

/// Returns a worker command whose temporary folder holds one page: a separate file system if this user may mount one, else
/// the kernel's limit on the size of written files. Both fail the write itself.
fn on_a_full_disk(world: &World, folder: &str) -> Command {
    let mount = format!("mount -t tmpfs -o size=4k tmpfs '{folder}' && exec \"$0\" work");
    let may_mount = |unshare: &[&str]| {
        let tried = format!("mount -t tmpfs -o size=4k tmpfs '{folder}'");
        let tried = Command::new("unshare").args(unshare).args(["sh", "-c", &tried]).output();
        tried.is_ok_and(|tried| tried.status.success())
    };
    let ways = [&["--user", "--map-root-user", "--mount"][..], &["--mount"][..]];
    let mut command = match ways.into_iter().find(|way| may_mount(way)) {
        Some(way) => {
            let mut command = Command::new("unshare");
            command.args(way).args(["sh", "-c", &mount]);
            command
        }
        None => {
            // The log goes through a process without the limit.
            let limited = "trap '' XFSZ; exec 2> >(cat >&2); ulimit -f 4; exec \"$0\" work";
            let mut command = Command::new("bash");
            command.args(["-c", limited]);
            command
        }
    };
    command.arg(binary());
    for (name, value) in world.command().get_envs().filter_map(|(name, value)| Some((name, value?))) {
        command.env(name, value);
    }
    command
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn a_worker_with_a_full_disk_exits_and_another_answers() {
    let mut world = World::new("full-disk");
    let folder = world.folder.join("full");
    std::fs::create_dir(&folder).unwrap();
    let folder = folder.to_str().unwrap().to_owned();
    world.set("FLAMINGO__WORKER__TEMPORARY", &folder);
    world.upload("a.mp4", padded("short", 300_000));
    let mut full = world.spawn("full", &mut on_a_full_disk(&world, &folder));
    full.wait_for_log("worker started");
    world.submit(&[world.job("moved", json!({}))]).exits(0);
    assert_eq!(full.wait(), Some(1), "{}", full.log());
    let said = format!("this worker cannot continue: {folder}: cannot store a downloaded video: ");
    assert!(full.log().contains(&said), "{}", full.log());
    let shown = world.show("moved");
    let item = &shown["items"][0];
    assert_eq!((&item["status"], &item["attempts"]), (&json!("queued"), &json!(0)), "{shown:#}");

    let _another = world.worker("another");
    world.check_whole("moved", "succeeded", 1, 0);
    assert_eq!(attempts(&world, "moved"), [json!(1)]);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}
