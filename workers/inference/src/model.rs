//! The interface to a loaded model: in-process or behind the engine.

use flamingo::family::ModelInfo;
use flamingo::generate::Generation;
use flamingo::pipeline::{Answer, Medium, Pipeline};
use flamingo::video::Frame;
use flamingo::{Error, Task};

use crate::context::RequestContext;
use crate::encoded_video::EncodedWindow;

/// A model: a [`Pipeline`] in the calling thread, or an [`Engine`](crate::engine::Engine) that callers share.
pub trait Model: Sync {
    fn info(&self) -> &ModelInfo;

    /// Resizes a frame, as [`Pipeline::prepare`].
    fn prepare(&self, frame: &Frame) -> Frame;

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

    /// Answers several tasks about the same media, as [`Pipeline::ask`]; returns one answer per task, in their order.
    fn ask(
        &self,
        tasks: &[Task],
        media: &[&Medium],
        generation: &Generation,
        context: &RequestContext,
    ) -> Vec<Result<Answer, ModelError>>;
}

/// Error of encoding or answering.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error(transparent)]
    Refused(#[from] Error),
    #[error("the request was cancelled")]
    Cancelled,
    /// The thread that owns the model has ended.
    #[error("the model thread has ended")]
    Gone,
}

impl Model for Pipeline {
    fn info(&self) -> &ModelInfo {
        &self.loaded().info
    }

    fn prepare(&self, frame: &Frame) -> Frame {
        self.prepare(frame)
    }

    fn encode(&self, prepared: Vec<Frame>, _: &RequestContext) -> Result<Medium, ModelError> {
        Ok(self.encode(&prepared)?)
    }

    fn restore(&self, window: &EncodedWindow) -> Result<Medium, ModelError> {
        let visual_tokens = window.tokens.tensor(self.options())?;
        Ok(Medium::new(visual_tokens, window.frame_times.clone()))
    }

    fn ask(
        &self,
        tasks: &[Task],
        media: &[&Medium],
        generation: &Generation,
        context: &RequestContext,
    ) -> Vec<Result<Answer, ModelError>> {
        let cancelled = || context.cancel.is_cancelled();
        let answers = self.ask_batch_until(tasks, media, generation, &cancelled);
        answers
            .into_iter()
            .map(|answer| answer.ok_or(ModelError::Cancelled)?.map_err(ModelError::from))
            .collect()
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
