//! What the service stands on goes away and comes back: jobs wait, and finish.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use support::relay::Relay;
use support::servers::{Kind, Server, shared};

use super::world::{CLIPS, WorkerProcess, World, wait, wait_for};

/// `host:port` of a URL.
pub fn address(url: &str) -> SocketAddr {
    let rest = url.rsplit_once('@').or(url.split_once("//")).unwrap().1;
    rest.split('/').next().unwrap().parse().unwrap_or_else(|e| panic!("{e}: {rest}"))
}

pub fn variable(env: &[(String, String)], name: &str) -> String {
    env.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no {name}")).1.clone()
}

/// How often the worker has claimed something.
fn claims(worker: &WorkerProcess) -> usize {
    worker.logged("step=Claimed")
}

/// How soon a worker takes messages again that has lost them: seconds, and a machine may be busy.
const SOON: Duration = Duration::from_secs(60);

/// A job is begun soon after it was submitted.
fn begins_soon(world: &World, worker: &WorkerProcess, id: &str) {
    let before = claims(worker);
    world.submit(&[world.job(id, json!({}))]).exits(0);
    wait_for("a claim", SOON, &mut || (claims(worker) > before).then_some(()));
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn the_connection_is_cut() {
    let url = variable(&shared(Kind::RabbitMq), "FLAMINGO_TEST_AMQP");
    let relay = Relay::to(address(&url));
    let through = url.replace(&address(&url).to_string(), &relay.addr().to_string());
    let world = World::loud_with("cut", &[("FLAMINGO_TEST_AMQP".into(), through)]);
    world.upload_clips(&CLIPS[..2]);
    let worker = world.worker("worker");
    begins_soon(&world, &worker, "before");
    // Twice: a connection that was made anew is cut as well.
    for id in ["after", "after-again"] {
        relay.cut();
        begins_soon(&world, &worker, id);
    }
    for id in ["before", "after", "after-again"] {
        world.check_whole(id, "succeeded", 2, 0);
    }
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn the_broker_restarts() {
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
    begins_soon(&world, &worker, "after");
    world.check_whole("during", "succeeded", CLIPS.len(), 0);
    world.check_whole("after", "succeeded", CLIPS.len(), 0);

    // As a crash does it; what was confirmed is there afterwards.
    drop(worker);
    world.submit(&[world.job("waiting", json!({}))]).exits(0);
    broker.kill();
    broker.kill();
    broker.start_again();
    assert_eq!(broker.env(), reached);
    let worker = world.worker("another");
    world.check_whole("waiting", "succeeded", CLIPS.len(), 0);

    // It ends with its test.
    drop(worker);
    let pid = broker.pid_file();
    assert!(pid.exists());
    drop(broker);
    assert!(!pid.exists(), "the broker outlived its test");
}

/// A worker that is too slow for the broker loses its messages, not its mind: it goes on consuming.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn the_consumer_timeout_fires() {
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
    begins_soon(&world, &worker, "after");
    world.check_whole("after", "succeeded", CLIPS.len(), 0);
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn the_database_is_away() {
    let mut database = Server::start(Kind::Postgres, "database-away");
    let mut world = World::with("no-database", &database.env());
    world.set("FLAMINGO__WORKER__LEASE", "2s");
    world.set("FLAMINGO__WORKER__HEARTBEAT", "500ms");
    world.upload_clips(&CLIPS);
    let mut worker = world.worker("worker");
    world.submit(&[world.job("waits", json!({}))]).exits(0);
    wait("a claim", || (claims(&worker) > 0).then_some(()));
    database.stop();
    // Away for longer than claims hold: every sweep of half a second fails.
    let sweeps = || worker.logged("a sweep has failed");
    let before = sweeps();
    wait("sweeps in vain", || (sweeps() >= before + 8).then_some(()));
    database.start_again();
    world.check_whole("waits", "succeeded", CLIPS.len(), 0);
    worker.signal("TERM");
    assert_eq!(worker.wait(), Some(0));
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn the_store_answers_503() {
    let endpoint = variable(&shared(Kind::S3), "AWS_ENDPOINT_URL");
    let relay = Relay::to(address(&endpoint));
    let mut world = World::new("no-store");
    world.upload_clips(&CLIPS);
    world.set("AWS_ENDPOINT_URL", &format!("http://{}", relay.addr()));
    let worker = world.worker("worker");
    relay.answer_503(true);
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
    // Each of the three is asked for again and again.
    let before = relay.accepted();
    wait("requests in vain", || (relay.accepted() >= before + 15).then_some(()));
    assert_eq!(world.counts("waits").succeeded, 0);
    relay.answer_503(false);
    world.check_whole("waits", "succeeded", 3, 0);
}
