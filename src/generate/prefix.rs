//! Prefixes of prompts: the part that several sequences share.

use std::sync::Arc;

use super::decoder::{Decoder, PrefixId};
use super::reservation::KvReservation;
use super::sequence::SequenceRequest;
use crate::error::Result;
use crate::model::{Flamingo, MediaKv};

/// Token ids and media of a prefix. Two prefixes are equal if their tokens are equal and their media are the same K/V in
/// memory.
#[derive(Debug, Clone)]
pub struct Prefix {
    ids: Vec<u32>,
    media: Vec<Arc<MediaKv>>,
}

impl Prefix {
    /// Returns the prefix of a request that [`SequenceRequest::check`] has accepted; `None` if its plan has none.
    pub fn of(model: &Flamingo, request: &SequenceRequest) -> Option<Self> {
        let ids = &request.plan.prompt[..request.plan.prefix_len];
        let media = &request.media[..model.count_markers(ids)];
        (!ids.is_empty()).then(|| Self { ids: ids.to_vec(), media: media.to_vec() })
    }

    /// Admits the prefix to a decoder.
    ///
    /// # Errors
    /// As [`Decoder::admit_prefix`].
    pub fn admit(&self, decoder: &mut Decoder) -> Result<PrefixId> {
        decoder.admit_prefix(self.ids.clone(), self.media.clone())
    }

    /// Returns the number of KV blocks of the prefix.
    pub fn blocks(&self) -> usize {
        KvReservation { prompt: self.ids.len(), new_tokens: 0, rows: 1 }.blocks()
    }
}

impl PartialEq for Prefix {
    fn eq(&self, other: &Self) -> bool {
        self.ids == other.ids
            && self.media.len() == other.media.len()
            && self.media.iter().zip(&other.media).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}
