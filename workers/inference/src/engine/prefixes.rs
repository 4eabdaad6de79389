//! Cache of prompt prefixes in the KV cache: few-shot examples and other beginnings that sequences share.

use flamingo::generate::{Decoder, KvReservation, Prefix, PrefixId, SequenceRequest};
use flamingo::model::MediaKv;
use flamingo::pipeline::{Medium, Pipeline, PlannedSequence};
use flamingo::{Error, Result};

use super::media_kv::MediaKvCache;
use super::prefix_files::{PrefixContent, PrefixFolder, PrefixKv, PrefixSender};
use super::stats::PrefixCounts;

/// Prefixes that the decoder has admitted, the least recently used first. They occupy KV blocks that no running sequence
/// needs. Those that several sequences have used are written to disk too, if there is a folder for them.
pub(super) struct PrefixCache {
    prefixes: Vec<CachedPrefix>,
    disk: Option<(PrefixFolder, PrefixSender)>,
    counts: PrefixCounts,
}

/// Tokens and media of a prefix. Two prefixes are equal if their tokens are equal and their media have the same visual tokens in
/// memory.
#[derive(Clone)]
pub(super) struct SharedPrefix {
    ids: Vec<u32>,
    media: Vec<Medium>,
}

struct CachedPrefix {
    prefix: SharedPrefix,
    id: PrefixId,
    /// Whether a second sequence has used it. A prefix of nearest examples is mostly used once, and is not worth a file.
    shared: bool,
    on_disk: bool,
}

impl SharedPrefix {
    /// Returns the prefix of a sequence; `None` if its plan has none.
    pub(super) fn of(pipeline: &Pipeline, sequence: &PlannedSequence) -> Option<Self> {
        let ids = &sequence.plan.prompt[..sequence.plan.prefix_len];
        let (mut markers, mut media) = (pipeline.loaded().model.count_markers(ids), 0);
        while markers > 0 {
            let times = &sequence.media.get(media)?.frame_times;
            markers = markers.checked_sub(pipeline.loaded().frame_mode.describe(times).markers)?;
            media += 1;
        }
        (!ids.is_empty()).then(|| Self { ids: ids.to_vec(), media: sequence.media[..media].to_vec() })
    }

    fn content<'a>(&'a self, pipeline: &'a Pipeline) -> PrefixContent<'a> {
        PrefixContent { pipeline, ids: &self.ids, media: &self.media }
    }
}

impl PartialEq for SharedPrefix {
    fn eq(&self, other: &Self) -> bool {
        let ids =
            |prefix: &Self| prefix.media.iter().map(|medium| medium.visual_tokens.id()).collect::<Vec<_>>();
        self.ids == other.ids && ids(self) == ids(other)
    }
}

impl PrefixCache {
    /// Creates a cache, with a folder on disk and a thread that writes to it.
    pub(super) fn new(disk: Option<(PrefixFolder, PrefixSender)>) -> Self {
        Self { prefixes: Vec::new(), disk, counts: PrefixCounts::default() }
    }

    /// Returns a prefix that is cached in memory.
    pub(super) fn find(&mut self, prefix: &SharedPrefix) -> Option<PrefixId> {
        let place = self.prefixes.iter().position(|cached| cached.prefix == *prefix)?;
        self.counts.memory += 1;
        self.prefixes[place..].rotate_left(1);
        let last = self.prefixes.last_mut()?;
        last.shared = true;
        Some(last.id)
    }

    /// Reads a prefix from disk, with the K/V of its media. `None`: it is not there, or no room for it is left.
    pub(super) fn read(
        &mut self,
        pipeline: &Pipeline,
        decoder: &mut Decoder,
        media_kv: &mut MediaKvCache,
        prefix: &SharedPrefix,
    ) -> Option<PrefixId> {
        let (folder, _) = self.disk.as_ref()?;
        let content = prefix.content(pipeline);
        let PrefixKv { text, media } = folder.read(&content.file_name().ok()?, &content)?;
        let pictures = media.iter().cloned().flat_map(MediaKv::into_pictures).collect();
        let id = decoder.admit_computed_prefix(&prefix.ids, pictures, &text).ok()?;
        for (medium, kv) in prefix.media.iter().zip(media) {
            media_kv.insert(medium, kv);
        }
        self.counts.disk += 1;
        self.prefixes.push(CachedPrefix { prefix: prefix.clone(), id, shared: true, on_disk: true });
        Some(id)
    }

    /// Admits a prefix of a request, which the next steps compute. `None`: no room for it is left.
    pub(super) fn admit(
        &mut self,
        decoder: &mut Decoder,
        prefix: SharedPrefix,
        request: &SequenceRequest,
    ) -> Option<PrefixId> {
        self.counts.missed += 1;
        let id = Prefix::of(decoder.model(), request)?.admit(decoder).ok()?;
        self.prefixes.push(CachedPrefix { prefix, id, shared: false, on_disk: false });
        Some(id)
    }

    /// Gives a complete prefix that several sequences have used to the thread that writes it. Waits only while that thread has
    /// two others to write.
    pub(super) fn write(&mut self, pipeline: &Pipeline, decoder: &Decoder, media_kv: &mut MediaKvCache) {
        let Some((_, sender)) = &self.disk else { return };
        for cached in self.prefixes.iter_mut().filter(|cached| cached.shared && !cached.on_disk) {
            let (content, media) = (cached.prefix.content(pipeline), &cached.prefix.media);
            let mut read = || {
                let Some(text) = decoder.prefix_kv(cached.id)? else { return Ok(None) };
                let media = media.iter().map(|medium| media_kv.get(pipeline, medium));
                let kv = PrefixKv { text, media: media.collect::<Result<_>>()? };
                Ok::<_, Error>(Some((content.file_name()?, kv)))
            };
            match read() {
                // It is not complete.
                Ok(None) => continue,
                Ok(Some(prefix)) => drop(sender.send(prefix)),
                Err(error) => tracing::warn!(%error, "cannot read the keys and values of a prefix"),
            }
            cached.on_disk = true;
        }
    }

    /// Removes the least recently used prefix that no sequence shares. `false`: there is none.
    pub(super) fn evict(&mut self, decoder: &mut Decoder) -> bool {
        let unused = self.prefixes.iter().position(|cached| !decoder.is_shared(cached.id));
        let Some(place) = unused else { return false };
        decoder.release_prefix(self.prefixes.remove(place).id);
        true
    }

    /// Removes the prefix that was used last, for a sequence that does not fit next to it.
    pub(super) fn evict_last(&mut self, decoder: &mut Decoder) {
        if let Some(cached) = self.prefixes.pop() {
            decoder.release_prefix(cached.id);
        }
    }

    /// Removes all prefixes.
    pub(super) fn clear(&mut self, decoder: &mut Decoder) {
        self.prefixes.drain(..).for_each(|cached| decoder.release_prefix(cached.id));
    }

    /// Returns the number of KV blocks of all prefixes.
    pub(super) fn blocks(&self) -> usize {
        let blocks = |cached: &CachedPrefix| {
            KvReservation { prompt: cached.prefix.ids.len(), new_tokens: 0, rows: 1 }.blocks()
        };
        self.prefixes.iter().map(blocks).sum()
    }

    /// Returns the numbers of sequences so far.
    pub(super) fn counts(&self) -> PrefixCounts {
        self.counts
    }
}
