//! `run` and `config`, with no server at all.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::clips::clip;

use super::world::wait;
use crate::program::{Ran, command, listing, read_json, run};

/// A folder with videos and a file of jobs.
fn folder(clips: &[(&str, &str)], jobs: &[Value]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("videos")).unwrap();
    for (name, of) in clips {
        std::fs::copy(clip(of), folder.path().join("videos").join(name)).unwrap();
    }
    let lines: String = jobs.iter().map(|job| format!("{job}\n")).collect();
    std::fs::write(folder.path().join("jobs.jsonl"), lines).unwrap();
    folder
}

fn job(over: Value) -> Value {
    let mut job = json!({
        "schema": "flamingo.job/1",
        "tasks": [{ "kind": "caption" }],
        "input": { "prefix": { "url": "videos" } },
        "generation": { "strategy": { "kind": "greedy" }, "max_new_tokens": 3 },
    });
    for (name, value) in over.as_object().unwrap() {
        job[name] = value.clone();
    }
    job
}

/// What was being written when a process was killed stays beside them, under a name that no reader takes for a report.
fn reports(items: &Path) -> Vec<String> {
    listing(items).into_iter().filter(|name| name.ends_with(".json")).collect()
}

fn run_in(folder: &Path, arguments: &[&str]) -> Ran {
    run(command().args(arguments).current_dir(folder))
}

#[test]
fn a_file_of_jobs_leaves_nothing_but_results() {
    let jobs = [
        job(json!({ "job_id": "all" })),
        job(json!({ "job_id": "one", "input": { "video": "videos/a.mp4" } })),
    ];
    let folder = folder(&[("a.mp4", "short"), ("b.webm", "vp8")], &jobs);
    std::fs::write(folder.path().join("videos/bad.mp4"), "no video").unwrap();
    let ran = run_in(folder.path(), &["run", "jobs.jsonl"]).exits(1);
    let lines: Vec<_> = ran.out.lines().collect();
    assert!(
        ran.errors()[0].starts_with("error[unknown_container]: all/bad.mp4: videos/bad.mp4: not a video"),
        "{ran:?}"
    );
    assert!(lines[0].starts_with("all  partially_succeeded  2 of 3 succeeded"), "{ran:?}");
    assert!(lines[1].starts_with("one  succeeded  1 of 1 succeeded"), "{ran:?}");
    assert_eq!(listing(&folder.path().join("results")), ["all", "one"]);
    assert_eq!(
        listing(&folder.path().join("results/all")),
        ["errors.jsonl", "items", "manifest.json", "results.jsonl"]
    );
    assert_eq!(
        listing(&folder.path().join("results/all/items")),
        ["a.mp4.json", "b.webm.json", "bad.mp4.json"]
    );
    let manifest = read_json(&folder.path().join("results/all/manifest.json"));
    assert_eq!(manifest["counts"], json!({ "total": 3, "succeeded": 2, "failed": 1, "cancelled": 0 }));

    // Again: everything is there, and no model is loaded for it.
    let again = run_in(folder.path(), &["run", "jobs.jsonl", "--model", "no-such-model"]).exits(1);
    assert_eq!(again.out, ran.out);
    // What was asked for under these names is another thing now.
    std::fs::write(folder.path().join("jobs.jsonl"), job(json!({ "job_id": "one" })).to_string()).unwrap();
    let other = run_in(folder.path(), &["run", "jobs.jsonl"]).exits(1);
    assert!(other.err.contains("job one has this id or key and asks for something else"), "{other:?}");
    let listed = run_in(folder.path(), &["jobs", "list", "--json"]).exits(0).reports();
    assert_eq!(listed.len(), 2);
}

#[test]
fn killed_and_run_again_it_goes_on() {
    let clips =
        [("a.mp4", "short"), ("b.webm", "vp8"), ("c.avi", "mjpeg"), ("d.mp4", "mpeg4"), ("e.mp4", "h264")];
    let folder = folder(&clips, &[job(json!({}))]);
    let arguments = ["run", "jobs.jsonl", "--set", "worker.items=1"];
    let mut command = command();
    command.args(arguments).current_dir(folder.path());
    let mut first = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let results = folder.path().join("results");
    let items = wait("the first report", || {
        let job = std::fs::read_dir(&results).ok()?.flatten().next()?;
        let items = job.path().join("items");
        (items.is_dir() && !reports(&items).is_empty()).then_some(items)
    });
    first.kill().unwrap();
    first.wait().unwrap();
    let before = reports(&items);
    assert!(before.len() < clips.len(), "it was done before it was killed");
    let written = |name: &String| std::fs::metadata(items.join(name)).unwrap().modified().unwrap();
    let times: Vec<_> = before.iter().map(written).collect();

    // Nobody takes over from the dead one before its lease is over; all else goes on at once.
    let start = Instant::now();
    let ran = run_in(folder.path(), &arguments).exits(0);
    assert!(start.elapsed() < Duration::from_secs(50), "it took {:?}", start.elapsed());
    assert!(ran.out.contains("5 of 5 succeeded"), "{ran:?}");
    assert_eq!(before.iter().map(written).collect::<Vec<_>>(), times, "a report was written again");
    assert_eq!(reports(&items).len(), clips.len());
}

#[test]
fn bad_use_is_said_before_anything_is_done() {
    let folder = folder(&[], &[job(json!({ "tsaks": [] }))]);
    let ran = run_in(folder.path(), &["run", "jobs.jsonl"]).exits(2);
    assert!(
        ran.err.contains("jobs.jsonl, line 1: not a valid flamingo.job/1 message: unknown field `tsaks`"),
        "{ran:?}"
    );
    let ran = run_in(folder.path(), &["submit", "--video", "s3://b/a.mp4"]).exits(2);
    assert!(ran.err.contains("queue.url is memory://"), "{ran:?}");
    let ran = run_in(folder.path(), &["work", "--set", "queue.url=amqp://user:secret@host"]).exits(2);
    assert!(ran.err.contains("inputs.allow is empty") && !ran.err.contains("secret"), "{ran:?}");
    let ran = run_in(folder.path(), &["run", "nothing.jsonl"]).exits(2);
    assert!(ran.err.contains("nothing.jsonl: cannot be read"), "{ran:?}");
    let ran = run_in(folder.path(), &["jobs", "show", "none"]).exits(1);
    assert!(ran.err.contains("run `flamingo migrate`"), "{ran:?}");
    assert_eq!(listing(folder.path()).iter().filter(|name| *name == "results").count(), 0);
}

#[test]
fn settings_say_where_they_come_from() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("my.toml"), "[worker]\nitems = 3\nlease = \"2m\"\n").unwrap();
    let mut command = command();
    command.args(["config", "--config", "my.toml", "--set", "worker.lease=3m"]).current_dir(folder.path());
    command
        .env("FLAMINGO__QUEUE__URL", "amqp://me:secret@host/v")
        .env("FLAMINGO__INPUTS__ALLOW", "s3://a,s3://b");
    let ran = run(&mut command).exits(0);
    let line = |name: &str| {
        let line = ran.out.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{ran:?}"));
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("worker.items "), "worker.items 3 my.toml");
    assert_eq!(line("worker.lease "), "worker.lease 3m a flag");
    assert_eq!(line("worker.heartbeat "), "worker.heartbeat 5s built in");
    assert_eq!(line("queue.url "), "queue.url amqp://***@host/v the environment");
    assert_eq!(line("inputs.allow "), "inputs.allow s3://a, s3://b the environment");
}
