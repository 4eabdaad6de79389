//! Pipeline: from frames to an answer.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::family::{self, LoadOptions, Loaded};
use crate::generate::{Completion, Finish, Generation, generate, score};
use crate::kernels::threads::on_rayon;
use crate::model::MediaKv;
use crate::prompt::Prompt;
use crate::task::Task;
use crate::video::Frame;
use crate::weights::Quantization;

/// A loaded model with the whole way from frames to answers. Immutable, shared between threads.
pub struct Pipeline {
    loaded: Loaded,
    options: LoadOptions,
}

/// Visual tokens of one video or image, reusable for any number of prompts.
#[derive(Debug, Clone)]
pub struct Medium {
    /// Visual tokens (q, d).
    pub visual_tokens: Tensor,
    /// Presentation time of every encoded frame, in seconds after the first frame of the video.
    pub frame_times: Vec<f64>,
}

/// Answer to a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Text of the answer.
    pub text: String,
    /// Reason for the end.
    pub finish: Finish,
    /// Natural log-likelihood of all generated tokens together.
    pub log_likelihood: f64,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Generated tokens.
    pub completion_tokens: usize,
}

impl Pipeline {
    /// Loads a model directory on `device`, in f32 and with quantised matrices as stored.
    ///
    /// # Errors
    /// As [`family::open`].
    pub fn load(directory: &Path, device: Device) -> Result<Self> {
        Self::load_with(
            directory,
            LoadOptions { device, dtype: DType::F32, quantization: Quantization::Keep },
        )
    }

    /// Loads a model directory with `options`.
    ///
    /// # Errors
    /// As [`family::open`].
    pub fn load_with(directory: &Path, options: LoadOptions) -> Result<Self> {
        Ok(Self { loaded: family::open(directory, &options)?, options })
    }

    /// Returns the loaded model and its parts.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Returns the options of the load.
    pub fn options(&self) -> &LoadOptions {
        &self.options
    }

    /// Resizes a frame for the encoder, so that the caller can drop the original.
    pub fn prepare(&self, frame: &Frame) -> Frame {
        Frame { pts: frame.pts, image: self.loaded.preprocess.frame(&frame.image) }
    }

    /// Returns the normalised pixels of prepared frames: (t, 3, h, w).
    ///
    /// # Errors
    /// The device refuses an operation.
    pub fn pixels(&self, prepared: &[Frame]) -> Result<Tensor> {
        let images: Vec<_> = prepared.iter().map(|f| &f.image).collect();
        self.loaded.preprocess.pixels(&images, &self.options.device, self.options.dtype)
    }

    /// Encodes one medium: prepared frames -> visual tokens.
    ///
    /// # Errors
    /// There are no frames, or the device refuses an operation.
    pub fn encode(&self, prepared: &[Frame]) -> Result<Medium> {
        Ok(self.encode_batch(&[prepared])?.remove(0))
    }

    /// Encodes several media, with their frames in the same passes of the vision encoder.
    ///
    /// # Errors
    /// A medium has no frames, or the device refuses an operation.
    pub fn encode_batch(&self, media: &[&[Frame]]) -> Result<Vec<Medium>> {
        if media.iter().any(|frames| frames.is_empty()) {
            return Err(Error::Prompt("a medium without frames".into()));
        }
        let pixels = media.iter().map(|frames| self.pixels(frames)).collect::<Result<Vec<_>>>()?;
        let tokens = on_rayon(|| self.loaded.model.visual_tokens(&pixels, None))?;
        let frames = media.iter().map(|frames| frames.len()).sum::<usize>();
        tracing::debug!(media = media.len(), frames, "encoded");
        let times = media.iter().map(|frames| frames.iter().map(|f| f.pts).collect());
        Ok(tokens
            .into_iter()
            .zip(times)
            .map(|(visual_tokens, frame_times)| Medium { visual_tokens, frame_times })
            .collect())
    }

    /// Projects a medium to keys and values at every gated cross-attention, for all prompts over the medium.
    ///
    /// # Errors
    /// The visual tokens have another width than the model expects.
    pub fn media_kv(&self, medium: &Medium) -> Result<Arc<MediaKv>> {
        on_rayon(|| self.loaded.model.media_kv(&medium.visual_tokens))
    }

    /// Returns the token ids of a task's prompt over `media` media.
    ///
    /// # Errors
    /// The prompt has another number of media markers.
    pub fn prompt(&self, task: &Task, media: usize) -> Result<Vec<u32>> {
        let Loaded { tokenizer, tokens, format, .. } = &self.loaded;
        task.prompt(format).encode(tokenizer, tokens, media)
    }

    /// Reads the answer to `task` from the tokens generated after a prompt of `prompt_tokens` tokens.
    ///
    /// # Errors
    /// The tokenizer lacks a generated token.
    pub fn read(&self, task: &Task, prompt_tokens: usize, completion: &Completion) -> Result<Answer> {
        let Loaded { tokenizer, format, .. } = &self.loaded;
        tracing::debug!(prompt_tokens, completion_tokens = completion.ids.len(), finish = ?completion.finish, "answered");
        Ok(Answer {
            text: task.read(format, &tokenizer.decode(&completion.ids, true)?),
            finish: completion.finish,
            log_likelihood: completion.log_likelihood,
            prompt_tokens,
            completion_tokens: completion.ids.len(),
        })
    }

    /// Answers a task over media, in the order of the markers in its prompt.
    ///
    /// # Errors
    /// The prompt has another number of media markers, or is too long.
    pub fn ask(&self, task: &Task, media: &[&Medium], generation: &Generation) -> Result<Answer> {
        let media_kv = media.iter().map(|medium| self.media_kv(medium)).collect::<Result<Vec<_>>>()?;
        let prompt = self.prompt(task, media.len())?;
        let Loaded { model, stop_criteria, .. } = &self.loaded;
        let completion = on_rayon(|| generate(model, &prompt, &media_kv, generation, stop_criteria))?;
        self.read(task, prompt.len(), &completion)
    }

    /// Computes the log-likelihood of each answer after a prompt, including the end of the chunk.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn score(&self, prompt: &Prompt, media: &[&Medium], answers: &[impl AsRef<str>]) -> Result<Vec<f64>> {
        let Loaded { model, tokenizer, tokens, format, .. } = &self.loaded;
        let prompt = prompt.encode(tokenizer, tokens, media.len())?;
        let media_kv = media.iter().map(|medium| self.media_kv(medium)).collect::<Result<Vec<_>>>()?;
        let continuation = |answer: &_| {
            let mut ids =
                tokenizer.encode_plain(&format!("{}{}", format.before_answer, AsRef::as_ref(answer)))?;
            ids.push(tokens.end_of_chunk);
            Ok(ids)
        };
        let continuations = answers.iter().map(continuation).collect::<Result<Vec<_>>>()?;
        on_rayon(|| score(model, &prompt, &media_kv, &continuations))
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
