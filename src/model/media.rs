//! Which text position may see which medium (paper section 3.1.3): the last one before it, and nothing else.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::error::Result;
use crate::kernels::attention::Kv;

/// A medium as the language model sees it: its keys and values at every gated cross-attention, computed once.
#[derive(Debug, Clone)]
pub struct MediaKeys {
    /// In the order of the cross-attention layers.
    pub(super) layers: Vec<Kv>,
}

impl MediaKeys {
    /// Memory that they take.
    pub fn bytes(&self) -> usize {
        let size = |x: &Tensor| x.elem_count() * x.dtype().size_in_bytes();
        self.layers.iter().map(|(keys, values)| size(keys) + size(values)).sum()
    }

    /// Keys and values (h, q, d) of the look at cross-attention `look`, the first being 0.
    pub(super) fn at(&self, look: usize) -> &Kv {
        &self.layers[look]
    }
}

/// Media side by side, so that rows of one new token each look at theirs in one product. Kept from step to step: it is
/// made again when other media are looked at.
#[derive(Debug, Default)]
pub struct MediaBeside {
    media: Vec<Arc<MediaKeys>>,
    layers: Vec<Kv>,
}

impl MediaBeside {
    /// Lays out what each of some rows looks at. -> which position sees which of the joined tokens (n, m * q), to be added
    /// to the scores; `None` where all look at one medium.
    ///
    /// # Errors
    /// The device refuses.
    pub fn lay_out(
        &mut self,
        looked_at: &[&Arc<MediaKeys>],
        dtype: DType,
        device: &Device,
    ) -> Result<Option<Tensor>> {
        let mut media: Vec<&Arc<MediaKeys>> = Vec::new();
        let mut places = Vec::with_capacity(looked_at.len());
        for &keys in looked_at {
            let place = media.iter().position(|known| Arc::ptr_eq(known, keys)).unwrap_or(media.len());
            if place == media.len() {
                media.push(keys);
            }
            places.push(place);
        }
        let same =
            media.len() == self.media.len() && media.iter().zip(&self.media).all(|(a, b)| Arc::ptr_eq(a, b));
        if !same {
            self.layers = join(&media)?;
            self.media = media.into_iter().cloned().collect();
        }
        if self.media.len() == 1 {
            return Ok(None);
        }
        let ends: Vec<usize> = self
            .media
            .iter()
            .scan(0, |end, keys| {
                *end += keys.layers.first().map_or(0, |(k, _)| k.dims()[1]);
                Some(*end)
            })
            .collect();
        let tokens = ends.last().copied().unwrap_or(0);
        let start = |place: usize| if place == 0 { 0 } else { ends[place - 1] };
        let seen = |place: usize| {
            let own = start(place)..ends[place];
            (0..tokens).map(move |j| if own.contains(&j) { 0.0 } else { f32::NEG_INFINITY })
        };
        let mask: Vec<f32> = places.iter().flat_map(|&place| seen(place)).collect();
        Ok(Some(Tensor::from_vec(mask, (places.len(), tokens), device)?.to_dtype(dtype)?))
    }

    pub(super) fn at(&self, look: usize) -> &Kv {
        &self.layers[look]
    }
}

/// Per cross-attention: the keys and values of all media in a line, (h, m * q, d) each.
fn join(media: &[&Arc<MediaKeys>]) -> Result<Vec<Kv>> {
    if let [only] = media {
        return Ok(only.layers.clone());
    }
    let looks = media.first().map_or(0, |keys| keys.layers.len());
    (0..looks)
        .map(|look| {
            let (keys, values): (Vec<_>, Vec<_>) =
                media.iter().map(|m| (&m.layers[look].0, &m.layers[look].1)).unzip();
            Ok((Tensor::cat(&keys, 1)?, Tensor::cat(&values, 1)?))
        })
        .collect()
}

/// The tokens that steer who sees what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaRule {
    /// Marks where a medium stands. The marker sees its own medium, as in OpenFlamingo and IDEFICS.
    pub media_token: u32,
    /// After this token nothing is seen until the next medium (IDEFICS: the end of a document).
    pub forget_token: Option<u32>,
}

/// Where a row stands among its media.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MediaCursor {
    met: usize,
    current: Option<usize>,
}

/// A run of packed positions of one row that see the same medium.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Positions in the packed axis.
    pub span: Range<usize>,
    /// Which row of the pass.
    pub row: usize,
    /// Which of the row's media, in order of the prompt.
    pub medium: usize,
}

impl MediaCursor {
    /// Walks over `ids`, which lie at `start..` of the packed axis, and appends the runs that see something.
    pub fn walk(&mut self, ids: &[u32], rule: &MediaRule, row: usize, start: usize, seen: &mut Vec<Seen>) {
        let mut open: Option<Seen> = None;
        for (i, &id) in (start..).zip(ids) {
            if id == rule.media_token {
                self.current = Some(self.met);
                self.met += 1;
            } else if Some(id) == rule.forget_token {
                self.current = None;
            }
            match (&mut open, self.current) {
                (Some(run), Some(medium)) if run.medium == medium => run.span.end = i + 1,
                (_, current) => {
                    seen.extend(open.take());
                    open = current.map(|medium| Seen { span: i..i + 1, row, medium });
                }
            }
        }
        seen.extend(open);
    }

    /// Media markers met so far.
    pub fn met(&self) -> usize {
        self.met
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: u32 = 7;
    const END: u32 = 9;

    fn check(pieces: &[&[u32]], expected: &[(Range<usize>, usize)]) {
        let rule = MediaRule { media_token: M, forget_token: Some(END) };
        let (mut cursor, mut seen, mut start) = (MediaCursor::default(), Vec::new(), 3);
        for ids in pieces {
            cursor.walk(ids, &rule, 0, start, &mut seen);
            start += ids.len();
        }
        let found: Vec<_> = seen.into_iter().map(|s| (s.span, s.medium)).collect();
        assert_eq!(found, expected, "{pieces:?}");
    }

    #[test]
    fn a_token_sees_the_last_medium_at_or_before_it() {
        check(&[&[1, 2]], &[]);
        check(&[&[M, 1, 2]], &[(3..6, 0)]);
        check(&[&[1, M, 2, M, M, 3]], &[(4..6, 0), (6..7, 1), (7..9, 2)]);
        check(&[&[M, 1, END, 2, M, 3]], &[(3..5, 0), (7..9, 1)]);
    }

    #[test]
    fn a_decode_step_goes_on_where_the_prompt_ended() {
        check(&[&[M, 1], &[2], &[3]], &[(3..5, 0), (5..6, 0), (6..7, 0)]);
        check(&[&[M, 1, M], &[2]], &[(3..5, 0), (5..6, 1), (6..7, 1)]);
    }
}
