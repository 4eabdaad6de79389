//! Media attention: the only place that decides which text position attends to which media (paper section 3.1.3), and
//! that lays the media of a pass out for the gated cross-attentions.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::config::{MediaAttention, MediaAttentionConfig, VisibleMedia, WithoutMedia};
use crate::error::{Error, Result};
use crate::kernels::attention::Kv;
use crate::kernels::mask::additive_mask;
use crate::language::CacheShape;

/// A [`MediaAttentionConfig`] with the token ids that it depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaAttentionRule {
    /// Token that marks a medium. The marker itself attends to its medium.
    pub media_token: u32,
    /// Token after which no earlier medium is visible (IDEFICS: the end of a document). The token itself still attends to its
    /// medium, as in Hugging Face's `image_attention_mask_for_packed_input_ids`.
    pub forget_token: Option<u32>,
    /// The rule of the family.
    pub config: MediaAttentionConfig,
}

impl MediaAttentionRule {
    /// Returns OpenFlamingo's rule: the last medium, and nothing is forgotten.
    pub fn last_medium(media_token: u32) -> Self {
        Self { media_token, forget_token: None, config: MediaAttentionConfig::default() }
    }
}

/// Consecutive packed positions of one row with the same media attention. Positions outside all spans have attention
/// zero, and the feed-forward runs for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaSpan {
    /// Positions in the packed axis.
    pub positions: Range<usize>,
    /// Index of the row in the pass.
    pub row: usize,
    /// Indices of the media among the row's media, in order of the prompt. Empty unless attention is on.
    pub media: Range<usize>,
    /// Attention to the media.
    pub attention: MediaAttention,
    /// Whether the feed-forward of the gated cross-attention runs.
    pub mlp: bool,
}

/// Progress of one row through its media: the markers read so far and the media that the next position attends to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MediaCursor {
    markers_seen: usize,
    visible: Range<usize>,
    /// Markers seen at the last forget token.
    forgotten: usize,
    after_marker: bool,
    after_forget: bool,
}

impl MediaCursor {
    /// Advances over `ids`, which lie at `start..` of the packed axis, and appends their spans.
    pub fn advance(
        &mut self,
        ids: &[u32],
        rule: &MediaAttentionRule,
        row: usize,
        start: usize,
        spans: &mut Vec<MediaSpan>,
    ) {
        let first = spans.len();
        for (i, &id) in (start..).zip(ids) {
            self.read(id, rule);
            let Some(span) = self.span(i, row, &rule.config.without_media) else { continue };
            match spans[first..].last_mut() {
                Some(last) if last.positions.end == i && last.continues(&span) => last.positions.end = i + 1,
                _ => spans.push(span),
            }
        }
    }

    fn read(&mut self, id: u32, rule: &MediaAttentionRule) {
        let is_marker = id == rule.media_token;
        if self.after_forget {
            self.forgotten = self.markers_seen;
            self.visible = self.markers_seen..self.markers_seen;
        }
        if is_marker {
            let medium = self.markers_seen;
            self.visible = match rule.config.visible {
                VisibleMedia::AdjacentGroup if self.after_marker => self.visible.start..medium + 1,
                VisibleMedia::Last | VisibleMedia::AdjacentGroup => medium..medium + 1,
                VisibleMedia::All => self.forgotten..medium + 1,
            };
            self.markers_seen += 1;
        }
        self.after_marker = is_marker;
        self.after_forget = Some(id) == rule.forget_token;
    }

    fn span(&self, i: usize, row: usize, without_media: &WithoutMedia) -> Option<MediaSpan> {
        let positions = i..i + 1;
        if !self.visible.is_empty() {
            let media = self.visible.clone();
            return Some(MediaSpan { positions, row, media, attention: MediaAttention::On, mlp: true });
        }
        let WithoutMedia { attention, mlp } = *without_media;
        let outside = attention == MediaAttention::Zero && mlp;
        (!outside).then_some(MediaSpan { positions, row, media: 0..0, attention, mlp })
    }

    /// Returns the number of media markers read so far.
    pub fn markers_seen(&self) -> usize {
        self.markers_seen
    }
}

impl MediaSpan {
    fn continues(&self, next: &Self) -> bool {
        (self.row, &self.media, self.attention, self.mlp) == (next.row, &next.media, next.attention, next.mlp)
    }
}

/// Keys and values of one medium at every gated cross-attention, computed once.
#[derive(Debug, Clone)]
pub struct MediaKv {
    /// Of the valid visual tokens, in the order of the cross-attention layers.
    pub(super) layers: Vec<Kv>,
    /// Of the padding, which only positions with [`MediaAttention::Unmasked`] attend to: the unused tiles of an image in
    /// mllama.
    pub(super) padding: Option<Arc<MediaKv>>,
    /// Media of which this one is made, each with a marker of its own: the frames of a video. Empty: it is one medium.
    pictures: Vec<Arc<MediaKv>>,
}

impl MediaKv {
    /// Creates the keys and values of one medium from those of its valid visual tokens at every gated cross-attention, and those
    /// of its padding.
    pub fn new(layers: Vec<Kv>, padding: Option<Arc<MediaKv>>) -> Self {
        Self { layers, padding, pictures: Vec::new() }
    }

    /// Returns all tensors: keys and values of every layer, then those of the padding; picture after picture.
    pub fn tensors(&self) -> Vec<Tensor> {
        let own = self.layers.iter().flat_map(|(keys, values)| [keys.clone(), values.clone()]);
        let others = self.padding.iter().chain(&self.pictures).flat_map(|other| other.tensors());
        own.chain(others).collect()
    }

    /// Joins media that stand directly one after the other in every prompt.
    pub fn sequence(pictures: Vec<Arc<MediaKv>>) -> Self {
        Self { layers: Vec::new(), padding: None, pictures }
    }

    /// Returns the media with a marker of their own.
    pub fn into_pictures(self: Arc<Self>) -> Vec<Arc<MediaKv>> {
        if self.pictures.is_empty() { vec![self] } else { self.pictures.clone() }
    }

    /// Returns the memory that the tensors take, in bytes.
    pub fn bytes(&self) -> usize {
        let size = |x: &Tensor| x.elem_count() * x.dtype().size_in_bytes();
        let valid: usize = self.layers.iter().map(|(keys, values)| size(keys) + size(values)).sum();
        let others = self.padding.iter().chain(&self.pictures).map(|other| other.bytes());
        valid + others.sum::<usize>()
    }
}

/// Keys and values that some positions attend to: of media, and of their padding where nothing is masked.
type AttendedKv<'a> = Vec<&'a Arc<MediaKv>>;

/// Media of one row, and its progress through them.
#[derive(Debug, Clone, Default)]
pub(super) struct RowMedia {
    media: Vec<Arc<MediaKv>>,
    cursor: MediaCursor,
}

impl RowMedia {
    pub(super) fn new(media: Vec<Arc<MediaKv>>) -> Self {
        Self { media, cursor: MediaCursor::default() }
    }

    pub(super) fn add(&mut self, media: Vec<Arc<MediaKv>>) {
        self.media.extend(media);
    }

    /// Advances over ids whose keys and values are known.
    pub(super) fn skip(&mut self, ids: &[u32], rule: &MediaAttentionRule) -> Result<()> {
        self.advance(ids, rule, 0, 0, &mut Vec::new())
    }

    fn advance(
        &mut self,
        ids: &[u32],
        rule: &MediaAttentionRule,
        row: usize,
        start: usize,
        spans: &mut Vec<MediaSpan>,
    ) -> Result<()> {
        self.cursor.advance(ids, rule, row, start, spans);
        let (markers, media) = (self.cursor.markers_seen(), self.media.len());
        if markers > media {
            return Err(Error::Prompt(format!("{markers} media markers, but {media} media")));
        }
        Ok(())
    }

    /// Returns the keys and values that the positions of `span` attend to.
    fn attended(&self, span: &MediaSpan) -> AttendedKv<'_> {
        match span.attention {
            MediaAttention::On => self.media[span.media.clone()].iter().collect(),
            MediaAttention::Zero => Vec::new(),
            MediaAttention::Unmasked => {
                self.media.iter().flat_map(|medium| std::iter::once(medium).chain(&medium.padding)).collect()
            }
        }
    }
}

/// Keys and values of several media, concatenated, so that one product serves a decode step of several rows. The
/// tensors are kept from step to step and made again only when the media change.
#[derive(Debug, Default)]
pub struct BatchedMediaKv {
    media: Vec<Arc<MediaKv>>,
    layers: Vec<Kv>,
}

impl BatchedMediaKv {
    /// Packs the media of some rows. Returns the mask (n, m * q) that is added to the scores and restricts each row to its
    /// own media; `None` where all rows attend to all packed media.
    ///
    /// # Errors
    /// The device refuses an operation.
    fn pack(
        &mut self,
        media_of_rows: &[AttendedKv],
        dtype: DType,
        device: &Device,
    ) -> Result<Option<Tensor>> {
        let mut media: Vec<&Arc<MediaKv>> = Vec::new();
        let mut places: Vec<Vec<usize>> = Vec::with_capacity(media_of_rows.len());
        for of_row in media_of_rows {
            let mut place = |&medium: &_| match media.iter().position(|known| Arc::ptr_eq(known, medium)) {
                Some(place) => place,
                None => {
                    media.push(medium);
                    media.len() - 1
                }
            };
            places.push(of_row.iter().map(&mut place).collect());
        }
        let same =
            media.len() == self.media.len() && media.iter().zip(&self.media).all(|(a, b)| Arc::ptr_eq(a, b));
        if !same {
            self.layers = concatenate(&media)?;
            self.media = media.into_iter().cloned().collect();
        }
        if places.iter().all(|own| (0..self.media.len()).all(|place| own.contains(&place))) {
            return Ok(None);
        }
        let owner_of_token: Vec<usize> = self
            .media
            .iter()
            .enumerate()
            .flat_map(|(place, medium)| {
                std::iter::repeat_n(place, medium.layers.first().map_or(0, |(k, _)| k.dims()[1]))
            })
            .collect();
        let attends = |i: usize, j: usize| places[i].contains(&owner_of_token[j]);
        let shape = (places.len(), owner_of_token.len());
        Ok(Some(additive_mask(shape, attends, device, dtype)?))
    }
}

/// Concatenates the keys and values of all media at every cross-attention: (h, m * q, d) each.
fn concatenate(media: &[&Arc<MediaKv>]) -> Result<Vec<Kv>> {
    if let [only] = media {
        return Ok(only.layers.clone());
    }
    let layers = media.first().map_or(0, |medium| medium.layers.len());
    (0..layers)
        .map(|xattn| {
            let (keys, values): (Vec<_>, Vec<_>) =
                media.iter().map(|m| (&m.layers[xattn].0, &m.layers[xattn].1)).unzip();
            Ok((Tensor::cat(&keys, 1)?, Tensor::cat(&values, 1)?))
        })
        .collect()
}

/// Text positions that attend to visual tokens.
pub struct CrossAttentionSpan<'a> {
    /// Positions in the packed axis.
    pub positions: Range<usize>,
    /// Keys and values of the media in order, (h, q, d) each.
    pub kv: Vec<Kv>,
    /// Mask that is added to the scores (length of the span, visual tokens); `None`: every position attends to all.
    pub mask: Option<&'a Tensor>,
}

/// Positions for which the feed-forward of a gated cross-attention runs.
#[derive(Debug, Clone)]
pub enum MlpPositions {
    /// All positions.
    All,
    /// No position.
    None,
    /// The positions with 1 in a mask (n, 1) of 0 and 1.
    Masked(Tensor),
}

/// Media attention of one pass, the same at every gated cross-attention.
pub(super) struct CrossAttentionPlan<'a> {
    /// Rows of one new token, at the head of the pass, that attend in one product.
    packed: Option<(Range<usize>, &'a BatchedMediaKv, Option<Tensor>)>,
    /// The other spans, one product each.
    single: Vec<(Range<usize>, AttendedKv<'a>)>,
    mlp: MlpPositions,
}

impl<'a> CrossAttentionPlan<'a> {
    /// Advances every row over its new ids and plans their attention. With `packed_media`, decode steps of several rows
    /// attend in one product.
    ///
    /// # Errors
    /// A row has more media markers than media, or the device refuses an operation.
    pub(super) fn build(
        rows: Vec<(&[u32], &'a mut RowMedia)>,
        rule: &MediaAttentionRule,
        packed_media: Option<&'a mut BatchedMediaKv>,
        shape: &CacheShape,
    ) -> Result<Self> {
        let (mut spans, mut n) = (Vec::new(), 0);
        let mut media: Vec<&'a RowMedia> = Vec::with_capacity(rows.len());
        for (row, (ids, row_media)) in rows.into_iter().enumerate() {
            row_media.advance(ids, rule, row, n, &mut spans)?;
            media.push(row_media);
            n += ids.len();
        }
        let mlp = mlp_positions(&spans, n, shape)?;
        let mut attending: Vec<(Range<usize>, AttendedKv)> = spans
            .iter()
            .map(|span| (span.positions.clone(), media[span.row].attended(span)))
            .filter(|(_, media)| !media.is_empty())
            .collect();
        let Some(packed_media) = packed_media else {
            return Ok(Self { packed: None, single: attending, mlp });
        };
        let steps = leading_steps(&attending);
        if steps < 2 {
            return Ok(Self { packed: None, single: attending, mlp });
        }
        let first = attending[0].0.start;
        let of_rows: Vec<AttendedKv> = attending.drain(..steps).map(|(_, media)| media).collect();
        let mask = packed_media.pack(&of_rows, shape.dtype, &shape.device)?;
        let packed = Some((first..first + steps, &*packed_media, mask));
        Ok(Self { packed, single: attending, mlp })
    }

    /// Returns the spans at cross-attention `xattn`, counted from 0.
    pub(super) fn at(&self, xattn: usize) -> Vec<CrossAttentionSpan<'_>> {
        let packed = self.packed.iter().map(|(positions, media, mask)| CrossAttentionSpan {
            positions: positions.clone(),
            kv: vec![media.layers[xattn].clone()],
            mask: mask.as_ref(),
        });
        let single = self.single.iter().map(|(positions, media)| CrossAttentionSpan {
            positions: positions.clone(),
            kv: media.iter().map(|medium| medium.layers[xattn].clone()).collect(),
            mask: None,
        });
        packed.chain(single).collect()
    }

    pub(super) fn mlp(&self) -> &MlpPositions {
        &self.mlp
    }
}

/// Returns the number of first spans that are one position long and adjacent: decode steps of different rows.
fn leading_steps(spans: &[(Range<usize>, AttendedKv)]) -> usize {
    let Some((head, _)) = spans.first() else { return 0 };
    let is_step = |(n, (positions, _)): &(usize, &(Range<usize>, AttendedKv))| {
        *positions == (head.start + n..head.start + n + 1)
    };
    spans.iter().enumerate().take_while(is_step).count()
}

fn mlp_positions(spans: &[MediaSpan], n: usize, shape: &CacheShape) -> Result<MlpPositions> {
    let off: usize = spans.iter().filter(|span| !span.mlp).map(|span| span.positions.len()).sum();
    if off == 0 {
        return Ok(MlpPositions::All);
    }
    if off == n {
        return Ok(MlpPositions::None);
    }
    let mut mask = vec![1f32; n];
    for span in spans.iter().filter(|span| !span.mlp) {
        mask[span.positions.clone()].fill(0.0);
    }
    Ok(MlpPositions::Masked(Tensor::from_vec(mask, (n, 1), &shape.device)?.to_dtype(shape.dtype)?))
}

#[cfg(test)]
mod tests;
