//! Long videos: windows are captioned with their times, and questions are answered from the captions, next to the direct answer.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::repository::root;

use crate::program::{command, flamingo, mini, read_json, run, sample};

/// Joins four seconds of each of three sample clips: an anchor, a flamingo and a key.
fn joined(folder: &Path) -> PathBuf {
    let clips = ["00007.mp4", "00020.mp4", "00000.mp4"].map(|name| sample(name).display().to_string());
    let path = folder.join("joined.mp4");
    let same_size = "scale=224:224,setsar=1,fps=12";
    let graph = format!("[0]{same_size}[a];[1]{same_size}[b];[2]{same_size}[c];[a][b][c]concat=n=3");
    let mut arguments = vec!["-nostdin", "-v", "error"];
    arguments.extend(clips.iter().flat_map(|clip| ["-t", "4", "-i", clip]));
    arguments.extend([
        "-filter_complex",
        &graph,
        "-c:v",
        "libx264",
        "-preset",
        "fast",
        "-pix_fmt",
        "yuv420p",
    ]);
    let output = path.display().to_string();
    support::clips::run("ffmpeg", &[&arguments[..], &[&output]].concat());
    path
}

const QUESTION: &str = "What is in the video?";

/// Asks a question about a long video in windows of four seconds.
fn ask(video: &Path, more: &[&str]) -> Value {
    let mut ask = command();
    ask.arg("ask").arg(video).args(["--long", "--window", "4s", "-q", QUESTION, "--beams", "1", "--json"]);
    run(ask.arg("--model").arg(mini()).args(more)).exits(0).report()
}

fn numbers(values: &Value, name: &str) -> Vec<f64> {
    values.as_array().unwrap().iter().map(|value| value[name].as_f64().unwrap()).collect()
}

#[test]
fn questions_are_answered_from_captions_with_times() {
    let folder = tempfile::tempdir().unwrap();
    let video = joined(folder.path());
    let out = folder.path().join("out");
    let report = ask(&video, &["--out", out.to_str().unwrap()]);
    let captions = &report["captions"];
    assert_eq!(
        (numbers(captions, "start"), numbers(captions, "end")),
        (vec![0.0, 4.0, 8.0], vec![4.0, 8.0, 12.0])
    );
    for (caption, thing) in captions.as_array().unwrap().iter().zip(["anchor", "flamingo", "key"]) {
        assert!(caption["text"].as_str().unwrap().contains(thing), "{caption}");
    }

    let answer = &report["answers"][0];
    assert_eq!(report["answers"].as_array().unwrap().len(), 1);
    assert_eq!((&answer["start"], &answer["end"]), (&json!(0.0), &json!(12.0)));
    assert_eq!(
        answer["frame_times"][0].as_array().unwrap().len(),
        12,
        "the direct answer is about the whole video"
    );
    let from_captions = &answer["from_captions"];
    assert_ne!(from_captions["text"], "");
    assert_eq!((&from_captions["lines"], from_captions.get("left_out")), (&json!(3), None));
    let gains = numbers(&from_captions["rests_on"], "gain");
    assert!(!gains.is_empty() && gains.iter().all(|gain| *gain > 0.0), "{from_captions}");
    assert!(gains.is_sorted_by(|a, b| a >= b), "{gains:?}");
    // Each one is a caption of a window, and one of them names the answer.
    let evidence = from_captions["rests_on"].as_array().unwrap();
    let is_of_window = |evidence: &Value| {
        let same =
            |caption: &Value| ["start", "end", "text"].iter().all(|name| caption[*name] == evidence[*name]);
        captions.as_array().unwrap().iter().any(same)
    };
    assert!(evidence.iter().all(is_of_window), "{from_captions}");
    let text = from_captions["text"].as_str().unwrap();
    assert!(evidence.iter().any(|of| of["text"].as_str().unwrap().contains(text)), "{from_captions}");

    let cues = fs::read_to_string(out.join("joined.mp4.vtt")).unwrap();
    assert!(cues.contains("00:00:04.000 --> 00:00:08.000") && cues.matches("-->").count() == 3, "{cues}");
}

/// A direct answer over few frames takes them from the whole video.
#[test]
fn the_direct_answer_spreads_its_frames() {
    let folder = tempfile::tempdir().unwrap();
    let report = ask(&joined(folder.path()), &["--max-frames", "5"]);
    let times = &report["answers"][0]["frame_times"][0];
    assert_eq!(times, &json!([0.0, 4.0, 8.0]), "every fourth of twelve frames");
    assert_eq!(report["captions"].as_array().unwrap().len(), 3);
}

#[test]
fn a_short_video_is_one_window() {
    let ask = |input: &str| {
        let arguments = ["ask", input, "--long", "-q", QUESTION, "--json", "--model"];
        run(command().args(arguments).arg(mini()).args(["--beams", "1"])).exits(0).report()
    };
    let report = ask(&sample("00000.mp4").display().to_string());
    assert_eq!(numbers(&report["captions"], "end"), [8.0], "windows of eight seconds");
    let answer = &report["answers"][0];
    assert_eq!((&answer["text"], &answer["from_captions"]["lines"]), (&json!("key"), &json!(1)));
}

/// A job has the answers of the command line, also from cached visual tokens.
#[test]
fn a_job_answers_as_the_command_line_does() {
    let folder = tempfile::tempdir().unwrap();
    let video = joined(folder.path());
    let expected = ask(&video, &[]);
    let job = |id: &str| {
        json!({
            "schema": "flamingo.job/1", "job_id": id, "input": { "video": video },
            "tasks": [{ "kind": "question", "question": QUESTION }], "long": true, "window": 4.0,
            "generation": { "strategy": { "kind": "greedy" }, "max_new_tokens": 32 },
        })
    };
    for id in ["fresh", "cached"] {
        fs::write(folder.path().join("jobs.jsonl"), job(id).to_string()).unwrap();
        let mut work = command();
        work.args(["run", "jobs.jsonl", "--set", "cache.store=true", "--model"]).arg(mini());
        run(work.current_dir(folder.path())).exits(0);
        let item = folder.path().join("results").join(id).join("items/joined.mp4.json");
        let report = read_json(&item);
        assert_eq!(report.get("cache_hit").is_some(), id == "cached", "{report}");
        assert_eq!(report["captions"], expected["captions"]);
        let (answer, expected) = (&report["answers"][0], &expected["answers"][0]);
        for name in ["text", "frame_times", "start", "end"] {
            assert_eq!(answer[name], expected[name], "{name}");
        }
        let (answer, expected) = (&answer["from_captions"], &expected["from_captions"]);
        for name in ["text", "lines", "prompt_tokens"] {
            assert_eq!(answer[name], expected[name], "{name}");
        }
        assert_eq!(numbers(&answer["rests_on"], "start"), numbers(&expected["rests_on"], "start"));
    }
}

/// A tiny Llama 3.2 Vision with 512 positions, whose captions are random tokens, has no room for the captions of all windows.
#[test]
fn windows_without_room_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let video = joined(folder.path());
    let mut ask = command();
    ask.arg("ask").arg(video).args(["--long", "--window", "0.5s", "--fps", "2", "-q", "Why?", "--json"]);
    ask.args(["--temperature", "1", "--seed", "3", "--max-new-tokens", "24"]);
    ask.arg("--model").arg(root().join("tests/parity/golden/tiny_mllama"));
    let report = run(&mut ask).exits(0).report();
    let answer = &report["answers"][0]["from_captions"];
    let (windows, left_out) =
        (report["captions"].as_array().unwrap().len(), answer["left_out"].as_u64().unwrap());
    assert_eq!(windows, 24);
    assert!((1..24).contains(&left_out), "{answer}");
    let tokens = answer["prompt_tokens"].as_u64().unwrap();
    assert!((256..=488).contains(&tokens), "{tokens} tokens, and up to 24 new ones");
    let said =
        format!("no room for the captions of all 24 windows: {left_out} evenly spread ones are left out");
    assert!(report["warnings"].to_string().contains(&said), "{report}");
}

#[test]
fn impossible_combinations_are_refused() {
    let clip = sample("00000.mp4").display().to_string();
    for more in [&["--prompt", "<video>Output:"][..], &["-q", "Why?", "--support", "set.jsonl"]] {
        let ran = flamingo(&[&["ask", &clip, "--long"], more].concat()).exits(2);
        assert!(ran.err.contains("cannot be used with"), "{ran:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.jsonl");
    for (changes, reason) in [
        (json!({ "tasks": [{ "kind": "caption" }] }), "`long` answers questions"),
        (
            json!({ "few_shot": { "support": [{ "media": "a.mp4", "output": "owl" }] } }),
            "`long` takes no examples",
        ),
        (json!({ "long": {} }), "expected a boolean"),
    ] {
        let mut job = json!({
            "schema": "flamingo.job/1", "job_id": "one", "input": { "video": clip }, "long": true,
            "tasks": [{ "kind": "question", "question": "Why?" }],
        });
        for (name, value) in changes.as_object().unwrap() {
            job[name] = value.clone();
        }
        fs::write(&path, job.to_string()).unwrap();
        let ran = run(command().args(["run", "jobs.jsonl"]).current_dir(folder.path()));
        assert!(ran.code != Some(0) && ran.err.contains(reason), "{ran:?}");
    }
}
