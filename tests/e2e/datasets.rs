//! `flamingo eval dataset`: the metric of a benchmark on a file of items.

use std::path::Path;

use flamingo::metrics::{CaptionedItem, cider, roc_auc};
use serde_json::{Value, json};
use support::repository::root;

use crate::program::{Ran, command, mini, run, sample};

const CLIPS: [(&str, &str); 4] =
    [("00000.mp4", "key"), ("00005.mp4", "mushroom"), ("00020.mp4", "flamingo"), ("00007.mp4", "anchor")];

/// Writes items, evaluates them, and returns the run and the answers.
fn eval(folder: &Path, benchmark: &str, items: &[Value]) -> (Ran, Vec<Value>) {
    eval_with(folder, benchmark, items, &[])
}

fn eval_with(folder: &Path, benchmark: &str, items: &[Value], more: &[&str]) -> (Ran, Vec<Value>) {
    let (file, answers) = (folder.join("items.jsonl"), folder.join("answers.jsonl"));
    std::fs::write(&file, items.iter().map(|item| format!("{item}\n")).collect::<String>()).unwrap();
    let mut eval = command();
    eval.args(["eval", "dataset", "--json", "--benchmark", benchmark, "--model"]).arg(mini()).arg(&file);
    let ran = run(eval.args(more).arg("--answers").arg(&answers));
    let text = std::fs::read_to_string(&answers).unwrap_or_default();
    (ran, text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn scores(answers: &[Value]) -> Vec<f64> {
    answers.iter().map(|answer| answer["score"].as_f64().unwrap()).collect()
}

#[test]
fn answers_are_scored_by_the_metric_of_the_benchmark() {
    let folder = tempfile::tempdir().unwrap();
    let item = |(clip, name): (&str, &str)| {
        // Normalisation removes the article and the full stop.
        json!({ "media": sample(clip), "question": "What is this?", "answers": [format!("The {name}.")] })
    };
    let (ran, answers) = eval(folder.path(), "msvd-qa", &CLIPS.map(item));
    let report = ran.exits(0).report();
    assert_eq!(
        (&report["metric"], &report["items"], &report["failed"]),
        (&json!("exact-match"), &json!(4), &json!(0))
    );
    for (answer, (_, name)) in answers.iter().zip(CLIPS) {
        assert_eq!(answer["score"].as_f64().unwrap(), f64::from(answer["answer"] == name), "{answer}");
    }
    let value = scores(&answers).iter().sum::<f64>() / 4.0;
    assert_eq!(report["value"].as_f64().unwrap(), value);
    assert!(report["low"].as_f64().unwrap() <= value && value <= report["high"].as_f64().unwrap());

    let caption = |(clip, name): (&str, &str)| json!({ "media": sample(clip), "answers": [format!("A {name} moves.")] });
    let (ran, answers) = eval(folder.path(), "coco", &CLIPS.map(caption));
    let captioned = answers.iter().zip(CLIPS).map(|(answer, (_, name))| CaptionedItem {
        caption: answer["answer"].as_str().unwrap().into(),
        references: vec![format!("A {name} moves.")],
    });
    let expected = cider(&captioned.collect::<Vec<_>>()).unwrap().mean;
    let value = ran.exits(0).report()["value"].as_f64().unwrap();
    assert!((value - expected).abs() < 1e-9 && expected > 0.1, "{value}, not {expected}");
}

#[test]
fn choices_are_scored_by_the_first_candidate() {
    let folder = tempfile::tempdir().unwrap();
    let item = |(i, (clip, _)): (usize, &(&str, &str))| {
        let answer = ["no", "yes"][i % 2];
        // The benchmark has the question.
        json!({ "media": sample(clip), "text": "so cute", "answers": [answer] })
    };
    let items: Vec<Value> = CLIPS.iter().enumerate().map(item).collect();
    let (ran, answers) = eval(folder.path(), "hateful-memes", &items);
    let positive = [false, true, false, true];
    let expected = roc_auc(&scores(&answers), &positive).unwrap();
    assert_eq!(ran.exits(0).report()["value"].as_f64().unwrap(), expected);
}

#[test]
fn items_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let good = json!({ "media": sample("00000.mp4"), "question": "What is this?", "answers": ["key"] });
    let gone = json!({ "media": "gone.mp4", "question": "What is this?", "answers": ["key"] });
    let (ran, answers) = eval(folder.path(), "ivqa", &[good, gone]);
    assert_eq!(answers.len(), 1);
    assert!(ran.err.contains("gone.mp4"), "{ran:?}");
    assert_eq!(ran.exits(1).report()["failed"], 1);
    for (item, reason) in [
        (json!({ "media": "a.mp4", "answers": ["key"] }), "item 1: it has no question"),
        (json!({ "media": "a.mp4", "question": "What?", "answers": [] }), "item 1: it has no answer"),
        (json!({ "media": "a.mp4", "answer": "key" }), "line 1: unknown field `answer`"),
    ] {
        let ran = eval(folder.path(), "ivqa", &[item]).0.exits(2);
        assert!(ran.err.contains(reason), "{ran:?}");
    }
    let ran =
        eval(folder.path(), "star", &[json!({ "media": "a", "question": "?", "answers": ["x"] })]).0.exits(2);
    assert!(ran.err.contains("2 to 1000 labels, not 0"), "{ran:?}");
    let item = json!({ "media": sample("00000.mp4"), "question": "What is this?", "answers": ["key"] });
    let ran = eval_with(folder.path(), "next-qa", std::slice::from_ref(&item), &["--wordnet", "no-folder"])
        .0
        .exits(1);
    assert!(ran.err.contains("WUPS needs WordNet"), "{ran:?}");
    let wordnet = root().join("tests/parity/golden/wordnet").display().to_string();
    let ran = eval_with(folder.path(), "next-qa", &[item], &["--wordnet", &wordnet]).0.exits(0);
    assert_eq!(ran.report()["value"], 1.0);
    assert!(eval(folder.path(), "none", &[]).0.exits(2).err.contains("hateful-memes"));
}
