//! A prefix of videos gives one report per video and a manifest, with any number of workers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};
use support::clips::clip;

use super::world::{World, same_answers};
use crate::program::{command, run};

const CLIPS: [&str; 8] = ["short", "h264", "vp8", "mpeg4", "mjpeg", "hevc", "vp9", "mpeg2"];
const COUNT: usize = 40;

/// Returns the names of 40 videos in three folders, each with its clip.
fn videos() -> Vec<(String, &'static str)> {
    let of = |i: usize| {
        let name = CLIPS[i % CLIPS.len()];
        let extension = clip(name).extension().unwrap().to_string_lossy().into_owned();
        (format!("{}/{i:02} {name}.{extension}", ["day", "night", "day/two"][i % 3]), name)
    };
    (0..COUNT).map(of).collect()
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn two_workers_give_the_same_answers_as_run() {
    let world = World::new("batch");
    let videos = videos();
    let borrowed: Vec<_> = videos.iter().map(|(key, name)| (key.as_str(), *name)).collect();
    world.upload_clips(&borrowed);
    world.upload("day/notes.txt", b"no video".to_vec());
    let asked = json!({
        "tasks": [{ "kind": "caption" }, { "kind": "question", "question": "What moves?" }],
        "input": { "prefix": { "url": world.videos(), "glob": "**/*.{mp4,webm,avi,ts}" } },
        "sampling": { "uniform": { "n": 2 } },
        "output": "team/one",
        "metadata": { "made": "by a test" },
    });
    world.submit(&[world.job("forty", asked.clone())]).exits(0);

    let workers = [world.worker("first"), world.worker("second")];
    let shown = world.ended("forty");
    assert_eq!((&shown["status"], &shown["counts"]["succeeded"]), (&json!("succeeded"), &json!(COUNT)));
    let states = shown["states"].as_object().unwrap();
    let order = ["accepted", "validating", "queued", "running", "finalizing", "succeeded"];
    let times: Vec<_> = order.iter().map(|s| states[&format!("{s}_at")].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{states:?}");
    for worker in &workers {
        assert!(worker.log().contains("Claimed"), "one worker did all items");
    }

    let manifest = world.result_json("team/one/forty/manifest.json");
    assert_eq!(manifest["schema"], "flamingo.manifest/1");
    assert_eq!(
        manifest["counts"],
        json!({ "total": COUNT, "succeeded": COUNT, "failed": 0, "cancelled": 0 })
    );
    assert_eq!(manifest["request"]["metadata"]["made"], "by a test");
    assert_eq!(manifest["model"]["sha256"].as_object().unwrap().len(), 2);
    let served = world.result_lines("team/one/forty/results.jsonl");
    assert_eq!(served.len(), COUNT);
    let reports = world.results("team/one/forty").iter().filter(|key| key.starts_with("items/")).count();
    assert_eq!(reports, COUNT);
    let report = &served[0];
    assert_eq!(report["schema"], "flamingo.item_report/1");
    assert_eq!(report["input"]["url"], format!("{}/day/00 short.mp4", world.videos()));
    assert!(report["input"]["etag"].is_string() && report["fetch_s"].as_f64().unwrap() > 0.0, "{report}");
    assert_eq!(report["answers"][1]["question"], "What moves?");
    let done_by: BTreeSet<_> = served.iter().map(|report| report["worker"].as_str().unwrap()).collect();
    assert_eq!(done_by, BTreeSet::from(["first", "second"]));

    let embedded = without_servers(&world, &videos, &asked);
    same_answers(&answers(&served), &answers(&embedded));
}

/// Runs `flamingo run` on a folder with the same files and default settings.
fn without_servers(world: &World, videos: &[(String, &'static str)], asked: &Value) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    for (key, name) in videos {
        let path = folder.path().join("videos").join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::copy(clip(name), path).unwrap();
    }
    std::fs::write(folder.path().join("videos/day/notes.txt"), "no video").unwrap();
    let mut job = world.job("forty", asked.clone());
    job["input"]["prefix"]["url"] = json!("videos");
    std::fs::write(folder.path().join("jobs.jsonl"), job.to_string()).unwrap();
    let ran = run(command().args(["run", "jobs.jsonl"]).current_dir(folder.path())).exits(0);
    assert!(ran.out.contains("40 of 40 succeeded"), "{ran:?}");
    lines(&folder.path().join("results/team/one/forty/results.jsonl"))
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the answers of all reports with their frame times, in the order of the items.
fn answers(reports: &[Value]) -> Value {
    let of = |report: &Value| (report["item_id"].as_str().unwrap().to_owned(), report["answers"].clone());
    let by_item: BTreeMap<_, _> = reports.iter().map(of).collect();
    by_item.into_iter().flat_map(|(id, answers)| [json!(id), answers]).collect()
}
