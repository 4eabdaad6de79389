//! Contrastive training (CLIP's symmetric loss; Flamingo's first version, appendix B.1.3), in its two places: single
//! frames against captions, which trains the vision encoder, and whole videos against captions and their near misses,
//! which warms up the resampler before any language model is there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use candle_core::{D, Device, Tensor, Var};
use rand::seq::IndexedRandom;
use rand::{SeedableRng, rngs::StdRng};
use rayon::prelude::*;

use super::config::ContrastiveConfig;
use super::features::FeatureCache;
use super::optimiser::{Gradients, accumulate, gradients};
use super::run::{Evaluation, Figures, Objective};
use super::spriteworld::{Clip, Split, World};
use super::text_tower::TextTower;
use crate::error::Result;
use crate::model::{JointSpace, PerceiverResampler};
use crate::vision::nfnet::NfNet;
use crate::vision::{Preprocess, VisionEncoder};

/// Random choices of one update: of the seed, the stage and the step alone.
pub(super) fn rng_of(seed: u64, stage: &str, step: u64) -> StdRng {
    let mix = stage
        .bytes()
        .fold(seed ^ 0x9e37_79b9_7f4a_7c15, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    StdRng::seed_from_u64(mix ^ step.wrapping_mul(0xd134_2543_de82_ef95))
}

/// A text tower that reads every text once.
pub struct Texts {
    tower: TextTower,
    known: Mutex<HashMap<String, Tensor>>,
}

impl Texts {
    pub fn new(tower: TextTower) -> Self {
        Self { tower, known: Mutex::default() }
    }

    /// Pooled states (n, d). Each text goes through the tower alone, so that its state does not depend on others.
    fn states(&self, texts: &[String]) -> Result<Tensor> {
        let state = |text: &String| {
            if let Some(state) = self.known.lock().expect("texts lock").get(text) {
                return Ok(state.clone());
            }
            let state = self.tower.encode(std::slice::from_ref(text))?.detach();
            self.known.lock().expect("texts lock").insert(text.clone(), state.clone());
            Ok(state)
        };
        Ok(Tensor::cat(&texts.par_iter().map(state).collect::<Result<Vec<_>>>()?, 0)?)
    }
}

/// The captions of a batch: one for each clip, and which of them are true of which clip.
struct Captions {
    states: Tensor,
    /// (b, b): 1 where caption j is one of clip i's, in the same words.
    fits: Tensor,
    /// (b, k, d): false of clip i in one fact.
    near_misses: Option<Tensor>,
}

impl Captions {
    fn draw(
        clips: &[Clip],
        near_misses: usize,
        texts: &Texts,
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

    /// The symmetric loss of pooled media (b, d), and what is recorded of it: the share of media whose nearest caption
    /// is true, and of those that are nearer to their own than to its near misses.
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
            let told_apart = rows().filter(|(i, (row, _))| row[*i] > highest(&row[b..]));
            figures.push(("told_apart", share(told_apart.count())));
        }
        Ok(((loss * 0.5)?, figures))
    }
}

/// Mean over rows of the cross-entropy of `logits` (b, n) to the rows of `fits` (b, m), m <= n, each made to sum to 1;
/// of what lies beyond m nothing fits.
fn cross_entropy(logits: &Tensor, fits: &Tensor, smoothing: f64) -> Result<Tensor> {
    let (_, n) = logits.dims2()?;
    let m = fits.dim(1)?;
    let target = fits.broadcast_div(&fits.sum_keepdim(1)?)?;
    let target = target.affine(1.0 - smoothing, smoothing / m as f64)?.pad_with_zeros(1, 0, n - m)?;
    let log_probabilities = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    Ok((log_probabilities * target)?.sum(1)?.mean_all()?.neg()?)
}

/// A loss over a whole batch whose media are encoded in shards, side by side: the graph of each shard is walked back
/// alone, from the gradient of its own outputs.
fn in_shards<S: Sync>(
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

/// Stage 1: the vision encoder and the frames' joint space.
pub struct FramesAgainstCaptions<'a> {
    pub world: &'a World,
    /// The same world, of scenes at rest in which number and place are told: every second picture is one of them.
    pub arranged: &'a World,
    pub texts: &'a Texts,
    pub config: &'a ContrastiveConfig,
    pub preprocess: &'a Preprocess,
    pub encoder: &'a NfNet,
    pub space: &'a JointSpace,
    pub parameters: BTreeMap<String, Var>,
    pub device: &'a Device,
    pub seed: u64,
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
        let clip = |i: u64| match i % 2 {
            0 => self.world.image_clip(Split::Train, i),
            _ => self.arranged.clip(Split::Train, i),
        };
        let clips: Vec<Clip> = (first..first + batch as u64).map(clip).collect();
        let mut rng = rng_of(self.seed, self.name(), step);
        let captions = Captions::draw(&clips, 0, self.texts, &mut rng, self.device)?;
        let shards: Vec<&[Clip]> = clips.chunks(batch.div_ceil(self.shards)).collect();
        let encode = |clips: &&[Clip]| {
            let frames: Vec<_> =
                clips.iter().map(|clip| self.preprocess.frame(&clip.frame_at(0.0))).collect();
            let pixels = self.preprocess.pixels(&frames, self.device, candle_core::DType::F32)?;
            Ok(self.encoder.encode(&pixels)?.mean(1)?) // (n, d)
        };
        let loss = |pooled: &Tensor| captions.loss(self.space, pooled, self.config.label_smoothing);
        in_shards(&shards, &self.parameters, encode, loss)
    }
}

/// Whole videos on cached features. Stage 1b: the resampler with its temporal embedding, and the videos' joint space; at the
/// end once more that space alone, for the resampler as stage 2 has left it.
pub struct VideosAgainstCaptions<'a> {
    pub name: &'static str,
    pub world: &'a World,
    pub texts: &'a Texts,
    pub config: &'a ContrastiveConfig,
    pub features: &'a FeatureCache,
    pub resampler: &'a PerceiverResampler,
    pub space: &'a JointSpace,
    pub parameters: BTreeMap<String, Var>,
    pub device: &'a Device,
    pub seed: u64,
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
        let mut rng = rng_of(self.seed, self.name(), step);
        let indices = self.features.draw(self.config.batch, &mut rng);
        let clips: Vec<Clip> = indices.iter().map(|&i| self.world.clip(Split::Train, i)).collect();
        let captions = Captions::draw(&clips, self.config.near_misses, self.texts, &mut rng, self.device)?;
        let shards: Vec<&[u64]> = indices.chunks(indices.len().div_ceil(self.shards)).collect();
        let encode = |indices: &&[u64]| {
            let (features, lengths) = self.features.batch(indices, self.device)?;
            Ok(self.resampler.forward(&features, &lengths)?.mean(1)?) // (n, d)
        };
        let loss = |pooled: &Tensor| captions.loss(self.space, pooled, self.config.label_smoothing);
        in_shards(&shards, &self.parameters, encode, loss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix<const M: usize, const N: usize>(rows: [[f32; N]; M]) -> Tensor {
        Tensor::new(&rows, &Device::Cpu).unwrap()
    }

    /// By hand: the first row fits both columns of the batch (half each), the second its own; the third column is a near
    /// miss and fits nothing.
    #[test]
    fn several_captions_may_be_true() {
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
    fn shards_give_the_gradient_of_the_whole() {
        let weight = Var::from_tensor(&matrix([[0.3, -0.2], [0.1, 0.7], [-0.5, 0.4]])).unwrap();
        let parameters = BTreeMap::from([("weight".to_string(), weight.clone())]);
        let x =
            matrix([[1.0, 2.0, 3.0], [0.5, -1.0, 0.0], [2.0, 0.0, 1.0], [-1.0, 1.0, 1.0], [0.0, 3.0, 1.0]]);
        // Every row's share depends on all rows.
        let loss = |y: &Tensor| -> Result<(Tensor, Figures)> {
            Ok((y.matmul(&y.t()?)?.sqr()?.sum_all()?, Figures::new()))
        };
        let whole = loss(&x.matmul(&weight).unwrap()).unwrap().0.backward().unwrap();
        let whole = whole.get(&weight).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let shards = [x.narrow(0, 0, 2).unwrap(), x.narrow(0, 2, 3).unwrap()];
        let encode = |x: &Tensor| Ok(x.matmul(&weight)?);
        let sharded = in_shards(&shards, &parameters, encode, loss).unwrap().gradients;
        let sharded = sharded["weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (a, b) in whole.iter().zip(&sharded) {
            assert!((a - b).abs() < 1e-3 * a.abs().max(1.0), "{whole:?} {sharded:?}");
        }
    }
}
