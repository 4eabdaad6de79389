//! Sizes of a Llama, read from a Hugging Face `config.json`.

use serde_json::Value;

use crate::language::architecture::LanguageSizes;
use crate::language::json::{check_eps, check_sizes, flag, number, only, optional, size, text};
use crate::language::rotary::Rope;

/// Sizes of one Llama.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Rows of the embedding and of the head.
    pub vocabulary: usize,
    /// Further rows of the embedding, for ids that only a prompt has (8 in Llama 3.2 Vision).
    pub extra_embeddings: usize,
    /// Width d of the hidden state.
    pub width: usize,
    /// Hidden width of the feed-forward.
    pub ffn_width: usize,
    /// Number of decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_width: usize,
    /// Length of the longest row in tokens.
    pub max_positions: usize,
    /// Epsilon of the RMS norms.
    pub norm_eps: f64,
    /// Rotary positions.
    pub rope: Rope,
    /// Whether the output head is the embedding matrix.
    pub tied: bool,
    /// Whether the maps to queries, keys and values have biases, as in Qwen2.
    pub qkv_bias: bool,
}

impl LlamaConfig {
    /// Reads the `config.json` of a `LlamaForCausalLM`.
    ///
    /// # Errors
    /// The reason why this build cannot run the model.
    pub fn from_hugging_face(json: &Value) -> Result<Self, String> {
        let (width, heads) = (size(json, "hidden_size")?, size(json, "num_attention_heads")?);
        for key in ["attention_bias", "mlp_bias"] {
            only(json, key, false)?;
        }
        match optional(json, "hidden_act", text)?.as_deref() {
            None | Some("silu") => {}
            Some(other) => return Err(format!("unknown `hidden_act` `{other}`")),
        }
        let config = Self {
            vocabulary: size(json, "vocab_size")?,
            extra_embeddings: 0,
            width,
            ffn_width: size(json, "intermediate_size")?,
            layers: size(json, "num_hidden_layers")?,
            heads,
            kv_heads: optional(json, "num_key_value_heads", size)?.unwrap_or(heads),
            head_width: optional(json, "head_dim", size)?.unwrap_or(width / heads.max(1)),
            max_positions: optional(json, "max_position_embeddings", size)?.unwrap_or(2048),
            norm_eps: optional(json, "rms_norm_eps", number)?.unwrap_or(1e-6),
            rope: Rope::from_hugging_face(json, "rope_theta")?,
            tied: optional(json, "tie_word_embeddings", flag)?.unwrap_or(false),
            qkv_bias: false,
        };
        config.check()?;
        Ok(config)
    }

    /// Reads the `config.json` of a `MistralForCausalLM`. The length of a row ends at the sliding window: within it the window
    /// hides nothing.
    ///
    /// # Errors
    /// As [`from_hugging_face`](Self::from_hugging_face).
    pub fn from_mistral(json: &Value) -> Result<Self, String> {
        let config = Self::from_hugging_face(json)?;
        let window = optional(json, "sliding_window", size)?.unwrap_or(config.max_positions);
        let config = Self { max_positions: config.max_positions.min(window), ..config };
        config.check()?;
        Ok(config)
    }

    /// Reads the `config.json` of a `Qwen2ForCausalLM`: a Llama with biases of queries, keys and values.
    ///
    /// # Errors
    /// As [`from_hugging_face`](Self::from_hugging_face).
    pub fn from_qwen2(json: &Value) -> Result<Self, String> {
        only(json, "use_sliding_window", false)?;
        Ok(Self { qkv_bias: true, ..Self::from_hugging_face(json)? })
    }

    /// Returns the sizes from which the cost follows.
    pub fn sizes(&self) -> LanguageSizes {
        let Self { vocabulary, width, ffn_width, layers, heads, kv_heads, head_width, tied, .. } = *self;
        let biases = if self.qkv_bias { (heads + 2 * kv_heads) * head_width } else { 0 };
        let layer_matrices = width * (2 * heads * head_width + 2 * kv_heads * head_width + 3 * ffn_width);
        let embeddings = (if tied { 1 } else { 2 } * vocabulary + self.extra_embeddings) * width;
        LanguageSizes {
            vocabulary,
            width,
            ffn_width,
            layers,
            heads,
            kv_heads,
            head_width,
            tied,
            layer_matrices,
            parameters: embeddings + layers * (layer_matrices + biases + 2 * width) + width,
        }
    }

    /// Refuses sizes that no model has, before any allocation depends on them.
    ///
    /// # Errors
    /// The size that is out of bounds, or the two that contradict each other.
    pub fn check(&self) -> Result<(), String> {
        check_sizes(&[
            ("vocabulary", self.vocabulary),
            ("width", self.width),
            ("feed-forward width", self.ffn_width),
            ("number of layers", self.layers),
            ("number of heads", self.heads),
            ("number of key and value heads", self.kv_heads),
            ("head width", self.head_width),
            ("number of positions", self.max_positions),
        ])?;
        if self.extra_embeddings > 1 << 16 || self.tied && self.extra_embeddings > 0 {
            let (rows, tied) = (self.extra_embeddings, self.tied);
            return Err(format!("{rows} further rows of the embedding (tied to the head: {tied})"));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let (heads, kv_heads) = (self.heads, self.kv_heads);
            return Err(format!("{heads} heads cannot share {kv_heads} key and value heads"));
        }
        check_eps(self.norm_eps)?;
        self.rope.check(self.head_width, self.max_positions)
    }
}
