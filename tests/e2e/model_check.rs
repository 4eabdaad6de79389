//! `flamingo model check` names the test that a model fails, and a model that does not fit into memory is refused with numbers.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor, safetensors};
use serde_json::{Value, json};
use support::clips::clip;
use support::language_model::smollm2;
use support::repository::root;
use tempfile::TempDir;

use crate::program::{Ran, command, flamingo, model, read_json, run};

/// Runs `model check` and returns the status of each test by its name.
fn check(model: &Path, code: i32) -> HashMap<String, (bool, String)> {
    let ran = run(command().args(["model", "check", "--json", "--model"]).arg(model)).exits(code);
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let tests = ran.reports().into_iter();
    tests.map(|test| (text(&test["test"]), (test["passed"] == true, text(&test["detail"])))).collect()
}

const TESTS: [&str; 5] = [
    "gates are open",
    "all values are finite",
    "another picture changes the answer",
    "cached equals uncached",
    "batch equals single",
];

#[test]
fn a_trained_model_passes() {
    let tests = check(&root().join("models/flamingo-mini"), 0);
    assert_eq!(tests.len(), TESTS.len());
    for name in TESTS {
        assert!(tests[name].0, "{tests:?}");
    }
}

#[test]
fn an_untrained_model_fails_and_is_named() {
    let tests = check(model(), 1);
    let failed: Vec<_> = TESTS.into_iter().filter(|name| !tests[*name].0).collect();
    assert_eq!(failed, [TESTS[0], TESTS[2]], "{tests:?}");
    let ran = flamingo(&["model", "check"]).exits(1);
    assert!(ran.out.starts_with("FAILED  gates are open: every gate is closed"), "{ran:?}");
}

/// With all gates closed, every test but those about the picture passes: cache and batches are right.
#[test]
fn closed_gates_of_a_trained_model_fail() {
    let trained = root().join("models/flamingo-mini");
    let folder = copy_of(&trained, |adapters| {
        let mut tensors = safetensors::load(adapters, &Device::Cpu).unwrap();
        let gates: Vec<String> = tensors.keys().filter(|name| name.ends_with("_gate")).cloned().collect();
        assert!(!gates.is_empty(), "{:?}", tensors.keys());
        for name in gates {
            let closed = tensors[&name].zeros_like().unwrap();
            tensors.insert(name, closed);
        }
        safetensors::save(&tensors, adapters).unwrap();
    });
    let tests = check(folder.path(), 1);
    let failed: Vec<_> = TESTS.into_iter().filter(|name| !tests[*name].0).collect();
    assert_eq!(failed, [TESTS[0], TESTS[2]], "{tests:?}");
}

#[test]
fn values_that_are_no_numbers_fail() {
    let folder = copy(|adapters| {
        let mut tensors = safetensors::load(adapters, &Device::Cpu).unwrap();
        let latents = tensors["resampler.latents"].clone();
        let mut values: Vec<f32> =
            latents.to_dtype(candle_core::DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        values[7] = f32::NAN;
        let broken = Tensor::from_vec(values, latents.shape(), &Device::Cpu).unwrap();
        tensors.insert("resampler.latents".into(), broken.to_dtype(latents.dtype()).unwrap());
        safetensors::save(&tensors, adapters).unwrap();
    });
    let tests = check(folder.path(), 1);
    let (passed, detail) = &tests[TESTS[1]];
    assert!(!passed && detail.starts_with("visual tokens of picture 1: "), "{tests:?}");
}

/// Copies the untrained model without its hashes, and changes the trained parts.
fn copy(change: impl FnOnce(&Path)) -> TempDir {
    copy_of(model(), change)
}

/// Copies a model without its hashes, and changes the trained parts.
fn copy_of(model: &Path, change: impl FnOnce(&Path)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let adapters = folder.path().join("adapters.safetensors");
    std::fs::copy(model.join("adapters.safetensors"), &adapters).unwrap();
    change(&adapters);
    let mut config = read_json(&model.join("config.json"));
    config["language"]["file"] = smollm2().to_string_lossy().into();
    for file in ["language", "adapters"] {
        config[file].as_object_mut().unwrap().remove("sha256").expect("a new model has hashes");
    }
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

/// A model whose header announces a tensor of 2^40 values.
fn giant() -> TempDir {
    copy(|adapters| {
        let header = json!({"resampler.latents": {"dtype": "BF16", "shape": [1u64 << 40], "data_offsets": [0, 1u64 << 41]}});
        let header = header.to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        std::fs::write(adapters, bytes).unwrap();
    })
}

#[test]
fn models_that_do_not_fit_are_refused_with_numbers() {
    let folder = giant();
    let model = folder.path().display().to_string();
    let refused = |ran: Ran| {
        let ran = ran.exits(1);
        let line = ran.err.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        for part in [
            "needs about 659",
            "connector 4398.05 GB",
            "language model ",
            "largest tensor during the load 2199.02 GB",
        ] {
            assert!(line.contains(part), "{part}: {ran:?}");
        }
        assert!(line.contains(" GB are ") && line.contains("FLAMINGO_MEMORY_CHECK=off"), "{ran:?}");
    };
    let caption = || {
        let mut caption = command();
        caption.arg("caption").arg(clip("short")).args(["--model", &model]);
        caption
    };
    refused(run(&mut caption()));
    let ran = run(caption().env("FLAMINGO_MEMORY_CHECK", "off")).exits(1);
    assert!(ran.err.starts_with("error[bad_checkpoint]"), "{ran:?}");

    // A worker refuses at its start. It counts the caches of its engine too.
    let place = tempfile::tempdir().unwrap();
    let mut work = command();
    work.current_dir(place.path()).args([
        "work",
        "--model",
        &model,
        "--set",
        "queue.url=memory://",
        "--status-addr",
        "",
    ]);
    let ran = run(&mut work);
    assert!(ran.err.contains("caches of the engine up to 1.34 GB"), "{ran:?}");
    refused(ran);
}

#[test]
fn headers_are_shown_without_a_load() {
    let folder = giant();
    let inspect = |arguments: &[&str], model: &Path| {
        run(command().args(["model", "inspect"]).args(arguments).arg("--model").arg(model))
    };
    let ran = inspect(&["--headers"], folder.path()).exits(1);
    assert!(
        ran.err.contains("error: ") && ran.err.contains("adapters.safetensors: truncated: it has "),
        "{ran:?}"
    );
    let complete = inspect(&["--headers"], model()).exits(0);
    assert!(complete.out.contains("all that the model takes, and no others"), "{complete:?}");
    let renamed = copy(|adapters| {
        let mut tensors = safetensors::load(adapters, &Device::Cpu).unwrap();
        let latents = tensors.remove("resampler.latents").unwrap();
        tensors.insert("resampler.other".into(), latents);
        safetensors::save(&tensors, adapters).unwrap();
    });
    let named = inspect(&["--headers", "--json"], renamed.path()).exits(1);
    let problems = named.report()["tensor_problems"].as_array().cloned().unwrap_or_default();
    assert_eq!(problems.len(), 2, "{named:?}");
    for (problem, part) in problems.iter().zip(["`resampler.latents` is missing", "resampler.other"]) {
        assert!(problem.as_str().unwrap().contains(part), "{part}: {named:?}");
        assert!(named.err.contains(part), "{part}: {named:?}");
    }
    assert!(
        ran.out
            .contains("1099511.63 M parameters in 1 tensors; on disk BF16 2199.02 GB; in memory 4398.05 GB"),
        "{ran:?}"
    );
    // With a load: types and memory beside the rest.
    let object = inspect(&["--json"], model()).exits(0).report();
    let memory = &object["memory"];
    assert!(memory["parts"]["language model"]["stored_bytes"]["Q4_1"].as_u64() > Some(1 << 20), "{object}");
    assert!(memory["estimated_bytes"].as_u64() > Some(1 << 20), "{object}");
}

#[test]
fn the_catalogue_is_listed() {
    let home = tempfile::tempdir().unwrap();
    let list = |arguments: &[&str]| {
        run(command().args(["model", "list"]).args(arguments).env("HF_HOME", home.path())).exits(0)
    };
    let models = list(&["--json"]).reports();
    let named =
        |name: &str| models.iter().find(|model| model["name"] == name).unwrap_or_else(|| panic!("{name}"));
    let llama = named("meta-llama/Llama-3.2-11B-Vision-Instruct");
    assert!(
        llama["gated"] == true && llama["licence"].as_str().unwrap().contains("European Union"),
        "{llama}"
    );
    let open = named("openflamingo/OpenFlamingo-9B-vitl-mpt7b");
    assert_eq!(open["needs"], json!(["anas-awadalla/mpt-7b", "openai/clip-vit-large-patch14"]));
    assert!(open["memory_estimate_bytes"]["q4k"].as_u64() < Some(8_000_000_000), "{open}");
    let text = list(&[]).out;
    assert!(text.contains("HuggingFaceM4/idefics-9b  (IDEFICS, 8.9 B parameters)"), "{text}");
    assert!(list(&["--pulled"]).out.is_empty());
    // Nothing was created.
    assert_eq!(home.path().read_dir().unwrap().count(), 0);
}
