//! The thread that owns the model. Everybody else asks it through a channel of limited length: who finds it full waits.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use flamingo::family::About;
use flamingo::generate::Generation;
use flamingo::pipeline::{Answer, Medium, Pipeline};
use flamingo::video::Frame;
use flamingo::{Result, Task};

use crate::understand::{Model, ModelError, SeenWindow};

/// What the engine is asked, and where it answers. Nobody may be listening any more.
enum Asked {
    Look { prepared: Vec<Frame>, answer: Sender<Result<Medium>> },
    Recall { seen: SeenWindow, answer: Sender<Result<Medium, ModelError>> },
    Ask { task: Task, media: Vec<Medium>, generation: Generation, answer: Sender<Result<Answer>> },
}

/// A way to the model for many threads at once. The engine ends when the last of them is gone.
#[derive(Clone)]
pub struct Engine {
    /// For what needs no turn: descriptions, and resizing frames in the thread that decodes them.
    pipeline: Arc<Pipeline>,
    asked: SyncSender<Asked>,
}

impl Engine {
    /// Starts the thread. `waiting` is how many questions may wait for their turn.
    pub fn start(pipeline: Pipeline, waiting: usize) -> Self {
        let pipeline = Arc::new(pipeline);
        let (asked, heard) = sync_channel(waiting);
        let owned = pipeline.clone();
        std::thread::spawn(move || answer_all(&owned, &heard));
        Self { pipeline, asked }
    }

    /// Whether a failing model means a failing device.
    pub fn is_on_cpu(&self) -> bool {
        self.pipeline.options().device.is_cpu()
    }

    /// Which model answers and how exactly: what one has seen is nothing to another.
    pub fn revision(&self) -> String {
        let About { name, sha256, .. } = self.about();
        format!("{name} {sha256:?} {:?}", self.pipeline.options().dtype)
    }

    fn ask_engine<T>(&self, question: impl FnOnce(Sender<Result<T>>) -> Asked) -> Result<T, ModelError> {
        let (answer, heard) = channel();
        self.asked.send(question(answer)).map_err(|_| ModelError::Gone)?;
        Ok(heard.recv().map_err(|_| ModelError::Gone)??)
    }
}

/// First come, first served: one medium or one answer at a time.
fn answer_all(pipeline: &Pipeline, heard: &Receiver<Asked>) {
    for asked in heard {
        match asked {
            Asked::Look { prepared, answer } => {
                let _ = answer.send(pipeline.look(&prepared));
            }
            Asked::Recall { seen, answer } => {
                let _ = answer.send(Model::recall(pipeline, &seen));
            }
            Asked::Ask { task, media, generation, answer } => {
                let media: Vec<_> = media.iter().collect();
                let _ = answer.send(pipeline.ask(&task, &media, &generation));
            }
        }
    }
}

impl Model for Engine {
    fn about(&self) -> &About {
        &self.pipeline.loaded().about
    }

    fn prepare(&self, frame: &Frame) -> Frame {
        self.pipeline.prepare(frame)
    }

    fn look(&self, prepared: Vec<Frame>) -> Result<Medium, ModelError> {
        self.ask_engine(|answer| Asked::Look { prepared, answer })
    }

    fn recall(&self, seen: &SeenWindow) -> Result<Medium, ModelError> {
        let (answer, heard) = channel();
        self.asked.send(Asked::Recall { seen: seen.clone(), answer }).map_err(|_| ModelError::Gone)?;
        heard.recv().map_err(|_| ModelError::Gone)?
    }

    fn ask(&self, task: &Task, media: &[&Medium], generation: &Generation) -> Result<Answer, ModelError> {
        let media = media.iter().map(|&medium| medium.clone()).collect();
        self.ask_engine(|answer| Asked::Ask {
            task: task.clone(),
            media,
            generation: generation.clone(),
            answer,
        })
    }
}
