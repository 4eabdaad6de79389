//! How much the engine does at once.

use flamingo::Task;
use flamingo::generate::{self, Generation, Sequence};
use flamingo::model::Flamingo;
use flamingo::pipeline::Pipeline;
use serde::{Deserialize, Serialize};

/// Budgets of what videos share in a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineLimits {
    /// Rows that are written side by side; each beam of an answer is one. A single answer may have more.
    pub rows: usize,
    /// Frames that go through the vision encoder between two steps. A single video may have more.
    pub frames: usize,
    /// Bytes of keys and values of everything that is being read and written.
    pub kv_bytes: u64,
    /// Bytes of keys and values of media; the least recently used are made anew when they are needed again.
    pub media_bytes: u64,
}

impl Default for EngineLimits {
    fn default() -> Self {
        Self { rows: 32, frames: 32, kv_bytes: 1 << 30, media_bytes: 256 << 20 }
    }
}

impl EngineLimits {
    /// Enough for all of `tasks` about so many videos at once, as far as that is within the usual limits; always enough
    /// for an answer to each.
    pub fn for_videos(videos: usize, pipeline: &Pipeline, tasks: &[Task], generation: &Generation) -> Self {
        let model = &pipeline.loaded().model;
        let block = block_bytes(model);
        // What the model refuses needs no room.
        let needed = tasks.iter().filter_map(|task| {
            let prompt = pipeline.prompt(task, 1).ok()?.len();
            generate::check_length(model, prompt, generation.max_new_tokens).ok()?;
            Some(Sequence::reservation(prompt, generation).blocks() as u64 * block)
        });
        let (all, most) = needed.fold((0, block), |(all, most), one| (all + one, most.max(one)));
        let usual = Self::default();
        Self { kv_bytes: (all * videos as u64).min(usual.kv_bytes).max(most), ..usual }
    }
}

/// Keys and values of a block of tokens.
pub(super) fn block_bytes(model: &Flamingo) -> u64 {
    model.language().cache_shape().block_bytes() as u64
}
