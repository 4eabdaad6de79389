//! Sizes of an MPT, read from the `config.json` of either layout.

use serde_json::Value;

use crate::language::architecture::LanguageSizes;
use crate::language::json::{check_eps, check_sizes, flag, number, only, optional, size, text};
use crate::language::packed_batch::{AlibiHeads, alibi_slopes};

/// Sizes of one MPT.
#[derive(Debug, Clone, PartialEq)]
pub struct MptConfig {
    /// Rows of the embedding, which is the head too.
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
    /// Whether queries and keys are normalised over the whole width.
    pub qk_norm: bool,
    /// Largest absolute value of queries, keys and values before the norm.
    pub clip_qkv: Option<f64>,
    /// Factor of the scores.
    pub softmax_scale: f64,
    /// Greatest exponent of the slopes of ALiBi.
    pub alibi_max: f64,
    /// Slopes for a number of heads that is no power of two.
    pub alibi_heads: AlibiHeads,
    /// Factor of the logits.
    pub logit_scale: Option<f64>,
}

impl MptConfig {
    /// Reads the `config.json` of an `MptForCausalLM` (`model_type` `mpt`).
    ///
    /// # Errors
    /// The reason why this build cannot run the model.
    pub fn from_mpt(json: &Value) -> Result<Self, String> {
        let attention = json.get("attn_config").unwrap_or(&Value::Null);
        for (key, value) in [("alibi", true), ("prefix_lm", false), ("attn_uses_sequence_id", false)] {
            only(attention, key, value)?;
        }
        match optional(attention, "attn_type", text)?.as_deref() {
            None | Some("multihead_attention") => {}
            Some(other) => return Err(format!("unknown `attn_type` `{other}`")),
        }
        match optional(json, "norm_type", text)?.as_deref() {
            None | Some("low_precision_layernorm" | "layernorm") => {}
            Some(other) => return Err(format!("unknown `norm_type` `{other}`")),
        }
        let config = Self {
            norm_eps: optional(json, "layer_norm_epsilon", number)?.unwrap_or(1e-5),
            ..Self::read(json, attention, ["expansion_ratio", "qk_ln", "clip_qkv"])?
        };
        config.check()?;
        Ok(config)
    }

    /// Reads the `config.json` of a `MosaicGPT` (`model_type` `mosaic_gpt`).
    ///
    /// # Errors
    /// The reason why this build cannot run the model.
    pub fn from_mosaic_gpt(json: &Value) -> Result<Self, String> {
        // Other than in MPT, the defaults are false.
        for key in ["alibi", "no_bias"] {
            flag(json, key)?;
        }
        for (key, value) in [("alibi", true), ("prefix_lm", false), ("attn_uses_sequence_id", false)] {
            only(json, key, value)?;
        }
        let config = Self {
            alibi_heads: AlibiHeads::Even,
            ..Self::read(json, json, ["mlp_ratio", "attn_qk_ln", "attn_clip_qkv"])?
        };
        config.check()?;
        Ok(config)
    }

    /// Reads what both layouts have, the three keys by their spelling.
    fn read(json: &Value, attention: &Value, [ratio, qk_norm, clip]: [&str; 3]) -> Result<Self, String> {
        only(json, "no_bias", true)?;
        let (width, heads) = (size(json, "d_model")?, size(json, "n_heads")?);
        let default_scale = (width as f64 / heads as f64).powf(-0.5);
        let logit_scale = match json.get("logit_scale") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text == "inv_sqrt_d_model" => Some((width as f64).powf(-0.5)),
            Some(_) => Some(number(json, "logit_scale")?),
        };
        Ok(Self {
            vocabulary: size(json, "vocab_size")?,
            width,
            ffn_width: optional(json, ratio, size)?.unwrap_or(4).saturating_mul(width),
            layers: size(json, "n_layers")?,
            heads,
            max_positions: size(json, "max_seq_len")?,
            norm_eps: 1e-5,
            qk_norm: optional(attention, qk_norm, flag)?.unwrap_or(false),
            clip_qkv: optional(attention, clip, number)?,
            softmax_scale: optional(attention, "softmax_scale", number)?.unwrap_or(default_scale),
            alibi_max: optional(attention, "alibi_bias_max", number)?.unwrap_or(8.0),
            alibi_heads: AlibiHeads::NextPowerOfTwo,
            logit_scale,
        })
    }

    /// Returns the slope of each head.
    pub fn slopes(&self) -> Vec<f32> {
        alibi_slopes(self.heads, self.alibi_max, self.alibi_heads)
    }

    /// Returns the sizes from which the cost follows.
    pub fn sizes(&self) -> LanguageSizes {
        let Self { vocabulary, width, ffn_width, layers, heads, .. } = *self;
        let layer_matrices = width * (4 * width + 2 * ffn_width);
        let norms = if self.qk_norm { 4 } else { 2 } * width;
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
            parameters: vocabulary * width + layers * (layer_matrices + norms) + width,
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
        ])?;
        if !self.width.is_multiple_of(self.heads) {
            return Err(format!("the width {} does not divide into {} heads", self.width, self.heads));
        }
        check_eps(self.norm_eps)
    }
}
