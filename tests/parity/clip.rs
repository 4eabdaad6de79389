//! Parity of CLIP's vision transformer with transformers and open_clip, from checkpoints in their own layouts.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use flamingo::kernels::activation::Activation;
use flamingo::vision::clip_vit::{ClassToken, ClipVit, Config, file_name};
use flamingo::vision::{Fit, Preprocess, VisionEncoder};
use flamingo::weights::{Quantization, Rename, Weights};
use support::golden::{Golden, folder, rms_error};
use support::{random_weights, target};

/// Tolerance of max|a-b| / rms(b) of every stage.
const TOLERANCE: f64 = 1e-5;
const LAYOUTS: [(&str, &str); 2] =
    [("hugging_face", "model.safetensors"), ("open_clip", "open_clip_pytorch_model.bin")];
const ACTIVATIONS: [(&str, Activation); 2] =
    [("quick_gelu", Activation::QuickGelu), ("gelu", Activation::Gelu)];

fn config(activation: Activation) -> Config {
    Config {
        width: 24,
        layers: 3,
        heads: 4,
        patch: 5,
        feed_forward_width: 56,
        activation,
        norm_eps: 1e-5,
        class_token: ClassToken::Kept,
        preprocess: Preprocess { fit: Fit::Crop, size: 15, mean: [0.5; 3], std: [0.5; 3] },
    }
}

fn file(layout: &str) -> PathBuf {
    let name = LAYOUTS.iter().find(|(name, _)| *name == layout).unwrap().1;
    folder().join("clip").join(layout).join(name)
}

fn open(file: &Path, names: &dyn Fn(&str) -> Rename) -> flamingo::Result<Weights> {
    let files = [file.to_path_buf()];
    Weights::open(&files, target::device(), target::dtype(), Quantization::Keep, names)
}

fn encoder(config: &Config, layout: &str) -> ClipVit {
    let weights = open(&file(layout), &file_name).unwrap();
    let encoder = ClipVit::new(config, &weights).unwrap();
    weights.finish().unwrap();
    encoder
}

fn pixels() -> Tensor {
    target::input(&random_weights::values("clip.pixels", (2, 3, 15, 15), 0.1, 1.9).unwrap())
}

#[test]
fn every_stage_equals_transformers_and_open_clip() {
    let golden = Golden::load("clip");
    for (layout, _) in LAYOUTS {
        for (name, activation) in ACTIVATIONS {
            let mut stages = Vec::new();
            let encoder = encoder(&config(activation), layout);
            let mut observe =
                |stage: &str, x: &Tensor| stages.push((format!("{layout}.{name}.{stage}"), x.clone()));
            let kept = encoder.forward(&pixels(), &mut observe).unwrap();
            let stages: Vec<_> = stages.iter().map(|(stage, x)| (stage.as_str(), x, TOLERANCE)).collect();
            assert_eq!(stages.len(), 4);
            golden.compare_rms(&stages);
            let last = format!("{layout}.{name}.layers.2");
            golden.compare_rms(&[(&last, &kept, TOLERANCE)]);
        }
    }
}

#[test]
fn class_token_is_dropped_from_features_on_request() {
    for (class_token, features) in [(ClassToken::Kept, 10), (ClassToken::Dropped, 9)] {
        let config = Config { class_token, ..config(Activation::QuickGelu) };
        let encoder = encoder(&config, "open_clip");
        assert_eq!(encoder.patches(15, 15), features);
        let got = encoder.encode(&pixels()).unwrap();
        assert_eq!(got.dims(), [2, features, 24]);
        let golden = Golden::load("clip");
        let want = golden.tensor("open_clip.quick_gelu.layers.2").narrow(1, 10 - features, features).unwrap();
        assert!(rms_error(&got, &want) <= target::tolerance(TOLERANCE));
    }
}

#[test]
fn frame_features_do_not_depend_on_batch() {
    let encoder = encoder(&config(Activation::QuickGelu), "hugging_face");
    let x = Tensor::cat(&[pixels(), pixels(), pixels()], 0).unwrap();
    let batched = encoder.encode(&x).unwrap();
    for i in 0..6 {
        let single = encoder.encode(&x.narrow(0, i, 1).unwrap()).unwrap();
        let error = rms_error(&batched.narrow(0, i, 1).unwrap(), &single);
        assert!(error <= target::tolerance(1e-6), "frame {i}: {error:.1e}");
    }
}

/// The tolerance separates the encoder from wrong ones.
#[test]
fn wrong_encoders_differ() {
    let golden = Golden::load("clip");
    let check = |what: &str, error: f64| {
        println!("{what:<20} {error:.1e}");
        assert!(error > 10.0 * TOLERANCE, "{what}: {error:.1e}");
    };
    let right = |key: &str| golden.tensor(&format!("{key}.layers.2"));
    for wrong in ["tanh_gelu", "post_layernorm", "eps"] {
        check(wrong, rms_error(golden.tensor(&format!("wrong.{wrong}")), right("hugging_face.gelu")));
    }
    let run = |config: &Config, names: &dyn Fn(&str) -> Rename| {
        let weights = open(&file("open_clip"), names).unwrap();
        rms_error(
            &ClipVit::new(config, &weights).unwrap().encode(&pixels()).unwrap(),
            right("open_clip.quick_gelu"),
        )
    };
    let quick = config(Activation::QuickGelu);
    assert!(run(&quick, &file_name) <= target::tolerance(TOLERANCE));
    check("activation", run(&config(Activation::Gelu), &file_name));
    check("silu", run(&config(Activation::Silu), &file_name));
    check("eps", run(&Config { norm_eps: 2e-5, ..quick.clone() }, &file_name));
    check("heads", run(&Config { heads: 3, ..quick.clone() }, &file_name));
    check("one layer less", run(&Config { layers: 2, ..quick.clone() }, &file_name));
    let reordered = |order: [usize; 3]| {
        move |theirs: &str| match file_name(theirs) {
            Rename::Parts(parts) => Rename::Parts(order.map(|i| parts[i].clone()).into()),
            other => other,
        }
    };
    check("keys as values", run(&quick, &reordered([0, 2, 1])));
    check("queries as values", run(&quick, &reordered([2, 1, 0])));
    let swapped = |a: &'static str, b: &'static str| {
        move |theirs: &str| match file_name(theirs) {
            Rename::To(name) if name.contains(a) => Rename::To(name.replace(a, b)),
            Rename::To(name) => Rename::To(name.replace(b, a)),
            other => other,
        }
    };
    check("layer norms swapped", run(&quick, &swapped("layer_norm1", "layer_norm2")));
    check("layers swapped", run(&quick, &swapped("layers.0.mlp", "layers.1.mlp")));
}

#[test]
fn names_wrong_tensor_or_size() {
    let quick = config(Activation::QuickGelu);
    let check = |config: &Config, names: &dyn Fn(&str) -> Rename, expected: &str| {
        let weights = open(&file("open_clip"), names).unwrap();
        let loaded = ClipVit::new(config, &weights).and_then(|_| weights.finish());
        let error = loaded.err().unwrap_or_else(|| panic!("no error: {expected}")).to_string();
        assert!(error.contains(expected), "{error}");
    };
    let without = |theirs: &str| {
        if theirs.ends_with("resblocks.1.attn.in_proj_bias") { Rename::Ignore } else { file_name(theirs) }
    };
    check(&quick, &without, "tensor `encoder.layers.1.self_attn.q_proj.bias` is missing");
    check(
        &Config { layers: 1, ..quick.clone() },
        &file_name,
        "tensors are not part of the model: `encoder.layers.1.",
    );
    let widened = Config { feed_forward_width: 60, ..quick.clone() };
    check(&widened, &file_name, "`encoder.layers.0.mlp.fc1.bias` has shape [56], expected [60]");
    for (config, expected) in [
        (Config { heads: 5, ..quick.clone() }, "5 heads of the vision encoder do not divide its width 24"),
        (Config { patch: 4, ..quick.clone() }, "patches of 4 pixels do not divide an image of 15 pixels"),
        (Config { layers: 0, ..quick.clone() }, "layers of the vision encoder is 0"),
        (Config { norm_eps: 0.0, ..quick.clone() }, "norm_eps of the vision encoder is 0"),
    ] {
        check(&config, &file_name, expected);
    }
    let encoder = encoder(&quick, "open_clip");
    let small = Tensor::zeros((1, 3, 10, 15), target::dtype(), &Device::Cpu).unwrap();
    let error = encoder.encode(&small.to_device(target::device()).unwrap()).unwrap_err().to_string();
    assert!(error.contains("15x10 pixels, but the vision encoder takes 15x15"), "{error}");
}
