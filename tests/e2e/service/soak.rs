//! Long tests with all faults at once: small sizes here, full sizes in `make soak`.

use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use support::clips::clip;
use support::proxy::Proxy;
use support::servers::{Kind, Server};

use super::outages::{address, variable};
use super::worker_process::WorkerProcess;
use super::world::{World, wait_for};

/// Returns the size for this run: small for `make test`, full for `make soak`.
fn size<T>(small: T, full: T) -> T {
    if std::env::var_os("FLAMINGO_SOAK").is_some() { full } else { small }
}

/// Returns the number of ended jobs.
fn ended(world: &World, jobs: usize) -> usize {
    world.records(jobs as u32 + 1).iter().filter(|job| job.state.is_end()).count()
}

/// Workers are killed, connections cut and the broker restarted at random while jobs run. The test then reads store and
/// ledger from the outside.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn no_item_is_lost_or_reported_twice() {
    let jobs = size(10, 300);
    let restarts = size(1, 4);
    let mut broker = Server::start(Kind::RabbitMq, "soak");
    let url = variable(&broker.env(), "FLAMINGO_TEST_AMQP");
    let proxy = Proxy::to(address(&url));
    let through = url.replace(&address(&url).to_string(), &proxy.addr().to_string());
    let world = World::with_variables_and_trace_log("soak", &[("FLAMINGO_TEST_AMQP".into(), through)]);
    let clips = [("a.mp4", "short"), ("b.mp4", "one_frame"), ("c.mkv", "three_streams")];
    world.upload_clips(&clips);
    let lines: Vec<_> = (0..jobs).map(|n| world.job(&format!("job-{n:03}"), json!({}))).collect();

    let rng = &mut StdRng::seed_from_u64(7);
    let mut workers: Vec<WorkerProcess> = (0..3).map(|n| world.worker(&format!("w{n}"))).collect();
    // After the workers have started: otherwise they could finish all jobs before the first kill.
    world.submit(&lines).exits(0);
    let (mut kills, mut cuts, mut restarted, mut born) = (0, 0, 0, workers.len());
    let mut fenced = 0;
    let start = Instant::now();
    let patience = Duration::from_secs(size(400, 5400));
    loop {
        let done = ended(&world, jobs);
        if done == jobs && restarted >= restarts {
            break;
        }
        assert!(start.elapsed() < patience, "{done} of {jobs} jobs after {patience:?}");
        let event = match (kills, cuts) {
            (0, _) => 0,
            (_, 0) => 5,
            _ => rng.random_range(0..10),
        };
        match event {
            0..5 if done < jobs => {
                let victim = rng.random_range(0..workers.len());
                fenced += workers[victim].logged("step=StaleClaim");
                // Drop kills the old worker with SIGKILL.
                workers[victim] = world.spawn(&format!("w{born}"), world.command().arg("work"));
                (kills, born) = (kills + 1, born + 1);
            }
            5..9 => {
                proxy.cut();
                cuts += 1;
            }
            _ if restarted < restarts => {
                broker.restart();
                restarted += 1;
            }
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(rng.random_range(2000..7000)));
    }
    let mut attempts = 0;
    for n in 0..jobs {
        let job = format!("job-{n:03}");
        world.check_whole(&job, "succeeded", clips.len(), 0);
        let shown = world.show(&job);
        attempts += shown["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["attempts"].as_u64().unwrap())
            .sum::<u64>();
    }
    let items = (jobs * clips.len()) as u64;
    println!(
        "{jobs} jobs, {items} items: lost 0, visible twice 0, attempts {attempts}, fenced off {fenced}; {kills} workers killed, \
         {cuts} times cut off, {restarted} restarts of the broker, in {:.0} s",
        start.elapsed().as_secs_f64()
    );
    assert!(kills > 0 && cuts > 0, "no worker was killed or cut off");
}

/// Returns the resident memory in KiB.
fn resident(worker: &WorkerProcess) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn files_below(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn memory_does_not_grow_and_no_file_is_left() {
    let videos = size(60, 1000);
    let mut world = World::new("flat");
    let temporary = tempfile::tempdir().unwrap();
    world.set("FLAMINGO__WORKER__TEMPORARY", temporary.path().to_str().unwrap());
    // Caches have their own budgets and would hide a leak.
    world.set("FLAMINGO__CACHE__MEMORY", "0");
    world.set("FLAMINGO__ENGINE__MEDIA_BYTES", "1048576");
    let bytes = std::fs::read(clip("short")).unwrap();
    for n in 0..videos {
        world.upload(&format!("{n:04}.mp4"), bytes.clone());
    }
    let worker = world.worker("worker");
    world.submit(&[world.job("many", json!({}))]).exits(0);
    let done = || world.counts("many").succeeded as usize;
    wait_for("a third of them", Duration::from_secs(3600), &mut || (done() >= videos / 3).then_some(()));
    let before = resident(&worker);
    wait_for("all of them", Duration::from_secs(3600), &mut || (done() >= videos).then_some(()));
    world.check_whole("many", "succeeded", videos, 0);
    let after = resident(&worker);
    println!("{videos} videos: {before:.0} KiB after a third of them, {after:.0} KiB at the end");
    assert!(after < before * size(1.10, 1.05), "{before} KiB became {after} KiB");
    assert_eq!(files_below(temporary.path()), 0, "temporary files");
}
