//! Products, sums and bytes that a stage cannot do without, counted from its shape.
//!
//! A multiplication and an addition are two operations. Counted are matrix products and convolutions; norms, activations
//! and softmax are not. Of bytes are counted the weights, once per pass, the keys and values that a row reads or writes,
//! and what goes in and comes out of a stage; what a stage keeps in between may stay in a cache.

use flamingo::family::shape::ModelShape;
use flamingo::language::llama::LlamaConfig;
use flamingo::model::{CrossAttentionConfig, ResamplerConfig};

/// What a stage does at least.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    pub operations: f64,
    pub bytes: f64,
}

/// Parameters by part, by the names of [`flamingo::weights::Weights::parameters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    pub vision: usize,
    pub resampler: usize,
    pub cross_attention: usize,
    pub language: usize,
}

/// A shape, and how its numbers are stored.
pub struct Counter<'s> {
    pub shape: &'s ModelShape,
    /// Bytes of an activation, and of a weight that is not quantised.
    pub number: usize,
    /// Bytes of the language model's weights that every pass reads.
    pub language_bytes: usize,
}

impl Counter<'_> {
    pub fn parameters(&self) -> Parameters {
        let ModelShape { vision, model, language, .. } = self.shape;
        let looks = self.looks();
        Parameters {
            vision: vision.encoder().parameters(),
            resampler: resampler_parameters(&model.resampler, self.features().1),
            cross_attention: looks
                * cross_attention_parameters(&model.cross_attention, language.width, model.resampler.width),
            language: language_parameters(language),
        }
    }

    /// Vision encoder, `n` frames at once.
    pub fn encoder(&self, n: usize) -> Work {
        let (patches, width) = self.features();
        let operations = self.shape.vision.encoder().operations(self.side()) * n as f64;
        let frame = 3 * self.side() * self.side() + patches * width;
        Work { operations, bytes: self.bytes(self.parameters().vision + n * frame) }
    }

    /// Resampler, one medium of `t` frames.
    pub fn resampler(&self, t: usize) -> Work {
        let config = &self.shape.model.resampler;
        let (patches, features_width) = self.features();
        let (n, q, d) = (t * patches, config.latents, config.width);
        let inner = config.heads * config.head_width;
        let projection = if features_width == d { 0.0 } else { product(n, features_width, d) };
        let layer = product(q, d, inner) // queries
            + product(n + q, d, 2 * inner) // keys and values, of features and latents
            + 2.0 * product(q, n + q, inner) // scores, and sums by them
            + product(q, inner, d)
            + 2.0 * product(q, d, config.feed_forward_multiple * d);
        Work {
            operations: projection + config.depth as f64 * layer,
            bytes: self.bytes(self.parameters().resampler + n * features_width + q * d),
        }
    }

    /// Keys and values of one medium at every gated cross-attention.
    pub fn media_keys(&self) -> Work {
        let (config, media) = (&self.shape.model.cross_attention, &self.shape.model.resampler);
        let inner = config.heads * config.head_width;
        let weights = self.looks() * media.width * 2 * inner;
        Work {
            operations: product(media.latents, 1, weights),
            bytes: self.bytes(weights + media.latents * (media.width + self.looks() * 2 * inner)),
        }
    }

    /// One pass of the language model and its cross-attention: `rows` rows, each with one medium, `past` cached tokens and
    /// `new` ones, the last of which is scored.
    pub fn pass(&self, rows: usize, new: usize, past: usize) -> Work {
        let ModelShape { model, language, .. } = self.shape;
        let (config, looks) = (&model.cross_attention, self.looks());
        let (d, inner) = (language.width, config.heads * config.head_width);
        let look = 2 * d * inner + 2 * config.feed_forward_multiple * d * d;
        let dense = language.layers * layer_matrices(language) + looks * look;
        // Token i of the new ones attends to all before it and to itself.
        let pairs = new * past + new * (new + 1) / 2;
        let attention = product(pairs, 2 * language.heads * language.head_width, language.layers)
            + product(new, 2 * inner, looks * model.resampler.latents);
        let row = product(new, 1, dense) + attention + product(1, d, language.vocabulary);
        let cached = (past + new) * language.layers * 2 * language.kv_heads * language.head_width;
        let seen = looks * 2 * inner * model.resampler.latents;
        let weights = self.language_bytes as f64 + self.bytes(looks * look);
        Work {
            operations: rows as f64 * row,
            bytes: weights + self.bytes(rows * (cached + seen)) + (rows * language.vocabulary * 4) as f64,
        }
    }

    fn bytes(&self, numbers: usize) -> f64 {
        (numbers * self.number) as f64
    }

    /// Gated cross-attentions.
    fn looks(&self) -> usize {
        let placement = self.shape.model.cross_attention.placement;
        (0..self.shape.language.layers).filter(|&layer| placement.has(layer)).count()
    }

    fn side(&self) -> usize {
        self.shape.vision.preprocess().size as usize
    }

    /// Features per frame, and the width of each.
    pub fn features(&self) -> (usize, usize) {
        self.shape.vision.encoder().features(self.side())
    }
}

/// Operations of a product (m, k) x (k, n).
fn product(m: usize, k: usize, n: usize) -> f64 {
    2.0 * m as f64 * k as f64 * n as f64
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

/// Norm, up, down.
fn feed_forward(d: usize, multiple: usize) -> usize {
    2 * d + 2 * multiple * d * d
}

/// Numbers in the matrices of one layer of the language model.
fn layer_matrices(config: &LlamaConfig) -> usize {
    let (queries, keys) = (config.heads * config.head_width, config.kv_heads * config.head_width);
    config.width * (2 * queries + 2 * keys + 3 * config.ffn_width)
}

fn language_parameters(config: &LlamaConfig) -> usize {
    let embeddings = if config.tied { 1 } else { 2 } * config.vocabulary * config.width;
    embeddings + config.layers * (layer_matrices(config) + 2 * config.width) + config.width
}

/// Bytes of a dense language model that every pass reads: all but an embedding that is only looked up in.
pub fn dense_language_bytes(config: &LlamaConfig, number: usize) -> usize {
    let looked_up = if config.tied { 0 } else { config.vocabulary * config.width };
    (language_parameters(config) - looked_up) * number
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use flamingo::weights::Weights;

    use super::*;

    fn counter(shape: &ModelShape) -> Counter<'_> {
        let language_bytes = dense_language_bytes(&shape.language, 4);
        Counter { shape, number: 4, language_bytes }
    }

    #[test]
    fn parameters_are_those_that_the_model_takes() {
        let shape = ModelShape::named("mini").unwrap();
        let weights = Weights::placeholder(&Device::Cpu, DType::F32).unwrap();
        shape.build(&weights).unwrap();
        let (taken, counted) = (weights.parameters(), counter(&shape).parameters());
        assert_eq!(taken["vision"], counted.vision);
        assert_eq!(taken["resampler"], counted.resampler);
        assert_eq!(taken["cross_attention"], counted.cross_attention);
        assert_eq!(taken["language"], counted.language);
    }

    /// What the paper states, in millions; its cross-attention of 9B does not follow from its other sizes.
    #[test]
    fn parameters_are_those_of_the_paper() {
        for (name, cross_attention, language) in [("3b", 1158, 1393), ("9b", 1804, 7094)] {
            let shape = ModelShape::named(name).unwrap();
            let p = counter(&shape).parameters();
            let found =
                [p.vision, p.resampler, p.cross_attention, p.language].map(|n| (n + 500_000) / 1_000_000);
            assert_eq!(found, [435, 194, cross_attention, language], "{name}");
        }
    }

    /// A model whose numbers fit on a page: width 4, one layer, 2 heads of 2 over one key head, feed-forward 3, 10 tokens,
    /// one cross-attention of one head of 3 and feed-forward 4 to 5 latents of width 6.
    fn tiny() -> ModelShape {
        let mut shape = ModelShape::named("3b").unwrap();
        let language = LlamaConfig { vocabulary: 10, width: 4, ffn_width: 3, layers: 1, ..shape.language };
        shape.language = LlamaConfig { heads: 2, kv_heads: 1, head_width: 2, ..language };
        let x = shape.model.cross_attention;
        shape.model.cross_attention =
            CrossAttentionConfig { heads: 1, head_width: 3, feed_forward_multiple: 1, ..x };
        let r = shape.model.resampler;
        shape.model.resampler =
            ResamplerConfig { width: 6, depth: 1, heads: 1, head_width: 2, latents: 5, ..r };
        shape
    }

    #[test]
    fn a_decode_step_by_hand() {
        let shape = tiny();
        let counter = counter(&shape);
        // Layer: q and o 4 x 4, k and v 4 x 2, three of 4 x 3: 84. Look: to_q and to_out 4 x 3, two of 4 x 4: 56.
        // Attention to 8 tokens: scores and sums of 2 x 2 numbers, 64 products; to 5 latents: 3 numbers, 30. Head: 40.
        let row = 2.0 * (84.0 + 56.0 + 64.0 + 30.0 + 40.0);
        // Language: 40 + 84 + 3 norms of 4. Cache: 8 tokens of 2 x 2. Medium: 5 latents of 2 x 3. Scores: 10.
        let bytes = 4.0 * (136.0 + 56.0 + 3.0 * (32.0 + 30.0 + 10.0));
        assert_eq!(counter.pass(3, 1, 7), Work { operations: 3.0 * row, bytes });
    }

    #[test]
    fn a_prefill_by_hand() {
        let shape = tiny();
        // 3 tokens after none: 1 + 2 + 3 pairs of 4 numbers twice; 3 tokens to 5 latents of 3 numbers twice.
        let operations = 2.0 * (3.0 * (84.0 + 56.0) + 48.0 + 90.0 + 40.0);
        let bytes = 4.0 * (136.0 + 56.0 + 12.0 + 30.0 + 10.0);
        assert_eq!(counter(&shape).pass(1, 3, 0), Work { operations, bytes });
    }

    #[test]
    fn a_medium_by_hand() {
        let shape = tiny();
        let counter = counter(&shape);
        // 2 frames of 100 features of 3072; inner width 2; 205 keys.
        let layer = 5.0 * 12.0 + 205.0 * 24.0 + 2.0 * 5.0 * 205.0 * 2.0 + 5.0 * 12.0 + 2.0 * 5.0 * 6.0 * 24.0;
        let operations = 2.0 * (200.0 * 3072.0 * 6.0 + layer);
        // Parameters: projection, 8 + 5 rows, 4 norms halves, matrices, feed-forward with its norm, last norm.
        let parameters = 3072.0 * 6.0 + 78.0 + (24.0 + 12.0 + 24.0 + 12.0 + 12.0 + 288.0) + 12.0;
        let bytes = 4.0 * (parameters + 200.0 * 3072.0 + 30.0);
        assert_eq!(counter.resampler(2), Work { operations, bytes });
        // One cross-attention: 6 x 6 weights for each of 5 latents.
        let bytes = 4.0 * (36.0 + 5.0 * (6.0 + 6.0));
        assert_eq!(counter.media_keys(), Work { operations: 360.0, bytes });
    }
}
