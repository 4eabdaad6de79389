//! Few-shot examples in jobs, without servers: the same prompts as on the command line, and what becomes of unusable examples.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::program::{Ran, command, read_json, run};
use crate::service::wait;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

fn sample(file: &str) -> String {
    let path = root().join("samples/spriteworld").join(file);
    path.canonicalize().unwrap().display().to_string()
}

const EXAMPLES: [(&str, &str); 4] =
    [("00005.mp4", "mushroom"), ("00002.mp4", "honeybee"), ("00000.mp4", "key"), ("00007.mp4", "anchor")];

fn examples() -> Value {
    EXAMPLES.iter().map(|(file, output)| json!({ "media": sample(file), "output": output })).collect()
}

/// A folder with its own ledger and store, and the commands that run in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a support set as JSON lines.
    fn support(&self, examples: &Value) -> String {
        let lines = examples.as_array().unwrap().iter().map(|example| format!("{example}\n"));
        fs::write(self.path("support.jsonl"), lines.collect::<String>()).unwrap();
        "support.jsonl".into()
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = command();
        command.env("FLAMINGO_MODEL", root().join("models/flamingo-mini"));
        command.args(arguments).current_dir(self.0.path());
        command
    }

    fn flamingo(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    /// Writes the file of jobs.
    fn write_jobs(&self, jobs: &[Value]) {
        let lines: String = jobs.iter().map(|job| format!("{job}\n")).collect();
        fs::write(self.path("jobs.jsonl"), lines).unwrap();
    }

    /// Runs jobs. Logs the encoding of support sets.
    fn run(&self, jobs: &[Value], more: &[&str]) -> Ran {
        self.write_jobs(jobs);
        let mut command = self.command(&[&["run", "jobs.jsonl"], more].concat());
        run(command.env("FLAMINGO_LOG", "error,flamingo=debug,video_worker=info"))
    }

    fn report(&self, job: &str, item: &str) -> Value {
        read_json(&self.path("results").join(job).join("items").join(item).with_added_extension("json"))
    }
}

fn job(id: &str, few_shot: Value, over: Value) -> Value {
    let mut job = json!({
        "schema": "flamingo.job/1",
        "job_id": id,
        "tasks": [{ "kind": "classify" }],
        "input": { "video": sample("00020.mp4") },
        "few_shot": few_shot,
    });
    for (name, value) in over.as_object().unwrap() {
        job[name] = value.clone();
    }
    job
}

/// Asserts the same examples, labels and answers. Log-likelihoods may differ by the rounding of another batch.
#[track_caller]
fn assert_same(one: &Value, other: &Value) {
    let (one, other) = (&one["answers"][0], &other["answers"][0]);
    for name in ["text", "question", "shots", "prompt_tokens"] {
        assert_eq!(one[name], other[name], "{name}");
    }
    assert!(!one["shots"].as_array().unwrap().is_empty());
    let (ones, others) = (one["scores"].as_array().unwrap(), other["scores"].as_array().unwrap());
    assert_eq!(ones.len(), others.len());
    for (one, other) in ones.iter().zip(others) {
        assert_eq!(one["text"], other["text"]);
        let of = |score: &Value| score["log_likelihood"].as_f64().unwrap();
        support::likelihood::assert_same("a label", of(one), of(other));
    }
}

fn log_count(ran: &Ran, text: &str) -> usize {
    ran.err.matches(text).count()
}

#[test]
fn a_job_shows_the_examples_of_the_command_line() {
    let folder = Folder::new();
    let support = folder.support(&examples());
    let query = sample("00020.mp4");
    let classify = |support: &str| {
        folder.flamingo(&["classify", &query, "--json", "--shots", "3", "--support", support]).exits(0)
    };
    let expected = classify(&support).report();
    let added = folder.flamingo(&["support", "add", "sprites", &support]).exits(0);
    let version = added.out.trim().strip_prefix("sprites@").unwrap().to_owned();
    assert_same(&classify("sprites").report(), &expected);

    let videos = json!({ "videos": [query, sample("00011.mp4")] });
    let jobs = [
        job("inline", json!({ "support": examples(), "shots": 3 }), json!({ "input": videos })),
        job("stored", json!({ "support": "sprites", "shots": 3 }), json!({ "input": videos })),
        job("fixed", json!({ "support": format!("sprites@{version}"), "shots": 3 }), json!({})),
    ];
    let ran = folder.run(&jobs, &[]).exits(0);
    assert_eq!(log_count(&ran, "support set encoded"), 1, "one set for five videos of three jobs: {ran:?}");
    for (id, name) in [("inline", Value::Null), ("stored", json!("sprites")), ("fixed", json!("sprites"))] {
        let report = folder.report(id, "00020.mp4");
        assert_same(&report, &expected);
        let few_shot = &report["few_shot"];
        assert_eq!(few_shot["support"]["version"], json!(version), "{id}");
        assert_eq!(
            (few_shot["support"].get("name").unwrap_or(&Value::Null), &few_shot["examples"]),
            (&name, &json!(4))
        );
        assert_eq!(few_shot.get("left_out"), None);
    }
}

/// The method of a job is that of the command line. Methods on vision features run no language model, and learn once for all videos.
#[test]
fn the_method_of_a_job_is_that_of_the_command_line() {
    let folder = Folder::new();
    let examples: Vec<Value> = ["00005.mp4", "00002.mp4", "00000.mp4", "00007.mp4"]
        .iter()
        .zip(["mushroom", "insect", "key", "insect"])
        .map(|(file, output)| json!({ "media": sample(file), "output": output }))
        .collect();
    let support = folder.support(&json!(examples));
    let videos = json!({ "videos": [sample("00020.mp4"), sample("00011.mp4")] });
    let methods = ["prototypes", "neighbours", "linear-probe", "attention-vectors", "auto"];
    for method in methods {
        let few_shot = json!({ "support": examples, "shots": 2, "method": method });
        let ran = folder.run(&[job(method, few_shot, json!({ "input": videos }))], &[]).exits(0);
        assert_eq!(log_count(&ran, "method fitted"), 1, "two videos: {ran:?}");
        let of_features = ["prototypes", "neighbours", "linear-probe"].contains(&method);
        assert!(!of_features || log_count(&ran, "projected bytes=") == 0, "{method}: {ran:?}");
        for video in ["00020.mp4", "00011.mp4"] {
            let arguments = ["classify", &sample(video), "--json", "--shots", "2", "--support", &support];
            let expected =
                folder.flamingo(&[&arguments[..], &["--method", method]].concat()).exits(0).report();
            let found = folder.report(method, video);
            let (found, expected) = (&found["answers"][0], &expected["answers"][0]);
            for name in ["text", "method", "prompt_tokens"] {
                assert_eq!(found[name], expected[name], "{method}: {name}");
            }
            assert!(method == "auto" || found["method"] == method, "{found}");
            let probability =
                |answer: &Value, label: usize| answer["scores"][label]["probability"].as_f64().unwrap();
            for label in 0..3 {
                let difference = probability(found, label) - probability(expected, label);
                assert!(difference.abs() < 1e-4, "{method}: {found}, not {expected}");
            }
        }
    }
    let few_shot = |method: &str| json!({ "support": examples, "method": method });
    let caption = json!({ "tasks": [{ "kind": "caption" }] });
    let three = json!({ "tasks": [{ "kind": "classify", "labels": ["mushroom", "insect", "key", "owl"] }] });
    let ran = folder.run(&[job("caption", few_shot("prototypes"), caption)], &[]).exits(2);
    assert!(ran.err.contains("the method prototypes only answers classifications"), "{ran:?}");
    let ran = folder.run(&[job("labels", few_shot("label-text"), json!({}))], &[]).exits(2);
    assert!(ran.err.contains("unknown variant `label-text`"), "{ran:?}");
    folder.run(&[job("lacking", few_shot("prototypes"), three)], &[]).exits(1);
    let failed = folder.report("lacking", "00020.mp4");
    assert_eq!(failed["error"]["code"], "no_examples");
    assert!(
        failed["error"]["message"].as_str().unwrap().contains("the label \"owl\" has no example"),
        "{failed}"
    );
}

/// Selection and seed reach the worker, and a question takes examples as a classification does.
#[test]
fn the_selection_of_a_job_is_that_of_the_command_line() {
    let folder = Folder::new();
    let support = folder.support(&examples());
    let query = sample("00020.mp4");
    let few_shot = json!({ "support": examples(), "shots": 2, "select": "random", "seed": 7 });
    let over = json!({
        "tasks": [{ "kind": "question", "question": "What is this?" }, { "kind": "caption" }],
        "generation": { "strategy": { "kind": "greedy" }, "max_new_tokens": 3 },
    });
    folder.run(&[job("random", few_shot, over)], &[]).exits(0);
    let found = folder.report("random", "00020.mp4");
    let common = ["--json", "--beams", "1", "--max-new-tokens", "3", "--support", &support, "--shots", "2"];
    let random = ["--select", "random", "--support-seed", "7"];
    let ask = [&["ask", &query, "-q", "What is this?"], &common[..], &random].concat();
    let caption = [&["caption", &query], &common[..], &random].concat();
    for (n, arguments) in [ask, caption].iter().enumerate() {
        let expected = folder.flamingo(arguments).exits(0).report();
        let (found, expected) = (&found["answers"][n], &expected["answers"][0]);
        for name in ["text", "shots", "prompt_tokens"] {
            assert_eq!(found[name], expected[name], "{name} of task {n}");
        }
        assert_eq!(found["shots"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn unusable_examples_are_named() {
    let folder = Folder::new();
    fs::write(folder.path("broken.mp4"), "no video").unwrap();
    let example = |media: &str| json!({ "media": media, "output": "owl" });
    let broken = [example("broken.mp4"), example("missing.mp4")];
    let mut some = examples().as_array().unwrap().clone();
    some.extend(broken.clone());
    let few_shot = |support: &[Value]| json!({ "support": support });
    let caption = json!({ "tasks": [{ "kind": "caption" }] });
    let jobs = [job("some", few_shot(&some), json!({})), job("none", few_shot(&broken), caption)];
    let ran = folder.run(&jobs, &[]).exits(1);
    let report = folder.report("some", "00020.mp4");
    let left_out = report["few_shot"]["left_out"].as_array().unwrap();
    let named: Vec<_> =
        left_out.iter().map(|e| (e["media"].as_str().unwrap(), e["code"].as_str().unwrap())).collect();
    assert_eq!(named, [("broken.mp4", "unknown_container"), ("missing.mp4", "not_found")]);
    assert_eq!((&report["few_shot"]["examples"], &report["status"]), (&json!(4), &json!("succeeded")));
    assert_eq!(report["answers"][0]["shots"].as_array().unwrap().len(), 4);
    let failed = folder.report("none", "00020.mp4");
    assert_eq!(failed["error"]["code"], "no_examples", "{ran:?}");
    assert!(
        failed["error"]["message"].as_str().unwrap().contains("broken.mp4: unknown_container"),
        "{failed}"
    );
}

#[test]
fn jobs_without_their_support_set_fail() {
    let folder = Folder::new();
    let support = folder.support(&examples());
    let one = folder.path("one.jsonl");
    fs::write(&one, json!({ "media": sample("00000.mp4"), "output": "key" }).to_string()).unwrap();
    folder.flamingo(&["support", "add", "one-class", one.to_str().unwrap()]).exits(0);
    let added = folder.flamingo(&["support", "add", "removed", &support]).exits(0);
    folder.flamingo(&["support", "remove", "removed"]).exits(0);
    let few_shot = |name: &str| json!({ "support": name });
    let jobs = [
        job("unknown", few_shot("unknown"), json!({})),
        job("removed", few_shot(added.out.trim()), json!({})),
        job("one-class", few_shot("one-class"), json!({})),
    ];
    let ran = folder.run(&jobs, &[]).exits(1);
    for expected in [
        "error[support_not_found]: unknown: file://./results/support/unknown: there is no such support set",
        "error[support_not_found]: removed: file://./results/support/removed/",
        "error[bad_request]: one-class: the outputs of the few-shot examples are no labels: a classification has 2 to 1000 labels, not 1",
    ] {
        assert!(ran.errors().iter().any(|line| line.starts_with(expected)), "{expected}: {:?}", ran.errors());
    }
    let free = json!({ "tasks": [{ "kind": "complete", "prompt": "<video>Output:" }] });
    let ran = folder.run(&[job("free", few_shot("removed"), free)], &[]).exits(2);
    assert!(ran.err.contains("take no examples of `few_shot`"), "{ran:?}");
}

/// Later processes find the visual tokens of the examples in the store, and encode nothing.
#[test]
fn stored_visual_tokens_serve_later_workers() {
    let folder = Folder::new();
    let few_shot = json!({ "support": examples(), "shots": 2 });
    let cached = ["--set", "cache.store=true"];
    let first = folder.run(&[job("first", few_shot.clone(), json!({}))], &cached).exits(0);
    let second = folder.run(&[job("second", few_shot, json!({}))], &cached).exits(0);
    let frames = |ran: &Ran| log_count(ran, "encoded media=");
    assert!(frames(&first) > 0 && frames(&second) == 0, "{first:?} {second:?}");
    let (first, second) = (folder.report("first", "00020.mp4"), folder.report("second", "00020.mp4"));
    assert_eq!(second["cache_hit"], true);
    assert_same(&second, &first);
}

/// A run that is killed between two videos continues with the same examples, though its support set has a new version by then.
#[test]
fn a_killed_run_keeps_its_examples() {
    let folder = Folder::new();
    let support = folder.support(&examples());
    folder.flamingo(&["support", "add", "sprites", &support]).exits(0);
    let clips = ["00011.mp4", "00014.mp4", "00020.mp4", "00030.mp4"];
    let videos: Vec<_> = clips.iter().map(|clip| sample(clip)).collect();
    let few_shot = json!({ "support": "sprites", "shots": 2 });
    folder.write_jobs(&[job("killed", few_shot, json!({ "input": { "videos": videos } }))]);
    let mut first = folder.command(&["run", "jobs.jsonl", "--set", "worker.items=1"]);
    let mut first: Child = first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let items = folder.path("results/killed/items");
    let reports = || {
        let names = fs::read_dir(&items).into_iter().flatten().flatten();
        names.filter(|entry| entry.path().extension().is_some_and(|e| e == "json")).count()
    };
    wait("the first report", || (reports() > 0).then_some(()));
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(reports() < clips.len(), "the run ended before it was killed");
    let one = json!([{ "media": sample("00000.mp4"), "output": "key" }]);
    folder.flamingo(&["support", "add", "sprites", &folder.support(&one)]).exits(0);
    let ran = folder.flamingo(&["run", "jobs.jsonl"]).exits(0);
    assert!(ran.out.contains("4 of 4 succeeded"), "{ran:?}");
    let reports = clips.map(|clip| folder.report("killed", clip));
    for report in &reports {
        assert_eq!(report["few_shot"], reports[0]["few_shot"]);
        assert_eq!(report["answers"][0]["shots"].as_array().unwrap().len(), 2, "not the set of one example");
    }
}
