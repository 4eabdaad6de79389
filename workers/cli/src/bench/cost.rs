//! Minimum operations and bytes of each stage, counted from the shape of the model.
//!
//! A multiplication and an addition count as two operations. Matrix products and convolutions count; norms, activations and
//! softmax do not. Bytes are the weights (once per pass), the keys and values that a sequence reads or writes, and the inputs
//! and outputs of a stage. Intermediate results do not count, because they may stay in a cache.

use flamingo::family::shape::ModelShape;
use flamingo::language::LanguageSizes;
use flamingo::model::{ConnectorConfig, CrossAttentionConfig, ResamplerConfig};

/// Minimum operations and bytes of a stage.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    pub operations: f64,
    pub bytes: f64,
}

/// Number of parameters by part, with the names of [`flamingo::weights::Weights::parameters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    pub vision: usize,
    pub connector: usize,
    pub cross_attention: usize,
    pub language: usize,
}

/// Computes the costs of the stages of a shape.
pub struct CostModel<'s> {
    pub shape: &'s ModelShape,
    /// Bytes of an activation, and of a weight that is not quantised.
    pub dtype_bytes: usize,
    /// Bytes of language model weights that every pass reads.
    pub language_bytes: usize,
}

impl CostModel<'_> {
    pub fn parameters(&self) -> Parameters {
        let ModelShape { vision, model, language, .. } = self.shape;
        let language = language.sizes();
        let (xattn_count, features_width) = (self.xattn_count(), self.features().1);
        let media_width = model.connector.width(features_width);
        Parameters {
            vision: vision.encoder().parameters(),
            connector: connector_parameters(&model.connector, features_width),
            cross_attention: xattn_count
                * cross_attention_parameters(&model.cross_attention, language.width, media_width),
            language: language.parameters,
        }
    }

    /// Cost of the vision encoder for a batch of `n` frames.
    pub fn encoder(&self, n: usize) -> Cost {
        let (patches, width) = self.features();
        let operations = self.shape.vision.encoder().operations(self.side()) * n as f64;
        let frame = 3 * self.side() * self.side() + patches * width;
        Cost { operations, bytes: self.bytes(self.parameters().vision + n * frame) }
    }

    /// Cost of the connector for one medium of `t` frames.
    pub fn connector(&self, t: usize) -> Cost {
        let (patches, features_width) = self.features();
        let ((q, d), n) = (self.visual_tokens(t), t * patches);
        let operations = match &self.shape.model.connector {
            ConnectorConfig::Resampler(config) if config.frames == 0 => {
                t as f64 * resampler_operations(config, patches, features_width)
            }
            ConnectorConfig::Resampler(config) => resampler_operations(config, n, features_width),
            ConnectorConfig::Projector(_) => matmul(n, features_width, d),
            ConnectorConfig::Identity => return Cost::default(),
        };
        Cost { operations, bytes: self.bytes(self.parameters().connector + n * features_width + q * d) }
    }

    /// Returns (q, d): number and width of the visual tokens of a medium of `t` frames.
    pub fn visual_tokens(&self, t: usize) -> (usize, usize) {
        let (patches, features_width) = self.features();
        self.shape.model.connector.visual_tokens(t, patches, features_width)
    }

    /// Cost of the keys and values of one medium of `t` frames at every gated cross-attention.
    pub fn media_kv(&self, t: usize) -> Cost {
        let (config, (q, d)) = (&self.shape.model.cross_attention, self.visual_tokens(t));
        let inner = config.kv_heads() * config.head_width;
        let weights = self.xattn_count() * d * 2 * inner;
        Cost {
            operations: matmul(q, 1, weights),
            bytes: self.bytes(weights + q * (d + self.xattn_count() * 2 * inner)),
        }
    }

    /// Cost of one pass of the language model with cross-attention: `batch` sequences, each with one medium of `t` frames,
    /// `past` cached tokens and `new` ones, with logits for the last one.
    pub fn pass(&self, batch: usize, t: usize, new: usize, past: usize) -> Cost {
        let ModelShape { model, language, .. } = self.shape;
        let language = language.sizes();
        let (config, xattn_count, q) = (&model.cross_attention, self.xattn_count(), self.visual_tokens(t).0);
        let (d, inner) = (language.width, config.heads * config.head_width);
        let kv_inner = config.kv_heads() * config.head_width;
        let xattn = 2 * d * inner + 2 * config.feed_forward_multiple * d * d;
        let dense = language.layers * language.layer_matrices + xattn_count * xattn;
        // Token i of the new ones attends to all before it and to itself.
        let pairs = new * past + new * (new + 1) / 2;
        let attention = matmul(pairs, 2 * language.heads * language.head_width, language.layers)
            + matmul(new, 2 * inner, xattn_count * q);
        let sequence = matmul(new, 1, dense) + attention + matmul(1, d, language.vocabulary);
        let cached = (past + new) * language.layers * 2 * language.kv_heads * language.head_width;
        let media_kv = xattn_count * 2 * kv_inner * q;
        let weights = self.language_bytes as f64 + self.bytes(xattn_count * xattn);
        Cost {
            operations: batch as f64 * sequence,
            bytes: weights
                + self.bytes(batch * (cached + media_kv))
                + (batch * language.vocabulary * 4) as f64,
        }
    }

    fn bytes(&self, values: usize) -> f64 {
        (values * self.dtype_bytes) as f64
    }

    /// Number of gated cross-attentions.
    fn xattn_count(&self) -> usize {
        let placement = self.shape.model.cross_attention.placement;
        (0..self.shape.language.sizes().layers).filter(|&layer| placement.has(layer)).count()
    }

    fn side(&self) -> usize {
        self.shape.vision.preprocess().size as usize
    }

    /// Number of features per frame, and their width.
    pub fn features(&self) -> (usize, usize) {
        self.shape.vision.encoder().features(self.side())
    }
}

/// Operations of a matrix product (m, k) x (k, n).
fn matmul(m: usize, k: usize, n: usize) -> f64 {
    2.0 * m as f64 * k as f64 * n as f64
}

/// Operations of a resampler for `n` features of one medium.
fn resampler_operations(config: &ResamplerConfig, n: usize, features_width: usize) -> f64 {
    let (q, d, inner) = (config.latents, config.width, config.heads * config.head_width);
    let projection = if features_width == d { 0.0 } else { matmul(n, features_width, d) };
    let layer = matmul(q, d, inner) // queries
        + matmul(n + q, d, 2 * inner) // keys and values, of features and latents
        + 2.0 * matmul(q, n + q, inner) // attention scores and weighted sums
        + matmul(q, inner, d)
        + 2.0 * matmul(q, d, config.feed_forward_multiple * d);
    projection + config.depth as f64 * layer
}

fn connector_parameters(config: &ConnectorConfig, features_width: usize) -> usize {
    match config {
        ConnectorConfig::Resampler(config) => resampler_parameters(config, features_width),
        ConnectorConfig::Projector(config) => (features_width + usize::from(config.bias)) * config.width,
        ConnectorConfig::Identity => 0,
    }
}

fn resampler_parameters(config: &ResamplerConfig, features_width: usize) -> usize {
    let (d, inner) = (config.width, config.heads * config.head_width);
    let projection = if features_width == d { 0 } else { features_width * d };
    let layer = 4 * d + d * inner + d * 2 * inner + inner * d + feed_forward(d, config.feed_forward_multiple);
    projection + (config.frames + config.latents) * d + config.depth * layer + 2 * d
}

fn cross_attention_parameters(config: &CrossAttentionConfig, text: usize, media: usize) -> usize {
    let inner = config.heads * config.head_width;
    let attention = 2 * text + text * inner + media * 2 * inner + inner * text;
    attention + feed_forward(text, config.feed_forward_multiple) + 2 // two gates
}

/// Parameters of a feed-forward block: norm, up, down.
fn feed_forward(d: usize, multiple: usize) -> usize {
    2 * d + 2 * multiple * d * d
}

/// Bytes of a dense language model that every pass reads: all weights except an untied input embedding.
pub fn dense_language_bytes(sizes: &LanguageSizes, dtype_bytes: usize) -> usize {
    let lookup_only = if sizes.tied { 0 } else { sizes.vocabulary * sizes.width };
    (sizes.parameters - lookup_only) * dtype_bytes
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use flamingo::language::LanguageConfig;
    use flamingo::language::llama::LlamaConfig;
    use flamingo::model::ProjectorConfig;
    use flamingo::weights::Weights;

    use super::*;

    fn cost_model(shape: &ModelShape) -> CostModel<'_> {
        let language_bytes = dense_language_bytes(&shape.language.sizes(), 4);
        CostModel { shape, dtype_bytes: 4, language_bytes }
    }

    #[test]
    fn parameters_equal_those_of_the_built_model() {
        let shape = ModelShape::named("mini").unwrap();
        let weights = Weights::placeholder(&Device::Cpu, DType::F32).unwrap();
        shape.build(&weights).unwrap();
        let (taken, counted) = (weights.parameters(), cost_model(&shape).parameters());
        assert_eq!(taken["vision"], counted.vision);
        assert_eq!(taken["resampler"], counted.connector);
        assert_eq!(taken["cross_attention"], counted.cross_attention);
        assert_eq!(taken["language"], counted.language);
    }

    /// Parameters that the paper states, in millions; its cross-attention of 9B does not follow from its other sizes.
    #[test]
    fn parameters_equal_those_of_the_paper() {
        for (name, cross_attention, language) in [("3b", 1158, 1393), ("9b", 1804, 7094)] {
            let shape = ModelShape::named(name).unwrap();
            let p = cost_model(&shape).parameters();
            let found =
                [p.vision, p.connector, p.cross_attention, p.language].map(|n| (n + 500_000) / 1_000_000);
            assert_eq!(found, [435, 194, cross_attention, language], "{name}");
        }
    }

    /// A model small enough to count by hand: width 4, one layer, 2 heads of 2 over one key head, feed-forward 3, 10 tokens,
    /// one cross-attention of one head of 3 and feed-forward 4 to 5 latents of width 6.
    fn tiny() -> ModelShape {
        let mut shape = ModelShape::named("3b").unwrap();
        let LanguageConfig::Llama(language) = shape.language else { panic!("the paper's models are Llamas") };
        let language = LlamaConfig { vocabulary: 10, width: 4, ffn_width: 3, layers: 1, ..language };
        let language = LlamaConfig { heads: 2, kv_heads: 1, head_width: 2, ..language };
        shape.language = LanguageConfig::Llama(language);
        let x = shape.model.cross_attention;
        shape.model.cross_attention =
            CrossAttentionConfig { heads: 1, head_width: 3, feed_forward_multiple: 1, ..x };
        let r = shape.model.connector.resampler().unwrap().clone();
        let r = ResamplerConfig { width: 6, depth: 1, heads: 1, head_width: 2, latents: 5, ..r };
        shape.model.connector = ConnectorConfig::Resampler(r);
        shape
    }

    #[test]
    fn decode_step_equals_hand_count() {
        let shape = tiny();
        let costs = cost_model(&shape);
        // Layer: q and o 4 x 4, k and v 4 x 2, three of 4 x 3: 84. Cross-attention: to_q and to_out 4 x 3, two of 4 x 4: 56.
        // Attention to 8 tokens: scores and sums of 2 x 2 numbers, 64 products; to 5 latents: 3 numbers, 30. Head: 40.
        let row = 2.0 * (84.0 + 56.0 + 64.0 + 30.0 + 40.0);
        // Language: 40 + 84 + 3 norms of 4. Cache: 8 tokens of 2 x 2. Medium: 5 latents of 2 x 3. Scores: 10.
        let bytes = 4.0 * (136.0 + 56.0 + 3.0 * (32.0 + 30.0 + 10.0));
        assert_eq!(costs.pass(3, 2, 1, 7), Cost { operations: 3.0 * row, bytes });
    }

    #[test]
    fn prefill_equals_hand_count() {
        let shape = tiny();
        // 3 tokens after none: 1 + 2 + 3 pairs of 4 numbers twice; 3 tokens to 5 latents of 3 numbers twice.
        let operations = 2.0 * (3.0 * (84.0 + 56.0) + 48.0 + 90.0 + 40.0);
        let bytes = 4.0 * (136.0 + 56.0 + 12.0 + 30.0 + 10.0);
        assert_eq!(cost_model(&shape).pass(1, 2, 3, 0), Cost { operations, bytes });
    }

    #[test]
    fn resampler_and_media_kv_equal_hand_count() {
        let shape = tiny();
        let costs = cost_model(&shape);
        // 2 frames of 100 features of 3072; inner width 2; 205 keys.
        let layer = 5.0 * 12.0 + 205.0 * 24.0 + 2.0 * 5.0 * 205.0 * 2.0 + 5.0 * 12.0 + 2.0 * 5.0 * 6.0 * 24.0;
        let operations = 2.0 * (200.0 * 3072.0 * 6.0 + layer);
        // Parameters: projection, 8 + 5 rows, 4 norms halves, matrices, feed-forward with its norm, last norm.
        let parameters = 3072.0 * 6.0 + 78.0 + (24.0 + 12.0 + 24.0 + 12.0 + 12.0 + 288.0) + 12.0;
        let bytes = 4.0 * (parameters + 200.0 * 3072.0 + 30.0);
        assert_eq!(costs.connector(2), Cost { operations, bytes });
        // One cross-attention: 6 x 6 weights for each of 5 latents.
        let bytes = 4.0 * (36.0 + 5.0 * (6.0 + 6.0));
        assert_eq!(costs.media_kv(2), Cost { operations: 360.0, bytes });
    }

    #[test]
    fn projector_equals_hand_count() {
        let mut shape = tiny();
        shape.model.connector = ConnectorConfig::Projector(ProjectorConfig { width: 6, bias: true });
        let costs = cost_model(&shape);
        assert_eq!(costs.visual_tokens(2), (200, 6));
        let bytes = 4.0 * (3073.0 * 6.0 + 200.0 * 3072.0 + 200.0 * 6.0);
        assert_eq!(costs.connector(2), Cost { operations: 2.0 * 200.0 * 3072.0 * 6.0, bytes });
        shape.model.connector = ConnectorConfig::Identity;
        assert_eq!(cost_model(&shape).visual_tokens(2), (200, 3072));
        assert_eq!(cost_model(&shape).connector(2), Cost::default());
    }
}
