//! Sizes of a GPT-NeoX, read from its `config.json`.

use serde_json::Value;

use crate::language::architecture::LanguageSizes;
use crate::language::json::{check_eps, check_sizes, flag, number, optional, size, text};
use crate::language::rotary::Rope;

/// Sizes of one GPT-NeoX.
#[derive(Debug, Clone, PartialEq)]
pub struct GptNeoXConfig {
    /// Rows of the embedding and of the head.
    pub vocabulary: usize,
    /// Width d of the hidden state.
    pub width: usize,
    /// Hidden width of the feed-forward.
    pub ffn_width: usize,
    /// Number of decoder layers.
    pub layers: usize,
    /// Heads of queries, keys and values.
    pub heads: usize,
    /// Length of the longest row in tokens.
    pub max_positions: usize,
    /// Epsilon of the layer norms.
    pub norm_eps: f64,
    /// Rotary positions.
    pub rope: Rope,
    /// Number of first coordinates of a head that rotate.
    pub rotated_width: usize,
    /// Whether attention and feed-forward both read the input of the layer.
    pub parallel_residual: bool,
    /// Whether the maps of the attention have biases.
    pub attention_bias: bool,
    /// Whether the output head is the embedding matrix.
    pub tied: bool,
}

impl GptNeoXConfig {
    /// Reads the `config.json` of a `GPTNeoXForCausalLM`.
    ///
    /// # Errors
    /// The reason why this build cannot run the model.
    pub fn from_hugging_face(json: &Value) -> Result<Self, String> {
        let (width, heads) = (size(json, "hidden_size")?, size(json, "num_attention_heads")?);
        match optional(json, "hidden_act", text)?.as_deref() {
            None | Some("gelu") => {}
            Some(other) => return Err(format!("unknown `hidden_act` `{other}`")),
        }
        let parameters = json.get("rope_parameters").unwrap_or(&Value::Null);
        let part = match optional(parameters, "partial_rotary_factor", number)? {
            Some(part) => part,
            None => optional(json, "rotary_pct", number)?.unwrap_or(0.25),
        };
        if !(part > 0.0 && part <= 1.0) {
            return Err(format!("`rotary_pct` is {part}, not above 0 and at most 1"));
        }
        let config = Self {
            vocabulary: size(json, "vocab_size")?,
            width,
            ffn_width: size(json, "intermediate_size")?,
            layers: size(json, "num_hidden_layers")?,
            heads,
            max_positions: optional(json, "max_position_embeddings", size)?.unwrap_or(2048),
            norm_eps: optional(json, "layer_norm_eps", number)?.unwrap_or(1e-5),
            rope: Rope::from_hugging_face(json, "rotary_emb_base")?,
            rotated_width: ((width / heads.max(1)) as f64 * part) as usize,
            parallel_residual: optional(json, "use_parallel_residual", flag)?.unwrap_or(true),
            attention_bias: optional(json, "attention_bias", flag)?.unwrap_or(true),
            tied: optional(json, "tie_word_embeddings", flag)?.unwrap_or(false),
        };
        config.check()?;
        Ok(config)
    }

    /// Returns the sizes from which the cost follows.
    pub fn sizes(&self) -> LanguageSizes {
        let Self { vocabulary, width, ffn_width, layers, heads, tied, .. } = *self;
        let layer_matrices = width * (4 * width + 2 * ffn_width);
        let biases = ffn_width + width + if self.attention_bias { 4 * width } else { 0 };
        let embeddings = if tied { 1 } else { 2 } * vocabulary * width;
        LanguageSizes {
            vocabulary,
            width,
            ffn_width,
            layers,
            heads,
            kv_heads: heads,
            head_width: width / heads,
            tied,
            layer_matrices,
            parameters: embeddings + layers * (layer_matrices + biases + 4 * width) + 2 * width,
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
            ("number of positions", self.max_positions),
            ("rotated width", self.rotated_width),
        ])?;
        if !self.width.is_multiple_of(self.heads) {
            return Err(format!("the width {} does not divide into {} heads", self.width, self.heads));
        }
        check_eps(self.norm_eps)?;
        self.rope.check(self.rotated_width, self.max_positions)
    }
}
