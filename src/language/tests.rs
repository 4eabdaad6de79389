//! Loading: a file must be consistent, or the load fails and names the contradiction.

use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{GgmlDType, QTensor, gguf_file};

use super::hugging_face::ModelDirectory;
use super::*;

type Metadata = Vec<(&'static str, Value)>;

const VOCABULARY: usize = 9;

fn strings(values: &[&str]) -> Value {
    Value::Array(values.iter().map(|v| Value::String(v.to_string())).collect())
}

/// A consistent Llama of one layer, width 8, with a byte-level tokenizer of nine tokens.
fn metadata() -> Metadata {
    let types = [3, 3, 1, 1, 1, 1, 1, 1, 1];
    vec![
        ("general.architecture", Value::String("llama".into())),
        ("llama.block_count", Value::U32(1)),
        ("llama.context_length", Value::U32(21)),
        ("llama.embedding_length", Value::U32(8)),
        ("llama.feed_forward_length", Value::U32(6)),
        ("llama.attention.head_count", Value::U32(4)),
        ("llama.attention.head_count_kv", Value::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("smollm".into())),
        ("tokenizer.ggml.tokens", strings(&["<s>", "</s>", "a", "b", "c", "ab", "abc", "1", "2"])),
        ("tokenizer.ggml.token_type", Value::Array(types.map(Value::I32).to_vec())),
        ("tokenizer.ggml.merges", strings(&["a b", "ab c"])),
        ("tokenizer.ggml.bos_token_id", Value::U32(0)),
        ("tokenizer.ggml.eos_token_id", Value::U32(1)),
    ]
}

fn tensors() -> Vec<(&'static str, Vec<usize>)> {
    vec![
        ("token_embd.weight", vec![VOCABULARY, 8]),
        ("output_norm.weight", vec![8]),
        ("blk.0.attn_norm.weight", vec![8]),
        ("blk.0.attn_q.weight", vec![8, 8]),
        ("blk.0.attn_k.weight", vec![4, 8]),
        ("blk.0.attn_v.weight", vec![4, 8]),
        ("blk.0.attn_output.weight", vec![8, 8]),
        ("blk.0.ffn_norm.weight", vec![8]),
        ("blk.0.ffn_gate.weight", vec![6, 8]),
        ("blk.0.ffn_up.weight", vec![6, 8]),
        ("blk.0.ffn_down.weight", vec![8, 6]),
    ]
}

fn write(path: &Path, metadata: &Metadata, tensors: &[(&str, Vec<usize>)]) {
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, shape)| {
            let ones = Tensor::ones(shape.as_slice(), DType::F32, &Device::Cpu).unwrap();
            (*name, QTensor::quantize(&ones, GgmlDType::F32).unwrap())
        })
        .collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, q)| (*name, q)).collect();
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

fn load(
    metadata: &Metadata,
    tensors: &[(&str, Vec<usize>)],
) -> Result<(Box<dyn LanguageModel>, Tokenizer), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write(&path, metadata, tensors);
    super::load(&path, &Device::Cpu, DType::F32, Quantization::Keep)
        .map_err(|e| e.to_string().replace(&format!("{}/", folder.path().display()), ""))
}

#[test]
fn loads_consistent_gguf() {
    let (model, tokenizer) = load(&metadata(), &tensors()).unwrap();
    let sizes = model.sizes();
    assert_eq!((sizes.width, sizes.vocabulary, sizes.max_positions), (8, VOCABULARY, 21));
    assert_eq!(tokenizer.encode("abc12ab<s>").unwrap(), [6, 7, 8, 5, 0]);
    // Neither `<` nor `s` nor `>` is in this vocabulary: the rest of the text has no special token.
    assert_eq!(tokenizer.encode_plain("abc<s>").unwrap(), [6]);
}

#[test]
fn rejects_gguf_without_required_key() {
    let optional =
        ["llama.attention.head_count_kv", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"];
    for (key, _) in metadata() {
        let without: Metadata = metadata().into_iter().filter(|(k, _)| *k != key).collect();
        let found = load(&without, &tensors()).err();
        if optional.contains(&key) {
            // Without this key there are as many key heads as heads, and the tensors do not fit.
            assert!(found.is_none() || key.ends_with("kv"), "{key}: {found:?}");
        } else {
            assert_eq!(found.unwrap(), format!("model.gguf: metadata key `{key}` is missing"));
        }
    }
}

#[test]
fn rejects_impossible_metadata() {
    let cases = [
        ("general.architecture", Value::String("mamba".into()), "unknown architecture `mamba`"),
        ("general.architecture", Value::U32(1), "metadata key `general.architecture` is not a string"),
        ("llama.attention.head_count", Value::U32(0), "the number of heads is 0, not between 1 and 16777216"),
        (
            "llama.attention.head_count",
            Value::U32(u32::MAX),
            "the number of heads is 4294967295, not between 1 and 16777216",
        ),
        ("llama.attention.head_count_kv", Value::U32(3), "4 heads cannot share 3 key and value heads"),
        ("llama.embedding_length", Value::I32(-8), "metadata key `llama.embedding_length` is not a size"),
        (
            "llama.embedding_length",
            Value::U64(1 << 60),
            "the width is 1152921504606846976, not between 1 and 16777216",
        ),
        ("llama.block_count", Value::U32(0), "the number of layers is 0, not between 1 and 16777216"),
        (
            "llama.vocab_size",
            Value::U32(8),
            "tensor `model.embed_tokens.weight` has shape [9, 8], expected [8, 8]",
        ),
        (
            "llama.block_count",
            Value::U32(1 << 20),
            "tensor `model.layers.1.input_layernorm.weight` is missing",
        ),
        ("llama.rope.dimension_count", Value::U32(1), "only 1 of 2 coordinates of a head are rotated"),
        ("llama.rope.scaling.type", Value::String("yarn".into()), "unknown rope scaling `yarn`"),
        (
            "llama.expert_count",
            Value::U32(8),
            "`llama.expert_count`: mixtures of experts are not part of this model",
        ),
        ("tokenizer.ggml.model", Value::String("llama".into()), "unknown tokenizer model `llama`"),
        (
            "tokenizer.ggml.pre",
            Value::String("new".into()),
            "unknown pre-tokenizer `new` in `tokenizer.ggml.pre`",
        ),
        ("tokenizer.ggml.tokens", strings(&["a", "b", "a"]), "`tokenizer.ggml.tokens` holds 1 tokens twice"),
        ("tokenizer.ggml.merges", strings(&["ab"]), "`tokenizer.ggml.merges` holds a merge of less than two"),
        ("tokenizer.ggml.token_type", Value::Array(vec![Value::I32(3)]), "1 token types for 9 tokens"),
        (
            "tokenizer.ggml.eos_token_id",
            Value::U32(9),
            "`tokenizer.ggml.eos_token_id` is 9, beyond the 9 tokens",
        ),
    ];
    for (key, value, expected) in cases {
        let mut metadata: Metadata = metadata().into_iter().filter(|(k, _)| *k != key).collect();
        metadata.push((key, value));
        if key == "tokenizer.ggml.tokens" {
            metadata.push(("llama.vocab_size", Value::U32(VOCABULARY as u32)));
        }
        let found =
            load(&metadata, &tensors()).err().unwrap_or_else(|| panic!("{key} is accepted: {expected}"));
        assert_eq!(found, format!("model.gguf: {expected}"), "{key}");
    }
}

#[test]
fn rejects_tokenizer_larger_than_embedding() {
    let mut metadata = metadata();
    metadata.push(("llama.vocab_size", Value::U32(8)));
    let mut tensors = tensors();
    tensors[0].1[0] = 8;
    let found = load(&metadata, &tensors).err().unwrap();
    assert_eq!(found, "model.gguf: the tokenizer has 9 tokens, the embedding only 8");
}

#[test]
fn rejects_unknown_tensor() {
    let with = |name| [tensors(), vec![(name, vec![3])]].concat();
    let found = load(&metadata(), &with("blk.0.attn_q.bias")).err().unwrap();
    let expected = "model.gguf: 1 tensors are not part of the model: `model.layers.0.self_attn.q_proj.bias`";
    assert_eq!(found, expected);
    let found = load(&metadata(), &with("output.weight")).err().unwrap();
    assert_eq!(found, "model.gguf: tensor `lm_head.weight` has shape [3], expected [9, 8]");
}

#[test]
fn rejects_index_with_files_outside_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let files = || {
        let files = ModelDirectory::open(folder.path())?.weight_files()?;
        Ok::<_, crate::Error>(files.iter().map(|f| f.file_name().unwrap().to_owned()).collect::<Vec<_>>())
    };
    assert!(files().unwrap_err().to_string().contains("config.json: No such file"));
    write("config.json", "{}");
    assert!(files().unwrap_err().to_string().contains("the directory has no weights"));
    write("pytorch_model.bin", "");
    assert_eq!(files().unwrap(), ["pytorch_model.bin"]);
    write("model.safetensors", "");
    assert_eq!(files().unwrap(), ["model.safetensors"]);
    let index = "model.safetensors.index.json";
    write(index, r#"{"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}"#);
    assert_eq!(files().unwrap(), ["1.safetensors", "2.safetensors"]);
    for bad in [r#""../x.safetensors""#, r#""/x.safetensors""#, "7", r#""""#, r#"".."#] {
        write(index, &format!(r#"{{"weight_map": {{"a": {bad}}}}}"#));
        let error = files().unwrap_err().to_string();
        assert!(error.contains("model.safetensors.index.json: "), "{bad}: {error}");
    }
    let error =
        super::load(folder.path(), &Device::Cpu, DType::F32, Quantization::Keep).err().unwrap().to_string();
    assert!(error.ends_with("config.json: `model_type` is missing"), "{error}");
    write("config.json", r#"{"model_type": "mamba"}"#);
    let error =
        super::load(folder.path(), &Device::Cpu, DType::F32, Quantization::Keep).err().unwrap().to_string();
    assert!(error.ends_with("config.json: unknown model type `mamba`"), "{error}");
}

#[test]
fn added_tokens_follow_the_vocabulary() {
    let (_, tokenizer) = load(&metadata(), &tensors()).unwrap();
    let tokenizer = tokenizer.add_special_tokens(&["</s>", "<image>", "<fake>"]).unwrap();
    assert_eq!(tokenizer.vocabulary(), VOCABULARY + 2);
    let ids = ["</s>", "<image>", "<fake>"].map(|token| tokenizer.token_id(token));
    assert_eq!(ids, [Some(1), Some(9), Some(10)]);
    assert_eq!(tokenizer.encode("ab<image>c").unwrap(), [5, 9, 4]);
    assert!(!tokenizer.encode_plain("ab<image>c").unwrap().contains(&9), "untrusted text forges no token");
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(0), &[1][..]));
}
