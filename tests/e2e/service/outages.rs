//! Broker, database or store go away and come back: jobs wait and finish.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use support::proxy::Proxy;
use support::servers::{Kind, Server, shared};

use super::worker_process::WorkerProcess;
use super::world::{CLIPS, World, wait, wait_for};

/// Returns `host:port` of a URL.
pub fn address(url: &str) -> SocketAddr {
    let rest = url.rsplit_once('@').or(url.split_once("//")).unwrap().1;
    rest.split('/').next().unwrap().parse().unwrap_or_else(|e| panic!("{e}: {rest}"))
}

pub fn variable(env: &[(String, String)], name: &str) -> String {
    env.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no {name}")).1.clone()
}

/// Returns the number of claims in the log.
fn claims(worker: &WorkerProcess) -> usize {
    worker.logged("step=Claimed")
}

/// Upper bound of the time until a worker consumes again: seconds on an idle machine, more on a busy one.
const RECONNECT: Duration = Duration::from_secs(60);

/// Submits a job and waits until the worker claims it.
fn is_claimed(world: &World, worker: &WorkerProcess, id: &str) {
    let before = claims(worker);
    world.submit(&[world.job(id, json!({}))]).exits(0);
    wait_for("a claim", RECONNECT, &mut || (claims(worker) > before).then_some(()));
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn reconnects_after_a_cut() {
    let url = variable(&shared(Kind::RabbitMq), "FLAMINGO_TEST_AMQP");
    let proxy = Proxy::to(address(&url));
    let through = url.replace(&address(&url).to_string(), &proxy.addr().to_string());
    let world = World::with_variables_and_trace_log("cut", &[("FLAMINGO_TEST_AMQP".into(), through)]);
    world.upload_clips(&CLIPS[..2]);
    let worker = world.worker("worker");
    is_claimed(&world, &worker, "before");
    // The second cut hits a new connection.
    for id in ["after", "after-again"] {
        proxy.cut();
        is_claimed(&world, &worker, id);
    }
    for id in ["before", "after", "after-again"] {
        world.check_whole(id, "succeeded", 2, 0);
    }
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn survives_broker_restarts() {
    let mut broker = Server::start(Kind::RabbitMq, "broker-restarts");
    let reached = broker.env();
    assert_eq!(reached.len(), shared(Kind::RabbitMq).len());
    let world = World::with("restart", &reached);
    world.upload_clips(&CLIPS);
    let worker = world.worker("worker");
    world.submit(&[world.job("during", json!({}))]).exits(0);
    wait("a claim", || (claims(&worker) > 0).then_some(()));
    broker.restart();
    assert_eq!(broker.env(), reached);
    is_claimed(&world, &worker, "after");
    world.check_whole("during", "succeeded", CLIPS.len(), 0);
    world.check_whole("after", "succeeded", CLIPS.len(), 0);

    // Confirmed messages survive a crash of the broker.
    drop(worker);
    world.submit(&[world.job("waiting", json!({}))]).exits(0);
    broker.kill();
    broker.kill();
    broker.start_again();
    assert_eq!(broker.env(), reached);
    let worker = world.worker("another");
    world.check_whole("waiting", "succeeded", CLIPS.len(), 0);

    // The broker ends with its test.
    drop(worker);
    let pid = broker.pid_file();
    assert!(pid.exists());
    drop(broker);
    assert!(!pid.exists(), "the broker still runs after its test");
}

/// A worker that holds a message for too long loses it to the broker and keeps consuming.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn survives_the_consumer_timeout() {
    let options = [("RABBITMQ_CONSUMER_TIMEOUT_MS", "3000")];
    let broker = Server::start_with(Kind::RabbitMq, "consumer-timeout", &options);
    let world = World::with("timeout", &broker.env());
    world.upload_clips(&CLIPS);
    let worker = world.worker("worker");
    world.submit(&[world.job("slow", json!({}))]).exits(0);
    wait("a claim", || (claims(&worker) > 0).then_some(()));
    worker.signal("STOP");
    let timeouts = || broker.log().matches("delivery acknowledgement on channel").count();
    let before = timeouts();
    wait("the broker to take its messages back", || (timeouts() > before).then_some(()));
    worker.signal("CONT");
    worker.wait_for_log("step=AcknowledgementLost");
    world.check_whole("slow", "succeeded", CLIPS.len(), 0);
    is_claimed(&world, &worker, "after");
    world.check_whole("after", "succeeded", CLIPS.len(), 0);
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn survives_a_database_outage() {
    let mut database = Server::start(Kind::Postgres, "database-away");
    let mut world = World::with("no-database", &database.env());
    world.set("FLAMINGO__WORKER__LEASE", "2s");
    world.set("FLAMINGO__WORKER__HEARTBEAT", "500ms");
    world.upload_clips(&CLIPS);
    let mut worker = world.worker("worker");
    world.submit(&[world.job("waits", json!({}))]).exits(0);
    wait("a claim", || (claims(&worker) > 0).then_some(()));
    database.stop();
    // The outage is longer than a lease: every sweep (500 ms) fails.
    let sweeps = || worker.logged("a sweep has failed");
    let before = sweeps();
    wait("failed sweeps", || (sweeps() >= before + 8).then_some(()));
    database.start_again();
    world.check_whole("waits", "succeeded", CLIPS.len(), 0);
    worker.signal("TERM");
    assert_eq!(worker.wait(), Some(0));
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn survives_503_from_the_store() {
    let endpoint = variable(&shared(Kind::S3), "AWS_ENDPOINT_URL");
    let proxy = Proxy::to(address(&endpoint));
    let mut world = World::new("no-store");
    world.upload_clips(&CLIPS);
    world.set("AWS_ENDPOINT_URL", &format!("http://{}", proxy.addr()));
    let worker = world.worker("worker");
    proxy.answer_503(true);
    world
        .submit(&[world.job(
            "waits",
            json!({ "input": { "videos": [
        format!("{}/a.mp4", world.videos()),
        format!("{}/b.webm", world.videos()),
        format!("{}/c.avi", world.videos()),
    ] } }),
        )])
        .exits(0);
    wait("a claim", || (claims(&worker) > 0).then_some(()));
    // The worker repeats its requests for the three videos.
    let before = proxy.accepted();
    wait("rejected requests", || (proxy.accepted() >= before + 15).then_some(()));
    assert_eq!(world.counts("waits").succeeded, 0);
    proxy.answer_503(false);
    world.check_whole("waits", "succeeded", 3, 0);
}
