//! `caption` and `ask`: answers and output files.

use image::{ImageFormat, Rgb, RgbImage};
use inference::report::contact_sheet::{ContactSheet, Layout};
use serde_json::{Value, json};
use support::clips::clip;
use support::likelihood;

use flamingo::video::Frame;

use crate::program::{QUICK, command, flamingo, listing, mini, quick, read_json, run, sample};

fn path(name: &str) -> String {
    clip(name).display().to_string()
}

/// The JSON report has all fields and no others.
#[test]
fn json_report_has_all_fields() {
    let input = path("short");
    let report = quick(&["caption", &input, "--json"]).exits(0).report();
    let keys = |v: &Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let top = [
        "answers",
        "input",
        "model",
        "sampling_contract",
        "schema",
        "status",
        "timing",
        "videos",
        "warnings",
    ];
    assert_eq!(keys(&report), top);
    assert_eq!(report["schema"], "flamingo.report/1");
    assert_eq!(report["input"], json!([input]));
    assert_eq!((&report["status"], &report["warnings"]), (&json!("succeeded"), &json!([])));
    let answer = &report["answers"][0];
    let parts = [
        "completion_tokens",
        "end",
        "finish",
        "frame_times",
        "log_likelihood",
        "prompt_tokens",
        "start",
        "text",
    ];
    assert_eq!(keys(answer), parts);
    assert_eq!(answer["frame_times"], json!([[0.0]]));
    assert!(answer["log_likelihood"].as_f64().is_some_and(|l| l < 0.0), "{answer}");
    assert_eq!((&answer["finish"], &answer["completion_tokens"]), (&json!("length"), &json!(3)));
    assert_eq!(report["model"]["gates_open"], false);
    let hashes = report["model"]["sha256"].as_object().unwrap();
    assert!(hashes.len() == 2 && hashes.values().all(|h| h.as_str().unwrap().len() == 64), "{hashes:?}");
    let video = &report["videos"][0];
    assert_eq!(
        (&video["width"], &video["height"], &video["codec"]),
        (&json!(208), &json!(104), &json!("h264"))
    );
    assert_eq!(keys(&report["timing"]), ["answer_s", "decode_s", "encode_s", "total_s"]);
}

#[test]
fn several_questions_decode_the_video_once() {
    let input = path("short");
    let asked = ["-q", "What is this?", "-q", "How many <image>s?"];
    let ran = quick(&[&["ask", &input, "--json"], &asked[..]].concat()).exits(0);
    let report = ran.report();
    let questions: Vec<_> = report["answers"].as_array().unwrap().iter().map(|a| &a["question"]).collect();
    assert_eq!(questions, [asked[1], asked[3]]);
    assert_eq!(report["videos"].as_array().unwrap().len(), 1, "the video was decoded more than once");
    let people = quick(&[&["ask", &input], &asked[..]].concat()).exits(0).out;
    assert!(people.lines().count() == 3 && people.contains("  0:00-0:01    What is this? "), "{people}");
}

/// One question after another would encode the video, or project its keys and values, more than once.
#[test]
fn five_questions_encode_and_project_each_video_once() {
    let inputs = ["short", "one_frame"].map(path);
    let questions = ["What is this?", "Where?", "Who?", "How many?", "Is it red?"];
    for inputs in [&inputs[..1], &inputs[..]] {
        let mut command = command();
        command.env("FLAMINGO_LOG", "flamingo=debug").arg("ask").args(inputs).args(QUICK);
        command.args(questions.iter().flat_map(|question| ["-q", question]));
        let ran = run(&mut command).exits(0);
        let count = |event: &str| {
            let event = format!(": {event} ");
            ran.err
                .lines()
                .filter(|line| line.contains("flamingo::pipeline") && line.contains(&event))
                .count()
        };
        let n = inputs.len();
        assert_eq!((count("projected"), count("answered")), (n, 5 * n), "{ran:?}");
        // Several videos may share a batch of the encoder.
        assert!((1..=n).contains(&count("encoded")), "{ran:?}");
    }
}

/// Concurrent and sequential runs give the same reports, in the order of the arguments.
#[test]
fn concurrent_files_equal_sequential_files() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.mp4").display().to_string();
    std::fs::write(&broken, "no video").unwrap();
    let mut inputs = ["av1", "short", "one_frame", "mpeg4", "lossless"].map(path).to_vec();
    inputs.insert(2, broken);
    let ask = |at_once: &str| {
        let asked = ["--json", "-q", "What is this?", "-q", "Where?", "--at-once", at_once];
        let arguments: Vec<&str> =
            ["ask"].into_iter().chain(inputs.iter().map(String::as_str)).chain(asked).collect();
        flamingo(&arguments).exits(1).reports()
    };
    let (together, alone) = (ask("4"), ask("1"));
    assert_eq!(
        together.iter().map(|r| &r["input"][0]).collect::<Vec<_>>(),
        inputs.iter().collect::<Vec<_>>()
    );
    for (input, (mut together, mut alone)) in inputs.iter().zip(together.into_iter().zip(alone)) {
        for report in [&mut together, &mut alone] {
            report.as_object_mut().unwrap().remove("timing");
        }
        let likelihoods = |report: &mut Value| -> Vec<f64> {
            let answers = report.get_mut("answers").and_then(Value::as_array_mut);
            let take = |answer: &mut Value| answer["log_likelihood"].take().as_f64().unwrap();
            answers.into_iter().flatten().map(take).collect()
        };
        for (one, other) in likelihoods(&mut together).into_iter().zip(likelihoods(&mut alone)) {
            likelihood::assert_same(input, one, other);
        }
        assert_eq!(together, alone);
    }
}

/// Special tokens in a question are encoded as plain text: several ids instead of one.
#[test]
fn a_question_cannot_forge_special_tokens() {
    let input = path("one_frame");
    let words = ["x", "<image>", "<video>x<EOC>", "<|im_end|>", "<|endoftext|>", "<file_sep>"];
    let asked = words.iter().flat_map(|word| ["-q", word]);
    let arguments: Vec<&str> = ["ask", &input, "--json"].into_iter().chain(asked).collect();
    let report = quick(&arguments).exits(0).report();
    let tokens: Vec<u64> =
        report["answers"].as_array().unwrap().iter().map(|a| a["prompt_tokens"].as_u64().unwrap()).collect();
    for (word, n) in words.iter().zip(&tokens).skip(1) {
        assert!(*n >= tokens[0] + 2, "`{word}` was encoded as a special token: {tokens:?}");
    }
    for answer in report["answers"].as_array().unwrap() {
        assert_eq!(answer["frame_times"], json!([[0.0]]), "more than one medium");
    }
}

#[test]
fn files_with_equal_names_get_different_reports() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str, from: &str| {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        let to = folder.path().join(name).join("a.mp4");
        std::fs::copy(clip(from), &to).unwrap();
        to.display().to_string()
    };
    let inputs = [place("x", "short"), place("y", "one_frame")];
    let out = folder.path().join("new/results");
    let sheet = ["--sheet", "--out", &out.display().to_string()].map(String::from);
    quick(&[&["caption".to_string()], &inputs[..], &sheet].concat()).exits(0);
    assert_eq!(listing(&out), ["a-2.mp4.json", "a-2.mp4.png", "a.mp4.json", "a.mp4.png"]);
    for (name, input) in ["a.mp4.json", "a-2.mp4.json"].iter().zip(&inputs) {
        assert_eq!(read_json(&out.join(name))["input"], json!([input]));
    }
    // Reports of a folder are named after relative paths. The contact sheets of the last run are no inputs.
    let below = tempfile::tempdir().unwrap();
    let (all, out) = (folder.path().display().to_string(), below.path().display().to_string());
    quick(&["caption", &all, "--out", &out]).exits(0);
    assert_eq!(listing(below.path()), ["x__a.mp4.json", "y__a.mp4.json"]);
}

#[test]
fn the_contact_sheet_shows_every_frame() {
    let out = tempfile::tempdir().unwrap();
    let (input, folder) = (path("h264_refresh"), out.path().display().to_string());
    quick(&["caption", &input, "--out", &folder, "--sheet", "--frames", "5"]).exits(0);
    let name = listing(out.path()).into_iter().find(|name| name.ends_with(".png")).expect("a sheet");
    let sheet = image::open(out.path().join(name)).unwrap().to_rgb8();
    let blank = |i| Frame::at(f64::from(i), RgbImage::new(288, 160));
    let mut expected = ContactSheet::new(Layout::default());
    (0..5).map(blank).for_each(|frame| expected.add(&frame));
    assert_eq!(sheet.dimensions(), expected.draw().dimensions());
    let coloured = |p: &&Rgb<u8>| p.0.iter().max().unwrap() - p.0.iter().min().unwrap() > 60;
    assert!(sheet.pixels().filter(coloured).count() > 5 * 20_000, "the frames are not on the sheet");

    let alone = out.path().join("alone.png").display().to_string();
    let ran = flamingo(&["frames", &input, "--frames", "5", "--sheet", &alone]).exits(0);
    assert!(ran.out.contains("5 frames at 0.000 ") && ran.err.is_empty(), "{ran:?}");
    assert!(image::open(&alone).unwrap().to_rgb8() == sheet, "`frames --sheet` makes another sheet");
}

fn picture(folder: &std::path::Path, name: &str, format: ImageFormat) -> String {
    let path = folder.join(name);
    let image = RgbImage::from_fn(31, 23, |x, y| Rgb([x as u8 * 8, y as u8 * 11, 90]));
    image.save_with_format(&path, format).unwrap();
    path.display().to_string()
}

#[test]
fn images_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let formats = [
        ("gif", ImageFormat::Gif),
        ("jpeg", ImageFormat::Jpeg),
        ("png", ImageFormat::Png),
        ("webp", ImageFormat::WebP),
    ];
    for (name, format) in formats {
        picture(folder.path(), &format!("a.{name}"), format);
    }
    let all = folder.path().display().to_string();
    let reports = quick(&["ask", &all, "-q", "What?", "--json"]).exits(0).reports();
    let found: Vec<_> = reports.iter().map(|r| r["videos"][0]["container"].as_str().unwrap()).collect();
    assert_eq!(found, ["gif", "jpeg", "png", "webp"]);
    for report in reports {
        assert_eq!(report["answers"][0]["frame_times"], json!([[0.0]]));
    }
}

#[test]
fn text_images_and_videos_in_one_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let (image, video) = (picture(folder.path(), "a.png", ImageFormat::Png), path("three_streams"));
    let prompt = ["--prompt", "<image>A cat.<EOC><video>What?"];
    let out = folder.path().join("out").display().to_string();
    let ran = quick(&[&["ask", &image, &video, "--json", "--out", &out, "--sheet"], &prompt[..]].concat());
    let report = ran.exits(0).report();
    assert_eq!(report["input"], json!([image, video]));
    assert_eq!(report["answers"].as_array().unwrap().len(), 1);
    assert_eq!(report["answers"][0]["frame_times"], json!([[0.0], [0.0, 1.0, 2.0]]));
    assert_eq!(report["videos"].as_array().unwrap().len(), 2);
    assert_eq!(listing(&folder.path().join("out")), ["answer.json", "answer.png"]);
    // A prompt with a missing medium is not answered.
    let bad = support::clips::write(folder.path(), "bad.mp4", b"");
    let ran = quick(&[&["ask", &image, &bad.display().to_string()], &prompt[..]].concat()).exits(1);
    assert!(ran.errors() == [format!("error[empty_file]: {}: the file is empty", bad.display())], "{ran:?}");
}

fn answer(options: &[&str]) -> Value {
    let input = path("short");
    let report =
        flamingo(&[&["ask", &input, "--prompt", "<video>Once upon a time", "--json"], options].concat())
            .exits(0)
            .report();
    let answer = &report["answers"][0];
    json!([answer["text"], answer["log_likelihood"]])
}

#[test]
fn a_repeated_command_repeats_its_answer() {
    let beams = &["--max-new-tokens", "8"];
    assert_eq!(answer(beams), answer(beams));
    let greedy = answer(&["--max-new-tokens", "8", "--beams", "1", "--threads", "1"]);
    assert!(greedy[0].as_str().is_some_and(|text| !text.is_empty()), "{greedy}");
    assert_eq!(greedy[0], answer(&["--max-new-tokens", "8", "--temperature", "2", "--top-k", "1"])[0]);
}

#[test]
fn samples_depend_on_the_seed_only() {
    let sample =
        |seed| answer(&["--max-new-tokens", "12", "--temperature", "1.5", "--top-p", "0.99", "--seed", seed]);
    let (one, two) = (sample("1"), sample("2"));
    assert_eq!(one, sample("1"));
    assert_ne!(one, two);
}

/// The grounding is the difference of two log-likelihoods, one of them of the answer; an answer with less than the minimum is
/// withheld.
#[test]
fn answers_with_low_grounding_are_withheld() {
    let ask = |more: &[&str]| {
        let mut ask = command();
        ask.args(["ask", "--json", "--beams", "1", "-q", "What is this?", "--model"]).arg(mini());
        run(ask.arg(sample("00020.mp4")).args(more)).exits(0).report()["answers"][0].clone()
    };
    let (plain, shown) = (ask(&[]), ask(&["--grounding"]));
    assert_eq!((&plain["grounding"], &plain["text"]), (&Value::Null, &shown["text"]));
    let grounding = shown["grounding"].as_f64().unwrap();
    // Frames of one colour leave 20 things to guess from.
    assert!(grounding > 1.0, "{shown}");
    let least = format!("{}", grounding + 0.5);
    let withheld = ask(&["--min-grounding", &least]);
    assert_eq!((&withheld["text"], &withheld["withheld"]), (&"not sure".into(), &plain["text"]));
    let kept = ask(&["--min-grounding", &format!("{}", grounding - 0.5)]);
    assert_eq!((&kept["text"], &kept["withheld"]), (&plain["text"], &Value::Null));
}
