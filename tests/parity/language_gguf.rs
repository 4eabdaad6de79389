//! Goldens of language models in llama.cpp's layout: its names and keys, its order of the rows of queries and keys.

use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor, safetensors};
use flamingo::language::{self, KvCache, LanguageModel, LanguageSource, gguf};
use flamingo::weights::{Quantization, Rename};
use support::golden::Golden;
use support::language_model::stages;
use support::target;

use crate::language_models::folder;

/// llama.cpp's converter orders the rows of each head of a Llama so that pairs 2i and 2i + 1 rotate.
fn interleaved(weight: &Tensor, heads: usize) -> Tensor {
    let (rows, columns) = weight.dims2().unwrap();
    let by_half = weight.reshape((heads, 2, rows / heads / 2, columns)).unwrap();
    by_half.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, columns)).unwrap()
}

/// Returns llama.cpp's name of a tensor.
fn gguf_name(ours: &str) -> String {
    let parts = [
        "token_embd.weight",
        "output_norm.weight",
        "output.weight",
        "attn_norm.weight",
        "attn_q.weight",
        "attn_k.weight",
        "attn_v.weight",
        "attn_q.bias",
        "attn_k.bias",
        "attn_v.bias",
        "attn_output.weight",
        "ffn_norm.weight",
        "ffn_gate.weight",
        "ffn_up.weight",
        "ffn_down.weight",
    ];
    let names = parts
        .into_iter()
        .flat_map(|part| [part.to_owned(), format!("blk.0.{part}"), format!("blk.1.{part}")]);
    let is_this = |name: &String| gguf::llama_names(name) == Rename::To(ours.into());
    names.into_iter().find(is_this).unwrap_or_else(|| panic!("{ours} has a name"))
}

fn write(path: &Path, name: &str, architecture: &str, permuted: bool) {
    let tensors = safetensors::load(folder(name).join("model.safetensors"), &Device::Cpu).unwrap();
    let tensors: Vec<(String, QTensor)> = tensors
        .into_iter()
        .map(|(ours, tensor)| {
            let tensor = tensor.to_dtype(DType::F32).unwrap();
            let tensor = match () {
                () if permuted && ours.ends_with("q_proj.weight") => interleaved(&tensor, 6),
                () if permuted && ours.ends_with("k_proj.weight") => interleaved(&tensor, 2),
                () => tensor,
            };
            (gguf_name(&ours), QTensor::quantize(&tensor, GgmlDType::F32).unwrap())
        })
        .collect();
    let sizes = [
        ("vocab_size", 113),
        ("embedding_length", 36),
        ("feed_forward_length", 52),
        ("block_count", 2),
        ("context_length", 160),
        ("attention.head_count", 6),
        ("attention.head_count_kv", 2),
    ];
    let eps = if name == "llama" { 1e-5 } else { 1e-6 };
    let mut metadata: Vec<(String, Value)> =
        sizes.map(|(key, size)| (format!("{architecture}.{key}"), Value::U32(size))).to_vec();
    metadata.push(("general.architecture".into(), Value::String(architecture.into())));
    metadata.push((format!("{architecture}.attention.layer_norm_rms_epsilon"), Value::F32(eps)));
    metadata.push((format!("{architecture}.rope.freq_base"), Value::F32(3000.0)));
    if name == "llama" {
        metadata.push((format!("{architecture}.rope.scaling.type"), Value::String("linear".into())));
        metadata.push((format!("{architecture}.rope.scaling.factor"), Value::F32(2.5)));
    }
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

fn load(path: &Path) -> Box<dyn LanguageModel> {
    let source = LanguageSource::open(path).unwrap();
    let weights = source.weights(target::device(), target::dtype(), Quantization::Keep).unwrap();
    let model = language::build(source.config(), &weights).unwrap();
    weights.finish().unwrap();
    model
}

#[test]
fn gguf_equals_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    for (name, architecture, permuted) in [("llama", "llama", true), ("qwen2", "qwen2", false)] {
        let path = folder.path().join(format!("{name}.gguf"));
        write(&path, name, architecture, permuted);
        let golden = Golden::load(&format!("language/{name}"));
        let ids: Vec<u32> = golden.tensor("usual.ids").to_vec1().unwrap();
        let got = stages(&*load(&path), vec![(&ids, &mut KvCache::off())]).unwrap();
        golden.compare_rms(&[
            ("usual.embeddings", &got[0], 1e-5),
            ("usual.layer.0", &got[1], 1e-5),
            ("usual.layer.1", &got[2], 1e-5),
            ("usual.logits", &got[3], 1e-4),
        ]);
    }
}
