//! The heart: one loop over the layers of the language model, with a look at the media before some of them.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;

use super::config::FlamingoConfig;
use super::cross_attention::{GatedCrossAttention, Look};
use super::media::{MediaBeside, MediaCursor, MediaKeys, MediaRule, Seen};
use super::resampler::PerceiverResampler;
use crate::error::{Error, Result};
use crate::language::{CacheShape, KvCache, KvPool, LanguageModel, Rows};
use crate::vision::VisionEncoder;
use crate::weights::Weights;

/// Frames that go through the vision encoder at once: bounds its memory, whatever the length of a video.
const FRAMES_PER_PASS: usize = 8;

/// A vision encoder and a language model, both frozen, and what Flamingo puts between them.
pub struct Flamingo {
    vision: Box<dyn VisionEncoder>,
    resampler: PerceiverResampler,
    /// One entry per layer of the language model.
    cross_attention: Vec<Option<GatedCrossAttention>>,
    language: Box<dyn LanguageModel>,
    rule: MediaRule,
}

/// What belongs to one row (one sequence being written): its cache, its media and its place among them.
/// A clone is a row with the same past, which both share.
#[derive(Debug, Clone)]
pub struct RowState {
    pub cache: KvCache,
    media: Vec<Arc<MediaKeys>>,
    cursor: MediaCursor,
}

/// The new tokens of one row.
pub struct RowInput<'a> {
    pub ids: &'a [u32],
    pub state: &'a mut RowState,
}

/// Called with every stage's name and value, in causal order; see `flamingo model trace`.
pub type Observer<'o> = &'o mut dyn FnMut(&str, &Tensor) -> Result<()>;

impl Flamingo {
    /// Takes `resampler.*` and `cross_attention.{layer}.*` from `weights`.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
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

    pub fn language(&self) -> &dyn LanguageModel {
        self.language.as_ref()
    }

    /// The layers of the language model that have a gated cross-attention before them.
    pub fn cross_attention_layers(&self) -> Vec<usize> {
        (0..self.cross_attention.len()).filter(|&i| self.cross_attention[i].is_some()).collect()
    }

    /// Whether the language model can see: any attention gate differs from 0.
    pub fn gates_open(&self) -> Result<bool> {
        for cross_attention in self.cross_attention.iter().flatten() {
            if cross_attention.is_open()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Pixels of several media, each (t, 3, h, w) with its own t, -> the visual tokens of each (q, d).
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

    /// Features of the frames of all media, one after the other (sum of `lengths`, s, d), -> (m, q, d).
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

    /// Visual tokens (q, d) -> keys and values at every gated cross-attention: once per medium, for all its rows.
    pub fn media_keys(&self, visual_tokens: &Tensor) -> Result<Arc<MediaKeys>> {
        let layers = self
            .cross_attention
            .iter()
            .flatten()
            .map(|x| x.keys_values(visual_tokens))
            .collect::<Result<_>>()?;
        Ok(Arc::new(MediaKeys { layers }))
    }

    /// Refuses ids that are not in the vocabulary, and another number of media markers than of media.
    ///
    /// # Errors
    /// [`Error::Prompt`] that says which.
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

    /// A row that is to see `media`, with its past in `pool`.
    pub fn row(&self, media: Vec<Arc<MediaKeys>>, pool: &KvPool) -> RowState {
        RowState { cache: KvCache::new(pool), media, cursor: MediaCursor::default() }
    }

    /// A row for one pass over a whole sequence: nothing is cached, and gradients flow.
    pub fn uncached_row(&self, media: Vec<Arc<MediaKeys>>) -> RowState {
        RowState { cache: KvCache::off(), media, cursor: MediaCursor::default() }
    }

    /// The new tokens of all rows in one pass: -> the last hidden states, packed in the order of the rows (n, d).
    /// Which of them are to be scored is for the caller to choose; see [`logits`](Self::logits).
    ///
    /// # Errors
    /// A row has more media markers than media, or no room left.
    pub fn forward(&self, inputs: &mut [RowInput], observe: Option<Observer>) -> Result<Tensor> {
        self.pass(inputs, None, observe)
    }

    /// The same for one step of many: rows of one new token look at their media together, laid out in `beside`, which is
    /// the caller's to keep.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn step(&self, inputs: &mut [RowInput], beside: &mut MediaBeside) -> Result<Tensor> {
        self.pass(inputs, Some(beside), None)
    }

    fn pass(
        &self,
        inputs: &mut [RowInput],
        beside: Option<&mut MediaBeside>,
        mut observe: Option<Observer>,
    ) -> Result<Tensor> {
        let shape = self.language.cache_shape();
        let ids: Vec<u32> = inputs.iter().flat_map(|r| r.ids).copied().collect();
        let seen = self.who_sees_what(inputs)?;
        let (media, caches): (Vec<_>, Vec<_>) =
            inputs.iter_mut().map(|r| (&r.state.media, (r.ids.len(), &mut r.state.cache))).unzip();
        let sights = Sights::new(seen, &media, beside, &shape)?;
        let rows = Rows::new(caches, &shape)?;

        let mut x = self.language.embed(&Tensor::new(ids, &shape.device)?)?; // (n, d)
        let mut looks = 0;
        for (i, cross_attention) in self.cross_attention.iter().enumerate() {
            if let Some(cross_attention) = cross_attention {
                x = cross_attention.forward(&x, &sights.at(looks))?;
                looks += 1;
                if let Some(observe) = observe.as_deref_mut() {
                    observe(&format!("xattn.{i}"), &x)?;
                }
            }
            x = self.language.layer(i, &x, &rows)?;
        }
        rows.advance();
        Ok(x)
    }

    /// Scores of the next token: hidden states (n, d) -> (n, vocabulary), f32.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.language.head(hidden)
    }

    fn who_sees_what(&self, inputs: &mut [RowInput]) -> Result<Vec<Seen>> {
        let (mut seen, mut start) = (Vec::new(), 0);
        for (row, input) in inputs.iter_mut().enumerate() {
            let state = &mut *input.state;
            state.cursor.walk(input.ids, &self.rule, row, start, &mut seen);
            let (markers, media) = (state.cursor.met(), state.media.len());
            if markers > media {
                return Err(Error::Prompt(format!("{markers} media markers, but {media} media")));
            }
            start += input.ids.len();
        }
        Ok(seen)
    }
}

/// What the positions of a pass look at, at every cross-attention alike.
struct Sights<'a> {
    /// Rows of one new token, at the head of the pass, that look together.
    together: Option<(Range<usize>, &'a MediaBeside, Option<Tensor>)>,
    /// The others, run by run.
    runs: Vec<(Range<usize>, &'a MediaKeys)>,
}

impl<'a> Sights<'a> {
    fn new(
        seen: Vec<Seen>,
        media: &[&'a Vec<Arc<MediaKeys>>],
        beside: Option<&'a mut MediaBeside>,
        shape: &CacheShape,
    ) -> Result<Self> {
        let keys = |run: &Seen| &media[run.row][run.medium];
        let steps = match beside {
            None => 0,
            // A run that is one position long and begins where the last one ends: another row's only token.
            Some(_) => (1..)
                .zip(&seen)
                .take_while(|(n, run)| run.span == (seen[0].span.start + n - 1..seen[0].span.start + n))
                .count(),
        };
        let (first, rest) = seen.split_at(steps);
        let together = match (beside, first) {
            (Some(beside), [head, ..]) if first.len() > 1 => {
                let mask = beside.lay_out(
                    &first.iter().map(keys).collect::<Vec<_>>(),
                    shape.dtype,
                    &shape.device,
                )?;
                Some((head.span.start..head.span.start + first.len(), &*beside, mask))
            }
            _ => None,
        };
        let alone = if together.is_some() { rest } else { &seen };
        let runs = alone.iter().map(|run| (run.span.clone(), &**keys(run))).collect();
        Ok(Self { together, runs })
    }

    /// At cross-attention `look`, the first being 0.
    fn at(&self, look: usize) -> Vec<Look<'_>> {
        let together = self.together.iter().map(|(span, beside, mask)| Look {
            span: span.clone(),
            keys_values: beside.at(look),
            mask: mask.as_ref(),
        });
        let runs = self.runs.iter().map(|(span, keys)| Look {
            span: span.clone(),
            keys_values: keys.at(look),
            mask: None,
        });
        together.chain(runs).collect()
    }
}
