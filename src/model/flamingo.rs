//! The whole model: one loop over the layers of the language model, with gated cross-attention before some of them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::Tensor;

use super::config::{FlamingoConfig, LayerStep};
use super::connector::Connector;
use super::cross_attention::GatedCrossAttention;
use super::media_attention::{BatchedMediaKv, CrossAttentionPlan, MediaAttentionRule, MediaKv, RowMedia};
use crate::error::{Error, Result};
use crate::kernels::attention::Kv;
use crate::language::{KvCache, KvPool, LanguageModel, PackedBatch};
use crate::vision::VisionEncoder;
use crate::weights::Weights;

mod encode;

pub use encode::EncodedMedium;

/// Parts of a Flamingo, which a family loads.
pub struct FlamingoParts {
    /// Vision encoder.
    pub vision: Box<dyn VisionEncoder>,
    /// Map from visual features to visual tokens.
    pub connector: Connector,
    /// Language model.
    pub language: Box<dyn LanguageModel>,
    /// Gated cross-attentions in order.
    pub cross_attention: Vec<CrossAttentionLayer>,
    /// Layer plan: every layer of the language model once, in order, and every gated cross-attention once, in order.
    pub plan: Vec<LayerStep>,
    /// Rule that decides which text position attends to which media.
    pub rule: MediaAttentionRule,
}

/// A gated cross-attention and its number in the checkpoint, which names it in traces.
pub struct CrossAttentionLayer {
    /// Number of the layer: in the paper, the layer of the language model that it precedes.
    pub number: usize,
    /// The gated cross-attention.
    pub block: GatedCrossAttention,
}

/// A vision encoder and a language model, both frozen, with a connector and gated cross-attention between them.
pub struct Flamingo {
    parts: FlamingoParts,
    media_encoded: AtomicU64,
    kv_projections: AtomicU64,
}

/// Work of a model since its load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkCounts {
    /// Media that the vision encoder has encoded.
    pub media_encoded: u64,
    /// Projections of a medium to keys and values, one per gated cross-attention.
    pub kv_projections: u64,
}

/// State of one row of a batch: its KV cache, its media and its place among them. A clone forks the row: both share the
/// cached tokens.
#[derive(Debug, Clone)]
pub struct RowState {
    /// KV cache of the language model.
    pub cache: KvCache,
    media: RowMedia,
}

impl FlamingoParts {
    /// Builds the parts between `vision` and `language` from `resampler.*` or `projector.*`, and `cross_attention.{layer}.*`, in
    /// `weights`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn from_config(
        config: &FlamingoConfig,
        vision: Box<dyn VisionEncoder>,
        language: Box<dyn LanguageModel>,
        rule: MediaAttentionRule,
        weights: &Weights,
    ) -> Result<Self> {
        let connector = Connector::new(&config.connector, vision.width(), weights)?;
        let (text, media) = (language.sizes().width, config.connector.width(vision.width()));
        let placement = &config.cross_attention.placement;
        let layers = (0..language.n_layers()).filter(|&layer| placement.has(layer));
        let cross_attention = layers
            .map(|number| {
                let weights = weights.pp("cross_attention").pp(number);
                let block = GatedCrossAttention::new(&config.cross_attention, text, media, weights)?;
                Ok(CrossAttentionLayer { number, block })
            })
            .collect::<Result<_>>()?;
        let plan = placement.plan(language.n_layers());
        Ok(Self { vision, connector, language, cross_attention, plan, rule })
    }
}

impl RowState {
    /// Adds media after those of the row.
    pub fn add_media(&mut self, media: Vec<Arc<MediaKv>>) {
        self.media.add(media);
    }
}

/// New tokens of one row.
pub struct RowInput<'a> {
    /// Token ids.
    pub ids: &'a [u32],
    /// State of the row, which the pass advances.
    pub state: &'a mut RowState,
}

/// Receiver of the name and value of every stage, in causal order; see `flamingo model trace`. A closure is one.
pub trait Observe {
    /// Receives a stage.
    ///
    /// # Errors
    /// The receiver refuses the stage; the pass ends with this error.
    fn stage(&mut self, name: &str, value: &Tensor) -> Result<()>;

    /// Tells whether to send `heads.{layer}`, the outputs of the attention heads of the language model (h, n, d), too.
    fn wants_heads(&self) -> bool {
        false
    }
}

impl<F: FnMut(&str, &Tensor) -> Result<()>> Observe for F {
    fn stage(&mut self, name: &str, value: &Tensor) -> Result<()> {
        self(name, value)
    }
}

/// Receiver of all stages and of the outputs of the attention heads.
pub struct WithHeads<F>(pub F);

impl<F: FnMut(&str, &Tensor) -> Result<()>> Observe for WithHeads<F> {
    fn stage(&mut self, name: &str, value: &Tensor) -> Result<()> {
        (self.0)(name, value)
    }

    fn wants_heads(&self) -> bool {
        true
    }
}

/// Borrowed receiver of stages.
pub type Observer<'o> = &'o mut dyn Observe;

impl Flamingo {
    /// Builds a model with [`FlamingoParts::from_config`].
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(
        config: &FlamingoConfig,
        vision: Box<dyn VisionEncoder>,
        language: Box<dyn LanguageModel>,
        rule: MediaAttentionRule,
        weights: &Weights,
    ) -> Result<Self> {
        Self::from_parts(FlamingoParts::from_config(config, vision, language, rule, weights)?)
    }

    /// Joins loaded parts.
    ///
    /// # Errors
    /// The layer plan leaves out a layer, repeats one or changes their order.
    pub fn from_parts(parts: FlamingoParts) -> Result<Self> {
        let language = parts.plan.iter().filter_map(|step| match step {
            LayerStep::Language(i) => Some(*i),
            LayerStep::CrossAttention(_) => None,
        });
        let cross_attention = parts.plan.iter().filter_map(|step| match step {
            LayerStep::Language(_) => None,
            LayerStep::CrossAttention(j) => Some(*j),
        });
        let complete =
            language.eq(0..parts.language.n_layers()) && cross_attention.eq(0..parts.cross_attention.len());
        let numbers: BTreeSet<usize> = parts.cross_attention.iter().map(|layer| layer.number).collect();
        if !complete || numbers.len() != parts.cross_attention.len() {
            let (layers, blocks) = (parts.language.n_layers(), parts.cross_attention.len());
            return Err(Error::Plan(format!(
                "{:?} does not have each of {layers} layers and {blocks} gated cross-attentions once, in order",
                parts.plan
            )));
        }
        Ok(Self { parts, media_encoded: AtomicU64::new(0), kv_projections: AtomicU64::new(0) })
    }

    /// Returns the language model.
    pub fn language(&self) -> &dyn LanguageModel {
        self.parts.language.as_ref()
    }

    /// Returns the numbers of the gated cross-attentions: in the paper, the layers of the language model that they precede.
    pub fn cross_attention_layers(&self) -> Vec<usize> {
        self.parts.cross_attention.iter().map(|layer| layer.number).collect()
    }

    /// Tells whether the frames of a medium become one sequence of visual tokens, told apart by a temporal embedding.
    pub fn has_temporal_embedding(&self) -> bool {
        self.parts.connector.has_temporal_embedding()
    }

    /// Returns the work since the load.
    pub fn work(&self) -> WorkCounts {
        WorkCounts {
            media_encoded: self.media_encoded.load(Ordering::Relaxed),
            kv_projections: self.kv_projections.load(Ordering::Relaxed),
        }
    }

    /// Tells whether any attention gate differs from 0. With all gates closed the media do not change the answer.
    ///
    /// # Errors
    /// The device refuses an operation.
    pub fn gates_open(&self) -> Result<bool> {
        for layer in &self.parts.cross_attention {
            if layer.block.is_open()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Maps the features of all media, concatenated along the frames (sum of `lengths`, s, d), to the visual tokens of each
    /// medium (q, d).
    ///
    /// # Errors
    /// As [`Connector::forward`].
    pub fn connect(&self, features: &Tensor, lengths: &[usize]) -> Result<Vec<Tensor>> {
        self.parts.connector.forward(features, lengths)
    }

    /// Projects visual tokens (q, d) to keys and values at every gated cross-attention: once per medium, for all rows that
    /// attend to it.
    ///
    /// # Errors
    /// The tokens have another width than the model expects.
    pub fn media_kv(&self, visual_tokens: &Tensor) -> Result<Arc<MediaKv>> {
        self.padded_media_kv(visual_tokens, visual_tokens.dim(0)?)
    }

    /// Projects visual tokens (q, d) as [`media_kv`](Self::media_kv) does. Only the first `valid` of them are visible; the
    /// others are padding.
    ///
    /// # Errors
    /// The tokens have another width than the model expects, or fewer than `valid` rows, or `valid` is 0.
    pub fn padded_media_kv(&self, visual_tokens: &Tensor, valid: usize) -> Result<Arc<MediaKv>> {
        let q = visual_tokens.dim(0)?;
        if valid == 0 || valid > q {
            return Err(Error::Prompt(format!("{valid} of {q} visual tokens are valid")));
        }
        let blocks = &self.parts.cross_attention;
        self.kv_projections.fetch_add(blocks.len() as u64, Ordering::Relaxed);
        let project = |start: usize, len: usize| {
            let tokens = visual_tokens.narrow(0, start, len)?;
            blocks.iter().map(|layer| layer.block.project_kv(&tokens)).collect::<Result<Vec<_>>>()
        };
        let padding = match q - valid {
            0 => None,
            len => Some(Arc::new(MediaKv::new(project(valid, len)?, None))),
        };
        Ok(Arc::new(MediaKv::new(project(0, valid)?, padding)))
    }

    /// Checks that all ids are in the vocabulary and that there are as many media markers as media.
    ///
    /// # Errors
    /// [`Error::Prompt`] that names the token or the two numbers.
    pub fn check_markers(&self, ids: &[u32], media: usize) -> Result<()> {
        let vocabulary = self.parts.language.sizes().embeddings;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(Error::Prompt(format!(
                "token {id} is not one of the {vocabulary} of the vocabulary"
            )));
        }
        let markers = self.count_markers(ids);
        if markers != media {
            return Err(Error::Prompt(format!("{markers} media markers, but {media} media")));
        }
        Ok(())
    }

    /// Returns the token that marks a medium.
    pub fn media_token(&self) -> u32 {
        self.parts.rule.media_token
    }

    /// Returns the number of media markers in `ids`.
    pub fn count_markers(&self, ids: &[u32]) -> usize {
        ids.iter().filter(|&&id| id == self.parts.rule.media_token).count()
    }

    /// Creates a row over `media` that caches its tokens in `pool`.
    pub fn row(&self, media: Vec<Arc<MediaKv>>, pool: &KvPool) -> RowState {
        RowState { cache: KvCache::new(pool), media: RowMedia::new(media) }
    }

    /// Creates a row whose tokens `ids` have the keys and values (h_kv, n, d) of each layer, as [`KvCache::read`] returned them.
    ///
    /// # Errors
    /// As [`KvCache::write`]; or the row has more media markers than media.
    pub fn computed_row(
        &self,
        ids: &[u32],
        media: Vec<Arc<MediaKv>>,
        layers: &[Kv],
        pool: &KvPool,
    ) -> Result<RowState> {
        let mut row = self.row(media, pool);
        row.media.skip(ids, &self.parts.rule)?;
        row.cache.write(layers)?;
        Ok(row)
    }

    /// Returns the shape of the keys, and of the values, of `q` visual tokens at every gated cross-attention.
    pub fn media_kv_shapes(&self, q: usize) -> Vec<(usize, usize, usize)> {
        self.parts.cross_attention.iter().map(|layer| layer.block.kv_shape(q)).collect()
    }

    /// Creates a row for one pass over a whole sequence: nothing is cached, and gradients flow.
    pub fn uncached_row(&self, media: Vec<Arc<MediaKv>>) -> RowState {
        RowState { cache: KvCache::off(), media: RowMedia::new(media) }
    }

    /// Runs the new tokens of all rows in one pass. Returns the last hidden states, packed in the order of the rows
    /// (n, d); the caller chooses which of them become [`logits`](Self::logits). With `packed_media`, which the caller keeps
    /// between steps, rows of one new token attend to their media in one product.
    ///
    /// # Errors
    /// A row has more media markers than media, or no room left in its cache.
    pub fn forward(
        &self,
        inputs: &mut [RowInput],
        packed_media: Option<&mut BatchedMediaKv>,
        observe: Option<Observer>,
    ) -> Result<Tensor> {
        self.pass(inputs, None, packed_media, observe)
    }

    /// Returns the hidden states of whole sequences below the first gated cross-attention, packed (n, d). They depend on the
    /// text only, so training keeps them between updates.
    ///
    /// # Errors
    /// The device refuses an operation.
    pub fn states_below_media(&self, sequences: &[&[u32]]) -> Result<Tensor> {
        let language = &self.parts.language;
        let shape = language.sizes().cache.clone();
        let mut caches: Vec<_> = sequences.iter().map(|ids| (ids.len(), KvCache::off())).collect();
        let batch = PackedBatch::new(caches.iter_mut().map(|(n, cache)| (*n, cache)), &shape)?;
        let x = language.embed(&Tensor::new(sequences.concat(), &shape.device)?, batch.positions())?;
        (0..self.layers_below_media()).try_fold(x, |x, i| language.layer(i, &x, &batch))
    }

    /// Continues from the `states` that [`states_below_media`](Self::states_below_media) returned for the sequences of
    /// `inputs`, whose rows are [uncached](Self::uncached_row). Returns the last hidden states, packed (n, d).
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_from(&self, inputs: &mut [RowInput], states: &Tensor) -> Result<Tensor> {
        self.pass(inputs, Some(states), None, None)
    }

    /// Number of layers of the language model below the first gated cross-attention.
    fn layers_below_media(&self) -> usize {
        self.parts.plan.iter().take_while(|step| matches!(step, LayerStep::Language(_))).count()
    }

    fn pass(
        &self,
        inputs: &mut [RowInput],
        below_media: Option<&Tensor>,
        packed_media: Option<&mut BatchedMediaKv>,
        observe: Option<Observer>,
    ) -> Result<Tensor> {
        let FlamingoParts { language, cross_attention, plan, rule, .. } = &self.parts;
        let shape = language.sizes().cache.clone();
        let ids: Vec<u32> = inputs.iter().flat_map(|r| r.ids).copied().collect();
        let (media, caches): (Vec<_>, Vec<_>) = inputs
            .iter_mut()
            .map(|r| ((r.ids, &mut r.state.media), (r.ids.len(), &mut r.state.cache)))
            .unzip();
        let media = CrossAttentionPlan::build(media, rule, packed_media, &shape)?;
        let wants_heads = observe.as_ref().is_some_and(|observe| observe.wants_heads());
        let observe = RefCell::new(observe);
        let send = |name: &str, value: &Tensor| match observe.borrow_mut().as_deref_mut() {
            Some(observe) => observe.stage(name, value),
            None => Ok(()),
        };
        let send_heads = |layer: usize, heads: &Tensor| send(&format!("heads.{layer}"), heads);
        let mut batch = PackedBatch::new(caches, &shape)?;
        if wants_heads {
            batch = batch.with_head_observer(&send_heads);
        }

        let (mut x, steps) = match below_media {
            Some(states) => (states.clone(), &plan[self.layers_below_media()..]),
            None => (language.embed(&Tensor::new(ids, &shape.device)?, batch.positions())?, &plan[..]),
        }; // (n, d)
        for step in steps {
            match *step {
                LayerStep::Language(i) => x = language.layer(i, &x, &batch)?,
                LayerStep::CrossAttention(j) => {
                    let CrossAttentionLayer { number, block } = &cross_attention[j];
                    x = block.forward(&x, &media.at(j), media.mlp())?;
                    send(&format!("xattn.{number}"), &x)?;
                }
            }
        }
        batch.advance();
        Ok(x)
    }

    /// Returns the scores of the next token: hidden states (n, d) -> (n, vocabulary), f32.
    ///
    /// # Errors
    /// The device refuses an operation.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.parts.language.head(hidden)
    }
}
