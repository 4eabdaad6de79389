//! Pipeline: from frames to an answer.

use std::path::Path;

use candle_core::{DType, Device};

use crate::error::{Error, Result};
use crate::family::{self, LoadOptions, Loaded};
use crate::generate::{Finish, Generation, Output, run_until};
use crate::kernels::threads::on_rayon;
use crate::prompt::Prompt;
use crate::task::{Sensitivity, ShotText, Task, TextScore, Transcript};
use crate::weights::Quantization;

mod media;
mod plans;
mod captions;
mod answers;
mod transcripts;
mod vectors;

use answers::divide;
pub use media::Medium;
pub use plans::{PlannedSequence, PromptMedium, Shot, Shots};
pub use transcripts::TranscriptAnswer;

/// A loaded model with the whole way from frames to answers. Immutable, shared between threads.
pub struct Pipeline {
    loaded: Loaded,
    options: LoadOptions,
}

/// Answer to a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Text of the answer.
    pub text: String,
    /// Scores of the given texts, for a task that chooses among them.
    pub scores: Vec<TextScore>,
    /// Reason for the end.
    pub finish: Finish,
    /// Natural log-likelihood of all generated tokens together, or of the likeliest of the given texts.
    pub log_likelihood: f64,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Generated tokens.
    pub completion_tokens: usize,
    /// Few-shot examples in the prompt: all that were given, or the last ones that the model has room for.
    pub shots: usize,
    /// Spread over the orders of the shots, if there were several.
    pub sensitivity: Option<Sensitivity>,
    /// Transcripts that the prompt has in place of media, in their order.
    pub transcripts: Vec<Transcript>,
}

impl Answer {
    /// An answer without text and scores, after a prompt of this length.
    pub fn empty(finish: Finish, prompt_tokens: usize) -> Self {
        Self {
            text: String::new(),
            scores: Vec::new(),
            finish,
            log_likelihood: 0.0,
            prompt_tokens,
            completion_tokens: 0,
            shots: 0,
            sensitivity: None,
            transcripts: Vec::new(),
        }
    }
}

impl Pipeline {
    /// Loads a model directory on `device`, in f32 and with quantised matrices as stored.
    ///
    /// # Errors
    /// As [`family::open`].
    pub fn load(directory: &Path, device: Device) -> Result<Self> {
        Self::load_with(directory, LoadOptions::new(device, DType::F32, Quantization::Keep))
    }

    /// Loads a model directory with `options`.
    ///
    /// # Errors
    /// As [`family::open`].
    pub fn load_with(directory: &Path, options: LoadOptions) -> Result<Self> {
        Ok(Self { loaded: family::open(directory, &options)?, options })
    }

    /// Sets the name of the model in reports and in the routes of jobs: the name by which it was pulled.
    #[must_use]
    pub fn with_name(mut self, name: String) -> Self {
        self.loaded.info.name = name;
        self
    }

    /// Returns the loaded model and its parts.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Returns the options of the load.
    pub fn options(&self) -> &LoadOptions {
        &self.options
    }

    /// Answers a task over media, in the order of the markers in its prompt.
    ///
    /// # Errors
    /// The prompt has another number of media markers, or is too long.
    pub fn ask(&self, task: &Task, media: &[&Medium], generation: &Generation) -> Result<Answer> {
        self.ask_batch(std::slice::from_ref(task), media, generation).remove(0)
    }

    /// Answers several tasks over the same media in one batch. Returns an answer per task, in order.
    pub fn ask_batch(
        &self,
        tasks: &[Task],
        media: &[&Medium],
        generation: &Generation,
    ) -> Vec<Result<Answer>> {
        self.ask_with(tasks, Shots::default(), media, generation, |sequences| self.run_sequences(sequences))
    }

    /// Computes the log-likelihood of each answer after a prompt, including the end of the chunk.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn score(&self, prompt: &Prompt, media: &[&Medium], answers: &[impl AsRef<str>]) -> Result<Vec<f64>> {
        self.score_with(prompt, media, answers, |sequences| self.run_sequences(sequences))
    }

    /// Computes the log-likelihood of each answer after a prompt over media: plans a sequence and passes it to `run`, as
    /// [`ask_with`](Self::ask_with). Captions of frames are generated with the default settings.
    ///
    /// # Errors
    /// The prompt has another number of media markers, the tokenizer refuses a text, or `run` fails.
    pub fn score_with<E: From<Error>>(
        &self,
        prompt: &Prompt,
        media: &[&Medium],
        answers: &[impl AsRef<str>],
        mut run: impl FnMut(Vec<PlannedSequence>) -> Vec<Result<Output, E>>,
    ) -> Result<Vec<f64>, E> {
        if answers.is_empty() {
            return Ok(Vec::new());
        }
        let media = self.prompt_media(media, &Generation::default(), &mut run)?;
        let plan = self.plan_scores(prompt, &self.texts(&media), answers)?;
        let sequence = PlannedSequence { plan, media: divide(&media).0 };
        Ok(run(vec![sequence]).remove(0)?.into_log_likelihoods()?)
    }

    /// Computes the grounding of an answer, as [`grounding_with`](Self::grounding_with).
    ///
    /// # Errors
    /// As [`score`](Self::score).
    pub fn grounding(&self, task: &Task, shots: &[Shot], medium: &Medium, answer: &str) -> Result<f64> {
        self.grounding_with(task, shots, medium, answer, |sequences| self.run_sequences(sequences))
    }

    /// Computes the grounding of an answer to a task about a medium: its log-likelihood, minus that over a medium of as many
    /// frames of the mean colour, in nats. An answer that the model would give without the medium has a grounding of 0 or less.
    ///
    /// # Errors
    /// As [`score_with`](Self::score_with).
    pub fn grounding_with<E: From<Error>>(
        &self,
        task: &Task,
        shots: &[Shot],
        medium: &Medium,
        answer: &str,
        mut run: impl FnMut(Vec<PlannedSequence>) -> Vec<Result<Output, E>>,
    ) -> Result<f64, E> {
        let texts: Vec<ShotText> = shots.iter().map(|shot| shot.text.clone()).collect();
        let plan = task.plan(&self.loaded.format, &texts);
        let blank = self.encode_blank(medium)?;
        let mut score = |query: &Medium| {
            let media: Vec<&Medium> = shots.iter().map(|shot| &shot.medium).chain([query]).collect();
            Ok::<_, E>(self.score_with(plan.prompt(), &media, &[answer], &mut run)?[0])
        };
        Ok(score(medium)? - score(&blank)?)
    }

    /// Runs sequences in one batch. Returns an output per sequence, in order.
    fn run_sequences(&self, sequences: Vec<PlannedSequence>) -> Vec<Result<Output>> {
        let outputs = self.run_sequences_until(sequences, &|| false);
        outputs
            .into_iter()
            .map(|output| output.expect("a batch that is not stopped has all outputs"))
            .collect()
    }

    /// Runs sequences in one batch, and stops between two tokens when `stop` returns true. Returns an output per sequence, in order;
    /// sequences that are not complete then have none.
    pub fn run_sequences_until(
        &self,
        sequences: Vec<PlannedSequence>,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Vec<Option<Result<Output>>> {
        let mut requests = Vec::with_capacity(sequences.len());
        let mut request = |sequence: PlannedSequence| {
            let media = sequence.media.iter().map(|medium| self.media_kv(medium)).collect::<Result<_>>()?;
            requests.push(sequence.plan.over(media));
            Ok(())
        };
        let projected: Vec<Result<()>> = sequences.into_iter().map(&mut request).collect();
        let mut outputs = on_rayon(|| run_until(&self.loaded.model, &requests, stop)).into_iter();
        let output = |projected| match projected {
            Ok(()) => outputs.next().expect("each request has an output or none"),
            Err(error) => Some(Err(error)),
        };
        projected.into_iter().map(output).collect()
    }

    /// Answers a task over one video, decoded in this process: 1 frame per second, 3 beams.
    ///
    /// # Errors
    /// The video cannot be decoded within the default limits; else as [`encode`](Self::encode) and [`ask`](Self::ask).
    #[cfg(feature = "video")]
    pub fn run(&self, video: &Path, task: &Task) -> Result<Answer> {
        use crate::video::{FrameSampling, Video, VideoLimits};

        let frames = Video::open(video, &VideoLimits::default())?.frames(&FrameSampling::fps(1.0))?;
        let prepared = frames.map(|frame| Ok(self.prepare(&frame?))).collect::<Result<Vec<_>>>()?;
        self.ask(task, &[&self.encode(&prepared)?], &Generation::default())
    }
}
