//! Parity of OpenFlamingo with open_flamingo 2.0.1, from checkpoints that its own code saved.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use flamingo::family::Frames;
use flamingo::family::Loaded;
use flamingo::prompt::Prompt;
use flamingo::task::{caption, question};
use serde_json::{Value, json};
use support::golden::{Golden, folder, rms_error};

use crate::checkpoint::{self, Case};

type Tensors = HashMap<String, Tensor>;

/// Golden, and the directories of the same model that were saved in different ways.
const MODELS: [(&str, &[&str]); 3] = [
    (LLAMA, &[LLAMA, OLD, FULL]),
    ("open_flamingo_neox", &["open_flamingo_neox"]),
    ("open_flamingo_mpt", &["open_flamingo_mpt"]),
];
const LLAMA: &str = "open_flamingo_llama";
const OLD: &str = "open_flamingo_llama_old";
const FULL: &str = "open_flamingo_llama_full";
const CASES: [Case; 5] = [
    ("blind", &[]),
    ("one", &[&[1]]),
    ("late", &[&[0]]),
    ("three", &[&[2], &[3], &[1]]),
    ("adjacent", &[&[1], &[4]]),
];
/// Beams, length penalty and most new tokens, as in the generator.
const SEARCHES: [(usize, f64, usize); 3] = [(1, 1.0, 32), (3, 1.0, 12), (3, 0.0, 10)];
const ANSWERS: [&str; 3] = [" a dog", " two kittens in the grass", " No"];

fn directory(name: &str) -> PathBuf {
    folder().join(name)
}

/// Cases that a golden has; the smaller ones lack some.
fn cases(golden: &Golden) -> Vec<Case> {
    CASES.into_iter().filter(|(name, _)| golden.has(&format!("{name}.ids"))).collect()
}

/// Returns every model with its golden, once per way of saving.
fn models() -> impl Iterator<Item = (&'static str, Loaded, Golden)> {
    let of = |(name, saved): (&'static str, &'static [&'static str])| {
        saved.iter().map(move |saved| {
            (
                *saved,
                checkpoint::open(&directory(saved)).unwrap_or_else(|e| panic!("{saved}: {e}")),
                Golden::load(name),
            )
        })
    };
    MODELS.into_iter().flat_map(of)
}

#[test]
fn every_stage_equals_open_flamingo() {
    for (_, model, golden) in models() {
        assert!(model.info.gates_open);
        assert_eq!(model.info.frames, Frames::Independent);
        checkpoint::stages_equal(&model, &golden, &cases(&golden));
    }
}

#[test]
fn answers_equal_open_flamingo() {
    for (_, model, golden) in models() {
        checkpoint::answers_equal(&model, &golden, &cases(&golden), &SEARCHES);
        let answers = ANSWERS.map(|answer| model.tokenizer.encode_plain(answer).unwrap());
        checkpoint::likelihoods_equal(&model, &golden, &cases(&golden), &answers);
    }
}

#[test]
fn batched_rows_equal_single() {
    for (name, _) in MODELS {
        let (model, golden) = (checkpoint::open(&directory(name)).unwrap(), Golden::load(name));
        checkpoint::batch_equals_one_by_one(&model, &golden, &cases(&golden));
    }
}

#[test]
fn prompts_equal_the_tokenizer() {
    for (name, model, golden) in models() {
        let check = |case: &str, prompt: Prompt| {
            if !golden.has(&format!("{case}.ids")) {
                return;
            }
            let media = prompt.media();
            let ids = prompt.encode(&model.tokenizer, &model.tokens, media).unwrap().ids;
            assert_eq!(ids, checkpoint::ids(&golden, &format!("{case}.ids")), "{name} {case}");
        };
        let example = |answer: &str| model.format.example(Prompt::parse(&model.format.caption), answer);
        let query = Prompt::parse(&model.format.caption);
        check("blind", Prompt::default().text("Two people are"));
        check("one", query.clone());
        check("three", example("a dog").then(example("two kittens")).then(query));
        let asked = model.format.question.replace("{question}", "What is in this picture?");
        check("late", Prompt::default().text("the man").then(Prompt::parse(&asked)));
        check("adjacent", Prompt::parse("<image><image>Output:the beach"));
        let forged = Prompt::default().text("<image><|endofchunk|><PAD>");
        let ids = forged.encode(&model.tokenizer, &model.tokens, 0).unwrap().ids;
        let added = [model.tokens.media[0], model.tokens.end_of_chunk];
        assert!(ids.iter().all(|id| !added.contains(id)), "{ids:?}");
    }
}

/// Without a support set, two examples without images come first.
#[test]
fn zero_shot_prompts_have_two_text_only_examples() {
    let model = checkpoint::open(&directory(LLAMA)).unwrap();
    let examples =
        "Output:A man rides a horse on the beach.<EOC>\nOutput:Two people cook in a kitchen.<EOC>\n";
    let expected = Prompt::parse(examples).end_prefix().then(Prompt::parse("<image>Output:"));
    assert_eq!(caption::prompt(&model.format), expected);
    let examples = "Question:What color is the bus? Short answer:red<EOC>\n\
                    Question:How many dogs are there? Short answer:2<EOC>\n";
    let expected =
        Prompt::parse(examples).end_prefix().then(Prompt::parse("<image>Question:Who? Short answer:"));
    assert_eq!(question::prompt(&model.format, "Who?"), expected);
}

#[test]
fn pixels_equal_the_transform() {
    let (model, golden) = (checkpoint::open(&directory(LLAMA)).unwrap(), Golden::load(LLAMA));
    for i in 0..5 {
        let picture = golden.tensor(&format!("picture.{i}"));
        let (height, width, _) = picture.dims3().unwrap();
        let bytes = picture.flatten_all().unwrap().to_vec1::<u8>().unwrap();
        let image = image::RgbImage::from_raw(width as u32, height as u32, bytes).unwrap();
        let frame = model.preprocess.frame(&image);
        let pixels = model.preprocess.pixels(&[frame], &Device::Cpu, DType::F32).unwrap();
        golden.compare_rms(&[(&format!("pixels.{i}"), &pixels, 1e-5)]);
    }
}

/// A medium of several frames has the visual tokens of each frame alone.
#[test]
fn frames_without_temporal_embedding_are_independent() {
    let (model, golden) = (checkpoint::open(&directory(LLAMA)).unwrap(), Golden::load(LLAMA));
    let features = golden.tensor("three.features").unsqueeze(1).unwrap();
    let features = features.flatten(0, 1).unwrap(); // (3, s, d)
    let expected = golden.tensor("three.visual_tokens");
    for lengths in [&[3usize][..], &[1, 2], &[2, 1]] {
        let tokens = model.model.connect(&features, lengths).unwrap();
        let shapes: Vec<usize> = tokens.iter().map(|t| t.dim(0).unwrap()).collect();
        assert_eq!(shapes, lengths.iter().map(|t| t * 5).collect::<Vec<_>>());
        let all = Tensor::cat(&tokens, 0).unwrap();
        assert!(rms_error(&all, &expected.flatten(0, 1).unwrap()) <= 1e-5, "{lengths:?}");
    }
    let videos: [Case; 2] = [("one", &[&[2, 3, 4]]), ("adjacent", &[&[1], &[0, 4]])];
    checkpoint::batch_equals_one_by_one(&model, &golden, &videos);
}

/// Copies a directory; the paths of its description stay valid.
pub fn copy(name: &str, edit: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let from = directory(name);
    let to = tempfile::tempdir().unwrap();
    std::fs::copy(from.join("checkpoint.pt"), to.path().join("checkpoint.pt")).unwrap();
    std::fs::copy(from.join("config.json"), to.path().join("config.json")).unwrap();
    checkpoint::edit_json(&to.path().join("config.json"), |json| {
        for key in ["language", "vision"] {
            json[key] = json!(from.join(json[key].as_str().unwrap()).canonicalize().unwrap());
        }
        edit(json);
    });
    to
}

/// Replaces the checkpoint by a safetensors file of its edited tensors.
pub fn edit_checkpoint(directory: &Path, edit: impl FnOnce(&mut Tensors)) {
    let file = directory.join("checkpoint.pt");
    let read = |key| candle_core::pickle::read_all_with_key(&file, key).unwrap();
    let mut tensors = read(None);
    if tensors.is_empty() {
        tensors = read(Some("model_state_dict"));
    }
    let mut tensors: Tensors = tensors.into_iter().collect();
    edit(&mut tensors);
    let contiguous: Tensors =
        tensors.into_iter().map(|(name, t)| (name, t.force_contiguous().unwrap())).collect();
    candle_core::safetensors::save(&contiguous, directory.join("checkpoint.safetensors")).unwrap();
    checkpoint::edit_json(&directory.join("config.json"), |json| {
        json["checkpoint"] = "checkpoint.safetensors".into();
    });
}

/// The golden separates the model from wrong ones: each is a checkpoint with the numbers in other places.
#[test]
fn wrong_models_differ() {
    let golden = Golden::load(LLAMA);
    let error = |edit: &dyn Fn(&mut Tensors), json: &dyn Fn(&mut Value)| {
        let wrong = copy(LLAMA, json);
        edit_checkpoint(wrong.path(), |all| edit(all));
        checkpoint::logits_error(&checkpoint::open(wrong.path()).unwrap(), &golden, &CASES)
    };
    let (keep, same) = (|_: &mut Tensors| (), |_: &mut Value| ());
    assert!(error(&keep, &same) <= 1e-4);
    let swap = |a: &'static str, b: &'static str| move |all: &mut Tensors| checkpoint::swap(all, a, b);
    let halves = |part: &'static str| {
        move |all: &mut Tensors| {
            for (_, kv) in all.iter_mut().filter(|(n, _)| n.contains(part) && n.ends_with("to_kv.weight")) {
                let half = kv.chunk(2, 0).unwrap();
                *kv = Tensor::cat(&[&half[1], &half[0]], 0).unwrap();
            }
        }
    };
    let no_tanh = |all: &mut Tensors| {
        for (_, gate) in all.iter_mut().filter(|(name, _)| name.ends_with("_gate")) {
            let value = gate.to_vec1::<f32>().unwrap()[0].clamp(-0.999, 0.999).atanh();
            *gate = Tensor::new(&[value], &Device::Cpu).unwrap();
        }
    };
    let closed = |all: &mut Tensors| {
        for (_, gate) in all.iter_mut().filter(|(name, _)| name.ends_with(".ff_gate")) {
            *gate = gate.zeros_like().unwrap();
        }
    };
    let first_image = |all: &mut Tensors| {
        let embedding = all.get_mut("lang_encoder.model.embed_tokens.weight").unwrap();
        let rows = embedding.dim(0).unwrap();
        let row = |i: usize| embedding.narrow(0, i, 1).unwrap();
        let base = embedding.narrow(0, 0, rows - 3).unwrap();
        *embedding = Tensor::cat(&[&base, &row(rows - 2), &row(rows - 3), &row(rows - 1)], 0).unwrap();
    };
    for (what, edit) in [
        ("gates without tanh", &no_tanh as &dyn Fn(&mut Tensors)),
        ("feed-forward closed", &closed),
        ("keys and values of cross-attention", &halves("gated_cross_attn_layer")),
        ("keys and values of the resampler", &halves("perceiver")),
        ("cross-attentions in another order", &swap("layers.1.gated", "layers.3.gated")),
        ("gates swapped", &swap("attn_gate", "ff_gate")),
        ("norms of media and latents", &swap("norm_media", "norm_latents")),
        ("layers of the resampler", &swap("perceiver.layers.0", "perceiver.layers.1")),
        ("rows of the added tokens", &first_image),
    ] {
        let error = error(edit, &same);
        println!("{what:<36} {error:.1e}");
        assert!(error > 1e-3, "{what}: {error:.1e}");
    }
    for wrong in ["tanh_gelu", "eps"] {
        let error = rms_error(golden.tensor(&format!("wrong.{wrong}")), golden.tensor("one.logits"));
        println!("{wrong:<36} {error:.1e}");
        assert!(error > 5e-4, "{wrong}: {error:.1e}");
    }
    let vision = tempfile::tempdir().unwrap();
    for file in ["open_clip_config.json", "open_clip_pytorch_model.bin"] {
        std::fs::copy(folder().join("clip/open_clip").join(file), vision.path().join(file)).unwrap();
    }
    checkpoint::edit_json(&vision.path().join("open_clip_config.json"), |json| {
        json["model_cfg"]["quick_gelu"] = false.into();
    });
    let error = error(&keep, &|json| json["vision"] = json!(vision.path()));
    println!("{:<36} {error:.1e}", "GELU for QuickGELU");
    assert!(error > 1e-3);
}

/// Features other than the encoder's give other visual tokens.
#[test]
fn wrong_features_differ() {
    let (model, golden) = (checkpoint::open(&directory(LLAMA)).unwrap(), Golden::load(LLAMA));
    let (features, expected) =
        (golden.tensor("one.features"), golden.tensor("one.visual_tokens").get(0).unwrap());
    let error = |features: &Tensor| rms_error(&model.model.connect(features, &[1]).unwrap()[0], &expected);
    assert!(error(features) <= 1e-5);
    let class = features.mean_keepdim(1).unwrap();
    assert!(error(&Tensor::cat(&[&class, features], 1).unwrap()) > 1e-3, "one token more");
    let centred = features.broadcast_sub(&features.mean_keepdim(2).unwrap()).unwrap();
    let gain = Tensor::arange(1f32, 25.0, &Device::Cpu).unwrap().affine(0.02, 0.7).unwrap();
    assert!(error(&centred.broadcast_mul(&gain).unwrap()) > 1e-3, "output norm");
}

#[test]
fn broken_checkpoints_are_refused() {
    let check = |name: &str, edit: &dyn Fn(&mut Tensors), expected: &str| {
        let broken = copy(name, |_| ());
        edit_checkpoint(broken.path(), |all| edit(all));
        let refusal = checkpoint::refusal(broken.path());
        assert!(refusal.contains(expected), "{refusal}");
    };
    let without = |name: &'static str| move |all: &mut Tensors| drop(all.remove(name).unwrap());
    check(LLAMA, &without("perceiver.norm.bias"), "tensor `resampler.norm.bias` is missing");
    check(LLAMA, &without("perceiver.latents"), "tensor `resampler.latents` is missing");
    let gate = "lang_encoder.model.layers.3.gated_cross_attn_layer.ff_gate";
    check(LLAMA, &without(gate), "tensor `cross_attention.3.feed_forward_gate` is missing");
    check(LLAMA, &without("lang_encoder.model.embed_tokens.weight"), "has no token embedding");
    let embedding = |change: fn(Tensor) -> Tensor| {
        move |all: &mut Tensors| {
            let name = "lang_encoder.model.embed_tokens.weight";
            let changed = change(all[name].clone());
            all.insert(name.into(), changed);
        }
    };
    let longer = embedding(|rows| rows.pad_with_zeros(0, 0, 4).unwrap());
    check(LLAMA, &longer, "the checkpoint's embedding has 307 rows");
    let shorter = embedding(|rows| rows.narrow(0, 0, 260).unwrap());
    check(LLAMA, &shorter, "the embedding only 260");
    let narrower = embedding(|rows| rows.narrow(1, 0, 8).unwrap());
    check(
        LLAMA,
        &narrower,
        "tensor `language.model.embed_tokens.weight` has shape [303, 8], expected [303, 20]",
    );
    let extra = |all: &mut Tensors| {
        drop(all.insert("perceiver.media_time_embs".into(), all["perceiver.latents"].clone()))
    };
    check(LLAMA, &extra, "not part of the model: `resampler.media_time_embs`");
    let extra =
        |all: &mut Tensors| drop(all.insert("projection.weight".into(), all["perceiver.latents"].clone()));
    check(LLAMA, &extra, "not part of the model: `projection.weight`");
    let differ = |all: &mut Tensors| {
        let name = "module.lang_encoder.gated_cross_attn_layers.1.attn.to_q.weight";
        let other = all[name].affine(1.0, 1e-3).unwrap();
        all.insert(name.into(), other);
    };
    check(OLD, &differ, "several tensors stand for `cross_attention.1.attention.to_q.weight` and differ");
    let differ = |all: &mut Tensors| {
        let name = "lang_encoder.old_decoder_blocks.2.mlp.up_proj.weight";
        let other = all[name].affine(1.0, 1e-3).unwrap();
        all.insert(name.into(), other);
    };
    check(FULL, &differ, "several tensors stand for `language.model.layers.2.mlp.up_proj.weight` and differ");
}

#[test]
fn contradicting_descriptions_are_refused() {
    let check = |edit: &dyn Fn(&mut Value), expected: &str| {
        let refusal = checkpoint::refusal(copy(LLAMA, |json| edit(json)).path());
        assert!(refusal.contains(expected), "{refusal}");
    };
    let at = "but the checkpoint has cross-attention at the layers [1, 3]";
    check(&|json| json["cross_attn_every_n_layers"] = 1.into(), at);
    check(&|json| json["cross_attn_every_n_layers"] = 4.into(), "not part of the model: `cross_attention.1.");
    check(&|json| json["cross_attn_every_n_layers"] = 0.into(), "cross_attn_every_n_layers is 0");
    check(&|json| json["other"] = 0.into(), "unknown field `other`");
    check(&|json| json["checkpoint"] = "absent.pt".into(), "absent.pt");
    check(&|json| json["language"] = "absent".into(), "absent");
    check(&|json| json["language"] = "config.json".into(), "not a directory");
    check(&|json| json["vision"] = json!(directory(LLAMA).join("language")), "unknown model type `llama`");

    let broken = copy(LLAMA, |_| ());
    let bytes = std::fs::read(broken.path().join("checkpoint.pt")).unwrap();
    std::fs::write(broken.path().join("checkpoint.pt"), &bytes[..bytes.len() - 1000]).unwrap();
    let refusal = checkpoint::refusal(broken.path());
    assert!(refusal.contains("checkpoint.pt: not a readable PyTorch file"), "{refusal}");

    let vision = tempfile::tempdir().unwrap();
    for file in ["config.json", "preprocessor_config.json", "model.safetensors"] {
        std::fs::copy(folder().join("clip/hugging_face").join(file), vision.path().join(file)).unwrap();
    }
    checkpoint::open(copy(LLAMA, |json| json["vision"] = json!(vision.path())).path()).unwrap();
    checkpoint::edit_json(&vision.path().join("preprocessor_config.json"), |json| {
        json["crop_size"] = 16.into()
    });
    check(&|json| json["vision"] = json!(vision.path()), "`crop_size` is 16, but the model takes 15");
    checkpoint::edit_json(&vision.path().join("preprocessor_config.json"), |json| {
        json["crop_size"] = json!({"height": 15, "width": 18});
    });
    check(&|json| json["vision"] = json!(vision.path()), "`crop_size.width` is 18, but the model takes 15");
}
