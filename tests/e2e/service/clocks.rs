//! Machines whose clocks are wrong by ten minutes: jobs follow the clock of the database.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::changes::slow;
use super::shutdown::get;
use super::worker_process::WorkerProcess;
use super::world::{CLIPS, World, wait};

const AHEAD: &str = "+10m";
const BEHIND: &str = "-10m";

/// Text in the log of a program whose clock is wrong.
const WARNING: &str = "the clock of this machine differs from the database's";

/// Returns the variables of a program whose wall clock is wrong by `offset`, and whose monotonic clock is right. The dynamic
/// linker replaces `$LIB`; without the library it starts the program with the right clock, so tests check for [`WARNING`].
fn clock(offset: &str) -> [(String, String); 3] {
    [
        ("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1"),
        ("FAKETIME", offset),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// Starts a worker with a wrong clock.
fn worker(world: &World, name: &str, offset: &str) -> WorkerProcess {
    let worker = world.spawn(name, world.command().arg("work").envs(clock(offset)));
    worker.wait_for_log("worker started");
    worker.wait_for_log(WARNING);
    worker
}

/// Submits one video from a machine with a wrong clock.
fn submit(world: &World, id: &str, offset: &str, options: &[&str]) {
    let video = format!("{}/a.mp4", world.videos());
    let mut command = world.command();
    command.args(["submit", "--job-id", id, "--video", &video, "--beams", "1", "--max-new-tokens", "3"]);
    let output = command.args(options).envs(clock(offset)).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && log.contains(WARNING), "{log}");
}

/// Returns the seconds from one time of a job to another.
fn seconds(from: &Value, to: &Value) -> f64 {
    let time = |text: &Value| text.as_str().unwrap().parse::<Timestamp>().unwrap();
    time(to).duration_since(time(from)).as_secs_f64()
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn a_clock_ahead_expires_no_job_and_steals_no_item() {
    let world = World::new("clock-ahead");
    world.upload_clips(&CLIPS);
    let right = world.worker("right");
    let mut job = slow(&world, "long", 2.0);
    job["deadline"] = json!((Timestamp::now() + jiff::SignedDuration::from_mins(5)).to_string());
    world.submit(&[job]).exits(0);
    right.wait_for_log("step=Claimed");
    let ahead = worker(&world, "ahead", AHEAD);
    // Of the claims of the other worker, each lasts longer than a sweep.
    ahead.wait_for_log("step=Claimed");
    world.check_whole("long", "succeeded", CLIPS.len(), 0);
    let shown = world.show("long");
    for item in shown["items"].as_array().unwrap() {
        assert_eq!((&item["attempts"], &item["workers_lost"]), (&json!(1), &json!(0)), "{item:#}");
    }
    assert_eq!(right.logged("step=StaleClaim") + ahead.logged("step=StaleClaim"), 0);
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn a_clock_ahead_starts_no_job_early() {
    let world = World::new("clock-early");
    world.upload_clips(&CLIPS[..1]);
    let ahead = worker(&world, "ahead", AHEAD);
    submit(&world, "relative", AHEAD, &["--not-before", "12s", "--deadline", "5m"]);
    let at = (Timestamp::now() + jiff::SignedDuration::from_secs(8)).to_string();
    submit(&world, "absolute", BEHIND, &["--not-before", &at]);
    for (id, from) in [("relative", 12.0), ("absolute", 6.0)] {
        let shown = world.ended(id);
        assert_eq!(shown["status"], "succeeded", "{shown:#}");
        let begun = &shown["states"]["validating_at"];
        let waited = seconds(&shown["states"]["accepted_at"], begun);
        assert!((from..60.0).contains(&waited), "began after {waited} s: {shown:#}");
        assert!((0.0..50.0).contains(&seconds(&shown["not_before"], begun)), "{shown:#}");
    }
    let shown = world.show("relative");
    assert_eq!(seconds(&shown["states"]["accepted_at"], &shown["deadline"]), 300.0);
    // By now the worker has compared the clocks several times.
    assert_eq!(ahead.logged(WARNING), 1);
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn a_clock_behind_holds_no_job_back() {
    let mut world = World::new("clock-behind");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    world.set("FLAMINGO__STATUS__ADDRESS", &format!("127.0.0.1:{port}"));
    world.upload_clips(&CLIPS[..1]);
    let _behind = worker(&world, "behind", BEHIND);
    submit(&world, "now", AHEAD, &[]);
    submit(&world, "soon", BEHIND, &["--not-before", "3s"]);
    for id in ["now", "soon"] {
        let shown = world.ended(id);
        assert_eq!(shown["status"], "succeeded", "{shown:#}");
        let took = seconds(&shown["states"]["accepted_at"], &shown["states"]["succeeded_at"]);
        assert!((0.0..120.0).contains(&took), "took {took} s: {shown:#}");
    }
    let skew = wait("the skew", || {
        let metrics = get(port, "/metrics");
        let line = metrics.lines().find_map(|line| line.strip_prefix("flamingo_clock_skew_seconds "))?;
        Some(line.parse::<f64>().unwrap())
    });
    assert!((skew + 600.0).abs() < 1.0, "{skew} s");
}
