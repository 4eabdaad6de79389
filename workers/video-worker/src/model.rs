//! Who looks and answers, as whoever asks sees it.

use flamingo::family::ModelInfo;
use flamingo::generate::Generation;
use flamingo::pipeline::{Answer, Medium, Pipeline};
use flamingo::video::Frame;
use flamingo::{Error, Task};

use crate::decoder::StopFlag;
use crate::seen::SeenWindow;

/// On whose behalf a model is asked, and whether it is still wanted.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    pub job: String,
    pub urgent: bool,
    pub stop: StopFlag,
}

/// What looks and answers: a [`Pipeline`] in this thread, or one that others ask too.
pub trait Model: Sync {
    fn about(&self) -> &ModelInfo;

    /// As [`Pipeline::prepare`].
    fn prepare(&self, frame: &Frame) -> Frame;

    /// As [`Pipeline::look`].
    ///
    /// # Errors
    /// The model refuses, or is there no more.
    fn look(&self, prepared: Vec<Frame>, turn: &Turn) -> Result<Medium, ModelError>;

    /// A medium that was looked at before.
    ///
    /// # Errors
    /// The device refuses.
    fn recall(&self, seen: &SeenWindow) -> Result<Medium, ModelError>;

    /// As [`Pipeline::ask`], several tasks of the same media: -> an answer to each, in their order.
    fn ask(
        &self,
        tasks: &[Task],
        media: &[&Medium],
        generation: &Generation,
        turn: &Turn,
    ) -> Vec<Result<Answer, ModelError>>;
}

/// Why a model has not looked or answered.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error(transparent)]
    Refused(#[from] Error),
    /// Whoever asked wants no answer any more.
    #[error("nobody wants the answer any more")]
    Unwanted,
    /// The thread that owns it has ended.
    #[error("the model is there no more")]
    Gone,
}

impl Model for Pipeline {
    fn about(&self) -> &ModelInfo {
        &self.loaded().info
    }

    fn prepare(&self, frame: &Frame) -> Frame {
        self.prepare(frame)
    }

    fn look(&self, prepared: Vec<Frame>, _: &Turn) -> Result<Medium, ModelError> {
        Ok(self.encode(&prepared)?)
    }

    fn recall(&self, seen: &SeenWindow) -> Result<Medium, ModelError> {
        let visual_tokens = seen.tokens.tensor(self.options())?;
        Ok(Medium { visual_tokens, frame_times: seen.frame_times.clone() })
    }

    fn ask(
        &self,
        tasks: &[Task],
        media: &[&Medium],
        generation: &Generation,
        turn: &Turn,
    ) -> Vec<Result<Answer, ModelError>> {
        let ask = |task| match turn.stop.is_set() {
            true => Err(ModelError::Unwanted),
            false => Ok(self.ask(task, media, generation)?),
        };
        tasks.iter().map(ask).collect()
    }
}

impl ModelError {
    /// The stable code of this error, part of the public contract.
    pub fn code(&self) -> &str {
        match self {
            ModelError::Refused(error) => error.code(),
            ModelError::Unwanted => "stopped",
            ModelError::Gone => "model_gone",
        }
    }
}
