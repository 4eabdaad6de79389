//! The whole way in, from frames to an answer.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::family::{self, LoadOptions, Loaded};
use crate::generate::{Finish, Generation, generate, score};
use crate::model::MediaKeys;
use crate::prompt::Prompt;
use crate::task::Task;
use crate::video::Frame;
use crate::weights::Quantization;

/// A loaded model, ready to be asked. Immutable and shareable between threads.
pub struct Pipeline {
    loaded: Loaded,
    options: LoadOptions,
}

/// A medium that the model has looked at: ask it as often as you like, the video is not looked at again.
#[derive(Debug, Clone)]
pub struct Medium {
    keys: Arc<MediaKeys>,
    /// All that need be kept of it: [`Pipeline::recall`] makes the rest again. (q, d)
    pub visual_tokens: Tensor,
    /// Seconds from the first presented frame, of every frame that was looked at.
    pub frame_times: Vec<f64>,
}

/// What the model said.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub text: String,
    pub finish: Finish,
    /// Natural logarithm, of all written tokens together.
    pub log_likelihood: f64,
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
}

impl Pipeline {
    /// Opens a model directory on `device`: f32, quantised matrices kept as they are.
    ///
    /// # Errors
    /// As [`family::open`].
    pub fn load(directory: &Path, device: Device) -> Result<Self> {
        Self::load_with(
            directory,
            LoadOptions { device, dtype: DType::F32, quantization: Quantization::Keep },
        )
    }

    /// Opens a model directory as `options` say.
    ///
    /// # Errors
    /// As [`family::open`].
    pub fn load_with(directory: &Path, options: LoadOptions) -> Result<Self> {
        Ok(Self { loaded: family::open(directory, &options)?, options })
    }

    /// What was loaded.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Where and how it runs.
    pub fn options(&self) -> &LoadOptions {
        &self.options
    }

    /// Resizes a frame for the encoder, so that the frame itself need not be kept.
    pub fn prepare(&self, frame: &Frame) -> Frame {
        Frame { pts: frame.pts, image: self.loaded.preprocess.frame(&frame.image) }
    }

    /// Normalised pixels of prepared frames: (t, 3, h, w).
    pub fn pixels(&self, prepared: &[Frame]) -> Result<Tensor> {
        let images: Vec<_> = prepared.iter().map(|f| &f.image).collect();
        self.loaded.preprocess.pixels(&images, &self.options.device, self.options.dtype)
    }

    /// Looks at a medium: prepared frames -> visual tokens -> keys and values of every cross-attention, once.
    ///
    /// # Errors
    /// There are no frames, or the device refuses.
    pub fn look(&self, prepared: &[Frame]) -> Result<Medium> {
        if prepared.is_empty() {
            return Err(Error::Prompt("a medium without frames".into()));
        }
        let tokens = self.loaded.model.visual_tokens(&[self.pixels(prepared)?], None)?;
        tracing::debug!(frames = prepared.len(), visual_tokens = tokens[0].dim(0)?, "looked at a medium");
        self.recall(tokens[0].clone(), prepared.iter().map(|f| f.pts).collect())
    }

    /// A medium that this model has looked at before, from its visual tokens (q, d).
    ///
    /// # Errors
    /// The tokens are another model's.
    pub fn recall(&self, visual_tokens: Tensor, frame_times: Vec<f64>) -> Result<Medium> {
        Ok(Medium { keys: self.loaded.model.media_keys(&visual_tokens)?, visual_tokens, frame_times })
    }

    /// Asks a task of media, in the order in which its prompt places them.
    ///
    /// # Errors
    /// The prompt has places for another number of media, or is too long.
    pub fn ask(&self, task: &Task, media: &[&Medium], generation: &Generation) -> Result<Answer> {
        let Loaded { model, tokenizer, tokens, rules, format, .. } = &self.loaded;
        let prompt = task.prompt(format).encode(tokenizer, tokens, media.len())?;
        let keys: Vec<_> = media.iter().map(|m| m.keys.clone()).collect();
        let written = generate(model, &prompt, &keys, generation, rules)?;
        tracing::debug!(prompt_tokens = prompt.len(), completion_tokens = written.ids.len(), finish = ?written.finish, "answered");
        Ok(Answer {
            text: task.read(format, &tokenizer.decode(&written.ids, true)?),
            finish: written.finish,
            log_likelihood: written.log_likelihood,
            prompt_tokens: prompt.len(),
            completion_tokens: written.ids.len(),
        })
    }

    /// Log-likelihood of each answer, the end of the chunk included, after a prompt.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn score(&self, prompt: &Prompt, media: &[&Medium], answers: &[impl AsRef<str>]) -> Result<Vec<f64>> {
        let Loaded { model, tokenizer, tokens, format, .. } = &self.loaded;
        let prompt = prompt.encode(tokenizer, tokens, media.len())?;
        let keys: Vec<_> = media.iter().map(|m| m.keys.clone()).collect();
        let continuation = |answer: &_| {
            let mut ids =
                tokenizer.encode_plain(&format!("{}{}", format.before_answer, AsRef::as_ref(answer)))?;
            ids.push(tokens.end_of_chunk);
            Ok(ids)
        };
        let continuations = answers.iter().map(continuation).collect::<Result<Vec<_>>>()?;
        score(model, &prompt, &keys, &continuations)
    }

    /// One video in, one answer out, decoded in this process: 1 frame per second, 3 beams.
    ///
    /// # Errors
    /// The video cannot be decoded within the default limits; else as [`look`](Self::look) and [`ask`](Self::ask).
    #[cfg(feature = "video")]
    pub fn run(&self, video: &Path, task: &Task) -> Result<Answer> {
        use crate::video::{FrameSampling, Video, VideoLimits};

        let frames = Video::open(video, &VideoLimits::default())?.frames(&FrameSampling::fps(1.0))?;
        let prepared = frames.map(|frame| Ok(self.prepare(&frame?))).collect::<Result<Vec<_>>>()?;
        self.ask(task, &[&self.look(&prepared)?], &Generation::default())
    }
}
