//! Parity of dhansmair's flamingo-mini with its original code, from a directory that it saved.

use std::path::PathBuf;

use candle_core::{DType, Device};
use flamingo::family::{Frames, Loaded};
use flamingo::prompt::Prompt;
use support::golden::{Golden, folder};

use crate::checkpoint::{self, Case};

const CASES: [Case; 5] = [
    ("blind", &[]),
    ("one", &[&[1]]),
    ("late", &[&[0]]),
    ("three", &[&[2], &[3], &[1]]),
    ("video", &[&[2, 3, 4]]),
];
/// Beams, length penalty and most new tokens, as in the generator.
const SEARCHES: [(usize, f64, usize); 3] = [(1, 1.0, 32), (3, 1.0, 12), (3, 0.0, 10)];
const ANSWERS: [&str; 3] = [" a dog", " two kittens in the grass", " No"];

fn directory() -> PathBuf {
    folder().join("dhansmair")
}

fn open() -> (Loaded, Golden) {
    (checkpoint::open(&directory()).unwrap(), Golden::load("dhansmair"))
}

#[test]
fn stages_and_answers_equal_the_original() {
    let (model, golden) = open();
    assert!(model.info.gates_open);
    assert_eq!(model.info.frames, Frames::TemporalEmbedding);
    checkpoint::stages_equal(&model, &golden, &CASES);
    checkpoint::answers_equal(&model, &golden, &CASES, &SEARCHES);
    let answers = ANSWERS.map(|answer| model.tokenizer.encode_plain(answer).unwrap());
    checkpoint::likelihoods_equal(&model, &golden, &CASES, &answers);
    checkpoint::batch_equals_one_by_one(&model, &golden, &CASES);
}

#[test]
fn prompts_equal_the_processor() {
    let (model, golden) = open();
    for (name, prompt) in [
        ("blind", Prompt::default().text("Two people are")),
        ("one", Prompt::parse(&model.format.caption)),
        ("late", Prompt::parse("the man<image>on")),
        ("three", Prompt::parse("<image>a dog<EOC><image>two kittens<EOC><image>")),
    ] {
        let media = prompt.media();
        let ids = prompt.encode(&model.tokenizer, &model.tokens, media).unwrap().ids;
        assert_eq!(ids, checkpoint::ids(&golden, &format!("{name}.ids")), "{name}");
    }
    let picture = golden.tensor("picture.1");
    let (height, width, _) = picture.dims3().unwrap();
    let bytes = picture.flatten_all().unwrap().to_vec1::<u8>().unwrap();
    let image = image::RgbImage::from_raw(width as u32, height as u32, bytes).unwrap();
    let frame = model.preprocess.frame(&image);
    let pixels = model.preprocess.pixels(&[frame], &Device::Cpu, DType::F32).unwrap();
    golden.compare_rms(&[("pixels.1", &pixels, 1e-5)]);
}

/// The golden separates the model from wrong ones.
#[test]
fn wrong_models_differ() {
    let golden = Golden::load("dhansmair");
    let wrong = |key: &str, value: serde_json::Value| {
        let release = checkpoint::copy(&directory().join("checkpoint"), |json| json[key] = value);
        let model = tempfile::tempdir().unwrap();
        std::fs::copy(directory().join("config.json"), model.path().join("config.json")).unwrap();
        checkpoint::edit_json(&model.path().join("config.json"), |json| {
            json["checkpoint"] = release.path().to_str().into();
            json["language"] = directory().join("language").to_str().into();
            json["vision"] = folder().join("clip/hugging_face").to_str().into();
        });
        checkpoint::open(model.path()).map(|model| checkpoint::logits_error(&model, &golden, &CASES))
    };
    assert!(wrong("xattn_every", 2.into()).unwrap() <= 1e-4);
    for (key, value) in [("xattn_act", "gelu"), ("resampler_act", "relu")] {
        let error = wrong(key, value.into()).unwrap();
        assert!(error > 1e-3, "{key}: {error:.1e}");
    }
    for (key, value, expected) in [
        ("xattn_every", 1, "cross_attention.1."),
        (
            "resampler_num_time_embeds",
            5,
            "`resampler.temporal_embedding` has shape [4, 24], expected [5, 24]",
        ),
        ("resampler_num_latents", 8, "resampler.latents"),
    ] {
        let refusal = wrong(key, value.into()).unwrap_err().to_string();
        assert!(refusal.contains(expected), "{refusal}");
    }
}
