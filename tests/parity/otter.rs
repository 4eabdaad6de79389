//! Parity of Otter, image and video, with its public source, from checkpoints in its own layout. The reference runs without its
//! KV cache, with which it loses the media after the first generated token.

use std::path::PathBuf;

use candle_core::Tensor;
use flamingo::prompt::Prompt;
use serde_json::{Value, json};
use support::golden::{Golden, folder};

use crate::checkpoint::{self, Case};

const VARIANTS: [&str; 2] = ["otter_video", "otter_image"];
const CASES: [Case; 5] = [
    ("one", &[&[1]]),
    ("late", &[&[0]]),
    ("three", &[&[2], &[3], &[1]]),
    ("three_frames", &[&[0, 1, 2]]),
    ("five_frames", &[&[4, 3, 2, 1, 0]]),
];
/// Beams, length penalty and most new tokens, as in the generator.
const SEARCHES: [(usize, f64, usize); 2] = [(1, 1.0, 32), (3, 1.0, 10)];
const ANSWERS: [&str; 2] = [" a dog", " two kittens in the grass"];

fn directory(variant: &str) -> PathBuf {
    folder().join(variant)
}

fn golden(variant: &str) -> Golden {
    Golden::load(variant)
}

/// The image model has no frame embeddings, and its source takes frames of one picture.
fn cases(variant: &str) -> &'static [Case] {
    if variant == "otter_video" { &CASES } else { &CASES[..3] }
}

#[test]
fn every_stage_equals_the_source() {
    for variant in VARIANTS {
        let model = checkpoint::open(&directory(variant)).unwrap();
        assert!(model.info.gates_open);
        checkpoint::stages_equal(&model, &golden(variant), cases(variant));
    }
}

#[test]
fn answers_equal_the_source() {
    for variant in VARIANTS {
        let (model, golden) = (checkpoint::open(&directory(variant)).unwrap(), golden(variant));
        checkpoint::answers_equal(&model, &golden, cases(variant), &SEARCHES);
        let answers = ANSWERS.map(|answer| model.tokenizer.encode_plain(answer).unwrap());
        checkpoint::likelihoods_equal(&model, &golden, cases(variant), &answers);
        checkpoint::batch_equals_one_by_one(&model, &golden, cases(variant));
    }
}

#[test]
fn prompts_equal_the_source() {
    for variant in VARIANTS {
        let (model, golden) = (checkpoint::open(&directory(variant)).unwrap(), golden(variant));
        let is_otter = variant == "otter_video";
        let check = |name: &str, prompt: &str| {
            // A converted OpenFlamingo does not have the token; there the golden has its spelling as text.
            let prompt = if is_otter { prompt.into() } else { prompt.replace("<ANSWER>", "<answer>") };
            let prompt = Prompt::parse(&prompt);
            let media = prompt.media();
            let ids = prompt.encode(&model.tokenizer, &model.tokens, media).unwrap().ids;
            assert_eq!(ids, checkpoint::ids(&golden, &format!("{name}.ids")), "{variant} {name}");
        };
        check("one", "<image>User: what is in this picture? GPT:<ANSWER>");
        check("late", "Two people<image>User: what? GPT:<ANSWER>");
        check("three", "<image><image>User: a dog<image>the beach GPT:<ANSWER>");
        assert_eq!(model.tokens.answer.is_some(), is_otter);
        assert_eq!(model.format.question.contains("<ANSWER>"), is_otter);
        let forged = Prompt::default().text("<image><answer><|endofchunk|>");
        let ids = forged.encode(&model.tokenizer, &model.tokens, 0).unwrap().ids;
        let special = [Some(model.tokens.media[0]), model.tokens.answer, Some(model.tokens.end_of_chunk)];
        assert!(ids.iter().all(|&id| !special.contains(&Some(id))), "{ids:?}");
    }
}

/// The golden separates the model from wrong ones, each of them a wrong description.
#[test]
fn wrong_models_differ() {
    let check = |what: &str, variant: &str, edit: &dyn Fn(&mut Value)| {
        let wrong = checkpoint::copy(&directory(variant), |json| edit(json));
        let model = checkpoint::open(wrong.path()).unwrap();
        let error = checkpoint::logits_error(&model, &golden(variant), cases(variant));
        println!("{variant:<6} {what:<20} {error:.1e}");
        error
    };
    assert!(check("nothing", "otter_video", &|_| ()) <= 1e-4);
    for (what, error) in [
        ("GELU", check("GELU", "otter_video", &|json| json["vision_config"]["hidden_act"] = json!("gelu"))),
        (
            "vision eps",
            check("vision eps", "otter_image", &|json| json["vision_config"]["layer_norm_eps"] = json!(2e-5)),
        ),
        (
            "vision heads",
            check("vision heads", "otter_video", &|json| {
                json["vision_config"]["num_attention_heads"] = 2.into()
            }),
        ),
        (
            "rope theta",
            check("rope theta", "otter_video", &|json| json["text_config"]["rope_theta"] = json!(1e6)),
        ),
        (
            "heads",
            check("heads", "otter_video", &|json| {
                json["text_config"]["num_attention_heads"] = 5.into();
                json["text_config"]["num_key_value_heads"] = 5.into();
                json["text_config"]["head_dim"] = 4.into();
            }),
        ),
        (
            "ALiBi",
            check("ALiBi", "otter_image", &|json| {
                json["text_config"]["attn_config"]["alibi_bias_max"] = 4.into()
            }),
        ),
        (
            "softmax scale",
            check("softmax scale", "otter_image", &|json| {
                json["text_config"]["attn_config"]["softmax_scale"] = json!(1.0);
            }),
        ),
    ] {
        assert!(error > 1e-3, "{what}: {error:.1e}");
    }
    // Without the file of the trained part, the shards hold the values from before the training.
    let untrained = checkpoint::copy(&directory("otter_video"), |_| ());
    std::fs::remove_file(untrained.path().join("final_weights.pt")).unwrap();
    let model = checkpoint::open(untrained.path()).unwrap();
    assert!(checkpoint::logits_error(&model, &golden("otter_video"), &CASES) > 1e-1);
}

/// A frame has its own embedding, so the order of the frames matters; beyond the trained embeddings they are interpolated.
#[test]
fn frames_are_ordered() {
    let (model, golden) = (checkpoint::open(&directory("otter_video")).unwrap(), golden("otter_video"));
    let features = golden.tensor("five_frames.features");
    let connect = |order: &[u32]| {
        let features = features.index_select(&Tensor::new(order, features.device()).unwrap(), 0).unwrap();
        model.model.connect(&features, &[order.len()]).unwrap().remove(0)
    };
    let expected = golden.tensor("five_frames.visual_tokens").get(0).unwrap();
    let error = |tokens: &Tensor| support::golden::rms_error(tokens, &expected);
    assert!(error(&connect(&[0, 1, 2, 3, 4])) <= 1e-5);
    assert!(error(&connect(&[4, 3, 2, 1, 0])) > 1e-2);
    assert_eq!(connect(&[0, 1, 2, 3, 4, 0, 1, 2]).dims(), expected.dims(), "8 frames of 6 embeddings");
}

#[test]
fn broken_checkpoints_are_refused() {
    let check = |edit: &dyn Fn(&mut Value), expected: &str| {
        let broken = checkpoint::copy(&directory("otter_video"), |json| edit(json));
        let refusal = checkpoint::refusal(broken.path());
        assert!(refusal.contains(expected), "{refusal}");
    };
    check(
        &|json| json["max_num_frames"] = 8.into(),
        "`max_num_frames` is 8, but the checkpoint has 6 frame embeddings",
    );
    check(&|json| json["max_num_frames"] = Value::Null, "`max_num_frames`");
    check(&|json| json["cross_attn_every_n_layers"] = 4.into(), "cross_attention");
    check(&|json| json["cross_attn_every_n_layers"] = 0.into(), "cross_attn_every_n_layers is 0");
    check(&|json| json["text_config"]["model_type"] = json!("falcon"), "unknown model type `falcon`");
    check(&|json| json["text_config"]["hidden_size"] = 24.into(), "language.model");
    check(&|json| json["vision_config"]["hidden_size"] = 18.into(), "vision.embeddings");
    check(&|json| json["vision_config"]["image_size"] = 20.into(), "position_embedding");
    let refused = |edit: &dyn Fn(PathBuf), expected: &str| {
        let broken = checkpoint::copy(&directory("otter_video"), |_| ());
        edit(broken.path().into());
        let refusal = checkpoint::refusal(broken.path());
        assert!(refusal.contains(expected), "{refusal}");
    };
    refused(
        &|path| {
            let file = path.join("final_weights.pt");
            let bytes = std::fs::read(&file).unwrap();
            std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        },
        "final_weights.pt",
    );
    refused(
        &|path| std::fs::remove_file(path.join("pytorch_model-00001-of-00002.bin")).unwrap(),
        "pytorch_model-00001",
    );
    refused(&|path| std::fs::remove_file(path.join("tokenizer.json")).unwrap(), "tokenizer.json");
}
