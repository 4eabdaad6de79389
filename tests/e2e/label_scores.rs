//! Options of `flamingo classify` about the scores of the language model: orders of the examples, calibration, scores per token.

use std::path::{Path, PathBuf};

use candle_core::Device;
use flamingo::few_shot::classifiers::Ensemble;
use flamingo::generate::Generation;
use flamingo::pipeline::{Answer, Medium, Pipeline, Shot, Shots};
use flamingo::task::{Classification, LabelScore, Labels, ShotText, Task};
use flamingo::video::Frame;
use image::RgbImage;
use inference::context::RequestContext;
use inference::engine::{Engine, EngineLimits};
use inference::model::Model;
use serde_json::{Value, json};

use crate::program::{Ran, command, flamingo, mini, read_json, run, sample};

const LABELS: [&str; 3] = ["owl", "green umbrella", "key"];

fn pipeline() -> Pipeline {
    let mini: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("models/flamingo-mini");
    Pipeline::load(&mini, Device::Cpu).unwrap()
}

fn medium(model: &dyn Model, seed: u32) -> Medium {
    let pixel = |x: u32, y: u32| image::Rgb([(40 * seed) as u8, (x * 5) as u8, (y * 3 + seed) as u8]);
    let frame = Frame::at(0.0, RgbImage::from_fn(48, 36, pixel));
    model.encode(vec![model.prepare(&frame)], &RequestContext::default()).unwrap()
}

fn shots(model: &dyn Model) -> Vec<Shot> {
    let shot = |(i, label): (u32, &str)| {
        let text = ShotText { question: None, text: None, output: label.into() };
        Shot { name: i.to_string(), medium: medium(model, i), text }
    };
    (1..).zip(LABELS).map(shot).collect()
}

fn classify(model: &dyn Model, of: &Classification, shots: Shots, query: &Medium) -> Answer {
    let (tasks, context) = ([Task::Classify(of.clone())], RequestContext::default());
    model.ask(&tasks, shots, &[query], &Generation::default(), &context).remove(0).unwrap()
}

fn probabilities(answer: &Answer) -> Vec<f64> {
    answer.scores.iter().map(|score| score.probability).collect()
}

fn normalised(weights: &[f64]) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

#[track_caller]
fn assert_close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-4 * expected.abs() + 1e-6, "{found}, expected {expected}");
    }
}

/// All orders in one batch, in this thread and through the engine, are the mean of the orders one by one.
#[test]
fn an_ensemble_is_the_mean_of_its_prompts() {
    let alone = pipeline();
    let engine = Engine::start(pipeline(), EngineLimits::default()).unwrap();
    let classification = Classification::new(Labels::new(LABELS).unwrap(), "What is this?");
    let ensemble = Ensemble { permutations: 4.try_into().unwrap(), seed: 3 };
    for calibrate in [false, true] {
        let classification = Classification { calibrate, ..classification.clone() };
        let (examples, query) = (shots(&alone), medium(&alone, 5));
        let orders = ensemble.orders(examples.len());
        let one_by_one: Vec<Answer> = orders
            .iter()
            .map(|order| {
                let ordered: Vec<Shot> = order.iter().map(|&i| examples[i].clone()).collect();
                classify(&alone, &classification, ordered[..].into(), &query)
            })
            .collect();
        assert!(one_by_one.iter().all(|answer| answer.sensitivity.is_none()));
        let mean = |label: usize| {
            one_by_one.iter().map(|answer| probabilities(answer)[label]).sum::<f64>() / orders.len() as f64
        };
        let expected: Vec<f64> = (0..LABELS.len()).map(mean).collect();
        for model in [&alone as &dyn Model, &engine] {
            let (examples, query) = (shots(model), medium(model, 5));
            let shots = Shots { examples: &examples, ensemble };
            let answer = classify(model, &classification, shots, &query);
            assert_close(&probabilities(&answer), &expected);
            let best = LABELS.iter().position(|label| *label == answer.text).unwrap();
            assert!(expected.iter().all(|p| *p <= expected[best] + 1e-6));
            let sensitivity = answer.sensitivity.unwrap();
            let others = one_by_one.iter().filter(|one| one.text != answer.text).count();
            let squares = one_by_one.iter().map(|one| (probabilities(one)[best] - expected[best]).powi(2));
            let deviation = (squares.sum::<f64>() / orders.len() as f64).sqrt();
            assert_eq!(sensitivity.orders, 4);
            assert_close(
                &[sensitivity.disagreement, sensitivity.deviation],
                &[others as f64 / 4.0, deviation],
            );
            assert!(deviation > 1e-4, "the orders of the examples have no effect");
        }
    }
}

/// The prior is the probability over frames of the mean colour, after the same examples.
#[test]
fn calibration_divides_by_the_probabilities_over_a_blank_medium() {
    let model = pipeline();
    let (examples, query) = (shots(&model), medium(&model, 5));
    let plain = Classification::new(Labels::new(LABELS).unwrap(), "What is this?");
    let calibrated = Classification { calibrate: true, ..plain.clone() };
    let blank = model.encode_blank(&query).unwrap();
    let ask = |of: &Classification, query: &Medium| classify(&model, of, examples[..].into(), query);
    let (of_query, prior) = (probabilities(&ask(&plain, &query)), probabilities(&ask(&plain, &blank)));
    let weights: Vec<f64> = of_query.iter().zip(&prior).map(|(p, prior)| p / prior).collect();
    assert_close(&probabilities(&ask(&calibrated, &query)), &normalised(&weights));
    // Nothing is known about a medium without content: all labels are equally likely.
    assert_close(&probabilities(&ask(&calibrated, &blank)), &[1.0 / 3.0; 3]);
}

#[test]
fn scores_per_token_divide_by_the_length_of_a_label() {
    let model = pipeline();
    let query = medium(&model, 5);
    let sum = Classification::new(Labels::new(LABELS).unwrap(), "What is this?");
    let mean = Classification { score: LabelScore::Mean, ..sum.clone() };
    let ask = |of: &Classification| classify(&model, of, Shots::default(), &query).scores;
    let loaded = model.loaded();
    for (sum, mean) in ask(&sum).iter().zip(ask(&mean)) {
        // The tokens of " label", and the end of the chunk.
        let tokens = loaded.tokenizer.encode_plain(&format!(" {}", sum.text)).unwrap().len() + 1;
        assert_close(&[mean.log_likelihood], &[sum.log_likelihood / tokens as f64]);
    }
}

fn classified(arguments: &[&str]) -> Ran {
    run(command().arg("classify").args(arguments).arg("--model").arg(mini()).arg("--json"))
}

/// The fields of a job mean what the options of the command line mean.
#[test]
fn a_job_has_the_options_of_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let example = |file: &str, output: &str| json!({ "media": sample(file), "output": output });
    let examples = [
        example("00005.mp4", "mushroom"),
        example("00000.mp4", "key"),
        example("00020.mp4", "flamingo"),
        example("00007.mp4", "anchor"),
    ];
    let lines: String = examples.iter().map(|example| format!("{example}\n")).collect();
    std::fs::write(folder.path().join("support.jsonl"), lines).unwrap();
    let support = folder.path().join("support.jsonl").display().to_string();
    let clip = sample("00011.mp4").display().to_string();
    let options = ["--permutations", "3", "--calibrate", "--score", "mean", "--support-seed", "7"];
    let common = [&clip[..], "--support", &support, "--shots", "3"];
    let expected = classified(&[&common[..], &options].concat()).exits(0).report();
    let plain = classified(&common).exits(0).report();

    let task = json!({ "kind": "classify", "calibrate": true, "score": "mean" });
    let few_shot = json!({ "support": examples, "shots": 3, "seed": 7, "permutations": 3 });
    let job = json!({
        "schema": "flamingo.job/1", "job_id": "j", "tasks": [task], "input": { "video": clip }, "few_shot": few_shot,
    });
    std::fs::write(folder.path().join("jobs.jsonl"), format!("{job}\n")).unwrap();
    let mut jobs = command();
    jobs.current_dir(folder.path()).args(["run", "jobs.jsonl", "--model"]).arg(mini());
    run(&mut jobs).exits(0);
    let report = read_json(&folder.path().join("results/j/items/00011.mp4.json"));
    let numbers = |report: &Value| -> Vec<f64> {
        let answer = &report["answers"][0];
        let probabilities = answer["scores"].as_array().unwrap().iter().map(|score| &score["probability"]);
        let sensitivity = ["disagreement", "deviation"].map(|name| &answer["sensitivity"][name]);
        probabilities.chain(sensitivity).map(|number| number.as_f64().unwrap()).collect()
    };
    assert_eq!(report["answers"][0]["sensitivity"]["orders"], 3);
    assert_eq!(report["answers"][0]["text"], expected["answers"][0]["text"]);
    assert_close(&numbers(&report), &numbers(&expected));
    assert_eq!(plain["answers"][0].get("sensitivity"), None);
    assert_ne!(plain["answers"][0]["scores"], expected["answers"][0]["scores"]);
}

#[test]
fn options_without_a_meaning_are_refused() {
    let labels = ["classify", "a.mp4", "--label", "a", "--label", "b"];
    for (more, expected) in [
        (&["--permutations", "3"][..], "--support"),
        (&["--permutations", "0"], "--permutations"),
        (&["--score", "max"], "sum, mean"),
    ] {
        let ran = flamingo(&[&labels[..], more].concat()).exits(2);
        assert!(ran.err.contains(expected), "{more:?}: {ran:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let refused = |task: Value, few_shot: Value| {
        let job = json!({
            "schema": "flamingo.job/1", "job_id": "j", "tasks": [task], "input": { "video": "a.mp4" }, "few_shot": few_shot,
        });
        std::fs::write(folder.path().join("jobs.jsonl"), format!("{job}\n")).unwrap();
        run(command().current_dir(folder.path()).args(["run", "jobs.jsonl"])).exits(2).err
    };
    let examples = json!([{ "media": "a.mp4", "output": "a" }, { "media": "b.mp4", "output": "b" }]);
    let classify = json!({ "kind": "classify" });
    for (task, few_shot, expected) in [
        (
            json!({ "kind": "caption" }),
            json!({ "support": examples, "permutations": 2 }),
            "only a classification",
        ),
        (classify.clone(), json!({ "support": examples, "permutations": 101 }), "1 to 100"),
        (classify, json!({ "support": examples, "permutations": 0 }), "nonzero"),
        (
            json!({ "kind": "classify", "score": "max" }),
            json!({ "support": examples }),
            "unknown variant `max`",
        ),
    ] {
        let found = refused(task, few_shot);
        assert!(found.contains(expected), "{found}, expected {expected}");
    }
}
