//! Methods of few-shot classification on vision features, the choice among them, and their evaluation.

use std::fs;
use std::path::Path;

use candle_core::Device;
use flamingo::video::Frame;
use flamingo::{Pipeline, Task};
use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use support::repository::root;

use crate::program::{Ran, command, flamingo, mini, run, sample};

/// Methods that learn from examples without a prompt of them.
const METHODS: [&str; 4] = ["prototypes", "neighbours", "linear-probe", "attention-vectors"];

/// Draws pictures of squares on a reddish and on a bluish ground, in one folder per label.
fn pictures(folder: &Path, seed: u32, per_label: u32) -> String {
    for (label, red) in [("red", true), ("blue", false)] {
        fs::create_dir_all(folder.join(label)).unwrap();
        for i in 0..per_label {
            let n = 7 * seed + i;
            let ground = |x: u32, y: u32| {
                let strong = 150 + (17 * n + x / 4) % 90;
                let weak = (23 * n + y / 3) % 60;
                let square = x.abs_diff(20 + 5 * n % 50) < 9 && y.abs_diff(25 + 11 * n % 40) < 9;
                let [a, b] = if square { [90, 90] } else { [strong as u8, weak as u8] };
                Rgb(if red { [a, 40, b] } else { [b, 40, a] })
            };
            RgbImage::from_fn(96, 96, ground).save(folder.join(label).join(format!("{i}.png"))).unwrap();
        }
    }
    folder.display().to_string()
}

fn few_shot(arguments: &[&str]) -> Ran {
    run(command().args(arguments).arg("--model").arg(mini()).arg("--json"))
}

/// Returns whether every answer is the label of the folder of its input.
fn all_right(reports: &[Value]) -> bool {
    let right = |report: &Value| {
        let folder = Path::new(report["input"][0].as_str().unwrap()).parent().unwrap().file_name().unwrap();
        report["answers"][0]["text"] == folder.to_str().unwrap()
    };
    reports.iter().all(right)
}

#[test]
fn features_classify_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let support = pictures(&folder.path().join("support"), 1, 4);
    let queries = pictures(&folder.path().join("queries"), 2, 3);
    for method in METHODS {
        let reports =
            few_shot(&["classify", &queries, "--support", &support, "--method", method]).exits(0).reports();
        assert_eq!(reports.len(), 6);
        assert!(all_right(&reports), "{method}: {reports:?}");
        for report in &reports {
            let answer = &report["answers"][0];
            assert_eq!((&answer["method"], &answer["shots"]), (&method.into(), &Value::Null));
            let scores = answer["scores"].as_array().unwrap();
            let sum: f64 = scores.iter().map(|score| score["probability"].as_f64().unwrap()).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{method}: {scores:?}");
        }
    }
}

/// The colours are easy for vision features and unknown to a model that names things.
#[test]
fn auto_chooses_a_method_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let support = pictures(&folder.path().join("support"), 3, 4);
    let query = pictures(&folder.path().join("queries"), 4, 1);
    let ran =
        few_shot(&["classify", &query, "--support", &support, "--shots", "2", "--method", "auto"]).exits(0);
    assert!(all_right(&ran.reports()), "{ran:?}");
    for method in METHODS.iter().chain(&["in-context"]) {
        assert!(ran.err.contains(&format!("  {method}")), "{method}: {ran:?}");
    }
    assert!(ran.err.contains("method: prototypes is right for 8 of 8 left-out examples"), "{ran:?}");
    assert!(ran.err.contains("examples that took no part in it is 100 %"), "{ran:?}");
    assert_eq!(ran.reports()[0]["answers"][0]["method"], "prototypes", "of equal ones the cheapest");
}

#[test]
fn evaluation_counts_right_answers_by_method_and_examples() {
    let folder = tempfile::tempdir().unwrap();
    let support = pictures(&folder.path().join("support"), 5, 3);
    let queries = pictures(&folder.path().join("queries"), 6, 2);
    let eval = |more: &[&str]| {
        let common = ["eval", "few-shot", "--support", &support, "--queries", &queries, "--shots", "0,2,100"];
        few_shot(&[&common[..], more].concat())
    };
    let plot = folder.path().join("accuracy.svg");
    let report = eval(&["--plot", plot.to_str().unwrap()]).exits(0).report();
    let svg = fs::read_to_string(&plot).unwrap();
    assert!(
        METHODS.iter().all(|method| svg.contains(method)) && svg.contains("4 queries, 2 labels"),
        "{svg}"
    );
    let rows = report["rows"].as_array().unwrap();
    let of = |row: &Value| (row["method"].as_str().unwrap().to_string(), row["examples"].as_u64().unwrap());
    let found: Vec<(String, u64)> = rows.iter().map(of).collect();
    // 0 examples: the language model alone. 100 examples: as many as there are.
    let mut expected = vec![("in-context".to_string(), 0)];
    for examples in [2, 6] {
        // A choice of heads needs two examples of a label.
        let methods = METHODS.iter().filter(|of| examples > 2 || **of != "attention-vectors");
        let methods = methods.chain(&["in-context"]);
        expected.extend(methods.map(|method| (method.to_string(), examples)));
    }
    assert_eq!(found, expected);
    for row in rows {
        assert_eq!(row["asked"], 4);
        let number = |name: &str| row[name].as_f64().unwrap();
        assert!(number("low") <= number("right") / 4.0 && number("right") / 4.0 <= number("high"), "{row}");
        assert!(row["s_per_query"].as_f64().unwrap() > 0.0);
        if row["examples"] == 6 && row["method"] != "in-context" {
            assert_eq!(row["right"], 4, "{row}");
        }
    }
    let rows = eval(&["--methods", "neighbours"]).exits(0).report()["rows"].as_array().unwrap().len();
    assert_eq!(rows, 2);
    fs::create_dir(folder.path().join("queries/green")).unwrap();
    fs::copy(folder.path().join("queries/red/0.png"), folder.path().join("queries/green/0.png")).unwrap();
    let ran = eval(&[]).exits(2);
    assert!(ran.err.contains("the label \"green\" of the queries has no example"), "{ran:?}");
}

/// The joint space of flamingo-mini knows what its clips show. Labels are the only input besides the clip.
#[test]
fn texts_of_labels_classify_clips() {
    let tower = root().join("models/text/all-MiniLM-L6-v2").display().to_string();
    let clips = [("00000.mp4", "key"), ("00005.mp4", "mushroom"), ("00020.mp4", "flamingo")];
    let labels: Vec<&str> = clips.iter().flat_map(|(_, label)| ["--label", label]).collect();
    let files = clips.map(|(file, _)| sample(file).display().to_string());
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let method = ["--method", "label-text", "--text-tower", &tower];
    let classify = |more: &[&str]| few_shot(&[&["classify"][..], &files, &labels, &method, more].concat());
    let reports = classify(&[]).exits(0).reports();
    for ((file, label), report) in clips.iter().zip(&reports) {
        let answer = &report["answers"][0];
        assert_eq!((&answer["text"], &answer["method"]), (&json!(label), &json!("label-text")), "{file}");
        assert_eq!((&answer["prompt_tokens"], answer.get("shots")), (&json!(0), None), "{file}");
    }
    let ran = classify(&["--calibrate"]).exits(2);
    assert!(ran.err.contains("--method label-text has none"), "{ran:?}");
    let lacking = ["--method", "label-text", "--text-tower", "nowhere"];
    let ran = few_shot(&[&["classify", files[0]][..], &labels, &lacking].concat()).exits(1);
    assert!(ran.err.contains("the text tower cannot be opened"), "{ran:?}");
    let ran = flamingo(&[&["classify", files[0], "--method", "label-text"][..], &labels].concat()).exits(2);
    assert!(ran.err.contains("has no joint space, which the method label-text needs"), "{ran:?}");
    let support = sample("support.jsonl").display().to_string();
    let ran = classify(&["--support", &support]).exits(2);
    assert!(ran.err.contains("label-text learns from no examples"), "{ran:?}");
}

/// The attention heads before the first gated cross-attention read the text only; those behind it read the medium.
#[test]
fn head_outputs_depend_on_the_medium_behind_the_first_cross_attention() {
    let pipeline = Pipeline::load(&mini(), Device::Cpu).unwrap();
    let task = Task::Question { question: "What is this?".into() };
    let outputs = |shade: u8| {
        let frame = Frame::at(0.0, RgbImage::from_fn(48, 36, |x, _| Rgb([shade, 5 * x as u8, 90])));
        let medium = pipeline.encode(&[pipeline.prepare(&frame)]).unwrap();
        pipeline.head_outputs(&task, &medium).unwrap()
    };
    let (one, other) = (outputs(20), outputs(220));
    let model = &pipeline.loaded().model;
    let (layers, first) = (model.language().n_layers(), model.cross_attention_layers()[0]);
    let per_layer = one.len() / layers;
    assert!(per_layer > 1 && one.len() == per_layer * layers);
    let (text, media) = (first * per_layer, one.len());
    assert!((0..text).all(|head| one[head] == other[head]));
    assert!((text..media).all(|head| one[head] != other[head]));
}

#[test]
fn methods_need_examples_of_every_label() {
    let folder = tempfile::tempdir().unwrap();
    let support = pictures(folder.path(), 7, 1);
    let ran =
        flamingo(&["classify", "a.png", "--label", "a", "--label", "b", "--method", "prototypes"]).exits(2);
    assert!(ran.err.contains("--method needs the examples of --support"), "{ran:?}");
    let query = format!("{support}/red/0.png");
    let ran =
        few_shot(&["classify", &query, "--support", &support, "--method", "auto", "--grounding"]).exits(2);
    assert!(ran.err.contains("the method in-context"), "{ran:?}");
    let calibrated = ["classify", &query, "--support", &support, "--method", "prototypes", "--calibrate"];
    let ran = few_shot(&calibrated).exits(2);
    assert!(ran.err.contains("about the scores of the language model"), "{ran:?}");
    let labels = ["--label", "red", "--label", "blue", "--label", "green"];
    let classify =
        [&["classify", &query, "--support", &support, "--method", "neighbours"][..], &labels].concat();
    let ran = few_shot(&classify).exits(2);
    assert!(ran.err.contains("green"), "{ran:?}");
}
