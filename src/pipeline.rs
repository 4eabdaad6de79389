//! The whole way in, from frames to an answer.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::family::{self, LoadOptions, Loaded};
use crate::generate::{Finish, Generated, Generation, generate, score};
use crate::kernels::threads::on_rayon;
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
    /// All that need be kept of it. (q, d)
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

    /// Looks at a medium: prepared frames -> visual tokens.
    ///
    /// # Errors
    /// There are no frames, or the device refuses.
    pub fn look(&self, prepared: &[Frame]) -> Result<Medium> {
        Ok(self.look_at_all(&[prepared])?.remove(0))
    }

    /// Looks at several media, their frames side by side in the vision encoder.
    ///
    /// # Errors
    /// One of them has no frames, or the device refuses.
    pub fn look_at_all(&self, media: &[&[Frame]]) -> Result<Vec<Medium>> {
        if media.iter().any(|frames| frames.is_empty()) {
            return Err(Error::Prompt("a medium without frames".into()));
        }
        let pixels = media.iter().map(|frames| self.pixels(frames)).collect::<Result<Vec<_>>>()?;
        let tokens = on_rayon(|| self.loaded.model.visual_tokens(&pixels, None))?;
        let frames = media.iter().map(|frames| frames.len()).sum::<usize>();
        tracing::debug!(media = media.len(), frames, "looked");
        let times = media.iter().map(|frames| frames.iter().map(|f| f.pts).collect());
        Ok(tokens
            .into_iter()
            .zip(times)
            .map(|(visual_tokens, frame_times)| Medium { visual_tokens, frame_times })
            .collect())
    }

    /// Keys and values of a medium at every gated cross-attention: once for all that is asked of it together.
    ///
    /// # Errors
    /// The tokens are another model's.
    pub fn media_keys(&self, medium: &Medium) -> Result<Arc<MediaKeys>> {
        on_rayon(|| self.loaded.model.media_keys(&medium.visual_tokens))
    }

    /// The token ids of a task that is asked of so many media.
    ///
    /// # Errors
    /// Its prompt has places for another number of media.
    pub fn prompt(&self, task: &Task, media: usize) -> Result<Vec<u32>> {
        let Loaded { tokenizer, tokens, format, .. } = &self.loaded;
        task.prompt(format).encode(tokenizer, tokens, media)
    }

    /// What was written after a prompt of so many tokens, read as an answer to `task`.
    ///
    /// # Errors
    /// The tokenizer does not know what was written.
    pub fn read(&self, task: &Task, prompt_tokens: usize, written: &Generated) -> Result<Answer> {
        let Loaded { tokenizer, format, .. } = &self.loaded;
        tracing::debug!(prompt_tokens, completion_tokens = written.ids.len(), finish = ?written.finish, "answered");
        Ok(Answer {
            text: task.read(format, &tokenizer.decode(&written.ids, true)?),
            finish: written.finish,
            log_likelihood: written.log_likelihood,
            prompt_tokens,
            completion_tokens: written.ids.len(),
        })
    }

    /// Asks a task of media, in the order in which its prompt places them.
    ///
    /// # Errors
    /// The prompt has places for another number of media, or is too long.
    pub fn ask(&self, task: &Task, media: &[&Medium], generation: &Generation) -> Result<Answer> {
        let keys = media.iter().map(|medium| self.media_keys(medium)).collect::<Result<Vec<_>>>()?;
        let prompt = self.prompt(task, media.len())?;
        let Loaded { model, rules, .. } = &self.loaded;
        let written = on_rayon(|| generate(model, &prompt, &keys, generation, rules))?;
        self.read(task, prompt.len(), &written)
    }

    /// Log-likelihood of each answer, the end of the chunk included, after a prompt.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn score(&self, prompt: &Prompt, media: &[&Medium], answers: &[impl AsRef<str>]) -> Result<Vec<f64>> {
        let Loaded { model, tokenizer, tokens, format, .. } = &self.loaded;
        let prompt = prompt.encode(tokenizer, tokens, media.len())?;
        let keys = media.iter().map(|medium| self.media_keys(medium)).collect::<Result<Vec<_>>>()?;
        let continuation = |answer: &_| {
            let mut ids =
                tokenizer.encode_plain(&format!("{}{}", format.before_answer, AsRef::as_ref(answer)))?;
            ids.push(tokens.end_of_chunk);
            Ok(ids)
        };
        let continuations = answers.iter().map(continuation).collect::<Result<Vec<_>>>()?;
        on_rayon(|| score(model, &prompt, &keys, &continuations))
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
