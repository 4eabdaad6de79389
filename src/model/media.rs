//! Media attention: which text position attends to which medium (paper section 3.1.3). A position attends to the last
//! medium at or before it, and to no other.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::error::Result;
use crate::kernels::attention::Kv;

/// Keys and values of one medium at every gated cross-attention, computed once.
#[derive(Debug, Clone)]
pub struct MediaKv {
    /// In the order of the cross-attention layers.
    pub(super) layers: Vec<Kv>,
}

impl MediaKv {
    /// Returns the memory that the tensors take, in bytes.
    pub fn bytes(&self) -> usize {
        let size = |x: &Tensor| x.elem_count() * x.dtype().size_in_bytes();
        self.layers.iter().map(|(keys, values)| size(keys) + size(values)).sum()
    }

    /// Keys and values (h, q, d) at cross-attention `xattn`, counted from 0.
    pub(super) fn at(&self, xattn: usize) -> &Kv {
        &self.layers[xattn]
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
    /// Packs the media of some rows, one medium per row. Returns the mask (n, m * q) that is added to the scores and
    /// restricts each row to its own medium; `None` where all rows share one medium.
    ///
    /// # Errors
    /// The device refuses an operation.
    pub fn pack(
        &mut self,
        media_of_rows: &[&Arc<MediaKv>],
        dtype: DType,
        device: &Device,
    ) -> Result<Option<Tensor>> {
        let mut media: Vec<&Arc<MediaKv>> = Vec::new();
        let mut places = Vec::with_capacity(media_of_rows.len());
        for &medium in media_of_rows {
            let place = media.iter().position(|known| Arc::ptr_eq(known, medium)).unwrap_or(media.len());
            if place == media.len() {
                media.push(medium);
            }
            places.push(place);
        }
        let same =
            media.len() == self.media.len() && media.iter().zip(&self.media).all(|(a, b)| Arc::ptr_eq(a, b));
        if !same {
            self.layers = concatenate(&media)?;
            self.media = media.into_iter().cloned().collect();
        }
        if self.media.len() == 1 {
            return Ok(None);
        }
        let ends: Vec<usize> = self
            .media
            .iter()
            .scan(0, |end, medium| {
                *end += medium.layers.first().map_or(0, |(k, _)| k.dims()[1]);
                Some(*end)
            })
            .collect();
        let tokens = ends.last().copied().unwrap_or(0);
        let start = |place: usize| if place == 0 { 0 } else { ends[place - 1] };
        let mask_row = |place: usize| {
            let own = start(place)..ends[place];
            (0..tokens).map(move |j| if own.contains(&j) { 0.0 } else { f32::NEG_INFINITY })
        };
        let mask: Vec<f32> = places.iter().flat_map(|&place| mask_row(place)).collect();
        Ok(Some(Tensor::from_vec(mask, (places.len(), tokens), device)?.to_dtype(dtype)?))
    }

    pub(super) fn at(&self, xattn: usize) -> &Kv {
        &self.layers[xattn]
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

/// Tokens that decide which medium a position attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaRule {
    /// Marks the place of a medium. The marker itself attends to its medium, as in OpenFlamingo and IDEFICS.
    pub media_token: u32,
    /// Ends the current medium: positions after it attend to no medium until the next marker (IDEFICS: the end of a
    /// document).
    pub forget_token: Option<u32>,
}

/// Progress of one row through its media: the markers read so far and the medium that the next position attends to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MediaCursor {
    markers_seen: usize,
    current: Option<usize>,
}

/// Consecutive packed positions of one row that attend to the same medium.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaSpan {
    /// Positions in the packed axis.
    pub positions: Range<usize>,
    /// Index of the row in the pass.
    pub row: usize,
    /// Index of the medium among the row's media, in order of the prompt.
    pub medium: usize,
}

impl MediaCursor {
    /// Advances over `ids`, which lie at `start..` of the packed axis, and appends a span for every run of positions
    /// that attend to one medium.
    pub fn advance(
        &mut self,
        ids: &[u32],
        rule: &MediaRule,
        row: usize,
        start: usize,
        spans: &mut Vec<MediaSpan>,
    ) {
        let mut open: Option<MediaSpan> = None;
        for (i, &id) in (start..).zip(ids) {
            if id == rule.media_token {
                self.current = Some(self.markers_seen);
                self.markers_seen += 1;
            } else if Some(id) == rule.forget_token {
                self.current = None;
            }
            match (&mut open, self.current) {
                (Some(span), Some(medium)) if span.medium == medium => span.positions.end = i + 1,
                (_, current) => {
                    spans.extend(open.take());
                    open = current.map(|medium| MediaSpan { positions: i..i + 1, row, medium });
                }
            }
        }
        spans.extend(open);
    }

    /// Returns the number of media markers read so far.
    pub fn markers_seen(&self) -> usize {
        self.markers_seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: u32 = 7;
    const END: u32 = 9;

    fn check(chunks: &[&[u32]], expected: &[(Range<usize>, usize)]) {
        let rule = MediaRule { media_token: M, forget_token: Some(END) };
        let (mut cursor, mut spans, mut start) = (MediaCursor::default(), Vec::new(), 3);
        for ids in chunks {
            cursor.advance(ids, &rule, 0, start, &mut spans);
            start += ids.len();
        }
        let found: Vec<_> = spans.into_iter().map(|s| (s.positions, s.medium)).collect();
        assert_eq!(found, expected, "{chunks:?}");
    }

    #[test]
    fn token_attends_to_last_medium_at_or_before_it() {
        check(&[&[1, 2]], &[]);
        check(&[&[M, 1, 2]], &[(3..6, 0)]);
        check(&[&[1, M, 2, M, M, 3]], &[(4..6, 0), (6..7, 1), (7..9, 2)]);
        check(&[&[M, 1, END, 2, M, 3]], &[(3..5, 0), (7..9, 1)]);
    }

    #[test]
    fn decode_step_continues_after_prompt() {
        check(&[&[M, 1], &[2], &[3]], &[(3..5, 0), (5..6, 0), (6..7, 0)]);
        check(&[&[M, 1, M], &[2]], &[(3..5, 0), (5..6, 1), (6..7, 1)]);
    }
}
