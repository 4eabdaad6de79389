//! Budgets of the engine.

use flamingo::family::FrameMode;
use flamingo::family::frame_mode::MOST_FRAMES;
use flamingo::generate::{Generation, SequencePlan};
use flamingo::model::Flamingo;
use flamingo::pipeline::Pipeline;
use flamingo::task::{ShotText, TimedCaption, Transcript};
use flamingo::{Result, Task};
use serde::{Deserialize, Serialize};

/// Budgets that all videos share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineLimits {
    /// Rows (sequences) of one decode batch; each beam of an answer is one. A single answer may have more.
    pub rows: usize,
    /// Frames of one encoder batch. A single video may have more.
    pub frames: usize,
    /// Bytes of the KV cache, for all running sequences.
    pub kv_bytes: u64,
    /// Bytes of cached media K/V. Those that no running sequence uses are evicted, and projected again on the next use.
    pub media_bytes: u64,
}

impl Default for EngineLimits {
    fn default() -> Self {
        Self { rows: 32, frames: 32, kv_bytes: 1 << 30, media_bytes: 256 << 20 }
    }
}

/// Frame times with the longest text in a prompt.
const LONGEST: [f64; MOST_FRAMES] = {
    let mut times = [0.0; MOST_FRAMES];
    let mut i = 0;
    while i < MOST_FRAMES {
        times[i] = 99_999.0 + i as f64;
        i += 1;
    }
    times
};

impl EngineLimits {
    /// Returns limits that suffice for all `tasks` about `videos` videos at once, at most the default KV budget, but
    /// always enough for one answer to each task.
    /// The prompts begin with `shots`.
    pub fn for_videos(
        videos: usize,
        pipeline: &Pipeline,
        tasks: &[Task],
        shots: &[ShotText],
        generation: &Generation,
    ) -> Self {
        let model = &pipeline.loaded().model;
        let block = block_bytes(model);
        // A prompt that the model rejects needs no memory.
        let needed = tasks.iter().filter_map(|task| {
            let plan = longest_plan(pipeline, task, shots, generation).ok()?;
            plan.check(model).ok()?;
            Some(plan.reservation().blocks() as u64 * block)
        });
        let (all, most) = needed.fold((0, block), |(all, most), one| (all + one, most.max(one)));
        let usual = Self::default();
        Self { kv_bytes: (all * videos as u64).min(usual.kv_bytes).max(most), ..usual }
    }
}

/// Plans a task about a video with the longest text.
fn longest_plan(
    pipeline: &Pipeline,
    task: &Task,
    shots: &[ShotText],
    generation: &Generation,
) -> Result<SequencePlan> {
    if pipeline.loaded().frame_mode != FrameMode::Captions {
        return pipeline.plan(task, shots, &vec![&LONGEST[..]; shots.len() + 1], generation);
    }
    // A caption that is read again may have more tokens than it was generated with.
    let text = " caption".repeat(2 * generation.max_new_tokens);
    let captions = LONGEST.map(|time| TimedCaption { start: time, end: time, text: text.clone() });
    let transcripts = vec![Transcript(captions.into()); shots.len() + 1];
    pipeline.plan_over_transcripts(task, shots, &transcripts, generation)
}

/// Returns the bytes of one KV block.
pub(super) fn block_bytes(model: &Flamingo) -> u64 {
    model.language().sizes().cache.block_bytes() as u64
}
