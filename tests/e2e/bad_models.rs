//! An inconsistent model directory does not load, and the error names the file or the tensor.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};
use serde_json::Value;
use support::clips::clip;
use support::language_model::smollm2;

use crate::program::{command, flamingo, listing, model, read_json, run};

/// Applies `change` to a copy of the untrained model without hashes, loads it and checks the error.
fn check(code: &str, says: &str, change: impl FnOnce(&Path, &mut Value)) {
    let folder = tempfile::tempdir().unwrap();
    let adapters = folder.path().join("adapters.safetensors");
    std::fs::copy(model().join("adapters.safetensors"), &adapters).unwrap();
    let mut config = read_json(&model().join("config.json"));
    config["language"]["file"] = smollm2().to_string_lossy().into();
    for file in ["language", "adapters"] {
        config[file].as_object_mut().unwrap().remove("sha256").expect("a new model has hashes");
    }
    change(&adapters, &mut config);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let ran = run(command().arg("caption").arg(clip("short")).arg("--model").arg(folder.path())).exits(1);
    assert!(ran.out.is_empty() && ran.err.lines().count() == 1, "{ran:?}");
    let place = format!("error[{code}]: {}", folder.path().display());
    assert!(code.is_empty() || ran.err.starts_with(&place), "{place}: {ran:?}");
    assert!(ran.err.contains(says), "{says}: {ran:?}");
}

fn edit(adapters: &Path, change: impl FnOnce(&mut HashMap<String, Tensor>)) {
    let mut tensors = safetensors::load(adapters, &Device::Cpu).unwrap();
    change(&mut tensors);
    // Another process may have mapped the old file: a new file replaces it.
    std::fs::remove_file(adapters).unwrap();
    safetensors::save(&tensors, adapters).unwrap();
}

const LATENTS: &str = "resampler.latents";

#[test]
fn wrong_hashes_are_rejected() {
    let zeros = "0".repeat(64);
    check("bad_checkpoint", "adapters.safetensors: SHA-256 is ", |_, config| {
        config["adapters"]["sha256"] = zeros.as_str().into();
    });
    check("", "SmolLM2-135M-Instruct.Q4_1.gguf: SHA-256 is ", |_, config| {
        config["language"]["sha256"] = zeros.as_str().into();
    });
}

#[test]
fn broken_files_are_rejected() {
    check("bad_checkpoint", "adapters.safetensors: not a readable safetensors file", |adapters, _| {
        let bytes = std::fs::read(adapters).unwrap();
        std::fs::write(adapters, &bytes[..bytes.len() / 2]).unwrap();
    });
    check("bad_checkpoint", "adapters.safetensors: No such file", |adapters, _| {
        std::fs::remove_file(adapters).unwrap();
    });
    check("bad_model_config", "config.json: unknown field `colour`", |_, config| {
        config["colour"] = "pink".into();
    });
    check("bad_model_config", "unknown schema `flamingo/99`", |_, config| {
        config["schema"] = "flamingo/99".into();
    });
    let ran = flamingo(&["model", "inspect", "--model", env!("CARGO_MANIFEST_DIR")]).exits(1);
    assert!(ran.err.contains("config.json: a directory with the files ["), "{ran:?}");
}

#[test]
fn wrong_tensors_are_rejected() {
    check("bad_checkpoint", "tensor `resampler.latents` is missing", |adapters, _| {
        edit(adapters, |tensors| {
            tensors.remove(LATENTS).expect("the resampler has latents");
        });
    });
    check("bad_checkpoint", "1 tensors are not part of the model: `resampler.surplus`", |adapters, _| {
        edit(adapters, |tensors| {
            tensors.insert("resampler.surplus".into(), tensors[LATENTS].clone());
        });
    });
    check(
        "bad_checkpoint",
        "tensor `resampler.latents` has shape [3, 5], expected [64, 192]",
        |adapters, _| {
            edit(adapters, |tensors| {
                tensors.insert(LATENTS.into(), Tensor::zeros((3, 5), DType::F32, &Device::Cpu).unwrap());
            });
        },
    );
}

#[test]
fn init_does_not_overwrite_a_model() {
    let before = std::fs::read(model().join("config.json")).unwrap();
    let language: PathBuf = smollm2();
    let mut init = command();
    init.args(["model", "init", "--seed", "7", "--language"]).arg(language).arg("--out").arg(model());
    let ran = run(&mut init).exits(1);
    assert!(ran.err.contains("there is a model already"), "{ran:?}");
    assert_eq!(std::fs::read(model().join("config.json")).unwrap(), before);
    assert_eq!(listing(model()), ["adapters.safetensors", "config.json"]);
}
