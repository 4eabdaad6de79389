//! Parity of the text tower with transformers (`golden/generate_text_tower.py`).

use std::sync::OnceLock;

use candle_core::Tensor;
use flamingo::search::TextTower;
use support::golden::{Golden, relative_error};
use support::language_model::all_minilm;
use support::target;

fn tower() -> &'static TextTower {
    static LOADED: OnceLock<TextTower> = OnceLock::new();
    LOADED.get_or_init(|| TextTower::open(&all_minilm(), target::device()).expect("the text tower opens"))
}

fn texts(golden: &Golden) -> Vec<String> {
    let bytes = golden.tensor("texts").to_vec1().expect("bytes");
    String::from_utf8(bytes).expect("UTF-8").split('\n').map(str::to_owned).collect()
}

/// One word, a caption, the empty text, accents and an emoji, more tokens than are read: in one batch, out of order.
#[test]
fn means_equal_transformers() {
    let golden = Golden::load("text_tower");
    let texts = texts(&golden);
    assert_eq!(texts.len(), 6, "the golden is complete");
    let means = tower().encode(&texts).unwrap();
    assert_eq!(tower().width(), 384);
    golden.compare(&[("means", &means, 1e-4)]);
}

/// More texts than one pass takes, in padded batches or one by one: the same vectors, in the order of the texts.
#[test]
fn text_vector_does_not_depend_on_batch() {
    let mut texts = texts(&Golden::load("text_tower"));
    texts.extend((0..70).map(|i| ["a ball ".repeat(1 + i * 5 % 7), format!("number {i}")].concat()));
    let batched = tower().encode(&texts).unwrap();
    let single: Vec<Tensor> =
        texts.iter().map(|text| tower().encode(std::slice::from_ref(text)).unwrap()).collect();
    let error = relative_error(&batched, &Tensor::cat(&single, 0).unwrap());
    assert!(error < 1e-5, "relative error {error}");
    assert_eq!(tower().encode(&[""; 0]).unwrap().dims(), [0, 384]);
}

#[test]
fn names_bad_file_of_directory() {
    let real = all_minilm();
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &[u8]| std::fs::write(folder.path().join(name), text).unwrap();
    let refused = |code: &str, parts: &[&str]| {
        let error = TextTower::open(folder.path(), target::device()).err().expect("an error");
        let message = error.to_string();
        assert_eq!(error.code(), code, "{message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    let config = std::fs::read_to_string(real.join("config.json")).unwrap();
    refused("bad_model_config", &["config.json"]);
    put("config.json", config.replace("\"bert\"", "\"roberta\"").as_bytes());
    refused("bad_model_config", &["config.json", "`roberta`"]);
    put("config.json", config.replace("30522", "30000").as_bytes());
    refused("bad_tokenizer", &["tokenizer.json"]);
    put("tokenizer.json", &std::fs::read(real.join("tokenizer.json")).unwrap());
    refused("bad_tokenizer", &["tokenizer.json", "30521", "30000"]);
    put("config.json", config.replace("\"num_hidden_layers\": 6", "\"num_hidden_layers\": 5").as_bytes());
    refused("bad_checkpoint", &["model.safetensors"]);
    std::os::unix::fs::symlink(real.join("model.safetensors"), folder.path().join("model.safetensors"))
        .unwrap();
    refused("bad_checkpoint", &["model.safetensors", "16 tensors", "`encoder.layer.5."]);
    put("config.json", config.replace("\"num_hidden_layers\": 6", "\"num_hidden_layers\": 7").as_bytes());
    refused("bad_checkpoint", &["model.safetensors", "`encoder.layer.6.", "missing"]);
}
