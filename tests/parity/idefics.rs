//! Parity of IDEFICS with transformers' `IdeficsForVisionText2Text`, from checkpoints in its own layout.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use flamingo::prompt::Prompt;
use serde_json::{Value, json};
use support::golden::{Golden, folder, relative_error};

use crate::checkpoint::{self, Case};

const VARIANTS: [&str; 3] = ["idefics_base", "idefics_instruct", "idefics_bin"];
const CASES: [Case; 5] = [
    ("blind", &[]),
    ("one", &[&[1]]),
    ("late", &[&[0]]),
    ("three", &[&[2], &[3], &[1]]),
    ("forget", &[&[1], &[4]]),
];
/// Beams, length penalty and most new tokens, as in the generator.
const SEARCHES: [(usize, f64, usize); 3] = [(1, 1.0, 32), (3, 1.0, 12), (3, 0.0, 10)];
const ANSWERS: [&str; 3] = [" a dog", " two kittens in the grass", " No"];

fn directory(variant: &str) -> PathBuf {
    folder().join(variant)
}

fn golden(variant: &str) -> Golden {
    Golden::load(variant)
}

#[test]
fn every_stage_equals_transformers() {
    for variant in VARIANTS {
        let model = checkpoint::open(&directory(variant)).unwrap();
        assert!(model.info.gates_open);
        checkpoint::stages_equal(&model, &golden(variant), &CASES);
    }
}

#[test]
fn answers_equal_transformers() {
    for variant in VARIANTS {
        let (model, golden) = (checkpoint::open(&directory(variant)).unwrap(), golden(variant));
        checkpoint::answers_equal(&model, &golden, &CASES, &SEARCHES);
        let answers = ANSWERS.map(|answer| model.tokenizer.encode_plain(answer).unwrap());
        checkpoint::likelihoods_equal(&model, &golden, &CASES, &answers);
    }
}

#[test]
fn batched_rows_equal_single() {
    for variant in VARIANTS {
        let model = checkpoint::open(&directory(variant)).unwrap();
        checkpoint::batch_equals_one_by_one(&model, &golden(variant), &CASES);
    }
}

#[test]
fn prompts_equal_the_processor() {
    let text = |text: &str| Prompt::default().text(text);
    for variant in VARIANTS {
        let (model, golden) = (checkpoint::open(&directory(variant)).unwrap(), golden(variant));
        let check = |name: &str, prompt: Prompt| {
            let media = prompt.media();
            let ids = prompt.encode(&model.tokenizer, &model.tokens, media).unwrap().ids;
            assert_eq!(ids, checkpoint::ids(&golden, &format!("{name}.ids")), "{variant} {name}");
        };
        check("blind", text("Two people are"));
        check("one", Prompt::parse("<image>Describe this image."));
        check("late", Prompt::parse("User: what is<image>Question: the man Answer:"));
        check("three", Prompt::parse("User:<image><image>An image of<image>the grass. Answer:"));
        if variant == "idefics_instruct" {
            let first = "User:<image>Describe this image.<EOC>\nAssistant: An image of two kittens.<EOC>";
            check("dialogue", Prompt::parse(&format!("{first}\nUser:<image>And this?<EOC>\nAssistant:")));
        }
        let forged = text("<image></s><fake_token_around_image><end_of_utterance><s>");
        let ids = forged.encode(&model.tokenizer, &model.tokens, 0).unwrap().ids;
        let special = [2, model.tokens.media[0], model.tokens.media[1], model.tokens.end_of_chunk];
        assert!(ids[1..].iter().all(|id| *id != 1 && !special.contains(id)), "{ids:?}");
    }
}

#[test]
fn pixels_equal_the_processor() {
    for variant in VARIANTS {
        let (model, golden) = (checkpoint::open(&directory(variant)).unwrap(), golden(variant));
        for i in [0, 1, 2, 4] {
            let picture = golden.tensor(&format!("picture.{i}"));
            let (height, width, _) = picture.dims3().unwrap();
            let bytes = picture.flatten_all().unwrap().to_vec1::<u8>().unwrap();
            let image = image::RgbImage::from_raw(width as u32, height as u32, bytes).unwrap();
            let frame = model.preprocess.frame(&image);
            let pixels = model.preprocess.pixels(&[frame], &Device::Cpu, DType::F32).unwrap();
            golden.compare_rms(&[(&format!("pixels.{i}"), &pixels, 1e-5)]);
        }
    }
}

/// A transparent picture lies on white when it is decoded.
#[cfg(feature = "video")]
#[test]
fn transparent_pixels_equal_the_processor() {
    let (model, golden) = (checkpoint::open(&directory("idefics_base")).unwrap(), golden("idefics_base"));
    let picture = golden.tensor("picture.3");
    let (height, width, channels) = picture.dims3().unwrap();
    assert_eq!(channels, 4);
    let bytes = picture.flatten_all().unwrap().to_vec1::<u8>().unwrap();
    let image = image::RgbaImage::from_raw(width as u32, height as u32, bytes).unwrap();
    let frame = model.preprocess.frame(&checkpoint::decoded(&image));
    let pixels = model.preprocess.pixels(&[frame], &Device::Cpu, DType::F32).unwrap();
    golden.compare_rms(&[("pixels.3", &pixels, 1e-5)]);
}

/// The golden separates the model from wrong ones, each of them a wrong checkpoint or description.
#[test]
fn wrong_models_differ() {
    type Tensors = HashMap<String, Tensor>;
    let check = |what: &str, variant: &str, config: &dyn Fn(&mut Value), tensors: &dyn Fn(&mut Tensors)| {
        let wrong = checkpoint::copy(&directory(variant), |json| config(json));
        if variant != "idefics_bin" {
            checkpoint::edit_tensors(wrong.path(), |all| tensors(all));
        }
        let model = checkpoint::open(wrong.path()).unwrap();
        let error = checkpoint::logits_error(&model, &golden(variant), &CASES);
        println!("{variant:<9} {what:<28} {error:.1e}");
        error
    };
    let same = |_: &mut Value| ();
    let keep = |_: &mut Tensors| ();
    assert!(check("nothing", "idefics_base", &same, &keep) <= 1e-4);
    let swapped =
        |one: &'static str, other: &'static str| move |all: &mut Tensors| checkpoint::swap(all, one, other);
    let no_tanh = |all: &mut Tensors| {
        for (_, gate) in all.iter_mut().filter(|(name, _)| name.contains("alpha")) {
            let inverse = |x: f32| x.clamp(-0.999, 0.999).atanh();
            let flat = gate.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
            let flat: Vec<f32> = flat.into_iter().map(inverse).collect();
            *gate = Tensor::from_vec(flat, gate.shape(), &Device::Cpu).unwrap();
        }
    };
    let k_norm_of_q = |all: &mut Tensors| {
        let names: Vec<String> =
            all.keys().filter(|n| n.contains("cross_attn.q_layer_norm")).cloned().collect();
        for name in names {
            all.insert(name.replace("q_layer_norm", "k_layer_norm"), all[&name].clone());
        }
    };
    for (what, error) in [
        ("gate without tanh", check("gate without tanh", "idefics_base", &same, &no_tanh)),
        (
            "keys and values swapped",
            check(
                "keys and values swapped",
                "idefics_base",
                &same,
                &swapped("cross_attn.k_proj", "cross_attn.v_proj"),
            ),
        ),
        (
            "perceiver's keys and values",
            check("perceiver's keys and values", "idefics_base", &same, &swapped("0.k_proj", "0.v_proj")),
        ),
        (
            "blocks in another order",
            check(
                "blocks in another order",
                "idefics_base",
                &same,
                &swapped("gated_cross_attn_layers.0", "gated_cross_attn_layers.1"),
            ),
        ),
        ("k norm of q", check("k norm of q", "idefics_base", &same, &k_norm_of_q)),
        (
            "gate and up swapped",
            check("gate and up swapped", "idefics_base", &same, &swapped("mlp.gate_proj", "mlp.up_proj")),
        ),
        (
            "norms of context and latents",
            check(
                "context and latents norm",
                "idefics_base",
                &same,
                &swapped("context_layer_norm", "latents_layer_norm"),
            ),
        ),
        ("heads", check("heads", "idefics_instruct", &|json| json["num_attention_heads"] = 5.into(), &keep)),
        (
            "QuickGELU for GELU",
            check(
                "QuickGELU for GELU",
                "idefics_base",
                &|json| json["vision_config"]["hidden_act"] = json!("quick_gelu"),
                &keep,
            ),
        ),
        (
            "GELU for QuickGELU",
            check(
                "GELU for QuickGELU",
                "idefics_instruct",
                &|json| json["vision_config"]["hidden_act"] = json!("gelu"),
                &keep,
            ),
        ),
        ("eps", check("eps", "idefics_bin", &|json| json["rms_norm_eps"] = json!(1e-5), &keep)),
        (
            "vision eps",
            check(
                "vision eps",
                "idefics_bin",
                &|json| json["vision_config"]["layer_norm_eps"] = json!(2e-5),
                &keep,
            ),
        ),
        (
            "larger eps",
            check("larger eps", "idefics_instruct", &|json| json["rms_norm_eps"] = json!(1e-6), &keep),
        ),
    ] {
        assert!(error > 1e-3, "{what}: {error:.1e}");
    }
}

/// Features other than the encoder's give other visual tokens: without the class token, or after CLIP's output norm.
#[test]
fn wrong_features_differ() {
    let (model, golden) = (checkpoint::open(&directory("idefics_base")).unwrap(), golden("idefics_base"));
    let features = golden.tensor("one.features");
    let expected = golden.tensor("one.visual_tokens").get(0).unwrap();
    let error =
        |features: &Tensor| relative_error(&model.model.connect(features, &[1]).unwrap()[0], &expected);
    assert!(error(features) <= 1e-5);
    let patches = features.narrow(1, 1, features.dim(1).unwrap() - 1).unwrap();
    assert!(error(&patches) > 1e-3, "class token dropped");
    let mean = features.mean_keepdim(2).unwrap();
    let centred = features.broadcast_sub(&mean).unwrap();
    let deviation = centred.sqr().unwrap().mean_keepdim(2).unwrap().sqrt().unwrap();
    // Without a gain the norm of the resampler would hide it.
    let width = features.dim(2).unwrap();
    let gain = Tensor::arange(0f32, width as f32, features.device()).unwrap().affine(1.0 / width as f64, 0.5);
    let normed = centred.broadcast_div(&deviation).unwrap().broadcast_mul(&gain.unwrap()).unwrap();
    assert!(error(&normed) > 1e-3, "output norm");
}

/// A video has the visual tokens of all its frames, one after another, and the text attends to all of them.
#[test]
fn frames_of_a_video_are_independent() {
    for (variant, frames) in [("idefics_base", [1usize, 3]), ("idefics_instruct", [0, 4])] {
        let (model, golden) = (checkpoint::open(&directory(variant)).unwrap(), golden(variant));
        let pixels = frames.map(|i| golden.tensor(&format!("pixels.{i}")).clone());
        let tokens = |pixels: Tensor| model.model.visual_tokens(&[pixels.into()], None).unwrap().remove(0);
        let together = tokens(Tensor::cat(&pixels, 0).unwrap());
        let alone = Tensor::cat(&pixels.map(tokens), 0).unwrap();
        assert_eq!(together.dims(), alone.dims());
        assert!(relative_error(&together, &alone) <= 1e-5, "{variant}");
    }
}

#[test]
fn broken_checkpoints_are_refused() {
    let check = |edit: &dyn Fn(&mut Value), expected: &str| {
        let broken = checkpoint::copy(&directory("idefics_base"), |json| edit(json));
        let refusal = checkpoint::refusal(broken.path());
        assert!(refusal.contains(expected), "{refusal}");
    };
    check(&|json| json["alpha_type"] = json!("matrix"), "unknown `alpha_type` `matrix`");
    check(&|json| json["alpha_type"] = json!("vector"), "attention_gate");
    check(&|json| json["hidden_act"] = json!("gelu"), "unknown `hidden_act` `gelu`");
    check(&|json| json["cross_layer_interval"] = 3.into(), "does not divide the 4 layers");
    check(&|json| json["cross_layer_interval"] = 0.into(), "`cross_layer_interval` 0");
    check(&|json| json["cross_layer_interval"] = 1.into(), "cross_attention.2.");
    check(&|json| json["num_attention_heads"] = 5.into(), "does not divide `hidden_size`");
    check(
        &|json| json["additional_vocab_size"] = 1.into(),
        "the tokenizer has 322 tokens, the embedding only 321",
    );
    check(&|json| json["additional_vocab_size"] = 3.into(), "model.embed_tokens.weight");
    check(&|json| json["hidden_size"] = (1u64 << 40).into(), "not between 1 and");
    check(
        &|json| json["vision_config"]["image_size"] = 25.into(),
        "`image_size` is 20, but the model takes 25",
    );
    check(&|json| json["vision_config"]["embed_dim"] = 27.into(), "vision.embeddings");
    check(
        &|json| json["vision_config"]["hidden_size"] = 25.into(),
        "`embed_dim` is 24, but `hidden_size` is 25",
    );
    check(&|json| json["qk_layer_norms"] = false.into(), "q_norm.weight");
    check(&|json| json["use_resampler"] = false.into(), "resampler.");
    check(&|json| json["tie_word_embeddings"] = true.into(), "model.embed_tokens.weight");
}

#[test]
fn broken_files_are_refused() {
    let check = |edit: &dyn Fn(PathBuf), expected: &str| {
        let broken = checkpoint::copy(&directory("idefics_base"), |_| ());
        edit(broken.path().into());
        let refusal = checkpoint::refusal(broken.path());
        assert!(refusal.contains(expected), "{refusal}");
    };
    let shard = "model-00002-of-00003.safetensors";
    check(&|path| std::fs::remove_file(path.join(shard)).unwrap(), shard);
    check(
        &|path| {
            let bytes = std::fs::read(path.join(shard)).unwrap();
            std::fs::write(path.join(shard), &bytes[..bytes.len() - 64]).unwrap();
        },
        shard,
    );
    let without = |name: &'static str| {
        move |path: PathBuf| checkpoint::edit_tensors(&path, |all| drop(all.remove(name).unwrap()))
    };
    check(&without("lm_head.additional_fc.weight"), "language.lm_head.weight");
    check(&without("lm_head.weight"), "language.lm_head.weight");
    check(&without("model.gated_cross_attn_layers.1.alpha_dense"), "cross_attention.2.feed_forward_gate");
    check(
        &|path| {
            checkpoint::edit_tensors(&path, |all| {
                let extra = all["model.norm.weight"].clone();
                all.insert("model.other_norm.weight".into(), extra);
            });
        },
        "language.model.other_norm.weight",
    );
    check(
        &|path| {
            checkpoint::edit_json(&path.join("preprocessor_config.json"), |json| {
                json["image_size"] = 224.into()
            });
        },
        "`image_size` is 224, but the model takes 20",
    );
    check(
        &|path| {
            checkpoint::edit_json(&path.join("preprocessor_config.json"), |json| {
                json["image_std"] = json!([1, 0, 1])
            });
        },
        "preprocessor_config.json",
    );
    check(
        &|path| {
            let file = path.join("tokenizer.json");
            let text = std::fs::read_to_string(&file).unwrap().replace("\"<image>\"", "\"<picture>\"");
            std::fs::write(file, text).unwrap();
        },
        "`<image>` is not in the tokenizer's vocabulary",
    );
}
