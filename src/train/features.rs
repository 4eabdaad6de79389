//! Cached visual features of many clips. The encoder is frozen after stage 1, and the later stages train on
//! these features.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rand::RngExt;
use rand::rngs::StdRng;
use rayon::prelude::*;
use safetensors::SafeTensors;

use super::run::{failed, write_atomic};
use super::spriteworld::{Split, World};
use crate::error::Result;
use crate::vision::{Preprocess, VisionEncoder};

/// Clips per file.
const BLOCK: usize = 64;
const FINGERPRINT: &str = "fingerprint";

/// Cache of features (t, s, d) in bf16 of the first clips of the training split, in files that are read clip by clip.
pub struct FeatureCache {
    clips: usize,
    blocks: Vec<Block>,
}

/// File with the features of [`BLOCK`] clips.
struct Block {
    file: File,
    clips: Vec<Entry>,
}

/// Place of the features of one clip in its file.
struct Entry {
    offset: u64,
    shape: Vec<usize>,
}

impl FeatureCache {
    /// Opens the files in `folder`. Computes and writes those that are missing or have another `fingerprint`, and calls
    /// `on_progress` with the number of finished clips.
    ///
    /// # Errors
    /// The encoder failed, or a file cannot be written.
    pub fn open(
        folder: &Path,
        fingerprint: &str,
        clips: usize,
        world: &World,
        (encoder, preprocess, device): (&dyn VisionEncoder, &Preprocess, &Device),
        on_progress: &mut dyn FnMut(usize),
    ) -> Result<Self> {
        let io = |e: std::io::Error| failed(format!("{}: {e}", folder.display()));
        fs::create_dir_all(folder).map_err(io)?;
        let encode =
            |i: usize| features(&world.clip(Split::Train, i as u64).frames(), encoder, preprocess, device);
        let mut blocks = Vec::new();
        for start in (0..clips).step_by(BLOCK) {
            let end = clips.min(start + BLOCK);
            let path = folder.join(format!("{start:07}.safetensors"));
            let block = match Block::open(&path, fingerprint, end - start) {
                Some(block) => block,
                None => {
                    let computed = (start..end).into_par_iter().map(encode).collect::<Result<Vec<_>>>()?;
                    write(&path, fingerprint, computed)?;
                    Block::open(&path, fingerprint, end - start)
                        .ok_or_else(|| failed(format!("{}: the file cannot be read", path.display())))?
                }
            };
            blocks.push(block);
            on_progress(end);
        }
        Ok(Self { clips, blocks })
    }

    /// Number of cached clips.
    pub fn len(&self) -> usize {
        self.clips
    }

    /// Whether the cache has no clips.
    pub fn is_empty(&self) -> bool {
        self.clips == 0
    }

    /// Draws the indices of `n` clips.
    pub fn draw(&self, n: usize, rng: &mut StdRng) -> Vec<u64> {
        (0..n).map(|_| rng.random_range(0..self.clips as u64)).collect()
    }

    /// Returns the features of these clips, (n, t, s, d) in f32, padded to the longest clip, and the number
    /// of frames of each.
    ///
    /// # Errors
    /// A file cannot be read, or the tensor library refused an operation.
    pub fn batch(&self, indices: &[u64], device: &Device) -> Result<(Tensor, Vec<usize>)> {
        let clips = indices.iter().map(|&i| self.clip(i as usize)).collect::<Result<Vec<_>>>()?;
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
    /// A file cannot be read, or the tensor library refused an operation.
    pub fn scale(&self) -> Result<f64> {
        let square = |i| {
            let features = self.clip(i)?.to_dtype(DType::F32)?;
            Ok(f64::from(features.sqr()?.mean_all()?.to_scalar::<f32>()?))
        };
        let squares = (0..self.clips.min(256)).map(square).collect::<Result<Vec<f64>>>()?;
        Ok((squares.iter().sum::<f64>() / squares.len().max(1) as f64).sqrt())
    }

    /// Reads the features of one clip: (t, s, d) in bf16.
    fn clip(&self, index: usize) -> Result<Tensor> {
        let Block { file, clips } = &self.blocks[index / BLOCK];
        let Entry { offset, shape } = &clips[index % BLOCK];
        let mut bytes = vec![0; shape.iter().product::<usize>() * DType::BF16.size_in_bytes()];
        file.read_exact_at(&mut bytes, *offset)
            .map_err(|e| failed(format!("the cached features of clip {index} cannot be read: {e}")))?;
        Ok(Tensor::from_raw_buffer(&bytes, DType::BF16, shape, &Device::Cpu)?)
    }
}

impl Block {
    /// Opens a file if it exists, is complete and has this fingerprint.
    fn open(path: &Path, fingerprint: &str, clips: usize) -> Option<Self> {
        let bytes = fs::read(path).ok()?;
        let (header, metadata) = SafeTensors::read_metadata(&bytes).ok()?;
        if metadata.metadata().as_ref()?.get(FINGERPRINT)? != fingerprint {
            return None;
        }
        SafeTensors::deserialize(&bytes).ok()?;
        // The data follow the length of the header (8 bytes) and the header.
        let data = 8 + header as u64;
        let entry = |i: usize| {
            let info = metadata.info(&i.to_string()).filter(|info| info.dtype == safetensors::Dtype::BF16)?;
            Some(Entry { offset: data + info.data_offsets.0 as u64, shape: info.shape.clone() })
        };
        let clips = (0..clips).map(entry).collect::<Option<_>>()?;
        Some(Self { file: File::open(path).ok()?, clips })
    }
}

fn write(path: &Path, fingerprint: &str, clips: Vec<Tensor>) -> Result<()> {
    let named = clips.iter().enumerate().map(|(i, features)| (i.to_string(), features));
    let metadata = HashMap::from([(FINGERPRINT.to_string(), fingerprint.to_string())]);
    let bytes = safetensors::serialize(named, Some(metadata))
        .map_err(|e| failed(format!("{}: {e}", path.display())))?;
    write_atomic(path, &bytes)
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
