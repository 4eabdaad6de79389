//! Frames of a video for a model without temporal training: `--frame-mode` and `--row-mask`, and the settings of a worker.

use std::path::PathBuf;

use serde_json::{Value, json};
use support::clips::clip;
use support::repository::root;

use crate::program::{QUICK, Ran, command, listing, model, read_json, run};

/// A tiny Llama 3.2 Vision with random weights.
fn llama() -> PathBuf {
    root().join("tests/parity/golden/tiny_mllama")
}

fn ask(arguments: &[&str]) -> Ran {
    let mut ask = command();
    ask.args(["ask", "-q", "Why?", "--json", "--frames", "4"]).args(QUICK).arg(clip("h264_refresh"));
    run(ask.args(arguments))
}

fn captions(report: &Value) -> Vec<f64> {
    let captions = report["answers"][0]["transcripts"][0].as_array().cloned().unwrap_or_default();
    captions.iter().map(|caption| caption["start"].as_f64().expect("a time")).collect()
}

#[test]
fn the_report_names_the_mode() {
    let llama = llama().display().to_string();
    for (flags, frames, note) in [
        (&[][..], "sheet", "drawn into one picture"),
        (&["--frame-mode", "sequence", "--row-mask", "hf"], "sequence", "pictures of their own"),
        (&["--frame-mode", "captions", "--row-mask", "meta"], "captions", "captioned one by one"),
    ] {
        let report = ask(&[&["--model", &llama], flags].concat()).exits(0).report();
        let model = &report["model"];
        assert_eq!(model["frames"], frames, "{report}");
        let named = model["frames_note"].as_str().unwrap_or_default();
        assert!(named.starts_with("no temporal training: ") && named.contains(note), "{report}");
        let times: Vec<f64> = serde_json::from_value(report["answers"][0]["frame_times"][0].clone()).unwrap();
        assert_eq!(times.len(), 4);
        assert_eq!(captions(&report), if frames == "captions" { times } else { Vec::new() }, "{report}");
    }
}

/// Another row mask gives another answer.
#[test]
fn the_row_mask_is_a_choice() {
    let llama = llama().display().to_string();
    let likelihood = |mask| {
        let report = ask(&["--model", &llama, "--row-mask", mask]).exits(0).report();
        report["answers"][0]["log_likelihood"].as_f64().expect("a number")
    };
    let (meta, hf) = (likelihood("meta"), likelihood("hf"));
    assert!((meta - hf).abs() > 1e-4, "{meta} {hf}");
}

#[test]
fn other_families_refuse_the_choices() {
    let model = model().display().to_string();
    for (flag, value, name) in [("--frame-mode", "captions", "frame_mode"), ("--row-mask", "hf", "row_mask")]
    {
        let ran = ask(&["--model", &model, flag, value]).exits(1);
        let expected = format!(
            "`{name}` does not apply to a model of schema `flamingo/1`; it is a choice of Llama 3.2 Vision"
        );
        assert!(ran.err.contains(&expected), "{ran:?}");
    }
    ask(&["--frame-mode", "joint"]).exits(2);
}

/// Workers take the mode from a flag or a setting, through engine and ledger.
#[test]
fn workers_have_the_mode() {
    let folder = tempfile::tempdir().unwrap();
    let job = json!({
        "schema": "flamingo.job/1", "job_id": "one", "input": { "video": clip("h264_refresh") },
        "tasks": [{ "kind": "question", "question": "Why?" }], "sampling": { "uniform": { "n": 3 } },
        "generation": { "strategy": { "kind": "greedy" }, "max_new_tokens": 3 },
    });
    std::fs::write(folder.path().join("jobs.jsonl"), job.to_string()).unwrap();
    let jobs = |arguments: &[&str]| {
        let mut command = command();
        command.args(["run", "jobs.jsonl"]).args(arguments).current_dir(folder.path());
        run(command.arg("--model").arg(llama()))
    };
    let ran = jobs(&["--set", "model.frame_mode=comic"]).exits(2);
    assert!(ran.err.contains("settings: model.frame_mode: "), "{ran:?}");
    jobs(&["--frame-mode", "captions", "--set", "model.row_mask=hf"]).exits(0);
    let items = folder.path().join("results/one/items");
    let report = read_json(&items.join(&listing(&items)[0]));
    assert_eq!(report["model"]["frames"], "captions", "{report}");
    assert_eq!(captions(&report).len(), 3, "{report}");
}

/// Cached visual tokens of a model with padding give the answer of the video.
#[test]
fn cached_visual_tokens_give_the_same_answer() {
    let folder = tempfile::tempdir().unwrap();
    let answer = |id: &str| {
        let job = json!({
            "schema": "flamingo.job/1", "job_id": id, "input": { "video": clip("short") },
            "tasks": [{ "kind": "question", "question": "Why?" }], "sampling": { "uniform": { "n": 2 } },
            "generation": { "strategy": { "kind": "greedy" }, "max_new_tokens": 3 },
        });
        std::fs::write(folder.path().join("jobs.jsonl"), job.to_string()).unwrap();
        let mut command = command();
        command.args(["run", "jobs.jsonl", "--set", "cache.store=true", "--model"]).arg(llama());
        run(command.current_dir(folder.path())).exits(0);
        let items = folder.path().join("results").join(id).join("items");
        read_json(&items.join(&listing(&items)[0]))
    };
    let (fresh, cached) = (answer("fresh"), answer("cached"));
    assert_eq!((fresh.get("cache_hit"), &cached["cache_hit"]), (None, &json!(true)));
    let of = |report: &Value| report["answers"][0]["log_likelihood"].as_f64().expect("a number");
    support::likelihood::assert_same("the answer", of(&cached), of(&fresh));
}
