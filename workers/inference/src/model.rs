//! The interface to a loaded model: in-process or behind the engine.

use flamingo::family::ModelInfo;
use flamingo::generate::{Generation, Output};
use flamingo::pipeline::{Answer, Medium, Pipeline, PlannedSequence, Shot, Shots, TranscriptAnswer};
use flamingo::prompt::Prompt;
use flamingo::task::Transcript;
use flamingo::video::Frame;
use flamingo::{Error, Task};

use crate::context::RequestContext;
use crate::encoded_video::EncodedWindow;

/// A model: a [`Pipeline`] in the calling thread, or an [`Engine`](crate::engine::Engine) that callers share. They differ
/// in the thread that encodes and generates.
pub trait Model: Sync {
    /// Returns the pipeline, for work that needs no queue: model info, prompts, resizing of frames.
    fn pipeline(&self) -> &Pipeline;

    /// Encodes prepared frames, as [`Pipeline::encode`].
    ///
    /// # Errors
    /// The model fails, or the engine has stopped.
    fn encode(&self, prepared: Vec<Frame>, context: &RequestContext) -> Result<Medium, ModelError>;

    /// Restores a medium from cached visual tokens.
    ///
    /// # Errors
    /// The device fails.
    fn restore(&self, window: &EncodedWindow) -> Result<Medium, ModelError>;

    /// Runs sequences in one batch. Returns an output per sequence, in order.
    fn run_sequences(
        &self,
        sequences: Vec<PlannedSequence>,
        context: &RequestContext,
    ) -> Vec<Result<Output, ModelError>>;

    /// Returns name, family and hashes of the model.
    fn info(&self) -> &ModelInfo {
        &self.pipeline().loaded().info
    }

    /// Resizes a frame, as [`Pipeline::prepare`].
    fn prepare(&self, frame: &Frame) -> Frame {
        self.pipeline().prepare(frame)
    }

    /// Answers several tasks about the same media in one batch, each after `shots`, as [`Pipeline::ask_with`]. Returns an
    /// answer per task, in order.
    fn ask(
        &self,
        tasks: &[Task],
        shots: Shots,
        media: &[&Medium],
        generation: &Generation,
        context: &RequestContext,
    ) -> Vec<Result<Answer, ModelError>> {
        let run = |sequences| self.run_sequences(sequences, context);
        self.pipeline().ask_with(tasks, shots, media, generation, run)
    }

    /// Answers a task from the captions of consecutive windows, as [`Pipeline::ask_transcript_with`].
    ///
    /// # Errors
    /// The task does not fit the model, the model fails, or the request is cancelled.
    fn ask_transcript(
        &self,
        task: &Task,
        windows: &Transcript,
        generation: &Generation,
        context: &RequestContext,
    ) -> Result<TranscriptAnswer, ModelError> {
        let run = |sequences| self.run_sequences(sequences, context);
        self.pipeline().ask_transcript_with(task, windows, generation, run)
    }

    /// Computes the log-likelihood of each answer after a prompt, as [`Pipeline::score`].
    ///
    /// # Errors
    /// The prompt does not fit the model or the media, the model fails, or the request is cancelled.
    fn score(
        &self,
        prompt: &Prompt,
        media: &[&Medium],
        answers: &[String],
        context: &RequestContext,
    ) -> Result<Vec<f64>, ModelError> {
        let run = |sequences| self.run_sequences(sequences, context);
        self.pipeline().score_with(prompt, media, answers, run)
    }

    /// Computes the grounding of an answer to `task` about a medium, as [`Pipeline::grounding_with`].
    ///
    /// # Errors
    /// As [`score`](Self::score).
    fn grounding(
        &self,
        task: &Task,
        shots: &[Shot],
        medium: &Medium,
        answer: &str,
        context: &RequestContext,
    ) -> Result<f64, ModelError> {
        let run = |sequences| self.run_sequences(sequences, context);
        self.pipeline().grounding_with(task, shots, medium, answer, run)
    }
}

/// Error of encoding or answering.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The model refuses the request, or its device fails.
    #[error(transparent)]
    Refused(#[from] Error),
    /// The request was cancelled.
    #[error("the request was cancelled")]
    Cancelled,
    /// The thread that owns the model has ended.
    #[error("the model thread has ended")]
    Gone,
}

impl Model for Pipeline {
    fn pipeline(&self) -> &Pipeline {
        self
    }

    fn encode(&self, prepared: Vec<Frame>, _: &RequestContext) -> Result<Medium, ModelError> {
        Ok(self.encode(&prepared)?)
    }

    fn restore(&self, window: &EncodedWindow) -> Result<Medium, ModelError> {
        Ok(window.medium(self.options())?)
    }

    fn run_sequences(
        &self,
        sequences: Vec<PlannedSequence>,
        context: &RequestContext,
    ) -> Vec<Result<Output, ModelError>> {
        let outputs = self.run_sequences_until(sequences, &|| context.cancel.is_cancelled());
        outputs.into_iter().map(|output| Ok(output.ok_or(ModelError::Cancelled)??)).collect()
    }
}

impl ModelError {
    /// Returns the stable code of this error, part of the public contract.
    pub fn code(&self) -> &str {
        match self {
            ModelError::Refused(error) => error.code(),
            ModelError::Cancelled => "stopped",
            ModelError::Gone => "model_gone",
        }
    }
}
