//! Measurements of the stages: one function per table row, which runs a stage repeatedly.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use flamingo::generate::{
    Decoder, Generation, KvReservation, RowId, Scores, StopCriteria, Strategy, generate,
};
use flamingo::kernels::threads::on_rayon;
use flamingo::model::{Flamingo, MediaKv};
use flamingo::video::FrameSampling;
use flamingo::vision::VisionEncoder;
use inference::context::Cancel;
use inference::decoder::{DecodeRequest, decode};

use super::cost::Cost;
use super::model::BenchModel;
use crate::process::own_executable;

/// Frames per medium, as in the training of the paper.
const FRAMES: usize = 8;
/// Decode steps for which a sequence has room; after them, the batch is admitted again.
const DECODE_STEPS: usize = 64;
/// Tokens of each answer in the end-to-end measurement.
const ANSWER_TOKENS: usize = 16;

/// Measurement of one stage: name, times, and costs.
pub struct Measurement {
    pub name: &'static str,
    pub batch: usize,
    pub unit: &'static str,
    /// Units per run.
    pub units: f64,
    /// Seconds of each run.
    pub seconds: Vec<f64>,
    /// Costs of one run, by consecutive stages.
    pub stages: Vec<Cost>,
}

/// Repeats a run, and measures its time on a device.
pub struct Timer<'a> {
    pub device: &'a Device,
    /// Seconds per measurement.
    pub seconds: f64,
}

impl Timer<'_> {
    /// Runs once to warm up, then repeatedly until the time is over: at least three times, unless that takes ten times as
    /// long.
    fn repeat(&self, mut run: impl FnMut() -> anyhow::Result<f64>) -> anyhow::Result<Vec<f64>> {
        run()?;
        let (begin, mut seconds) = (Instant::now(), Vec::new());
        loop {
            seconds.push(run()?);
            let (spent, enough) = (begin.elapsed().as_secs_f64(), seconds.len() >= 3);
            if spent >= self.seconds && (enough || spent >= 10.0 * self.seconds) {
                return Ok(seconds);
            }
        }
    }

    /// Seconds of one run, until the device is idle.
    fn time(&self, run: impl FnOnce() -> flamingo::Result<()> + Send) -> anyhow::Result<f64> {
        let start = Instant::now();
        on_rayon(run)?;
        self.device.synchronize()?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// Measures the vision encoder: pixels (n, 3, size, size) -> features.
pub fn encoder(
    encoder: &dyn VisionEncoder,
    target: &BenchModel,
    timer: &Timer,
    n: usize,
) -> anyhow::Result<Measurement> {
    let side = target.shape.vision.preprocess().size as usize;
    let pixels = random(target, (n, 3, side, side))?;
    let seconds = timer.repeat(|| timer.time(|| encoder.encode(&pixels).map(drop)))?;
    let stages = vec![target.cost_model().encoder(n)];
    Ok(Measurement { name: "encoder", batch: n, unit: "images/s", units: n as f64, seconds, stages })
}

/// Measures the connector, in the paper a resampler: features of one medium -> visual tokens.
pub fn connector(model: &Flamingo, target: &BenchModel, timer: &Timer) -> anyhow::Result<Measurement> {
    let (patches, width) = target.cost_model().features();
    let features = random(target, (FRAMES, patches, width))?;
    let seconds = timer.repeat(|| timer.time(|| model.connect(&features, &[FRAMES]).map(drop)))?;
    let stages = vec![target.cost_model().connector(FRAMES)];
    Ok(Measurement { name: "resampler", batch: 1, unit: "videos/s", units: 1.0, seconds, stages })
}

/// Measures the language model with cross-attention. Every sequence has the same prompt: its media token, then other tokens.
pub struct LanguageBench<'m> {
    pub model: &'m Flamingo,
    pub target: &'m BenchModel,
    pub media_token: u32,
    pub prompt_tokens: usize,
}

impl LanguageBench<'_> {
    /// Prefill of `batch` prompts, up to the log-probabilities of the next token. The decoder may split them into several
    /// passes; the floor is that of one pass.
    pub fn prefill(&self, timer: &Timer, batch: usize) -> anyhow::Result<Measurement> {
        let media = self.media(batch)?;
        let mut decoder = self.decoder(batch)?;
        let seconds = timer.repeat(|| {
            let mut next = Vec::new();
            let seconds = timer.time(|| {
                next = self.admit(&mut decoder, &media)?;
                Ok(())
            })?;
            next.into_iter().for_each(|(row, _)| decoder.retire(row));
            Ok(seconds)
        })?;
        let units = (batch * self.prompt_tokens) as f64;
        let stages = vec![self.target.cost_model().pass(batch, FRAMES, self.prompt_tokens, 0)];
        Ok(Measurement { name: "prefill", batch, unit: "tokens/s", units, seconds, stages })
    }

    /// Decode step of `batch` sequences after their prefill.
    pub fn decode(&self, timer: &Timer, batch: usize) -> anyhow::Result<Measurement> {
        let media = self.media(batch)?;
        let mut decoder = self.decoder(batch)?;
        let (mut next, mut past, mut pasts) = (Vec::new(), usize::MAX, Vec::new());
        let seconds = timer.repeat(|| {
            if past >= self.prompt_tokens + DECODE_STEPS {
                next.drain(..).for_each(|(row, _)| decoder.retire(row));
                (next, past) = (self.admit(&mut decoder, &media)?, self.prompt_tokens);
            }
            pasts.push(past);
            past += 1;
            timer.time(|| {
                next.iter().for_each(|&(row, token)| decoder.push(row, token));
                next = self.likeliest(decoder.step()?);
                Ok(())
            })
        })?;
        let pasts = &pasts[1..]; // the first one was the warm-up
        let past = pasts.iter().sum::<usize>() / pasts.len();
        let stages = vec![self.target.cost_model().pass(batch, FRAMES, 1, past)];
        Ok(Measurement { name: "decode", batch, unit: "tokens/s", units: batch as f64, seconds, stages })
    }

    /// Videos, one after the other: decoded in a child process, encoded, resampled, and answered greedily with 16 tokens.
    pub fn end_to_end(&self, timer: &Timer, files: &[PathBuf]) -> anyhow::Result<Measurement> {
        let mut frames = Vec::new();
        let seconds = timer.repeat(|| {
            let start = Instant::now();
            frames = files.iter().map(|file| self.answer(file)).collect::<anyhow::Result<_>>()?;
            Ok(start.elapsed().as_secs_f64())
        })?;
        let costs = self.target.cost_model();
        let stages = frames.iter().flat_map(|&n| {
            let media = [costs.encoder(n), costs.connector(n), costs.media_kv(n)];
            let prefill = costs.pass(1, n, self.prompt_tokens, 0);
            let steps = (0..ANSWER_TOKENS - 1).map(|step| costs.pass(1, n, 1, self.prompt_tokens + step));
            media.into_iter().chain([prefill]).chain(steps).collect::<Vec<_>>()
        });
        let stages = stages.collect();
        Ok(Measurement {
            name: "end to end",
            batch: 1,
            unit: "videos/s",
            units: files.len() as f64,
            seconds,
            stages,
        })
    }

    /// Answers one file, and returns the number of sampled frames.
    fn answer(&self, file: &Path) -> anyhow::Result<usize> {
        let preprocess = self.target.shape.vision.preprocess();
        let request = DecodeRequest::new(file, FrameSampling::default());
        let frames = decode(&own_executable()?, file, request, &Cancel::default())?
            .map(|frame| Ok(preprocess.frame(&frame?.image)));
        let frames = frames.collect::<anyhow::Result<Vec<_>>>()?;
        let pixels = preprocess.pixels(&frames, self.target.device(), self.target.options.dtype)?;
        let generation = Generation { strategy: Strategy::Greedy {}, max_new_tokens: ANSWER_TOKENS };
        let rules = StopCriteria { stop: Vec::new(), suppressed: vec![self.media_token] };
        on_rayon(|| {
            let tokens = self.model.visual_tokens(&[pixels.into()], None)?;
            let media = [self.model.media_kv(&tokens[0])?];
            generate(self.model, &self.prompt(), &media, &generation, &rules)
        })?;
        Ok(frames.len())
    }

    fn decoder(&self, rows: usize) -> flamingo::Result<Decoder<'_>> {
        let demand = KvReservation { prompt: self.prompt_tokens, new_tokens: DECODE_STEPS, rows: 1 };
        Decoder::new(self.model, rows * demand.blocks())
    }

    /// Admits a sequence per medium and runs its prefill. Returns the sequences with their next tokens.
    fn admit(&self, decoder: &mut Decoder, media: &[Arc<MediaKv>]) -> flamingo::Result<Vec<(RowId, u32)>> {
        for medium in media {
            decoder.admit(self.prompt(), vec![medium.clone()], DECODE_STEPS, 1)?;
        }
        let mut next = Vec::new();
        while next.len() < media.len() {
            next.extend(self.likeliest(decoder.step()?));
        }
        Ok(next)
    }

    /// The likeliest token of each sequence that is not the media token.
    fn likeliest(&self, scores: Vec<Scores>) -> Vec<(RowId, u32)> {
        let best = |log_probs: &[f32]| {
            let ids = (0u32..).zip(log_probs).filter(|(id, _)| *id != self.media_token);
            ids.max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(id, _)| id)
        };
        scores.into_iter().map(|scores| (scores.row, best(&scores.log_probs))).collect()
    }

    fn prompt(&self) -> Vec<u32> {
        let vocabulary = self.model.language().sizes().vocabulary as u32;
        let others = (0..vocabulary).filter(|id| *id != self.media_token);
        std::iter::once(self.media_token).chain(others.step_by(37).cycle()).take(self.prompt_tokens).collect()
    }

    /// Keys and values of one medium per sequence.
    fn media(&self, rows: usize) -> anyhow::Result<Vec<Arc<MediaKv>>> {
        let tokens = random(self.target, self.target.cost_model().visual_tokens(FRAMES))?;
        (0..rows).map(|_| Ok(self.model.media_kv(&tokens)?)).collect()
    }
}

fn random(target: &BenchModel, shape: impl Into<candle_core::Shape>) -> anyhow::Result<Tensor> {
    let tensor = Tensor::rand(-1f32, 1f32, shape, &Device::Cpu)?;
    Ok(tensor.to_dtype(target.options.dtype)?.to_device(target.device())?)
}

/// Whether the device supports convolutions in this dtype: candle has none in bf16 on the CPU.
pub fn supports_convolution(device: &Device, dtype: DType) -> bool {
    let zeros = |shape| Tensor::zeros(shape, dtype, device);
    zeros((1, 2, 4, 4)).and_then(|x| x.conv2d(&zeros((2, 2, 3, 3))?, 0, 1, 1, 1)).is_ok()
}
