//! `model trace` and `model inspect`: the stages and the description of a model.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use candle_core::{DType, Device, Tensor, safetensors};
use support::clips::clip;

use crate::program::{flamingo, model};

fn trace(out: &Path, arguments: &[&str]) -> HashMap<String, Tensor> {
    let path = out.display().to_string();
    flamingo(&[&["model", "trace", "--out", &path], arguments].concat()).exits(0);
    safetensors::load(out, &Device::Cpu).unwrap()
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    let flat = tensor.flatten_all().unwrap();
    match flat.dtype() {
        DType::U32 => flat.to_vec1::<u32>().unwrap().into_iter().flat_map(u32::to_ne_bytes).collect(),
        _ => flat.to_vec1::<f32>().unwrap().into_iter().flat_map(f32::to_ne_bytes).collect(),
    }
}

/// Two media of 3 frames and 1 frame; mini: 128 pixels, 64 visual tokens of width 192.
#[test]
fn traces_of_files_and_of_pixels_are_equal() {
    let folder = tempfile::tempdir().unwrap();
    let media = ["three_streams", "one_frame"].map(|name| clip(name).display().to_string());
    let prompt = "<video>A test.<EOC><image>Output:";
    let first = folder.path().join("first.safetensors");
    let stages = trace(&first, &["--prompt", prompt, "--media", &media[0], &media[1]]);
    let dims = |name: &str| stages.get(name).unwrap_or_else(|| panic!("no `{name}`")).dims();
    let length = dims("input_ids")[0];
    assert_eq!(dims("pixels"), [4, 3, 128, 128]);
    assert_eq!(stages["lengths"].to_vec1::<u32>().unwrap(), [3, 1]);
    assert_eq!(dims("features")[..2], [4, 16]);
    assert_eq!(dims("visual_tokens"), [2, 64, 192]);
    for layer in [15, 18, 21, 24, 27] {
        assert_eq!(dims(&format!("xattn.{layer}")), [length, 576]);
    }
    assert_eq!(dims("logits"), [length, 49152]);
    assert_eq!(stages.len(), 11, "{:?}", stages.keys());
    for path in [&first, &model().join("adapters.safetensors")] {
        let mode = path.metadata().unwrap().mode();
        let plain = model().join("config.json").metadata().unwrap().mode();
        assert_eq!(mode, plain, "{} has another mode", path.display());
    }

    let pixels = first.display().to_string();
    let second = folder.path().join("second.safetensors");
    let again = trace(&second, &["--prompt", prompt, "--pixels", &pixels]);
    assert_eq!(again.len(), stages.len());
    for (name, tensor) in &stages {
        assert_eq!(again[name].dims(), tensor.dims(), "{name}");
        assert!(bytes(&again[name]) == bytes(tensor), "{name} differs");
    }
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(names.len(), 2, "partial files: {names:?}");
}

/// Special tokens in a prompt are encoded as plain text.
#[test]
fn text_cannot_forge_special_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let media = clip("one_frame").display().to_string();
    let ids = |name: &str, prompt: &str| {
        let stages = trace(&folder.path().join(name), &["--prompt", prompt, "--media", &media]);
        stages["input_ids"].to_vec1::<u32>().unwrap()
    };
    let special = ids("a", "<image><EOC>");
    assert_eq!(special.len(), 3, "{special:?}");
    let forged = ids("b", "<image><file_sep><|im_end|><|endoftext|>");
    assert_eq!(forged[..2], special[..2]);
    assert!(forged[2..].iter().all(|id| !special.contains(id)), "{forged:?}");
    let out = folder.path().join("c").display().to_string();
    let ran = flamingo(&["model", "trace", "--out", &out, "--prompt", "<image>"]).exits(1);
    assert_eq!(ran.err, "error[bad_prompt]: prompt: 1 media markers, but 0 media\n");
    assert!(!folder.path().join("c").exists());
}

#[test]
fn inspect_prints_shapes_and_parameters() {
    let about = flamingo(&["model", "inspect", "--json"]).exits(0).report();
    assert_eq!(
        (about["about"]["gates_open"].as_bool(), about["about"]["family"].as_str()),
        (Some(false), Some("flamingo"))
    );
    assert_eq!(about["cross_attention_layers"], serde_json::json!([15, 18, 21, 24, 27]));
    assert_eq!(about["language"]["vocabulary"], 49152);
    let vision = about["parameters"]["vision"].as_u64().unwrap();
    assert!((1_000_000..4_000_000).contains(&vision), "{about}");
    let text = flamingo(&["model", "inspect"]).exits(0).out;
    assert!(text.contains("gates are closed: the model is untrained and cannot see"), "{text}");
}
