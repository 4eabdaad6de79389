//! Requests that cannot be done are refused at once; a worker ends within its grace while store or database are away.

use std::time::{Duration, Instant};

use lapin::BasicProperties;
use serde_json::{Value, json};
use support::proxy::Proxy;
use support::servers::{Kind, Server};

use super::broker::Broker;
use super::slow_store::behind_a_proxy;
use super::worker_process::WorkerProcess;
use super::world::{CLIPS, World, wait};

/// Grace of the workers in these tests, in seconds, and the time until a stopped worker has ended in any case.
const GRACE: &str = "3s";
const END: Duration = Duration::from_secs(12);

/// Returns a path of `bytes` bytes.
fn path(bytes: usize) -> String {
    (1..=bytes).map(|n| if n % 100 == 0 && n < bytes { '/' } else { 'p' }).collect()
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn requests_that_cannot_be_done_are_refused_at_submit() {
    let world = World::new("impossible");
    let question = |text: &str| json!({ "tasks": [{ "kind": "question", "question": text }] });
    let fps = |fps: f64| json!({ "sampling": { "fps": { "fps": fps } } });
    for (over, expected) in [
        (json!({ "output": path(1101) }), "`output` has 1101 bytes"),
        (json!({ "output": path(4000) }), "`output` has 4000 bytes"),
        (json!({ "reply_to": "" }), "`reply_to` is empty, longer than 255 bytes"),
        (json!({ "reply_to": "q".repeat(256) }), "`reply_to` is empty, longer than 255 bytes"),
        (json!({ "reply_to": "line\nbreak" }), "`reply_to` is empty, longer than 255 bytes"),
        (question("What\0is it?"), "U+0000"),
        (fps(1e308), "at most 10000 frames per second"),
        (fps(1e19), "at most 10000 frames per second"),
    ] {
        let ran = world.submit(&[world.job("impossible", over)]).exits(2);
        assert!(ran.err.contains(expected), "{ran:?}");
    }
    assert!(world.records(9).is_empty(), "a refused job is in the ledger");

    // A message to the queue is refused with an event.
    let _worker = world.worker("worker");
    let broker = Broker::of(&world);
    let reply_to = format!("{}.mine", world.name);
    broker.subscribe(&reply_to, None);
    let job = world.job("sent", json!({ "output": path(1101), "reply_to": reply_to }));
    broker.send(job.to_string().as_bytes(), BasicProperties::default());
    let event = broker.take(&reply_to).json();
    assert_eq!(
        (&event["event"], &event["error"]["code"]),
        (&json!("job.refused"), &json!("bad_request")),
        "{event}"
    );
}

/// The longest path that is accepted works with a real store, and one byte more is refused.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn the_longest_output_that_is_accepted_is_written() {
    let world = World::new("longest");
    world.upload_clips(&CLIPS[..2]);
    let _worker = world.worker("worker");
    let root = format!("{}/results/", world.name).len();
    let most = 1024 - root - "/longest/items/".len() - 180 - ".json".len();
    let ran = world.submit(&[world.job("longest", json!({ "output": path(most + 1) }))]).exits(2);
    assert!(ran.err.contains("1025 bytes, and at most 1024 are possible"), "{ran:?}");
    world.submit(&[world.job("longest", json!({ "output": path(most) }))]).exits(0);
    let shown = world.ended("longest");
    assert_eq!(shown["status"], "succeeded", "{shown:#}");
    assert!(world.result(&format!("{}/longest/manifest.json", path(most))).is_some());
}

/// A submitter with another store accepts what the worker's store never takes: the job fails once, and the worker goes on.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn a_job_that_the_store_of_the_worker_never_takes_fails() {
    let mut world = World::new("other-store");
    world.upload_clips(&CLIPS[..2]);
    let store = world.env.iter().rfind(|(name, _)| name == "FLAMINGO__STORE__URL").unwrap().1.clone();
    let job = world.job("never", json!({ "output": path(600) }));
    world.submit(&[job]).exits(0);
    world.set("FLAMINGO__STORE__URL", &format!("{store}/{}", vec!["r".repeat(100); 3].join("/")));
    let worker = world.worker("worker");
    let shown = world.ended("never");
    assert_eq!(
        (&shown["status"], &shown["error"]["code"]),
        (&json!("failed"), &json!("bad_request")),
        "{shown:#}"
    );
    assert_eq!(worker.logged("step=Claimed"), 0, "a video was run for nothing");
    world.submit(&[world.job("after", json!({}))]).exits(0);
    assert_eq!(world.ended("after")["status"], "succeeded");
}

/// Stops a worker and checks that it ends by itself and in time.
#[track_caller]
fn check_stops_in_time(worker: &mut WorkerProcess) {
    let begun = Instant::now();
    worker.signal("TERM");
    assert_eq!(worker.wait(), Some(0), "{}", worker.log());
    assert!(begun.elapsed() < END, "it took {:?}", begun.elapsed());
}

fn patient(world: &mut World) {
    world.set("FLAMINGO__WORKER__GRACE", GRACE);
    world.set("FLAMINGO__WORKER__RETRY_TIMEOUT", "90s");
}

/// Takes S3 away while a request is held, and returns when the worker tries again.
fn take_away(proxy: &Proxy) {
    wait("a held request", || (proxy.held() > 0).then_some(()));
    proxy.refuse(true);
    proxy.release();
    proxy.cut();
    let before = proxy.accepted();
    wait("further tries", || (proxy.accepted() >= before + 3).then_some(()));
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn grace_holds_while_reports_are_written_and_s3_is_away() {
    let (mut world, proxy) = behind_a_proxy("grace-report");
    patient(&mut world);
    world.upload_clips(&CLIPS[..3]);
    let mut worker = world.worker("first");
    proxy.hold("/items/");
    world.submit(&[world.job("away", json!({}))]).exits(0);
    take_away(&proxy);
    check_stops_in_time(&mut worker);
    assert_eq!(world.counts("away").running, 0, "an item was not released");
    proxy.refuse(false);
    let _second = world.worker("second");
    world.check_whole("away", "succeeded", 3, 0);
    let shown = world.show("away");
    let attempts: Vec<&Value> =
        shown["items"].as_array().unwrap().iter().map(|item| &item["attempts"]).collect();
    assert!(attempts.iter().all(|n| **n == 1), "an outage of the store is no attempt: {attempts:?}");
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn grace_holds_while_results_are_gathered_and_s3_is_away() {
    let (mut world, proxy) = behind_a_proxy("grace-results");
    patient(&mut world);
    world.upload_clips(&CLIPS[..2]);
    let mut worker = world.worker("first");
    proxy.hold("results.jsonl");
    world.submit(&[world.job("away", json!({}))]).exits(0);
    take_away(&proxy);
    check_stops_in_time(&mut worker);
    proxy.refuse(false);
    let _second = world.worker("second");
    world.check_whole("away", "succeeded", 2, 0);
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn grace_holds_while_the_database_is_away() {
    let mut database = Server::start(Kind::Postgres, "grace-database");
    let mut world = World::with("grace-database", &database.env());
    patient(&mut world);
    world.upload_clips(&CLIPS[..3]);
    let mut worker = world.worker("first");
    world.submit(&[world.job("away", json!({}))]).exits(0);
    worker.wait_for_log("step=Claimed");
    database.stop();
    check_stops_in_time(&mut worker);
    database.start_again();
    let _second = world.worker("second");
    world.check_whole("away", "succeeded", 3, 0);
}

/// A database without a free connection is told in its own words.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn a_full_database_is_named_in_its_own_words() {
    let world = World::new("full");
    let limit = |connections: i32| {
        let server = world.env.iter().find(|(name, _)| name == "FLAMINGO_TEST_POSTGRES").unwrap().1.clone();
        let statement =
            format!("ALTER DATABASE {} CONNECTION LIMIT {connections}", world.name.replace('-', "_"));
        let ran = std::process::Command::new("psql").arg(server).args(["-qc", &statement]).status().unwrap();
        assert!(ran.success());
    };
    limit(0);
    for arguments in
        [&["jobs", "list"][..], &["jobs", "show", "none"], &["submit", "--video", "s3://flamingo-test/a.mp4"]]
    {
        let ran = world.flamingo(arguments).exits(1);
        assert!(ran.err.contains("too many connections for database"), "{ran:?}");
        assert!(!ran.err.contains("password"), "{ran:?}");
    }
    limit(-1);
    world.flamingo(&["jobs", "list"]).exits(0);
}

/// A broker that is short of memory takes no messages. `submit` tells so at once, and a worker's sweep finds the jobs.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn submit_does_not_wait_for_a_blocked_broker() {
    let full = Server::start_with(Kind::RabbitMq, "blocked", &[("RABBITMQ_MEMORY_BYTES", "1")]);
    let mut world = World::new("blocked");
    world.upload_clips(&CLIPS[..2]);
    let free = world.env.iter().rfind(|(name, _)| name == "FLAMINGO__QUEUE__URL").unwrap().1.clone();
    let url = full.env().into_iter().find(|(name, _)| name == "FLAMINGO_TEST_AMQP").unwrap().1;
    world.set("FLAMINGO__QUEUE__URL", &url);
    let ids = ["one", "two", "three"];
    let begun = Instant::now();
    let ran = world.submit(&ids.map(|id| world.job(id, json!({})))).exits(0);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?} for three jobs", begun.elapsed());
    assert_eq!(ran.out.lines().collect::<Vec<_>>(), ids);
    assert_eq!(ran.err.matches("short of memory or disk").count(), 3, "{ran:?}");

    world.set("FLAMINGO__QUEUE__URL", &free);
    let _worker = world.worker("worker");
    for id in ids {
        world.check_whole(id, "succeeded", 2, 0);
    }
}
