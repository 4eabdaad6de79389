//! Pipeline: from frames to an answer.

use std::borrow::Cow;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};
use image::RgbImage;

use crate::error::{Error, Result};
use crate::family::{self, FrameMode, LoadOptions, Loaded};
use crate::generate::{Completion, Finish, Generation, Goal, Output, SequencePlan, run_until};
use crate::kernels::threads::on_rayon;
use crate::model::{MediaKv, MediumPixels};
use crate::prompt::{Prompt, PromptIds};
use crate::task::{Choice, Plan, PlanOutput, Task, TaskAnswer};
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
    /// Presentation time of the frame that is shown at every sampled moment, in seconds after the first frame of the video.
    pub frame_times: Vec<f64>,
    /// Number of first visual tokens that are visible, if the others are padding that some positions attend to.
    visible: Option<usize>,
    /// Keys and values at every gated cross-attention, projected on first use. Clones share them.
    kv: Arc<OnceLock<Arc<MediaKv>>>,
}

impl Medium {
    /// Creates a medium of visual tokens (q, d).
    pub fn new(visual_tokens: Tensor, frame_times: Vec<f64>) -> Self {
        Self { visual_tokens, frame_times, visible: None, kv: Arc::default() }
    }
}

/// Returns the frame times of each medium.
pub fn frame_times<'m>(media: &[&'m Medium]) -> Vec<&'m [f64]> {
    media.iter().map(|medium| &medium.frame_times[..]).collect()
}

/// Answer to a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Text of the answer; empty for a task that scores choices.
    pub text: String,
    /// Scores of the choices, for a task that scores them.
    pub choice: Option<Choice>,
    /// Reason for the end.
    pub finish: Finish,
    /// Natural log-likelihood of all generated tokens together, or of the likeliest choice.
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

    /// Resizes a frame for the encoder, so that the caller can drop the original.
    pub fn prepare(&self, frame: &Frame) -> Frame {
        let image = self.loaded.preprocess.frame(&frame.image);
        Frame { pts: frame.pts, moments: frame.moments.clone(), image }
    }

    /// Returns the normalised pixels of prepared frames, each shown at all its moments.
    ///
    /// # Errors
    /// The device refuses an operation.
    pub fn pixels(&self, prepared: &[Frame]) -> Result<MediumPixels> {
        let Pipeline { loaded, options } = self;
        if loaded.frame_mode != FrameMode::Joint {
            return self.chosen_pixels(prepared);
        }
        let images: Vec<_> = prepared.iter().map(|f| &f.image).collect();
        let pictures = loaded.preprocess.pixels(&images, &options.device, options.dtype)?;
        let repeats = prepared.iter().any(|frame| frame.moments.len() != 1);
        let shown = || prepared.iter().zip(0..).flat_map(|(f, picture)| vec![picture; f.moments.len()]);
        let grids = loaded.preprocess.grids(&images)?;
        Ok(MediumPixels { pictures, grids, shown: repeats.then(|| shown().collect()) })
    }

    /// Returns the pixels of the frames that a model without temporal training takes, or of their contact sheet.
    fn chosen_pixels(&self, prepared: &[Frame]) -> Result<MediumPixels> {
        let Loaded { preprocess, frame_mode, .. } = &self.loaded;
        let chosen = frame_mode.choose(prepared.len()).into_iter().map(|i| &prepared[i].image);
        let chosen: Vec<Cow<RgbImage>> = match frame_mode {
            FrameMode::Sheet if prepared.len() > 1 => {
                vec![Cow::Owned(preprocess.sheet(&chosen.collect::<Vec<_>>()))]
            }
            FrameMode::Sheet | FrameMode::Joint | FrameMode::Sequence => chosen.map(Cow::Borrowed).collect(),
        };
        let images: Vec<&RgbImage> = chosen.iter().map(AsRef::as_ref).collect();
        let pictures = preprocess.pixels(&images, &self.options.device, self.options.dtype)?;
        Ok(MediumPixels { pictures, grids: preprocess.grids(&images)?, shown: None })
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
        let pictures = media.iter().map(|frames| frames.len()).sum::<usize>();
        tracing::debug!(media = media.len(), pictures, "encoded");
        let times = |frames: &&[Frame]| frames.iter().flat_map(|f| vec![f.pts; f.moments.len()]).collect();
        let medium = |((visual_tokens, frames), pixels): ((Tensor, _), &MediumPixels)| {
            let visible = Some(self.loaded.model.visible_tokens(pixels, visual_tokens.dim(0)?)?);
            Ok(Medium { visible, ..Medium::new(visual_tokens, times(frames)) })
        };
        tokens.into_iter().zip(media).zip(&pixels).map(medium).collect()
    }

    /// Returns the keys and values of a medium at every gated cross-attention. The medium keeps them, so they are projected
    /// once for all prompts.
    ///
    /// # Errors
    /// The visual tokens have another width than the model expects.
    pub fn media_kv(&self, medium: &Medium) -> Result<Arc<MediaKv>> {
        if let Some(kv) = medium.kv.get() {
            return Ok(kv.clone());
        }
        let kv = self.project_media(medium)?;
        Ok(medium.kv.get_or_init(|| kv).clone())
    }

    /// Projects a medium to keys and values at every gated cross-attention, for a cache with a budget of its own.
    ///
    /// # Errors
    /// The visual tokens have another width than the model expects.
    pub fn project_media(&self, medium: &Medium) -> Result<Arc<MediaKv>> {
        let kv = on_rayon(|| self.project(medium))?;
        tracing::debug!(bytes = kv.bytes(), "projected");
        Ok(kv)
    }

    fn project(&self, medium: &Medium) -> Result<Arc<MediaKv>> {
        let Loaded { model, frame_mode, .. } = &self.loaded;
        let q = medium.visual_tokens.dim(0)?;
        if medium.visible.is_none() && model.attends_to_padding() {
            return Err(Error::Prompt("stored visual tokens do not tell which of them are padding".into()));
        }
        let visible = medium.visible.unwrap_or(q);
        let pictures = match frame_mode {
            FrameMode::Sequence => frame_mode.describe(&medium.frame_times).markers,
            FrameMode::Joint | FrameMode::Sheet => 1,
        };
        let (own, padding) = (visible / pictures, (q - visible) / pictures);
        if own * pictures != visible || padding * pictures != q - visible {
            return Err(Error::Prompt(format!(
                "{q} visual tokens, {visible} visible, of {pictures} pictures"
            )));
        }
        let picture = |i: usize| {
            let tokens = medium.visual_tokens.narrow(0, i * own, own)?;
            let padding = medium.visual_tokens.narrow(0, visible + i * padding, padding)?;
            model.padded_media_kv(&Tensor::cat(&[tokens, padding], 0)?, own)
        };
        match pictures {
            1 => model.padded_media_kv(&medium.visual_tokens, visible),
            _ => Ok(Arc::new(MediaKv::sequence((0..pictures).map(picture).collect::<Result<_>>()?))),
        }
    }

    /// Returns the plan of the sequence that answers a task over media; `frame_times` are [`Medium::frame_times`] of each.
    ///
    /// # Errors
    /// The prompt has another number of media markers, or the tokenizer refuses a text.
    pub fn plan(&self, task: &Task, frame_times: &[&[f64]], generation: &Generation) -> Result<SequencePlan> {
        let plan = task.plan(&self.loaded.format);
        let prompt = self.described(plan.prompt(), frame_times)?;
        let goal = match &plan {
            Plan::Generate(_) => Goal::Generate {
                generation: generation.clone(),
                stop_criteria: self.loaded.stop_criteria.clone(),
            },
            Plan::Score { choices, .. } => {
                Goal::Score { continuations: self.continuations(&prompt, choices)? }
            }
        };
        self.plan_with(&prompt, goal)
    }

    /// Adds to a prompt what the frame mode says about the frames of its media.
    fn described(&self, prompt: &Prompt, frame_times: &[&[f64]]) -> Result<Prompt> {
        let (markers, media) = (prompt.media(), frame_times.len());
        if markers != media {
            return Err(Error::Prompt(format!("{markers} media markers, but {media} media")));
        }
        Ok(prompt.clone().describe_media(|i| self.loaded.frame_mode.describe(frame_times[i])))
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

    /// Reads the answer to `task` from the output of its sequence, whose prompt had `prompt_tokens` tokens.
    fn read(&self, task: &Task, prompt_tokens: usize, output: &Output) -> Result<Answer> {
        match output {
            Output::Completion(Completion { ids, log_likelihood, finish }) => {
                let text = self.loaded.tokenizer.decode(ids, true)?;
                let tokens = (prompt_tokens, ids.len());
                Ok(self.answer(task, PlanOutput::Text(&text), *finish, *log_likelihood, tokens))
            }
            Output::LogLikelihoods(scores) => {
                let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let output = PlanOutput::LogLikelihoods(scores);
                Ok(self.answer(task, output, Finish::Stop, best, (prompt_tokens, 0)))
            }
        }
    }

    fn answer(
        &self,
        task: &Task,
        output: PlanOutput,
        finish: Finish,
        log_likelihood: f64,
        (prompt_tokens, completion_tokens): (usize, usize),
    ) -> Answer {
        tracing::debug!(prompt_tokens, completion_tokens, ?finish, "answered");
        let (text, choice) = match task.read(&self.loaded.format, output) {
            TaskAnswer::Text(text) => (text, None),
            TaskAnswer::Choice(choice) => (String::new(), Some(choice)),
        };
        Answer { text, choice, finish, log_likelihood, prompt_tokens, completion_tokens }
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
        self.ask_with(tasks, &frame_times(media), generation, |plans| self.run_plans(plans, media))
    }

    /// Answers several tasks over media with these [`frame_times`](Medium::frame_times): plans a sequence per task, passes the plans to `run`, which returns an output
    /// per plan, in order, and reads the answers. Returns an answer per task, in order.
    pub fn ask_with<E: From<Error>>(
        &self,
        tasks: &[Task],
        frame_times: &[&[f64]],
        generation: &Generation,
        run: impl FnOnce(Vec<SequencePlan>) -> Vec<Result<Output, E>>,
    ) -> Vec<Result<Answer, E>> {
        let mut plans = Vec::with_capacity(tasks.len());
        let mut plan = |task| {
            let plan = self.plan(task, frame_times, generation)?;
            let prompt_tokens = plan.prompt.len();
            plans.push(plan);
            Ok(prompt_tokens)
        };
        let planned: Vec<Result<usize>> = tasks.iter().map(&mut plan).collect();
        let mut outputs = run(plans).into_iter();
        let answer = |(task, planned): (&Task, Result<usize>)| {
            let prompt_tokens = planned?;
            let output = outputs.next().expect("each plan has an output")?;
            Ok(self.read(task, prompt_tokens, &output)?)
        };
        tasks.iter().zip(planned).map(answer).collect()
    }

    /// Computes the log-likelihood of each answer after a prompt, including the end of the chunk.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn score(&self, prompt: &Prompt, media: &[&Medium], answers: &[impl AsRef<str>]) -> Result<Vec<f64>> {
        self.score_with(prompt, &frame_times(media), answers, |plans| self.run_plans(plans, media))
    }

    /// Computes the log-likelihood of each answer after a prompt over media with these [`frame_times`](Medium::frame_times): plans a sequence and passes it to `run`,
    /// which returns an output per plan.
    ///
    /// # Errors
    /// The prompt has another number of media markers, the tokenizer refuses a text, or `run` fails.
    pub fn score_with<E: From<Error>>(
        &self,
        prompt: &Prompt,
        frame_times: &[&[f64]],
        answers: &[impl AsRef<str>],
        run: impl FnOnce(Vec<SequencePlan>) -> Vec<Result<Output, E>>,
    ) -> Result<Vec<f64>, E> {
        if answers.is_empty() {
            return Ok(Vec::new());
        }
        let prompt = self.described(prompt, frame_times)?;
        let goal = Goal::Score { continuations: self.continuations(&prompt, answers)? };
        let plan = self.plan_with(&prompt, goal)?;
        Ok(run(vec![plan]).remove(0)?.into_log_likelihoods()?)
    }

    /// Runs sequences over the same media in one batch. Returns an output per plan, in order.
    fn run_plans(&self, plans: Vec<SequencePlan>, media: &[&Medium]) -> Vec<Result<Output>> {
        let outputs = self.run_plans_until(plans, media, &|| false);
        outputs
            .into_iter()
            .map(|output| output.expect("a batch that is not stopped has all outputs"))
            .collect()
    }

    /// Runs sequences over the same media in one batch, and stops between two tokens when `stop` returns true. Returns an
    /// output per plan, in order; sequences that are not complete then have none.
    pub fn run_plans_until(
        &self,
        plans: Vec<SequencePlan>,
        media: &[&Medium],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Vec<Option<Result<Output>>> {
        let mut requests = Vec::with_capacity(plans.len());
        let mut request = |plan: SequencePlan| {
            let media = media.iter().map(|medium| self.media_kv(medium)).collect::<Result<_>>()?;
            requests.push(plan.over(media));
            Ok(())
        };
        let projected: Vec<Result<()>> = plans.into_iter().map(&mut request).collect();
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
