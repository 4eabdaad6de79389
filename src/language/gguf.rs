//! GGUF format: metadata keys and tensor names of llama.cpp.

use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{DType, Device};

use super::llama::LlamaConfig;
use super::rotary::{Rope, RopeScaling, RopeStyle};
use crate::error::{Error, Result};
use crate::weights::{MatrixOptions, Quantization, Rename, open_gguf};

/// Header of a GGUF file.
pub struct Gguf {
    path: PathBuf,
    content: Content,
}

impl Gguf {
    /// Reads the header of `path`.
    ///
    /// # Errors
    /// The file is missing, truncated or malformed.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.into(), content: open_gguf(path)? })
    }

    /// Returns `general.architecture`.
    ///
    /// # Errors
    /// The key is missing or not a string.
    pub fn architecture(&self) -> Result<&str> {
        self.string("general.architecture").map_err(|reason| self.error(reason))
    }

    /// Reads the sizes of a Llama from the `llama.*` keys.
    ///
    /// # Errors
    /// A key is missing, has another type, or has a value that this build cannot run.
    pub fn llama_config(&self) -> Result<LlamaConfig> {
        self.checked(self.read_llama_config("llama", RopeStyle::Interleaved))
    }

    /// Reads the sizes of a Qwen2 from the `qwen2.*` keys: a Llama with biases of queries, keys and values, which the
    /// converter does not permute.
    ///
    /// # Errors
    /// As [`llama_config`](Self::llama_config).
    pub fn qwen2_config(&self) -> Result<LlamaConfig> {
        let config = self.read_llama_config("qwen2", RopeStyle::HalfSplit);
        self.checked(config.map(|config| LlamaConfig { qkv_bias: true, ..config }))
    }

    fn checked(&self, config: Result<LlamaConfig, String>) -> Result<LlamaConfig> {
        let config = config.and_then(|config| config.check().map(|()| config));
        config.map_err(|reason| self.error(reason))
    }

    /// Reads the keys `{name}.*`.
    fn read_llama_config(&self, name: &str, style: RopeStyle) -> Result<LlamaConfig, String> {
        let key = |key: &str| format!("{name}.{key}");
        let width = self.size(&key("embedding_length"))?;
        let heads = self.size(&key("attention.head_count"))?;
        let head_width = self.optional_size(&key("attention.key_length"))?.unwrap_or(width / heads.max(1));
        let rotated = self.optional_size(&key("rope.dimension_count"))?.unwrap_or(head_width);
        if rotated != head_width {
            return Err(format!("only {rotated} of {head_width} coordinates of a head are rotated"));
        }
        if self.optional_size(&key("expert_count"))?.unwrap_or(0) > 0 {
            return Err(format!("`{name}.expert_count`: mixtures of experts are not part of this model"));
        }
        let vocabulary = match self.optional_size(&key("vocab_size"))? {
            Some(vocabulary) => vocabulary,
            None => self.strings("tokenizer.ggml.tokens")?.len(),
        };
        Ok(LlamaConfig {
            vocabulary,
            extra_embeddings: 0,
            width,
            ffn_width: self.size(&key("feed_forward_length"))?,
            layers: self.size(&key("block_count"))?,
            heads,
            kv_heads: self.optional_size(&key("attention.head_count_kv"))?.unwrap_or(heads),
            head_width,
            max_positions: self.size(&key("context_length"))?,
            norm_eps: self.number(&key("attention.layer_norm_rms_epsilon"))?,
            rope: self.rope(name, style)?,
            tied: !self.content.tensor_infos.contains_key("output.weight"),
            qkv_bias: false,
        })
    }

    fn rope(&self, name: &str, style: RopeStyle) -> Result<Rope, String> {
        let base = format!("{name}.rope.freq_base");
        let theta = match self.value(&base) {
            Some(_) => self.number(&base)?,
            None => 10_000.0,
        };
        let factors = self.content.tensor_infos.contains_key("rope_freqs.weight");
        let scaling = match self.optional_string(&format!("{name}.rope.scaling.type"))? {
            Some("linear") => RopeScaling::Linear(self.number(&format!("{name}.rope.scaling.factor"))?),
            Some(kind) if kind != "none" => return Err(format!("unknown rope scaling `{kind}`")),
            _ if factors => RopeScaling::Factors,
            _ => RopeScaling::None,
        };
        Ok(Rope { theta, style, scaling })
    }

    /// Returns the bytes of the weights that every pass reads, in their format after loading: all but an untied embedding, of
    /// which a pass reads single rows.
    pub fn bytes_per_pass(&self, device: &Device, dtype: DType, quantization: Quantization) -> usize {
        let tensors = &self.content.tensor_infos;
        let tied = !tensors.contains_key("output.weight");
        let read = tensors.iter().filter(|(name, _)| tied || *name != "token_embd.weight");
        read.map(|(name, info)| {
            let quantization = match &**name {
                "token_embd.weight" | "output.weight" => quantization.in_8_bits(),
                _ => quantization,
            };
            let options = MatrixOptions { device: device.clone(), dtype, quantization };
            let numbers = info.shape.elem_count();
            match options.format(info.ggml_dtype, info.shape.dims()) {
                Some(format) => numbers / format.block_size() * format.type_size(),
                None => numbers * dtype.size_in_bytes(),
            }
        })
        .sum()
    }

    /// Makes an error that names this file.
    pub(super) fn error(&self, reason: String) -> Error {
        Error::Config { path: self.path.clone(), reason }
    }

    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    fn required(&self, key: &str) -> Result<&Value, String> {
        self.value(key).ok_or_else(|| format!("metadata key `{key}` is missing"))
    }

    pub(super) fn string(&self, key: &str) -> Result<&str, String> {
        match self.required(key)? {
            Value::String(text) => Ok(text),
            _ => Err(format!("metadata key `{key}` is not a string")),
        }
    }

    fn optional_string(&self, key: &str) -> Result<Option<&str>, String> {
        self.value(key).map(|_| self.string(key)).transpose()
    }

    /// Reads an array of strings.
    pub(super) fn strings(&self, key: &str) -> Result<Vec<&str>, String> {
        match self.required(key)? {
            Value::Array(values) => values.iter().map(text_of).collect::<Option<Vec<_>>>(),
            _ => None,
        }
        .ok_or_else(|| format!("metadata key `{key}` is not an array of strings"))
    }

    /// Reads an array of integers.
    pub(super) fn numbers(&self, key: &str) -> Result<Vec<i64>, String> {
        match self.required(key)? {
            Value::Array(values) => values.iter().map(whole).collect::<Option<Vec<_>>>(),
            _ => None,
        }
        .ok_or_else(|| format!("metadata key `{key}` is not an array of integers"))
    }

    fn size(&self, key: &str) -> Result<usize, String> {
        let number = whole(self.required(key)?).and_then(|n| usize::try_from(n).ok());
        number.ok_or_else(|| format!("metadata key `{key}` is not a size"))
    }

    pub(super) fn optional_size(&self, key: &str) -> Result<Option<usize>, String> {
        self.value(key).map(|_| self.size(key)).transpose()
    }

    fn number(&self, key: &str) -> Result<f64, String> {
        match self.required(key)? {
            Value::F32(value) => Ok(f64::from(*value)),
            Value::F64(value) => Ok(*value),
            _ => Err(format!("metadata key `{key}` is not a number")),
        }
    }
}

fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::U64(value) => i64::try_from(*value).ok(),
        Value::I8(value) => Some((*value).into()),
        Value::I16(value) => Some((*value).into()),
        Value::I32(value) => Some((*value).into()),
        Value::I64(value) => Some(*value),
        Value::U8(_) | Value::U16(_) | Value::U32(_) => value.to_u64().ok().map(|n| n as i64),
        _ => None,
    }
}

/// Maps llama.cpp's tensor names to Hugging Face's. A name outside the table stays, and the strict load refuses it.
pub fn llama_names(theirs: &str) -> Rename {
    const WHOLE: [(&str, &str); 4] = [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("output.weight", "lm_head.weight"),
        ("rope_freqs.weight", "model.rope_factors"),
    ];
    const IN_LAYER: [(&str, &str); 12] = [
        ("attn_norm.weight", "input_layernorm.weight"),
        ("attn_q.weight", "self_attn.q_proj.weight"),
        ("attn_k.weight", "self_attn.k_proj.weight"),
        ("attn_v.weight", "self_attn.v_proj.weight"),
        ("attn_q.bias", "self_attn.q_proj.bias"),
        ("attn_k.bias", "self_attn.k_proj.bias"),
        ("attn_v.bias", "self_attn.v_proj.bias"),
        ("attn_output.weight", "self_attn.o_proj.weight"),
        ("ffn_norm.weight", "post_attention_layernorm.weight"),
        ("ffn_gate.weight", "mlp.gate_proj.weight"),
        ("ffn_up.weight", "mlp.up_proj.weight"),
        ("ffn_down.weight", "mlp.down_proj.weight"),
    ];
    let find = |table: &[(&str, &str)], name: &str| {
        table.iter().find(|(gguf, _)| *gguf == name).map(|(_, ours)| ours.to_string())
    };
    let in_layer = || {
        let (layer, name) = theirs.strip_prefix("blk.")?.split_once('.')?;
        Some(format!("model.layers.{layer}.{}", find(&IN_LAYER, name)?))
    };
    Rename::To(find(&WHOLE, theirs).or_else(in_layer).unwrap_or_else(|| theirs.into()))
}

fn text_of(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}
