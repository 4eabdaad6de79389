//! Cached visual features of many clips. The encoder is frozen after stage 1, and the later stages train on
//! these features.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rand::RngExt;
use rand::rngs::StdRng;
use rayon::prelude::*;

use super::run::{failed, write_atomic};
use super::spriteworld::{Split, World};
use crate::error::Result;
use crate::vision::{Preprocess, VisionEncoder};

/// Cache of features (t, s, d) in bf16 of the first clips of the training split.
pub struct FeatureCache {
    clips: Vec<Tensor>,
}

const FINGERPRINT: &str = "fingerprint";

impl FeatureCache {
    /// Reads the features from `path` if they have this `fingerprint`. Otherwise computes and writes them,
    /// and calls `on_progress` with the number of finished clips.
    ///
    /// # Errors
    /// The encoder failed, or the file cannot be written.
    pub fn open(
        path: &Path,
        fingerprint: &str,
        clips: usize,
        world: &World,
        (encoder, preprocess, device): (&dyn VisionEncoder, &Preprocess, &Device),
        on_progress: &mut dyn FnMut(usize),
    ) -> Result<Self> {
        if let Some(clips) = read(path, fingerprint, clips)? {
            return Ok(Self { clips });
        }
        let encode =
            |i: usize| features(&world.clip(Split::Train, i as u64).frames(), encoder, preprocess, device);
        let mut done = Vec::with_capacity(clips);
        /// Clips between two calls of `on_progress`.
        const CHUNK: usize = 64;
        for start in (0..clips).step_by(CHUNK) {
            let chunk = (start..clips.min(start + CHUNK)).into_par_iter().map(encode);
            done.extend(chunk.collect::<Result<Vec<_>>>()?);
            on_progress(done.len());
        }
        let named = done.iter().enumerate().map(|(i, t)| (i.to_string(), t.clone()));
        let metadata = HashMap::from([(FINGERPRINT.to_string(), fingerprint.to_string())]);
        let bytes = safetensors::serialize(named, Some(metadata))
            .map_err(|e| failed(format!("{}: {e}", path.display())))?;
        write_atomic(path, &bytes)?;
        Ok(Self { clips: done })
    }

    /// Number of cached clips.
    pub fn len(&self) -> usize {
        self.clips.len()
    }

    /// Whether the cache has no clips.
    pub fn is_empty(&self) -> bool {
        self.clips.is_empty()
    }

    /// Draws the indices of `n` clips.
    pub fn draw(&self, n: usize, rng: &mut StdRng) -> Vec<u64> {
        (0..n).map(|_| rng.random_range(0..self.clips.len() as u64)).collect()
    }

    /// Returns the features of these clips, (n, t, s, d) in f32, padded to the longest clip, and the number
    /// of frames of each.
    ///
    /// # Errors
    /// The tensor library refused an operation.
    pub fn batch(&self, indices: &[u64], device: &Device) -> Result<(Tensor, Vec<usize>)> {
        let clips: Vec<&Tensor> = indices.iter().map(|&i| &self.clips[i as usize]).collect();
        let lengths = clips.iter().map(|c| c.dim(0)).collect::<Result<Vec<_>, _>>()?;
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let padded = clips
            .iter()
            .zip(&lengths)
            .map(|(clip, n)| clip.to_device(device)?.to_dtype(DType::F32)?.pad_with_zeros(0, 0, longest - n))
            .collect::<candle_core::Result<Vec<_>>>()?;
        Ok((Tensor::stack(&padded, 0)?, lengths))
    }

    /// Root mean square of the features of the first 256 clips.
    ///
    /// # Errors
    /// The tensor library refused an operation.
    pub fn scale(&self) -> Result<f64> {
        let sample = self.clips.iter().take(256);
        let squares =
            sample.map(|c| Ok(f64::from(c.to_dtype(DType::F32)?.sqr()?.mean_all()?.to_scalar::<f32>()?)));
        let squares = squares.collect::<Result<Vec<f64>>>()?;
        Ok((squares.iter().sum::<f64>() / squares.len().max(1) as f64).sqrt())
    }
}

/// Encodes the frames of one clip: (t, s, d) in bf16 on the CPU.
fn features(
    frames: &[image::RgbImage],
    encoder: &dyn VisionEncoder,
    preprocess: &Preprocess,
    device: &Device,
) -> Result<Tensor> {
    let frames: Vec<_> = frames.iter().map(|frame| preprocess.frame(frame)).collect();
    let pixels = preprocess.pixels(&frames, device, DType::F32)?;
    // The result must not keep the graph of a trainable encoder.
    Ok(encoder.encode(&pixels)?.detach().to_dtype(DType::BF16)?.to_device(&Device::Cpu)?)
}

/// Reads the clips if the file exists, is complete and has this fingerprint.
fn read(path: &Path, fingerprint: &str, clips: usize) -> Result<Option<Vec<Tensor>>> {
    let Ok(bytes) = std::fs::read(path) else { return Ok(None) };
    let Ok((_, header)) = safetensors::SafeTensors::read_metadata(&bytes) else { return Ok(None) };
    let metadata = header.metadata().as_ref();
    if metadata.and_then(|m| m.get(FINGERPRINT)).map(String::as_str) != Some(fingerprint) {
        return Ok(None);
    }
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?;
    Ok((0..clips).map(|i| tensors.get(&i.to_string()).cloned()).collect())
}
