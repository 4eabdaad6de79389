//! Sizes and rotary positions of a Llama, read from a Hugging Face `config.json`.

use serde_json::Value;

use crate::language::architecture::LanguageSizes;

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
}

/// Parameters of rotary positions (arXiv 2104.09864).
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Pairing of coordinates.
    pub style: RopeStyle,
    /// Scaling of the frequencies.
    pub scaling: RopeScaling,
}

/// Pairing of the coordinates of a head that rotate together. A checkpoint's rows are ordered for one of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// Pairs i and i + d_head / 2: Hugging Face.
    HalfSplit,
    /// Pairs 2i and 2i + 1: Meta's original, and every Llama in GGUF (the converter permutes q and k back).
    Interleaved,
}

/// Scaling of the frequencies for contexts longer than those of the first training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// The frequencies stay as they are.
    None,
    /// Llama 3.1: long wavelengths are divided by `factor`, short ones kept, those between blended.
    Llama3 {
        /// Divisor of the frequencies of long wavelengths.
        factor: f64,
        /// Periods in the original context, at or below which a wavelength is long.
        low_frequency: f64,
        /// Periods in the original context, at or above which a wavelength is short.
        high_frequency: f64,
        /// Length of the original context in tokens.
        original_positions: f64,
    },
    /// The checkpoint carries a divisor per frequency, `model.rope_factors` (d_head / 2).
    Factors,
}

impl Rope {
    /// Returns the radians per position of each pair of coordinates: d_head / 2 values, before [`RopeScaling::Factors`].
    pub fn frequencies(&self, head_width: usize) -> Vec<f32> {
        let plain = |i: usize| self.theta.powf(-((2 * i) as f64) / head_width as f64);
        (0..head_width / 2).map(|i| self.scaling.apply(plain(i)) as f32).collect()
    }
}

impl RopeScaling {
    fn apply(self, frequency: f64) -> f64 {
        let RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_positions } = self else {
            return frequency;
        };
        let periods = original_positions * frequency / std::f64::consts::TAU;
        let kept = ((periods - low_frequency) / (high_frequency - low_frequency)).clamp(0.0, 1.0);
        (1.0 - kept) * frequency / factor + kept * frequency
    }
}

impl LlamaConfig {
    /// Reads the `config.json` of a `LlamaForCausalLM`.
    ///
    /// # Errors
    /// The reason why this build cannot run the model.
    pub fn from_hugging_face(json: &Value) -> Result<Self, String> {
        let (width, heads) = (size(json, "hidden_size")?, size(json, "num_attention_heads")?);
        for flag in ["attention_bias", "mlp_bias"] {
            if json.get(flag).and_then(Value::as_bool) == Some(true) {
                return Err(format!("`{flag}` is true: biases are not part of this model"));
            }
        }
        match json.get("hidden_act").and_then(Value::as_str) {
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
            rope: hugging_face_rope(json)?,
            tied: json.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
        };
        config.check()?;
        Ok(config)
    }

    /// Returns the sizes from which the cost follows.
    pub fn sizes(&self) -> LanguageSizes {
        let Self { vocabulary, width, ffn_width, layers, heads, kv_heads, head_width, tied, .. } = *self;
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
            parameters: embeddings + layers * (layer_matrices + 2 * width) + width,
        }
    }

    /// Refuses sizes that no model has, before any allocation depends on them.
    ///
    /// # Errors
    /// The size that is out of bounds, or the two that contradict each other.
    pub fn check(&self) -> Result<(), String> {
        /// Far above every published model, low enough that no product of two sizes overflows.
        const LIMIT: usize = 1 << 24;
        const TABLE_LIMIT: usize = 1 << 26;
        let sizes = [
            ("vocabulary", self.vocabulary),
            ("width", self.width),
            ("feed-forward width", self.ffn_width),
            ("number of layers", self.layers),
            ("number of heads", self.heads),
            ("number of key and value heads", self.kv_heads),
            ("head width", self.head_width),
            ("number of positions", self.max_positions),
        ];
        if let Some((name, size)) = sizes.iter().find(|(_, size)| !(1..=LIMIT).contains(size)) {
            return Err(format!("the {name} is {size}, not between 1 and {LIMIT}"));
        }
        if self.extra_embeddings > 1 << 16 || self.tied && self.extra_embeddings > 0 {
            let (rows, tied) = (self.extra_embeddings, self.tied);
            return Err(format!("{rows} further rows of the embedding (tied to the head: {tied})"));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let (heads, kv_heads) = (self.heads, self.kv_heads);
            return Err(format!("{heads} heads cannot share {kv_heads} key and value heads"));
        }
        if !self.head_width.is_multiple_of(2) {
            return Err(format!("the head width {} is odd: rotary positions rotate pairs", self.head_width));
        }
        if self.max_positions * self.head_width / 2 > TABLE_LIMIT {
            return Err(format!(
                "{} positions of width {} are too many",
                self.max_positions, self.head_width
            ));
        }
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if !positive(self.norm_eps) || !positive(self.rope.theta) {
            let (eps, theta) = (self.norm_eps, self.rope.theta);
            return Err(format!("epsilon {eps} and rope theta {theta} must be positive"));
        }
        Ok(())
    }
}

/// Reads `rope_scaling` and `rope_theta`, or both from `rope_parameters` (transformers 5).
fn hugging_face_rope(json: &Value) -> Result<Rope, String> {
    let non_null = |key| json.get(key).filter(|value| !value.is_null());
    let parameters = non_null("rope_parameters").or(non_null("rope_scaling")).unwrap_or(&Value::Null);
    let theta = match optional(parameters, "rope_theta", number)? {
        Some(theta) => theta,
        None => optional(json, "rope_theta", number)?.unwrap_or(10_000.0),
    };
    let kind = parameters.get("rope_type").or(parameters.get("type")).and_then(Value::as_str);
    let scaling = match kind {
        None if parameters.get("factor").is_some() => return Err("rope scaling without a type".into()),
        None | Some("default") => RopeScaling::None,
        Some("llama3") => llama3_scaling(parameters)?,
        Some(other) => return Err(format!("unknown rope scaling `{other}`")),
    };
    Ok(Rope { theta, style: RopeStyle::HalfSplit, scaling })
}

fn llama3_scaling(parameters: &Value) -> Result<RopeScaling, String> {
    let positive = |key| match number(parameters, key)? {
        value if value > 0.0 => Ok(value),
        value => Err(format!("`{key}` is {value}, not positive")),
    };
    let (low_frequency, high_frequency) = (positive("low_freq_factor")?, positive("high_freq_factor")?);
    if low_frequency >= high_frequency {
        return Err(format!(
            "`low_freq_factor` {low_frequency} is not below `high_freq_factor` {high_frequency}"
        ));
    }
    let (factor, original_positions) = (positive("factor")?, positive("original_max_position_embeddings")?);
    Ok(RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_positions })
}

fn size(json: &Value, key: &str) -> Result<usize, String> {
    let value = json.get(key).ok_or_else(|| format!("`{key}` is missing"))?;
    let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
    number.ok_or_else(|| format!("`{key}` is {value}, not a size"))
}

fn number(json: &Value, key: &str) -> Result<f64, String> {
    let value = json.get(key).ok_or_else(|| format!("`{key}` is missing"))?;
    value.as_f64().ok_or_else(|| format!("`{key}` is {value}, not a number"))
}

/// Reads an optional key: absent or null is `None`, another type is an error.
fn optional<T>(
    json: &Value,
    key: &str,
    read: fn(&Value, &str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    match json.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => read(json, key).map(Some),
    }
}
