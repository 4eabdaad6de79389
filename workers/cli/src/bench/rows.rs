//! The rows of the table: a plain function for each, which runs one thing again and again.

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
use video_worker::decoder::{DecodeRequest, decode};

use super::subject::Subject;
use super::work::Work;
use crate::args::program;

/// Frames of a medium: what the paper trains with.
const FRAMES: usize = 8;
/// Steps for which a row of a decoding batch has room; then the batch is admitted anew.
const STEPS: usize = 64;
/// Tokens of every answer from file to answer.
const ANSWER: usize = 16;

/// One row: what was run, how long it took each time, and what it did.
pub struct Row {
    pub name: &'static str,
    pub batch: usize,
    pub unit: &'static str,
    /// Units per run.
    pub units: f64,
    pub seconds: Vec<f64>,
    /// What one run does, stage by stage: none begins before the one before it has ended.
    pub work: Vec<Work>,
}

/// How long, and on what.
pub struct Timer<'a> {
    pub device: &'a Device,
    /// Seconds that a row may take.
    pub seconds: f64,
}

impl Timer<'_> {
    /// Warms up once, then runs until the time is over: at least three times, unless that takes ten times as long.
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

    /// Seconds until the device has done it.
    fn time(&self, run: impl FnOnce() -> flamingo::Result<()> + Send) -> anyhow::Result<f64> {
        let start = Instant::now();
        on_rayon(run)?;
        self.device.synchronize()?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// Frames of the encoder's size -> features.
pub fn encoder(
    encoder: &dyn VisionEncoder,
    subject: &Subject,
    timer: &Timer,
    n: usize,
) -> anyhow::Result<Row> {
    let side = subject.shape.vision.preprocess().size as usize;
    let pixels = random(subject, (n, 3, side, side))?;
    let seconds = timer.repeat(|| timer.time(|| encoder.encode(&pixels).map(drop)))?;
    let work = vec![subject.counter().encoder(n)];
    Ok(Row { name: "encoder", batch: n, unit: "images/s", units: n as f64, seconds, work })
}

/// Features of one medium -> visual tokens.
pub fn resampler(model: &Flamingo, subject: &Subject, timer: &Timer) -> anyhow::Result<Row> {
    let (patches, width) = subject.counter().features();
    let features = random(subject, (FRAMES, patches, width))?;
    let seconds = timer.repeat(|| timer.time(|| model.resample(&features, &[FRAMES]).map(drop)))?;
    let work = vec![subject.counter().resampler(FRAMES)];
    Ok(Row { name: "resampler", batch: 1, unit: "videos/s", units: 1.0, seconds, work })
}

/// A language model that looks at media, and the prompt of every row: the marker of its medium, then other tokens.
pub struct Reader<'m> {
    pub model: &'m Flamingo,
    pub subject: &'m Subject,
    pub media_token: u32,
    pub prompt_tokens: usize,
}

impl Reader<'_> {
    /// `batch` prompts through the model, up to the scores of their next tokens. The decoder takes as many in one pass as it
    /// likes; the floor is that of one pass.
    pub fn prefill(&self, timer: &Timer, batch: usize) -> anyhow::Result<Row> {
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
        let work = vec![self.subject.counter().pass(batch, self.prompt_tokens, 0)];
        Ok(Row { name: "prefill", batch, unit: "tokens/s", units, seconds, work })
    }

    /// One more token for each of `batch` rows that have read their prompts.
    pub fn decode(&self, timer: &Timer, batch: usize) -> anyhow::Result<Row> {
        let media = self.media(batch)?;
        let mut decoder = self.decoder(batch)?;
        let (mut next, mut past, mut pasts) = (Vec::new(), usize::MAX, Vec::new());
        let seconds = timer.repeat(|| {
            if past >= self.prompt_tokens + STEPS {
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
        let pasts = &pasts[1..]; // the first was to warm up
        let past = pasts.iter().sum::<usize>() / pasts.len();
        let work = vec![self.subject.counter().pass(batch, 1, past)];
        Ok(Row { name: "decode", batch, unit: "tokens/s", units: batch as f64, seconds, work })
    }

    /// Videos, one after the other: decoded in a child, encoded, resampled, and answered greedily with 16 tokens.
    pub fn end_to_end(&self, timer: &Timer, files: &[PathBuf]) -> anyhow::Result<Row> {
        let mut frames = Vec::new();
        let seconds = timer.repeat(|| {
            let start = Instant::now();
            frames = files.iter().map(|file| self.answer(file)).collect::<anyhow::Result<_>>()?;
            Ok(start.elapsed().as_secs_f64())
        })?;
        let counter = self.subject.counter();
        let work = frames.iter().flat_map(|&n| {
            let media = [counter.encoder(n), counter.resampler(n), counter.media_keys()];
            let prefill = counter.pass(1, self.prompt_tokens, 0);
            let steps = (0..ANSWER - 1).map(|step| counter.pass(1, 1, self.prompt_tokens + step));
            media.into_iter().chain([prefill]).chain(steps).collect::<Vec<_>>()
        });
        let work = work.collect();
        Ok(Row { name: "end to end", batch: 1, unit: "videos/s", units: files.len() as f64, seconds, work })
    }

    /// The number of frames that were looked at.
    fn answer(&self, file: &Path) -> anyhow::Result<usize> {
        let preprocess = self.subject.shape.vision.preprocess();
        let request = DecodeRequest::new(file, FrameSampling::default());
        let frames = decode(&program()?, file, request)?.map(|frame| Ok(preprocess.frame(&frame?.image)));
        let frames = frames.collect::<anyhow::Result<Vec<_>>>()?;
        let pixels = preprocess.pixels(&frames, self.subject.device(), self.subject.options.dtype)?;
        let generation = Generation { strategy: Strategy::Greedy {}, max_new_tokens: ANSWER };
        let rules = StopCriteria { stop: Vec::new(), suppressed: vec![self.media_token] };
        on_rayon(|| {
            let tokens = self.model.visual_tokens(&[pixels], None)?;
            let media = [self.model.media_kv(&tokens[0])?];
            generate(self.model, &self.prompt(), &media, &generation, &rules)
        })?;
        Ok(frames.len())
    }

    fn decoder(&self, rows: usize) -> flamingo::Result<Decoder<'_>> {
        let demand = KvReservation { prompt: self.prompt_tokens, new_tokens: STEPS, rows: 1 };
        Decoder::new(self.model, rows * demand.blocks())
    }

    /// Reads the prompts of new rows to the end: -> the rows and what each goes on with.
    fn admit(&self, decoder: &mut Decoder, media: &[Arc<MediaKv>]) -> flamingo::Result<Vec<(RowId, u32)>> {
        for medium in media {
            decoder.admit(self.prompt(), vec![medium.clone()], STEPS, 1)?;
        }
        let mut next = Vec::new();
        while next.len() < media.len() {
            next.extend(self.likeliest(decoder.step()?));
        }
        Ok(next)
    }

    /// Of each row, the likeliest token that is no marker.
    fn likeliest(&self, scores: Vec<Scores>) -> Vec<(RowId, u32)> {
        let best = |log_probs: &[f32]| {
            let ids = (0u32..).zip(log_probs).filter(|(id, _)| *id != self.media_token);
            ids.max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(id, _)| id)
        };
        scores.into_iter().map(|scores| (scores.row, best(&scores.log_probs))).collect()
    }

    fn prompt(&self) -> Vec<u32> {
        let vocabulary = self.model.language().vocabulary() as u32;
        let others = (0..vocabulary).filter(|id| *id != self.media_token);
        std::iter::once(self.media_token).chain(others.step_by(37).cycle()).take(self.prompt_tokens).collect()
    }

    /// A medium for each row.
    fn media(&self, rows: usize) -> anyhow::Result<Vec<Arc<MediaKv>>> {
        let config = &self.subject.shape.model.resampler;
        let tokens = random(self.subject, (config.latents, config.width))?;
        (0..rows).map(|_| Ok(self.model.media_kv(&tokens)?)).collect()
    }
}

fn random(subject: &Subject, shape: impl Into<candle_core::Shape>) -> anyhow::Result<Tensor> {
    let tensor = Tensor::rand(-1f32, 1f32, shape, &Device::Cpu)?;
    Ok(tensor.to_dtype(subject.options.dtype)?.to_device(subject.device())?)
}

/// Whether a vision encoder can compute in this dtype on this device: candle has no convolution in bf16 on the CPU.
pub fn convolves(device: &Device, dtype: DType) -> bool {
    let zeros = |shape| Tensor::zeros(shape, dtype, device);
    zeros((1, 2, 4, 4)).and_then(|x| x.conv2d(&zeros((2, 2, 3, 3))?, 0, 1, 1, 1)).is_ok()
}
