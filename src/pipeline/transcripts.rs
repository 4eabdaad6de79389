//! Answers from the captions of a long video: the language model alone reads their transcript (Socratic Models, PICa).

use super::{Answer, Pipeline, PlannedSequence, PromptMedium};
use crate::error::{Error, Result};
use crate::generate::{Generation, Output};
use crate::task::{Evidence, Task, TimedCaption, Transcript};

/// Largest number of captions that an answer names as its evidence.
const MOST_EVIDENCE: usize = 3;
/// Least gain of a caption that is evidence, in nats: the answer is a tenth less likely without it.
const LEAST_GAIN: f64 = 0.1;
/// Adjacent captions among which one is left out. The cost of the evidence grows with the captions, not with their square.
const GROUP: usize = 8;

/// Answer to a task from the captions of the windows of a video, without its media.
#[derive(Debug, Clone, PartialEq)]
pub struct TranscriptAnswer {
    /// The answer; the only one of its transcripts has the captions that were in the prompt.
    pub answer: Answer,
    /// Number of windows that were left out, because the model has no room for their captions.
    pub left_out: usize,
    /// Captions without which the answer is less likely, up to three, the one with the highest gain first.
    pub evidence: Vec<Evidence>,
}

impl Pipeline {
    /// Answers a task from the captions of consecutive windows of a video: plans sequences without media, passes them to `run`,
    /// which returns an output per sequence, in order, and reads the answer.
    ///
    /// Equal captions of adjacent windows become one. If the model has no room for the others, evenly spread ones are left out.
    /// The evidence of the answer is found by scoring it without each caption, among eight adjacent ones.
    ///
    /// # Errors
    /// The task has another number of media than one, the tokenizer refuses a text, the model has no room even without captions,
    /// or `run` fails.
    pub fn ask_transcript_with<E: From<Error>>(
        &self,
        task: &Task,
        windows: &Transcript,
        generation: &Generation,
        mut run: impl FnMut(Vec<PlannedSequence>) -> Vec<Result<Output, E>>,
    ) -> Result<TranscriptAnswer, E> {
        let shown = self.condense(task, windows, generation)?;
        let left_out = windows.count_outside(&shown);
        let answer = self.ask_over_transcript(task, shown.clone(), generation, &mut run)?;
        let evidence = self.evidence(task, &shown, &answer.text, run)?;
        Ok(TranscriptAnswer { answer, left_out, evidence })
    }

    /// Returns the captions that a prompt of the task has room for.
    fn condense(&self, task: &Task, windows: &Transcript, generation: &Generation) -> Result<Transcript> {
        let merged = windows.merged();
        let fits = |count: usize| {
            let transcript = [merged.spread(count)];
            let plan = self.plan_over_transcripts(task, &[], &transcript, generation)?;
            Ok::<_, Error>(plan.check(&self.loaded.model).is_ok())
        };
        let (mut most, mut too_many) = (0, merged.0.len() + 1);
        // In most cases there is room for all.
        let mut next = merged.0.len();
        while most + 1 < too_many {
            if fits(next)? {
                most = next;
            } else {
                too_many = next;
            }
            next = most + (too_many - most) / 2;
        }
        Ok(merged.spread(most))
    }

    /// Scores an answer after each group of adjacent captions, and after the group without each of its captions. Returns the
    /// captions without which the answer is less likely.
    fn evidence<E: From<Error>>(
        &self,
        task: &Task,
        transcript: &Transcript,
        answer: &str,
        run: impl FnOnce(Vec<PlannedSequence>) -> Vec<Result<Output, E>>,
    ) -> Result<Vec<Evidence>, E> {
        let plan = task.plan(&self.loaded.format, &[]);
        let sequence = |captions| {
            let texts = self.texts(&[PromptMedium::Transcript(Transcript(captions))]);
            let plan = self.plan_scores(plan.prompt(), &texts, &[answer])?;
            Ok(PlannedSequence { plan, media: Vec::new() })
        };
        let groups = || transcript.0.chunks(GROUP);
        let sequences = groups().flat_map(with_and_without_each).map(sequence).collect::<Result<_>>()?;
        let outputs = run(sequences).into_iter();
        let mut scores = outputs.map(|output| Ok::<_, E>(output?.into_log_likelihoods()?[0]));
        let mut score = || scores.next().expect("each sequence has an output");
        let mut evidence = Vec::new();
        for group in groups() {
            let with = score()?;
            for caption in group {
                evidence.push(Evidence { caption: caption.clone(), gain: with - score()? });
            }
        }
        evidence.retain(|evidence| evidence.gain >= LEAST_GAIN);
        // Stable: of equal gains, the first of the video.
        evidence.sort_by(|a, b| b.gain.total_cmp(&a.gain));
        evidence.truncate(MOST_EVIDENCE);
        Ok(evidence)
    }
}

/// Returns a group of captions, then the group without each one.
fn with_and_without_each(group: &[TimedCaption]) -> Vec<Vec<TimedCaption>> {
    let without = (0..group.len()).map(|i| [&group[..i], &group[i + 1..]].concat());
    std::iter::once(group.to_vec()).chain(without).collect()
}
