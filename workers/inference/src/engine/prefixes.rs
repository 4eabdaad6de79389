//! Cache of prompt prefixes in the KV cache: few-shot examples and other beginnings that sequences share.

use flamingo::generate::{Decoder, Prefix, PrefixId};

/// Prefixes that the decoder has admitted, the least recently used first. They occupy KV blocks that no running sequence
/// needs.
#[derive(Default)]
pub(super) struct PrefixCache {
    prefixes: Vec<(Prefix, PrefixId)>,
    hits: u64,
    misses: u64,
}

impl PrefixCache {
    /// Returns a prefix, cached or admitted now. `None`: no room for it is left.
    pub(super) fn get(&mut self, decoder: &mut Decoder, prefix: Prefix) -> Option<PrefixId> {
        if let Some(place) = self.prefixes.iter().position(|(known, _)| *known == prefix) {
            self.hits += 1;
            self.prefixes[place..].rotate_left(1);
            return self.prefixes.last().map(|(_, id)| *id);
        }
        self.misses += 1;
        let id = prefix.admit(decoder).ok()?;
        self.prefixes.push((prefix, id));
        Some(id)
    }

    /// Removes the least recently used prefix that no sequence shares. `false`: there is none.
    pub(super) fn evict(&mut self, decoder: &mut Decoder) -> bool {
        let unused = self.prefixes.iter().position(|(_, id)| !decoder.is_shared(*id));
        let Some(place) = unused else { return false };
        let (_, id) = self.prefixes.remove(place);
        decoder.release_prefix(id);
        true
    }

    /// Removes the prefix that was used last, for a sequence that does not fit next to it.
    pub(super) fn evict_last(&mut self, decoder: &mut Decoder) {
        if let Some((_, id)) = self.prefixes.pop() {
            decoder.release_prefix(id);
        }
    }

    /// Removes all prefixes.
    pub(super) fn clear(&mut self, decoder: &mut Decoder) {
        self.prefixes.drain(..).for_each(|(_, id)| decoder.release_prefix(id));
    }

    /// Returns the number of KV blocks of all prefixes.
    pub(super) fn blocks(&self) -> usize {
        self.prefixes.iter().map(|(prefix, _)| prefix.blocks()).sum()
    }

    /// Returns how often a prefix was cached, and how often it was not.
    pub(super) fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }
}
