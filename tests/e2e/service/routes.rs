//! Workers with different models on one queue: a job that names a model gets only workers that have it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jobs::queue::{Address, Lane, Route};
use serde_json::{Value, json};

use super::broker::Broker;
use super::shutdown::get;
use super::worker_process::WorkerProcess;
use super::world::{CLIPS, World, wait, wait_for};
use crate::program::{listing, model, read_json};

/// Name of the second model.
const OTHER: &str = "other model *#";

/// Returns the name of the tests' model.
fn ours() -> String {
    read_json(&model().join("config.json"))["name"].as_str().unwrap().to_owned()
}

/// Makes a model that differs from the tests' one in its name only.
fn other_model(world: &World) -> PathBuf {
    let folder = model().with_file_name(format!("model-{}", world.name));
    std::fs::create_dir_all(&folder).unwrap();
    for name in listing(model()) {
        std::fs::copy(model().join(&name), folder.join(&name)).unwrap();
    }
    let config = folder.join("config.json");
    let mut description = read_json(&config);
    description["name"] = json!(OTHER);
    std::fs::write(&config, description.to_string()).unwrap();
    folder
}

fn worker_with(world: &World, name: &str, model: &Path) -> WorkerProcess {
    let worker = world.spawn(name, world.command().arg("work").env("FLAMINGO_MODEL", model));
    worker.wait_for_log("worker started");
    worker
}

/// Asserts that the items of an ended job had one attempt each, and that this model has answered.
#[track_caller]
fn check_answers(world: &World, id: &str, model: Option<&str>) {
    let shown = world.show(id);
    let items = shown["items"].as_array().unwrap();
    assert!(items.iter().all(|item| item["attempts"] == 1 && item["workers_lost"] == 0), "{shown:#}");
    for report in world.result_lines(&format!("{id}/results.jsonl")) {
        let answered = report["model"]["name"].as_str().unwrap();
        assert!(model.is_none_or(|model| model == answered), "{id}: {answered} has answered");
    }
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn workers_with_two_models_share_a_queue() {
    let world = World::new("two-models");
    let names: Vec<_> =
        (0..4).flat_map(|n| CLIPS.map(|(name, clip)| (format!("{n}-{name}"), clip))).collect();
    world.upload_clips(&names.iter().map(|(name, clip)| (name.as_str(), *clip)).collect::<Vec<_>>());
    let folder = other_model(&world);
    let workers = [world.worker("ours"), worker_with(&world, "other", &folder)];
    let ours = ours();
    let cases = [
        ("for-ours", json!({ "model": ours }), Some(ours.as_str())),
        ("for-other", json!({ "model": OTHER }), Some(OTHER)),
        ("urgent", json!({ "model": OTHER, "priority": "urgent" }), Some(OTHER)),
        ("for-any", json!({}), None),
    ];
    let jobs: Vec<_> = cases.iter().map(|(id, over, _)| world.job(id, over.clone())).collect();
    world.submit(&jobs).exits(0);
    for (id, _, model) in cases {
        world.check_whole(id, "succeeded", names.len(), 0);
        check_answers(&world, id, model);
    }
    for worker in workers {
        assert_eq!(worker.logged("other_model"), 0);
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn a_job_waits_for_a_worker_with_its_model() {
    let mut world = World::new("no-model");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    world.upload_clips(&CLIPS[..2]);
    let folder = other_model(&world);
    world.set("FLAMINGO__STATUS__ADDRESS", &format!("127.0.0.1:{port}"));
    let _worker = world.worker("ours");
    world.set("FLAMINGO__STATUS__ADDRESS", "");
    world.submit(&[world.job("waits", json!({ "model": OTHER }))]).exits(0);
    let said = format!("  no worker has the model {OTHER}; videos that wait for it: 2\n");
    wait("the missing model", || {
        world.flamingo(&["jobs", "show", "waits"]).exits(0).out.contains(&said).then_some(())
    });
    assert_eq!(world.show("waits")["waiting_for_models"], json!([OTHER]));
    let page = get(port, "/jobs/waits");
    assert!(
        page.contains(&format!("No worker has the model <code>{OTHER}</code>: 2 videos waiting.")),
        "{page}"
    );

    assert!(get(port, "/metrics").contains("\nflamingo_models_missing 1\n"));

    let other = worker_with(&world, "other", &folder);
    world.check_whole("waits", "succeeded", 2, 0);
    check_answers(&world, "waits", Some(OTHER));
    assert_eq!(world.show("waits")["waiting_for_models"], json!([]));
    // Its queue stays while it is away, and so do the messages in it.
    drop(other);
    world.submit(&[world.job("again", json!({ "model": OTHER }))]).exits(0);
    wait("both videos", || (world.counts("again").queued == 2).then_some(()));
    let _other = worker_with(&world, "another", &folder);
    world.check_whole("again", "succeeded", 2, 0);
    check_answers(&world, "again", Some(OTHER));
    std::fs::remove_dir_all(folder).unwrap();
}

/// Jobs cannot fill the broker with queues, or the workers with attempts.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn invented_model_names_cost_no_queue_and_no_attempt() {
    const JOBS: usize = 1000;
    let world = World::new("invented");
    world.upload_clips(&CLIPS[..1]);
    let _workers = [world.worker("first"), world.worker("second")];
    let name = |n: usize| format!("invented {n}");
    let video = format!("{}/a.mp4", world.videos());
    let jobs: Vec<Value> = (0..JOBS)
        .map(|n| {
            let over = json!({ "model": name(n), "deadline": "20s", "input": { "video": video } });
            world.job(&format!("job-{n}"), over)
        })
        .collect();
    world.submit(&jobs).exits(0);
    let count = |condition: &str| -> usize { world.sql(condition).trim().parse().unwrap() };
    wait("a job in the queue", || {
        (count("SELECT COUNT(*) FROM items WHERE state = 'queued'") > 0).then_some(())
    });
    let broker = Broker::of(&world);
    let has_queue = |n: usize| {
        let queue = Address { lane: Lane::Items, route: Some(Route::new(name(n))) };
        broker.has_queue(&format!("{}.{}", world.name, queue.key()))
    };
    // A job of the workers' own model is not held up.
    let own = json!({ "model": ours(), "input": { "video": video } });
    world.submit(&[world.job("own", own)]).exits(0);
    world.check_whole("own", "succeeded", 1, 0);
    // Each job has its results written: this takes a while.
    wait_for("the ends of all jobs", Duration::from_secs(900), &mut || {
        (count("SELECT COUNT(*) FROM jobs WHERE state = 'expired'") == JOBS).then_some(())
    });
    assert_eq!(count("SELECT COUNT(*) FROM items WHERE attempt > 0"), 1, "the own one");
    assert!([0, 1, JOBS / 2, JOBS - 1].into_iter().all(|n| !has_queue(n)));
    assert!(broker.try_take(&format!("{}.dead", world.name)).is_none());
}
