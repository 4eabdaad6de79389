//! Broken checkpoints of language models: refused at once, with the file or the tensor by name.

use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::{Device, safetensors};
use flamingo::language;
use flamingo::weights::Quantization;
use serde_json::{Value, json};
use support::target;

use crate::language_models::folder;

/// Loads a copy of a model after a change. Returns the error.
fn broken(name: &str, change: impl Fn(&Path)) -> String {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder(name)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    change(copy.path());
    let start = Instant::now();
    let loaded = language::load(copy.path(), target::device(), target::dtype(), Quantization::Keep);
    assert!(start.elapsed() < Duration::from_secs(5), "{name} is refused quickly");
    loaded
        .err()
        .unwrap_or_else(|| panic!("{name} is accepted"))
        .to_string()
        .replace(&format!("{}/", copy.path().display()), "")
}

#[test]
fn contradicting_descriptions_are_refused() {
    let cases = [
        (
            "mistral",
            "/num_hidden_layers",
            json!(3),
            "tensor `model.layers.2.input_layernorm.weight` is missing",
        ),
        ("mistral", "/num_hidden_layers", json!(1), "9 tensors are not part of the model: `model.layers.1."),
        ("mistral", "/sliding_window", json!(0), "the number of positions is 0"),
        ("qwen2", "/intermediate_size", json!(53), "has shape [52, 36], expected [53, 36]"),
        ("qwen2", "/use_sliding_window", json!(true), "`use_sliding_window` is true"),
        ("llama", "/rope_scaling/rope_type", json!("yarn"), "unknown rope scaling `yarn`"),
        ("llama", "/rope_scaling/factor", json!(-1.0), "`factor` is -1, not positive"),
        (
            "mpt",
            "/attn_config/alibi",
            json!(false),
            "`alibi` is false: this build runs models with true only",
        ),
        (
            "mpt",
            "/attn_config/qk_ln",
            json!(true),
            "tensor `transformer.blocks.0.attn.q_ln.weight` is missing",
        ),
        ("mpt", "/no_bias", json!(false), "`no_bias` is false"),
        ("mpt", "/n_heads", json!(7), "the width 36 does not divide into 7 heads"),
        ("mosaic_gpt", "/attn_qk_ln", json!(false), "6 tensors are not part of the model: "),
        ("mosaic_gpt", "/alibi", Value::Null, "`alibi` is null, neither true nor false"),
        ("pythia", "/rotary_pct", json!(0.0), "`rotary_pct` is 0, not above 0 and at most 1"),
        ("pythia", "/hidden_act", json!("gelu_new"), "unknown `hidden_act` `gelu_new`"),
        (
            "redpajama",
            "/tie_word_embeddings",
            json!(true),
            "several tensors stand for `gpt_neox.embed_in.weight`",
        ),
        ("opt", "/vocab_size", json!(5), "has shape [109, 32], expected [5, 32]"),
        ("opt_350m", "/word_embed_proj_dim", json!(32), "has shape [109, 20], expected [109, 32]"),
    ];
    for (name, pointer, value, expected) in cases {
        let error = broken(name, |folder| {
            let path = folder.join("config.json");
            let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[key] = value.clone();
            std::fs::write(&path, config.to_string()).unwrap();
        });
        assert!(error.contains(expected), "{name} with {pointer} {value}: {error}");
    }
}

#[test]
fn damaged_files_are_named() {
    let cut = |file: &'static str| {
        move |folder: &Path| {
            let path = folder.join(file);
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        }
    };
    let remove = |file: &'static str| move |folder: &Path| std::fs::remove_file(folder.join(file)).unwrap();
    let shard = "model-00002-of-00002.safetensors";
    assert!(broken("mistral", cut(shard)).starts_with(&format!("{shard}: not a readable safetensors file")));
    assert!(broken("mistral", remove(shard)).starts_with(&format!("{shard}: No such file")));
    let shard = "pytorch_model-00002-of-00004.bin";
    assert!(broken("mpt", cut(shard)).starts_with(&format!("{shard}: not a readable PyTorch file")));
    assert!(broken("redpajama", remove("pytorch_model.bin")).contains("the directory has no weights"));
    assert!(broken("opt", remove("tokenizer.json")).starts_with("tokenizer: tokenizer.json: "));
}

#[test]
fn head_that_differs_from_the_embedding_is_refused() {
    let error = broken("qwen2", |folder| {
        let path = folder.join("model.safetensors");
        let mut tensors = safetensors::load(&path, &Device::Cpu).unwrap();
        let head = (&tensors["model.embed_tokens.weight"] * 1.5).unwrap();
        tensors.insert("lm_head.weight".into(), head);
        safetensors::save(&tensors, &path).unwrap();
    });
    let expected = "model.safetensors: several tensors stand for `model.embed_tokens.weight` and differ";
    assert_eq!(error, expected);
}
