//! `run` and `config` without servers.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::clips::clip;

use super::world::wait;
use crate::program::{Ran, binary, command, listing, model, read_json, run};

/// Makes a folder with videos and a file of jobs.
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

/// Returns the names of the reports. A killed process leaves partial files under other names.
fn reports(items: &Path) -> Vec<String> {
    listing(items).into_iter().filter(|name| name.ends_with(".json")).collect()
}

fn run_in(folder: &Path, arguments: &[&str]) -> Ran {
    run(command().args(arguments).current_dir(folder))
}

#[test]
fn run_leaves_only_results() {
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

    // The second run finds all results and does not load the model.
    let again = run_in(folder.path(), &["run", "jobs.jsonl", "--model", "no-such-model"]).exits(1);
    assert_eq!(again.out, ran.out);
    // The same name with another request is a conflict.
    std::fs::write(folder.path().join("jobs.jsonl"), job(json!({ "job_id": "one" })).to_string()).unwrap();
    let other = run_in(folder.path(), &["run", "jobs.jsonl"]).exits(1);
    assert!(other.err.contains("job one has this id or key and asks for something else"), "{other:?}");
    let listed = run_in(folder.path(), &["jobs", "list", "--json"]).exits(0).reports();
    assert_eq!(listed.len(), 2);
}

#[test]
fn run_resumes_after_a_kill() {
    let clips =
        [("a.mp4", "short"), ("b.webm", "vp8"), ("c.avi", "mjpeg"), ("d.mp4", "mpeg4"), ("e.mp4", "h264")];
    let folder = folder(&clips, &[job(json!({}))]);
    // `run` caps the lease at ten seconds and resends lost messages at once. A run that obeyed these settings instead
    // would wait for an hour.
    let hours = ["--set", "worker.lease=1h", "--set", "worker.forgotten=1h"];
    let arguments = [&["run", "jobs.jsonl", "--set", "worker.items=1"], &hours[..]].concat();
    let mut first = command();
    first.args(&arguments).current_dir(folder.path());
    let mut first = first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let results = folder.path().join("results");
    let items = wait("the first report", || {
        let job = std::fs::read_dir(&results).ok()?.flatten().next()?;
        let items = job.path().join("items");
        (items.is_dir() && !reports(&items).is_empty()).then_some(items)
    });
    first.kill().unwrap();
    first.wait().unwrap();
    let before = reports(&items);
    assert!(before.len() < clips.len(), "the run ended before it was killed");
    let written = |name: &String| std::fs::metadata(items.join(name)).unwrap().modified().unwrap();
    let times: Vec<_> = before.iter().map(written).collect();

    let mut second = Command::new("timeout");
    second.arg("300").arg(binary()).args(&arguments).env("FLAMINGO_MODEL", model());
    let ran = run(second.current_dir(folder.path())).exits(0);
    assert!(ran.out.contains("5 of 5 succeeded"), "{ran:?}");
    assert_eq!(before.iter().map(written).collect::<Vec<_>>(), times, "a report was written again");
    assert_eq!(reports(&items).len(), clips.len());
}

#[test]
fn bad_use_is_rejected_before_any_work() {
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

/// No other worker reads the queue of the process, so a job for another model would never end.
#[test]
fn run_refuses_jobs_for_another_model() {
    let jobs = [job(json!({ "job_id": "other", "model": "another" }))];
    let folder = folder(&[("a.mp4", "short")], &jobs);
    let ran = run_in(folder.path(), &["run", "jobs.jsonl"]).exits(2);
    assert!(ran.err.contains("other: asks for the model \"another\", and this is"), "{ran:?}");
    // It does not hold up other jobs of the same ledger.
    let name = read_json(&model().join("config.json"))["name"].as_str().unwrap().to_owned();
    let own = job(json!({ "job_id": "own", "model": name }));
    std::fs::write(folder.path().join("jobs.jsonl"), own.to_string()).unwrap();
    let ran = run_in(folder.path(), &["run", "jobs.jsonl"]).exits(0);
    assert!(ran.out.starts_with("own  succeeded  1 of 1 succeeded"), "{ran:?}");
}

#[test]
fn config_prints_the_origin_of_each_setting() {
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
