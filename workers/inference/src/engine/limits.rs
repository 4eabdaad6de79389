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
        let plans = tasks.iter().map(|task| longest_plan(pipeline, task, shots, generation));
        Self { kv_bytes: kv_bytes(videos, &pipeline.loaded().model, plans), ..Self::default() }
    }

    /// Returns limits that suffice for the answers to all `tasks` from the captions of `videos` long videos too.
    #[must_use]
    pub fn with_transcripts(
        self,
        videos: usize,
        pipeline: &Pipeline,
        tasks: &[Task],
        generation: &Generation,
    ) -> Self {
        let plans = tasks.iter().map(|task| longest_transcript(pipeline, task, generation));
        Self { kv_bytes: self.kv_bytes.max(kv_bytes(videos, &pipeline.loaded().model, plans)), ..self }
    }
}

/// Returns the KV bytes for all plans of `videos` videos at once, at most the default budget, but always enough for each plan.
fn kv_bytes(videos: usize, model: &Flamingo, plans: impl Iterator<Item = Result<SequencePlan>>) -> u64 {
    let block = block_bytes(model);
    // A prompt that the model rejects needs no memory.
    let needed = plans.filter_map(|plan| {
        let plan = plan.ok()?;
        plan.check(model).ok()?;
        Some(plan.reservation().blocks() as u64 * block)
    });
    let (all, most) = needed.fold((0, block), |(all, most), one| (all + one, most.max(one)));
    (all * videos as u64).min(EngineLimits::default().kv_bytes).max(most)
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

/// Plans a task over the longest transcript that the model has room for.
fn longest_transcript(pipeline: &Pipeline, task: &Task, generation: &Generation) -> Result<SequencePlan> {
    let mut plan = pipeline.plan_over_transcripts(task, &[], &[Transcript(Vec::new())], generation)?;
    let positions = pipeline.loaded().model.language().sizes().max_positions;
    let room = positions.saturating_sub(plan.reservation().new_tokens);
    if let Some(&token) = plan.prompt.last().filter(|_| plan.prompt.len() < room) {
        plan.prompt.resize(room, token);
    }
    Ok(plan)
}

/// Returns the bytes of one KV block.
pub(super) fn block_bytes(model: &Flamingo) -> u64 {
    model.language().sizes().cache.block_bytes() as u64
}
