//! Jobs with a stored support set in S3: the answers of one disk, whichever workers die.

use serde_json::{Value, json};
use support::clips::clip;

use super::world::{World, same_answers};
use crate::program::{command, run};

/// Names of the queries and of the examples, and their sample clips.
const QUERIES: [(&str, &str); 4] =
    [("a.mp4", "short"), ("b.webm", "vp8"), ("c.avi", "mjpeg"), ("d.mp4", "mpeg4")];
const EXAMPLES: [(&str, &str, &str); 3] =
    [("e.mp4", "h264", "an owl"), ("f.mp4", "hevc", "a frog"), ("g.webm", "vp9", "a key")];

/// Writes the support set with media below `folder`. Returns the path of its file.
fn write_set(world: &World, file: &str, folder: &str) -> String {
    let line = |(name, _, output): &(&str, &str, &str)| {
        json!({ "media": format!("{folder}/{name}"), "output": output }).to_string() + "\n"
    };
    let path = world.folder.join(file);
    std::fs::write(&path, EXAMPLES.iter().map(line).collect::<String>()).unwrap();
    path.display().to_string()
}

/// Returns the answers of a report, with the names of the examples in place of their URLs or paths. Without probabilities, which
/// the rounding of another batch changes; log-likelihoods are compared with room.
fn answers(report: &Value) -> Value {
    let mut answers = report["answers"].clone();
    for answer in answers.as_array_mut().unwrap() {
        for shot in answer["shots"].as_array_mut().expect("examples") {
            *shot = json!(shot.as_str().unwrap().rsplit('/').next().unwrap());
        }
        for score in answer["scores"].as_array_mut().into_iter().flatten() {
            score.as_object_mut().unwrap().remove("probability");
        }
    }
    answers
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn examples_in_s3_give_the_answers_of_one_disk() {
    let world = World::new("few-shot");
    let folder = tempfile::tempdir().unwrap();
    for (name, of) in QUERIES.iter().copied().chain(EXAMPLES.iter().map(|(name, of, _)| (*name, *of))) {
        std::fs::copy(clip(of), folder.path().join(name)).unwrap();
    }
    world.upload_clips(&QUERIES);
    for (name, of, _) in EXAMPLES {
        world.upload(&format!("examples/{name}"), std::fs::read(clip(of)).unwrap());
    }
    let set = write_set(&world, "support.jsonl", &format!("{}/examples", world.videos()));
    let added = world.flamingo(&["support", "add", "birds", &set]).exits(0);
    let over = |support: &Value, videos: &str| {
        let urls: Vec<_> = QUERIES.iter().map(|(name, _)| format!("{videos}/{name}")).collect();
        json!({
            "tasks": [{ "kind": "caption" }, { "kind": "classify" }],
            "input": { "videos": urls },
            "sampling": { "uniform": { "n": 2 } },
            "few_shot": { "support": support, "shots": 2 },
        })
    };

    // Killed while it holds the first videos, whose examples are not encoded yet.
    let first = world.worker("first");
    world.submit(&[world.job("shots", over(&json!("birds"), &world.videos()))]).exits(0);
    first.wait_for_log("step=Claimed");
    drop(first);
    let second = world.worker("second");
    world.check_whole("shots", "succeeded", QUERIES.len(), 0);
    let shown = world.show("shots");
    let attempts = shown["items"].as_array().unwrap().iter().map(|item| item["attempts"].clone());
    assert!(attempts.into_iter().all(|n| n == 1), "{shown:#}");
    assert_eq!(second.logged("support set encoded"), 1, "{}", second.log());

    let local = folder.path().canonicalize().unwrap().display().to_string();
    let lines = std::fs::read_to_string(write_set(&world, "local.jsonl", &local)).unwrap();
    let inline: Value = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect();
    let job = world.job("shots", over(&inline, &local));
    std::fs::write(folder.path().join("jobs.jsonl"), job.to_string()).unwrap();
    run(command().args(["run", "jobs.jsonl"]).current_dir(folder.path())).exits(0);
    for (name, _) in QUERIES {
        let served = world.result_json(&format!("shots/items/{name}.json"));
        let path = folder.path().join("results/shots/items").join(format!("{name}.json"));
        let embedded: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        same_answers(&answers(&served), &answers(&embedded));
        let support = &served["few_shot"]["support"];
        assert_eq!(format!("birds@{}\n", support["version"].as_str().unwrap()), added.out);
    }

    // The command line takes the name too, and fetches the examples.
    let query = folder.path().join("a.mp4").display().to_string();
    let ran = run(world.command().args(["caption", &query, "--json", "--support", "birds", "--shots", "2"]));
    let shots = ran.exits(0).report()["answers"][0]["shots"].clone();
    assert!(shots[1].as_str().unwrap().starts_with(&world.videos()), "{shots}");
}

/// An example that S3 does not have is named; a removed set ends its job.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn lost_examples_and_sets_have_codes() {
    let world = World::new("lost-shots");
    world.upload_clips(&QUERIES[..1]);
    world.upload("kept.mp4", std::fs::read(clip("short")).unwrap());
    let url = |name: &str| format!("{}/{name}", world.videos());
    let examples = json!([{ "media": url("kept.mp4"), "output": "an owl" }, { "media": url("lost.mp4"), "output": "a frog" }]);
    let input = json!({ "video": url("a.mp4") });
    let few_shot = json!({ "support": examples });
    let _worker = world.worker("worker");
    world
        .submit(&[
            world.job("left-out", json!({ "input": input, "few_shot": few_shot })),
            world.job("removed", json!({ "input": input, "few_shot": { "support": "no-such-set" } })),
        ])
        .exits(0);
    world.check_whole("left-out", "succeeded", 1, 0);
    let few_shot = &world.result_json("left-out/items/a.mp4.json")["few_shot"];
    assert_eq!((&few_shot["examples"], &few_shot["left_out"][0]["code"]), (&json!(1), &json!("not_found")));
    assert_eq!(few_shot["left_out"][0]["media"], json!(url("lost.mp4")));
    let ended = world.ended("removed");
    assert_eq!((&ended["status"], &ended["error"]["code"]), (&json!("failed"), &json!("support_not_found")));
}
