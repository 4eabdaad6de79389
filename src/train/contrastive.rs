//! Contrastive training (the symmetric loss of CLIP; Flamingo, appendix B.1.3 of its first version) for two
//! purposes: single frames against captions train the vision encoder, and whole videos against captions and
//! their near misses warm up the resampler without a language model.

use std::collections::BTreeMap;

use candle_core::{D, Device, Tensor, Var};
use quick_cache::sync::Cache;
use rand::seq::IndexedRandom;
use rand::{SeedableRng, rngs::StdRng};
use rayon::prelude::*;

use super::config::ContrastiveConfig;
use super::features::FeatureCache;
use super::optimiser::{Gradients, accumulate, gradients};
use super::run::{Evaluation, Figures, Objective};
use super::spriteworld::{Clip, Split, World};
use crate::error::Result;
use crate::model::{JointSpace, PerceiverResampler};
use crate::search::TextTower;
use crate::vision::{Preprocess, VisionEncoder};

/// Random generator of one update: a function of the seed, the stage and the step only.
pub(super) fn step_rng(seed: u64, stage: &str, step: u64) -> StdRng {
    let mix = stage
        .bytes()
        .fold(seed ^ 0x9e37_79b9_7f4a_7c15, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    StdRng::seed_from_u64(mix ^ step.wrapping_mul(0xd134_2543_de82_ef95))
}

/// Number of texts that the cache of the text tower keeps: 50 MB of states with 384 channels.
const CACHED_TEXTS: usize = 1 << 15;

/// Text tower with a cache, because captions repeat.
pub struct CachedTextTower {
    tower: TextTower,
    cache: Cache<String, Tensor>,
}

impl CachedTextTower {
    /// Adds an empty cache to a text tower.
    pub fn new(tower: TextTower) -> Self {
        Self { tower, cache: Cache::new(CACHED_TEXTS) }
    }

    /// Returns pooled states (n, d). Each text is encoded separately, so its state does not depend on the
    /// others.
    fn states(&self, texts: &[String]) -> Result<Tensor> {
        let state = |text: &String| {
            self.cache
                .get_or_insert_with(text, || Ok(self.tower.encode(std::slice::from_ref(text))?.detach()))
        };
        Ok(Tensor::cat(&texts.par_iter().map(state).collect::<Result<Vec<_>>>()?, 0)?)
    }
}

/// Captions of a batch, one per clip, and the clips that each of them fits.
struct Captions {
    states: Tensor,
    /// (b, b): 1 if caption j is literally one of the captions of clip i, else 0.
    fits: Tensor,
    /// (b, k, d): states of captions that are false of clip i in one fact.
    near_misses: Option<Tensor>,
}

impl Captions {
    fn draw(
        clips: &[Clip],
        near_misses: usize,
        texts: &CachedTextTower,
        rng: &mut StdRng,
        device: &Device,
    ) -> Result<Self> {
        let all: Vec<Vec<String>> = clips.iter().map(Clip::captions).collect();
        let chosen: Vec<String> =
            all.iter().map(|of| of.choose(rng).expect("a clip has a caption").clone()).collect();
        let fit = |of: &Vec<String>| chosen.iter().map(|c| f32::from(of.contains(c))).collect::<Vec<_>>();
        let fits: Vec<f32> = all.iter().flat_map(fit).collect();
        let b = clips.len();
        let misses = match near_misses {
            0 => None,
            k => {
                let of = |clip: &Clip| {
                    let misses = clip.near_misses();
                    (0..k)
                        .map(|_| misses.choose(rng).expect("a clip has a near miss").clone())
                        .collect::<Vec<_>>()
                };
                let misses: Vec<String> = clips.iter().flat_map(of).collect();
                Some(texts.states(&misses)?.reshape((b, k, ()))?.to_device(device)?)
            }
        };
        Ok(Self {
            states: texts.states(&chosen)?.to_device(device)?,
            fits: Tensor::from_vec(fits, (b, b), device)?,
            near_misses: misses,
        })
    }

    /// Computes the symmetric loss of pooled media (b, d) and its figures: the share of media with a true
    /// nearest caption, and the share of media that are nearer to their caption than to its near misses.
    fn loss(&self, space: &JointSpace, pooled: &Tensor, smoothing: f64) -> Result<(Tensor, Figures)> {
        let b = pooled.dim(0)?;
        let (media, texts, scale) = (space.of_media(pooled)?, space.of_text(&self.states)?, space.scale()?);
        let logits = media.matmul(&texts.t()?)?.broadcast_mul(&scale)?; // (b, b)
        let mut of_media = logits.clone();
        if let Some(near) = &self.near_misses {
            let (_, k, d) = near.dims3()?;
            let near = space.of_text(&near.reshape((b * k, d))?)?.reshape((b, k, ()))?;
            let near = near.matmul(&media.unsqueeze(2)?)?.squeeze(2)?.broadcast_mul(&scale)?; // (b, k)
            of_media = Tensor::cat(&[of_media, near], 1)?;
        }
        let loss = (cross_entropy(&of_media, &self.fits, smoothing)?
            + cross_entropy(&logits.t()?.contiguous()?, &self.fits.t()?.contiguous()?, smoothing)?)?;
        let of_media = of_media.to_vec2::<f32>()?;
        let highest = |row: &[f32]| row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let share = |right: usize| right as f64 / b as f64;
        let fits = self.fits.to_vec2::<f32>()?;
        let rows = || of_media.iter().zip(&fits).enumerate();
        let retrieved = rows().filter(|(_, (row, fits))| {
            let true_ones: Vec<f32> =
                row.iter().zip(fits.iter()).filter(|(_, f)| **f > 0.0).map(|(x, _)| *x).collect();
            highest(&true_ones) >= highest(row)
        });
        let mut figures = vec![("retrieved", share(retrieved.count()))];
        if self.near_misses.is_some() {
            let distinguished = rows().filter(|(i, (row, _))| row[*i] > highest(&row[b..]));
            figures.push(("distinguished", share(distinguished.count())));
        }
        Ok(((loss * 0.5)?, figures))
    }
}

/// Computes the mean cross-entropy of `logits` (b, n) with the rows of `fits` (b, m), m <= n, each normalised
/// to sum 1. Columns from m on fit no row.
fn cross_entropy(logits: &Tensor, fits: &Tensor, smoothing: f64) -> Result<Tensor> {
    let (_, n) = logits.dims2()?;
    let m = fits.dim(1)?;
    let target = fits.broadcast_div(&fits.sum_keepdim(1)?)?;
    let target = target.affine(1.0 - smoothing, smoothing / m as f64)?.pad_with_zeros(1, 0, n - m)?;
    let log_probabilities = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    Ok((log_probabilities * target)?.sum(1)?.mean_all()?.neg()?)
}

/// Computes a loss over a whole batch with media encoded in parallel shards. The backward pass of each shard
/// is separate and starts from the gradient of its outputs.
fn sharded_loss<S: Sync>(
    shards: &[S],
    parameters: &BTreeMap<String, Var>,
    encode: impl Fn(&S) -> Result<Tensor> + Sync,
    loss: impl FnOnce(&Tensor) -> Result<(Tensor, Figures)>,
) -> Result<Evaluation> {
    let outputs = shards.par_iter().map(&encode).collect::<Result<Vec<_>>>()?;
    let detached: Vec<Tensor> = outputs.iter().map(Tensor::detach).collect();
    let joined = Var::from_tensor(&Tensor::cat(&detached, 0)?)?;
    let (loss, figures) = loss(&joined)?;
    let store = loss.backward()?;
    let upstream = store.get(&joined).expect("the loss depends on the media").detach();
    let mut start = 0;
    let spans: Vec<_> = outputs
        .into_iter()
        .map(|output| {
            let len = output.dim(0)?;
            let part = upstream.narrow(0, start, len)?;
            start += len;
            Ok((output, part))
        })
        .collect::<Result<_>>()?;
    let of_shard = |(output, part): (Tensor, Tensor)| -> Result<Gradients> {
        Ok(gradients(parameters, &(output * part)?.sum_all()?.backward()?))
    };
    let mut total = gradients(parameters, &store);
    for shard in spans.into_par_iter().map(of_shard).collect::<Result<Vec<_>>>()? {
        accumulate(&mut total, shard)?;
    }
    let (loss, examples) = (f64::from(loss.to_scalar::<f32>()?), joined.dim(0)?);
    Ok(Evaluation { gradients: total, loss, figures, examples })
}

/// Objective of stage 1: the vision encoder and the joint space of frames.
pub struct FramesAgainstCaptions<'a> {
    /// World of the training clips.
    pub world: &'a World,
    /// The same world with still scenes; their captions give number and place. Every third picture is one of
    /// them.
    pub arranged: &'a World,
    /// World of another third of the pictures.
    pub pictures: &'a World,
    /// Text tower of the captions.
    pub texts: &'a CachedTextTower,
    /// Settings of the stage.
    pub config: &'a ContrastiveConfig,
    /// Preprocessing of frames.
    pub preprocess: &'a Preprocess,
    /// The vision encoder.
    pub encoder: &'a dyn VisionEncoder,
    /// Joint space of frames and captions.
    pub space: &'a JointSpace,
    /// Trained parameters by name.
    pub parameters: BTreeMap<String, Var>,
    /// Device of the model.
    pub device: &'a Device,
    /// Seed of all random choices.
    pub seed: u64,
    /// Parts of a batch that are computed in parallel.
    pub shards: usize,
}

impl Objective for FramesAgainstCaptions<'_> {
    fn name(&self) -> &'static str {
        "contrastive"
    }

    fn parameters(&self) -> BTreeMap<String, Var> {
        self.parameters.clone()
    }

    fn evaluate(&self, step: u64) -> Result<Evaluation> {
        let batch = self.config.batch;
        let first = step * batch as u64;
        let clip = |i: u64| match i % 3 {
            0 => self.world.image_clip(Split::Train, i),
            1 => self.pictures.image_clip(Split::Train, i),
            _ => self.arranged.clip(Split::Train, i),
        };
        let clips: Vec<Clip> = (first..first + batch as u64).map(clip).collect();
        let mut rng = step_rng(self.seed, self.name(), step);
        let captions = Captions::draw(&clips, 0, self.texts, &mut rng, self.device)?;
        let shards: Vec<&[Clip]> = clips.chunks(batch.div_ceil(self.shards)).collect();
        let encode = |clips: &&[Clip]| {
            let frames: Vec<_> =
                clips.iter().map(|clip| self.preprocess.frame(&clip.frame_at(0.0))).collect();
            let pixels = self.preprocess.pixels(&frames, self.device, candle_core::DType::F32)?;
            Ok(self.encoder.encode(&pixels)?.mean(1)?) // (n, d)
        };
        let loss = |pooled: &Tensor| captions.loss(self.space, pooled, self.config.label_smoothing);
        sharded_loss(&shards, &self.parameters, encode, loss)
    }
}

/// Objective of whole videos on cached features. Stage 1b trains the resampler with its temporal embedding
/// and the joint space of videos. The last stage trains that joint space again, for the resampler after stage
/// 2.
pub struct VideosAgainstCaptions<'a> {
    /// Name of the stage.
    pub name: &'static str,
    /// World of the training clips.
    pub world: &'a World,
    /// Text tower of the captions.
    pub texts: &'a CachedTextTower,
    /// Settings of the stage.
    pub config: &'a ContrastiveConfig,
    /// Cached visual features of the clips.
    pub features: &'a FeatureCache,
    /// The resampler.
    pub resampler: &'a PerceiverResampler,
    /// Joint space of videos and captions.
    pub space: &'a JointSpace,
    /// Trained parameters by name.
    pub parameters: BTreeMap<String, Var>,
    /// Device of the model.
    pub device: &'a Device,
    /// Seed of all random choices.
    pub seed: u64,
    /// Parts of a batch that are computed in parallel.
    pub shards: usize,
}

impl Objective for VideosAgainstCaptions<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn parameters(&self) -> BTreeMap<String, Var> {
        self.parameters.clone()
    }

    fn evaluate(&self, step: u64) -> Result<Evaluation> {
        let mut rng = step_rng(self.seed, self.name(), step);
        let indices = self.features.draw(self.config.batch, &mut rng);
        let clips: Vec<Clip> = indices.iter().map(|&i| self.world.clip(Split::Train, i)).collect();
        let captions = Captions::draw(&clips, self.config.near_misses, self.texts, &mut rng, self.device)?;
        let shards: Vec<&[u64]> = indices.chunks(indices.len().div_ceil(self.shards)).collect();
        let encode = |indices: &&[u64]| {
            let (features, lengths) = self.features.batch(indices, self.device)?;
            Ok(self.resampler.forward(&features, &lengths)?.mean(1)?) // (n, d)
        };
        let loss = |pooled: &Tensor| captions.loss(self.space, pooled, self.config.label_smoothing);
        sharded_loss(&shards, &self.parameters, encode, loss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix<const M: usize, const N: usize>(rows: [[f32; N]; M]) -> Tensor {
        Tensor::new(&rows, &Device::Cpu).unwrap()
    }

    /// Computed by hand: the first row fits both columns of the batch (half each), the second row fits its
    /// own. The third column is a near miss and fits no row.
    #[test]
    fn cross_entropy_allows_several_true_captions() {
        let logits = matrix([[2f32.ln(), 0.0, 0.0], [0.0, 3f32.ln(), 0.0]]);
        let fits = matrix([[1.0, 1.0], [0.0, 1.0]]);
        let loss = cross_entropy(&logits, &fits, 0.0).unwrap().to_scalar::<f32>().unwrap();
        let expected = -0.5 * (0.5 * (0.5f32.ln() + 0.25f32.ln()) + 0.6f32.ln());
        assert!((loss - expected).abs() < 1e-6, "{loss}, not {expected}");
        let smooth = cross_entropy(&logits, &fits, 0.2).unwrap().to_scalar::<f32>().unwrap();
        let second = -(0.9 * 0.6f32.ln() + 0.1 * 0.2f32.ln());
        let expected = 0.5 * (-0.5 * (0.5f32.ln() + 0.25f32.ln()) + second);
        assert!((smooth - expected).abs() < 1e-6, "{smooth}, not {expected}");
    }

    #[test]
    fn sharded_gradient_equals_whole_gradient() {
        let weight = Var::from_tensor(&matrix([[0.3, -0.2], [0.1, 0.7], [-0.5, 0.4]])).unwrap();
        let parameters = BTreeMap::from([("weight".to_string(), weight.clone())]);
        let x =
            matrix([[1.0, 2.0, 3.0], [0.5, -1.0, 0.0], [2.0, 0.0, 1.0], [-1.0, 1.0, 1.0], [0.0, 3.0, 1.0]]);
        // The loss of every row depends on all rows.
        let loss = |y: &Tensor| -> Result<(Tensor, Figures)> {
            Ok((y.matmul(&y.t()?)?.sqr()?.sum_all()?, Figures::new()))
        };
        let whole = loss(&x.matmul(&weight).unwrap()).unwrap().0.backward().unwrap();
        let whole = whole.get(&weight).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let shards = [x.narrow(0, 0, 2).unwrap(), x.narrow(0, 2, 3).unwrap()];
        let encode = |x: &Tensor| Ok(x.matmul(&weight)?);
        let sharded = sharded_loss(&shards, &parameters, encode, loss).unwrap().gradients;
        let sharded = sharded["weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (a, b) in whole.iter().zip(&sharded) {
            assert!((a - b).abs() < 1e-3 * a.abs().max(1.0), "{whole:?} {sharded:?}");
        }
    }
}
