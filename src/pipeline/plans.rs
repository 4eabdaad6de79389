//! From tasks to sequences, and from their outputs to answers.

use super::{Answer, Medium, Pipeline};
use crate::error::{Error, Result};
use crate::family::Loaded;
use crate::few_shot::classifiers::Ensemble;
use crate::generate::{Completion, Generation, Goal, Output, SequencePlan};
use crate::prompt::{MediumText, Prompt, PromptIds};
use crate::task::{Plan, ShotText, Task, Transcript};

/// A medium as a prompt gets it.
#[derive(Debug, Clone)]
pub enum PromptMedium {
    /// Visual tokens, to which the text attends.
    Encoded(Medium),
    /// A text in place of the medium.
    Transcript(Transcript),
}

/// A few-shot example: a medium, what was asked about it, and the right output.
#[derive(Debug, Clone)]
pub struct Shot {
    /// Name in reports.
    pub name: String,
    /// The medium.
    pub medium: Medium,
    /// Question and output.
    pub text: ShotText,
}

/// Few-shot examples before a query, and the orders in which prompts show them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shots<'s> {
    /// The examples, in the first order.
    pub examples: &'s [Shot],
    /// The orders of a classification; other tasks have the first order only.
    pub ensemble: Ensemble,
}

impl<'s> From<&'s [Shot]> for Shots<'s> {
    /// Returns examples in one order.
    fn from(examples: &'s [Shot]) -> Self {
        Self { examples, ensemble: Ensemble::default() }
    }
}

/// A sequence to run: its plan, and the media of its prompt in order.
#[derive(Debug, Clone)]
pub struct PlannedSequence {
    /// Prompt and goal.
    pub plan: SequencePlan,
    /// Media.
    pub media: Vec<Medium>,
}

impl Pipeline {
    /// Returns the plan of the sequence that answers a task after `shots` over encoded media, those of the shots first;
    /// `frame_times` are [`Medium::frame_times`] of each. Of more shots than the model has room for, the first ones are left out.
    ///
    /// # Errors
    /// The prompt has another number of media markers, or the tokenizer refuses a text.
    pub fn plan(
        &self,
        task: &Task,
        shots: &[ShotText],
        frame_times: &[&[f64]],
        generation: &Generation,
    ) -> Result<SequencePlan> {
        let texts: Vec<_> = frame_times.iter().map(|times| self.loaded.frame_mode.describe(times)).collect();
        Ok(self.plan_after(task, shots, &texts, generation)?.0)
    }

    /// Returns the plan of the sequence that answers a task over transcripts in place of its media.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn plan_over_transcripts(
        &self,
        task: &Task,
        shots: &[ShotText],
        transcripts: &[Transcript],
        generation: &Generation,
    ) -> Result<SequencePlan> {
        let texts: Vec<_> = transcripts.iter().map(in_place_of_medium).collect();
        Ok(self.plan_after(task, shots, &texts, generation)?.0)
    }

    /// Returns the markers and the text of media in a prompt.
    pub(super) fn texts<'m>(&self, media: impl IntoIterator<Item = &'m PromptMedium>) -> Vec<MediumText> {
        let text = |medium: &PromptMedium| match medium {
            PromptMedium::Encoded(medium) => self.loaded.frame_mode.describe(&medium.frame_times),
            PromptMedium::Transcript(transcript) => in_place_of_medium(transcript),
        };
        media.into_iter().map(text).collect()
    }

    /// Returns the plan of a task after as many of the last `shots` as the model has room for, and their number. `texts` are the
    /// markers and texts of the media: those of the shots, then those of the task.
    pub(super) fn plan_after(
        &self,
        task: &Task,
        shots: &[ShotText],
        texts: &[MediumText],
        generation: &Generation,
    ) -> Result<(SequencePlan, usize)> {
        for first in 0..shots.len() {
            let plan = self.plan_with_texts(task, &shots[first..], &texts[first..], generation)?;
            if plan.check(&self.loaded.model).is_ok() {
                return Ok((plan, shots.len() - first));
            }
        }
        Ok((self.plan_with_texts(task, &[], &texts[shots.len()..], generation)?, 0))
    }

    /// Returns the plan of a task after shots, with these markers and texts of all media.
    pub(super) fn plan_with_texts(
        &self,
        task: &Task,
        shots: &[ShotText],
        texts: &[MediumText],
        generation: &Generation,
    ) -> Result<SequencePlan> {
        let plan = task.plan(&self.loaded.format, shots);
        match &plan {
            Plan::Generate(prompt) => {
                let (generation, stop_criteria) = (generation.clone(), self.loaded.stop_criteria.clone());
                self.plan_with(&described(prompt, texts)?, Goal::Generate { generation, stop_criteria })
            }
            Plan::Score { prompt, choices } => self.plan_scores(prompt, texts, choices),
        }
    }

    /// Returns the plan to score answers after a prompt with these markers and texts of its media.
    pub(super) fn plan_scores(
        &self,
        prompt: &Prompt,
        texts: &[MediumText],
        answers: &[impl AsRef<str>],
    ) -> Result<SequencePlan> {
        let prompt = described(prompt, texts)?;
        let continuations = self.continuations(&prompt, answers)?;
        self.plan_with(&prompt, Goal::Score { continuations })
    }

    fn plan_with(&self, prompt: &Prompt, goal: Goal) -> Result<SequencePlan> {
        let Loaded { tokenizer, tokens, .. } = &self.loaded;
        let PromptIds { ids, prefix_len } = prompt.encode(tokenizer, tokens, prompt.media())?;
        Ok(SequencePlan { prompt: ids, prefix_len, goal })
    }

    /// Returns the token ids of answers to `prompt` as the model would generate them, with the end of the chunk.
    fn continuations(&self, prompt: &Prompt, answers: &[impl AsRef<str>]) -> Result<Vec<Vec<u32>>> {
        let Loaded { tokenizer, tokens, format, .. } = &self.loaded;
        let continuation = |answer: &_| {
            let text = format!("{}{}", format.before_answer, AsRef::as_ref(answer));
            let mut ids = prompt.encode_continuation(&text, tokenizer)?;
            ids.push(tokens.end_of_chunk);
            Ok(ids)
        };
        answers.iter().map(continuation).collect()
    }

    /// Reads the answer to `task` from the text that its sequence generated after a prompt of `prompt_tokens` tokens.
    pub(super) fn read(&self, task: &Task, prompt_tokens: usize, output: &Output) -> Result<Answer> {
        let Output::Completion(Completion { ids, log_likelihood, finish }) = output else {
            return Err(Error::Prompt("scores are no answer to a task that generates a text".into()));
        };
        let text = task.read(&self.loaded.format, &self.loaded.tokenizer.decode(ids, true)?);
        let (completion_tokens, log_likelihood) = (ids.len(), *log_likelihood);
        tracing::debug!(prompt_tokens, completion_tokens, ?finish, "answered");
        Ok(Answer { text, log_likelihood, completion_tokens, ..Answer::empty(*finish, prompt_tokens) })
    }
}

fn in_place_of_medium(transcript: &Transcript) -> MediumText {
    MediumText { markers: 0, text: transcript.text() }
}

/// Gives the media of a prompt their markers and texts.
fn described(prompt: &Prompt, texts: &[MediumText]) -> Result<Prompt> {
    let (markers, media) = (prompt.media(), texts.len());
    if markers != media {
        return Err(Error::Prompt(format!("{markers} media markers, but {media} media")));
    }
    Ok(prompt.clone().describe_media(|i| texts[i].clone()))
}
