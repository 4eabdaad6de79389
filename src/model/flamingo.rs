//! The whole model: one loop over the layers of the language model, with gated cross-attention before some of them.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;

use super::config::FlamingoConfig;
use super::cross_attention::{CrossAttentionSpan, GatedCrossAttention};
use super::media::{BatchedMediaKv, MediaCursor, MediaKv, MediaRule, MediaSpan};
use super::resampler::PerceiverResampler;
use crate::error::{Error, Result};
use crate::language::{CacheShape, KvCache, KvPool, LanguageModel, PackedBatch};
use crate::vision::VisionEncoder;
use crate::weights::Weights;

/// Frames per pass of the vision encoder: bounds its memory, whatever the length of a video.
const FRAMES_PER_PASS: usize = 8;

/// A vision encoder and a language model, both frozen, with resampler and gated cross-attention between them.
pub struct Flamingo {
    vision: Box<dyn VisionEncoder>,
    resampler: PerceiverResampler,
    /// One entry per layer of the language model.
    cross_attention: Vec<Option<GatedCrossAttention>>,
    language: Box<dyn LanguageModel>,
    rule: MediaRule,
}

/// State of one row of a batch: its KV cache, its media and its place among them. A clone forks the row: both share the
/// cached tokens.
#[derive(Debug, Clone)]
pub struct RowState {
    pub cache: KvCache,
    media: Vec<Arc<MediaKv>>,
    cursor: MediaCursor,
}

/// New tokens of one row.
pub struct RowInput<'a> {
    pub ids: &'a [u32],
    pub state: &'a mut RowState,
}

/// Callback that receives the name and value of every stage, in causal order; see `flamingo model trace`.
pub type Observer<'o> = &'o mut dyn FnMut(&str, &Tensor) -> Result<()>;

impl Flamingo {
    /// Takes `resampler.*` and `cross_attention.{layer}.*` from `weights`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(
        config: &FlamingoConfig,
        vision: Box<dyn VisionEncoder>,
        language: Box<dyn LanguageModel>,
        rule: MediaRule,
        weights: &Weights,
    ) -> Result<Self> {
        let resampler = PerceiverResampler::new(&config.resampler, vision.width(), weights.pp("resampler"))?;
        let (text, media) = (language.width(), config.resampler.width);
        let layer = |i: usize| match config.cross_attention.placement.has(i) {
            false => Ok(None),
            true => {
                let weights = weights.pp("cross_attention").pp(i);
                GatedCrossAttention::new(&config.cross_attention, text, media, weights).map(Some)
            }
        };
        let cross_attention = (0..language.n_layers()).map(layer).collect::<Result<_>>()?;
        Ok(Self { vision, resampler, cross_attention, language, rule })
    }

    /// Returns the language model.
    pub fn language(&self) -> &dyn LanguageModel {
        self.language.as_ref()
    }

    /// Returns the indices of the language model's layers that have a gated cross-attention before them.
    pub fn cross_attention_layers(&self) -> Vec<usize> {
        (0..self.cross_attention.len()).filter(|&i| self.cross_attention[i].is_some()).collect()
    }

    /// Tells whether any attention gate differs from 0. With all gates closed the media do not change the answer.
    ///
    /// # Errors
    /// The device refuses an operation.
    pub fn gates_open(&self) -> Result<bool> {
        for cross_attention in self.cross_attention.iter().flatten() {
            if cross_attention.is_open()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Encodes the pixels of several media, each (t, 3, h, w) with its own t. Returns the visual tokens of each (q, d).
    ///
    /// # Errors
    /// The media differ in size, or the device refuses an operation.
    pub fn visual_tokens(&self, media: &[Tensor], mut observe: Option<Observer>) -> Result<Vec<Tensor>> {
        let frames = Tensor::cat(media, 0)?;
        let n = frames.dim(0)?;
        let features = (0..n)
            .step_by(FRAMES_PER_PASS)
            .map(|i| self.vision.encode(&frames.narrow(0, i, FRAMES_PER_PASS.min(n - i))?))
            .collect::<Result<Vec<_>>>()?;
        let features = Tensor::cat(&features, 0)?; // (sum of t, s, d)
        if let Some(observe) = observe.as_deref_mut() {
            observe("features", &features)?;
        }
        let tokens =
            self.resample(&features, &media.iter().map(|m| m.dim(0)).collect::<Result<Vec<_>, _>>()?)?;
        if let Some(observe) = observe {
            observe("visual_tokens", &tokens)?;
        }
        (0..media.len()).map(|i| Ok(tokens.get(i)?)).collect()
    }

    /// Resamples the features of all media, concatenated along the frames (sum of `lengths`, s, d). Returns the visual
    /// tokens (m, q, d).
    ///
    /// # Errors
    /// As [`PerceiverResampler::forward`].
    pub fn resample(&self, features: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut start = 0;
        let padded = lengths
            .iter()
            .map(|&n| {
                let medium = features.narrow(0, start, n)?.pad_with_zeros(0, 0, longest - n)?;
                start += n;
                Ok(medium)
            })
            .collect::<Result<Vec<_>>>()?;
        self.resampler.forward(&Tensor::stack(&padded, 0)?, lengths)
    }

    /// Projects visual tokens (q, d) to keys and values at every gated cross-attention: once per medium, for all rows that
    /// attend to it.
    ///
    /// # Errors
    /// The tokens have another width than the model expects.
    pub fn media_kv(&self, visual_tokens: &Tensor) -> Result<Arc<MediaKv>> {
        let layers = self
            .cross_attention
            .iter()
            .flatten()
            .map(|x| x.project_kv(visual_tokens))
            .collect::<Result<_>>()?;
        Ok(Arc::new(MediaKv { layers }))
    }

    /// Checks that all ids are in the vocabulary and that there are as many media markers as media.
    ///
    /// # Errors
    /// [`Error::Prompt`] that names the token or the two numbers.
    pub fn check_markers(&self, ids: &[u32], media: usize) -> Result<()> {
        let vocabulary = self.language.vocabulary();
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(Error::Prompt(format!(
                "token {id} is not one of the {vocabulary} of the vocabulary"
            )));
        }
        let markers = ids.iter().filter(|&&id| id == self.rule.media_token).count();
        if markers != media {
            return Err(Error::Prompt(format!("{markers} media markers, but {media} media")));
        }
        Ok(())
    }

    /// Creates a row over `media` that caches its tokens in `pool`.
    pub fn row(&self, media: Vec<Arc<MediaKv>>, pool: &KvPool) -> RowState {
        RowState { cache: KvCache::new(pool), media, cursor: MediaCursor::default() }
    }

    /// Creates a row for one pass over a whole sequence: nothing is cached, and gradients flow.
    pub fn uncached_row(&self, media: Vec<Arc<MediaKv>>) -> RowState {
        RowState { cache: KvCache::off(), media, cursor: MediaCursor::default() }
    }

    /// Runs the new tokens of all rows in one pass. Returns the last hidden states, packed in the order of the rows
    /// (n, d); the caller chooses which of them become [`logits`](Self::logits).
    ///
    /// # Errors
    /// A row has more media markers than media, or no room left in its cache.
    pub fn forward(&self, inputs: &mut [RowInput], observe: Option<Observer>) -> Result<Tensor> {
        self.pass(inputs, None, observe)
    }

    /// Runs one of many decode steps: rows of one new token attend to their media together, packed in `packed_media`,
    /// which the caller keeps between steps.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn step(&self, inputs: &mut [RowInput], packed_media: &mut BatchedMediaKv) -> Result<Tensor> {
        self.pass(inputs, Some(packed_media), None)
    }

    fn pass(
        &self,
        inputs: &mut [RowInput],
        packed_media: Option<&mut BatchedMediaKv>,
        mut observe: Option<Observer>,
    ) -> Result<Tensor> {
        let shape = self.language.cache_shape();
        let ids: Vec<u32> = inputs.iter().flat_map(|r| r.ids).copied().collect();
        let spans = self.media_spans(inputs)?;
        let (media, caches): (Vec<_>, Vec<_>) =
            inputs.iter_mut().map(|r| (&r.state.media, (r.ids.len(), &mut r.state.cache))).unzip();
        let plan = CrossAttentionPlan::new(spans, &media, packed_media, &shape)?;
        let batch = PackedBatch::new(caches, &shape)?;

        let mut x = self.language.embed(&Tensor::new(ids, &shape.device)?)?; // (n, d)
        let mut xattn = 0;
        for (i, cross_attention) in self.cross_attention.iter().enumerate() {
            if let Some(cross_attention) = cross_attention {
                x = cross_attention.forward(&x, &plan.at(xattn))?;
                xattn += 1;
                if let Some(observe) = observe.as_deref_mut() {
                    observe(&format!("xattn.{i}"), &x)?;
                }
            }
            x = self.language.layer(i, &x, &batch)?;
        }
        batch.advance();
        Ok(x)
    }

    /// Returns the scores of the next token: hidden states (n, d) -> (n, vocabulary), f32.
    ///
    /// # Errors
    /// The device refuses an operation.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.language.head(hidden)
    }

    fn media_spans(&self, inputs: &mut [RowInput]) -> Result<Vec<MediaSpan>> {
        let (mut spans, mut start) = (Vec::new(), 0);
        for (row, input) in inputs.iter_mut().enumerate() {
            let state = &mut *input.state;
            state.cursor.advance(input.ids, &self.rule, row, start, &mut spans);
            let (markers, media) = (state.cursor.markers_seen(), state.media.len());
            if markers > media {
                return Err(Error::Prompt(format!("{markers} media markers, but {media} media")));
            }
            start += input.ids.len();
        }
        Ok(spans)
    }
}

/// Media that the positions of a pass attend to, the same at every cross-attention.
struct CrossAttentionPlan<'a> {
    /// Rows of one new token, at the head of the pass, that attend in one product.
    packed: Option<(Range<usize>, &'a BatchedMediaKv, Option<Tensor>)>,
    /// The other spans, one product each.
    single: Vec<(Range<usize>, &'a MediaKv)>,
}

impl<'a> CrossAttentionPlan<'a> {
    fn new(
        spans: Vec<MediaSpan>,
        media: &[&'a Vec<Arc<MediaKv>>],
        packed_media: Option<&'a mut BatchedMediaKv>,
        shape: &CacheShape,
    ) -> Result<Self> {
        let kv = |span: &MediaSpan| &media[span.row][span.medium];
        let steps = match packed_media {
            None => 0,
            // A span that is one position long and begins where the last one ends is the only token of another row.
            Some(_) => (1..)
                .zip(&spans)
                .take_while(|(n, span)| {
                    let first = spans[0].positions.start;
                    span.positions == (first + n - 1..first + n)
                })
                .count(),
        };
        let (first, rest) = spans.split_at(steps);
        let packed = match (packed_media, first) {
            (Some(packed_media), [head, ..]) if first.len() > 1 => {
                let mask = packed_media.pack(
                    &first.iter().map(kv).collect::<Vec<_>>(),
                    shape.dtype,
                    &shape.device,
                )?;
                let start = head.positions.start;
                Some((start..start + first.len(), &*packed_media, mask))
            }
            _ => None,
        };
        let single = if packed.is_some() { rest } else { &spans };
        let single = single.iter().map(|span| (span.positions.clone(), &**kv(span))).collect();
        Ok(Self { packed, single })
    }

    /// Returns the spans at cross-attention `xattn`, counted from 0.
    fn at(&self, xattn: usize) -> Vec<CrossAttentionSpan<'_>> {
        let packed = self.packed.iter().map(|(positions, media, mask)| CrossAttentionSpan {
            positions: positions.clone(),
            kv: media.at(xattn),
            mask: mask.as_ref(),
        });
        let single = self.single.iter().map(|(positions, media)| CrossAttentionSpan {
            positions: positions.clone(),
            kv: media.at(xattn),
            mask: None,
        });
        packed.chain(single).collect()
    }
}
