//! Tensors that are missing or unused, found from the headers of the files, for every family.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use flamingo::family::native::NativeConfig;
use flamingo::family::{LoadOptions, header_problems};
use flamingo::weights::Quantization;
use support::golden::folder;
use support::language_model::smollm2;
use support::repository::root;

use crate::{checkpoint, open_flamingo};

fn problems(directory: &Path, quantization: Quantization) -> Vec<String> {
    let options = LoadOptions::new(Device::Cpu, DType::F32, quantization);
    header_problems(directory, &options).unwrap_or_else(|e| panic!("{}: {e}", directory.display()))
}

/// The model that ships, beside its language model.
fn native(edit: impl FnOnce(&mut HashMap<String, Tensor>)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["config.json", "adapters.safetensors"] {
        std::fs::copy(root().join("models/flamingo-mini").join(file), copy.path().join(file)).unwrap();
    }
    checkpoint::edit_json(&copy.path().join("config.json"), |json| {
        json["language"]["file"] = smollm2().to_str().into();
        json["adapters"]["file"] = "model.safetensors".into();
    });
    checkpoint::edit_tensors(copy.path(), edit);
    copy
}

#[test]
fn complete_checkpoints_have_no_problems() {
    for name in [
        "idefics_base",
        "idefics_bin",
        "idefics_instruct",
        "open_flamingo_llama",
        "open_flamingo_llama_full",
        "open_flamingo_llama_old",
        "open_flamingo_mpt",
        "open_flamingo_neox",
        "otter_image",
        "otter_video",
        "dhansmair",
        "tiny_mllama",
    ] {
        for quantization in [Quantization::Keep, Quantization::Q4K] {
            assert_eq!(problems(&folder().join(name), quantization), [""; 0], "{name}");
        }
    }
    let native = native(|_| ());
    NativeConfig::read(native.path()).unwrap();
    assert_eq!(problems(native.path(), Quantization::Keep), [""; 0]);
}

/// One tensor has another name, so it is missing, and the other name is unused.
#[test]
fn a_missing_and_an_extra_tensor_are_named() {
    let check = |directory: &Path, missing: &str, extra: &str| {
        let found = problems(directory, Quantization::Keep);
        assert_eq!(found.len(), 2, "{found:?}");
        let (first, last) = (&found[0], &found[1]);
        assert!(first.contains(missing) && first.contains("is missing"), "{missing}: {found:?}");
        assert!(last.contains(extra) && !last.contains(missing), "{extra}: {found:?}");
    };
    let rename = |all: &mut HashMap<String, Tensor>, from: &str, to: &str| {
        let tensor = all.remove(from).unwrap_or_else(|| panic!("{from}"));
        all.insert(to.into(), tensor);
    };
    let idefics = checkpoint::copy(&folder().join("idefics_base"), |_| ());
    checkpoint::edit_tensors(idefics.path(), |all| rename(all, "model.norm.weight", "model.other.weight"));
    check(idefics.path(), "norm.weight", "other.weight");
    let mllama = checkpoint::copy(&folder().join("tiny_mllama"), |_| ());
    checkpoint::edit_tensors(mllama.path(), |all| {
        rename(all, "multi_modal_projector.bias", "multi_modal_projector.slope");
    });
    check(mllama.path(), "projector.bias", "projector.slope");
    let open_flamingo = open_flamingo::copy("open_flamingo_mpt", |_| ());
    open_flamingo::edit_checkpoint(open_flamingo.path(), |all| {
        rename(all, "perceiver.norm.bias", "perceiver.norm.slope");
    });
    check(open_flamingo.path(), "norm.bias", "norm.slope");
    let native = native(|all| rename(all, "resampler.norm.weight", "resampler.norm.slope"));
    check(native.path(), "resampler.norm.weight", "resampler.norm.slope");
}

/// Another number of layers in the description: each tensor of a layer is missing, or they are unused.
#[test]
fn every_missing_tensor_is_named() {
    let otter = |layers: usize| {
        let copy = checkpoint::copy(&folder().join("otter_video"), |json| {
            json["text_config"]["num_hidden_layers"] = layers.into();
        });
        problems(copy.path(), Quantization::Keep)
    };
    let missing = otter(5);
    assert_eq!(missing.len(), 9, "{missing:?}");
    assert!(missing.iter().all(|problem| problem.contains("layers.4.")), "{missing:?}");
    // Nine of the layer, and those of the cross-attention before it.
    let unused = otter(3);
    assert!(unused.len() == 1 && unused[0].contains("20 tensors are not part of the model"), "{unused:?}");
    assert!(unused[0].contains("`cross_attention.3.attention.to_q.weight`"), "{unused:?}");
}

/// A tensor with another shape is named, and the check goes on.
#[test]
fn shapes_are_compared() {
    let mllama = checkpoint::copy(&folder().join("tiny_mllama"), |_| ());
    checkpoint::edit_tensors(mllama.path(), |all| {
        for name in ["multi_modal_projector.bias", "vision_model.layernorm_pre.bias"] {
            let longer = Tensor::cat(&[&all[name], &all[name]], 0).unwrap();
            all.insert(name.into(), longer);
        }
    });
    let found = problems(mllama.path(), Quantization::Keep);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].contains("vision.layernorm_pre.bias") && found[1].contains("projector.bias"),
        "{found:?}"
    );
}
