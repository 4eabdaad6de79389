//! Sizes of an OPT, read from its `config.json`.

use serde_json::Value;

use crate::kernels::activation::Activation;
use crate::language::architecture::LanguageSizes;
use crate::language::json::{check_eps, check_sizes, flag, only, optional, size, text};

/// Sizes of one OPT.
#[derive(Debug, Clone, PartialEq)]
pub struct OptConfig {
    /// Rows of the embedding, which is the head too.
    pub vocabulary: usize,
    /// Width d of the hidden state.
    pub width: usize,
    /// Width of the embedding.
    pub embedding_width: usize,
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
    /// Activation of the feed-forward.
    pub activation: Activation,
    /// Whether the norms stand before attention and feed-forward, not after their sums.
    pub norm_first: bool,
    /// Whether the last layer is followed by a norm.
    pub final_norm: bool,
}

impl OptConfig {
    /// Reads the `config.json` of an `OPTForCausalLM`.
    ///
    /// # Errors
    /// The reason why this build cannot run the model.
    pub fn from_hugging_face(json: &Value) -> Result<Self, String> {
        for key in ["enable_bias", "layer_norm_elementwise_affine", "tie_word_embeddings"] {
            only(json, key, true)?;
        }
        let activation = match optional(json, "activation_function", text)?.as_deref() {
            None | Some("relu") => Activation::Relu,
            Some("gelu") => Activation::Gelu,
            Some(other) => return Err(format!("unknown `activation_function` `{other}`")),
        };
        let width = size(json, "hidden_size")?;
        let norm_first = optional(json, "do_layer_norm_before", flag)?.unwrap_or(true);
        let removed = optional(json, "_remove_final_layer_norm", flag)?.unwrap_or(false);
        let config = Self {
            vocabulary: size(json, "vocab_size")?,
            width,
            embedding_width: optional(json, "word_embed_proj_dim", size)?.unwrap_or(width),
            ffn_width: size(json, "ffn_dim")?,
            layers: size(json, "num_hidden_layers")?,
            heads: size(json, "num_attention_heads")?,
            max_positions: optional(json, "max_position_embeddings", size)?.unwrap_or(2048),
            norm_eps: 1e-5,
            activation,
            norm_first,
            final_norm: norm_first && !removed,
        };
        config.check()?;
        Ok(config)
    }

    /// Returns the sizes from which the cost follows.
    pub fn sizes(&self) -> LanguageSizes {
        let Self { vocabulary, width, embedding_width, ffn_width, layers, heads, .. } = *self;
        let layer_matrices = width * (4 * width + 2 * ffn_width);
        let vectors = 9 * width + ffn_width;
        let projections = if embedding_width == width { 0 } else { 2 * embedding_width * width };
        let outside = (self.max_positions + 2) * width + if self.final_norm { 2 * width } else { 0 };
        LanguageSizes {
            vocabulary,
            width,
            ffn_width,
            layers,
            heads,
            kv_heads: heads,
            head_width: width / heads,
            tied: true,
            layer_matrices,
            parameters: vocabulary * embedding_width
                + projections
                + outside
                + layers * (layer_matrices + vectors),
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
            ("width of the embedding", self.embedding_width),
            ("feed-forward width", self.ffn_width),
            ("number of layers", self.layers),
            ("number of heads", self.heads),
            ("number of positions", self.max_positions),
        ])?;
        if !self.width.is_multiple_of(self.heads) {
            return Err(format!("the width {} does not divide into {} heads", self.width, self.heads));
        }
        check_eps(self.norm_eps)
    }
}
