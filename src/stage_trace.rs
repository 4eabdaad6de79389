//! Stage trace: every stage of one pass as a named tensor, for ports of checkpoints; also the format of the goldens.

use candle_core::{D, DType, Tensor};

use crate::error::{Error, Result};
use crate::model::{MediumPixels, RowInput};
use crate::pipeline::Pipeline;
use crate::prompt::Prompt;

/// Computes the stages of one prompt over media, in causal order.
///
/// `media` are the normalised pixels of each medium, (t, 3, h, w). Returns the tensors `input_ids` (l), `pixels`
/// (all frames, 3, h, w), `lengths` (m: frames of each medium), `features` (all frames, s, d), `visual_tokens`
/// (m, q, d), `xattn.{layer}` (l, d) after each gated cross-attention, `logits` (l, vocabulary).
///
/// # Errors
/// The prompt has another number of media markers.
pub fn trace(pipeline: &Pipeline, prompt: &str, media: &[Tensor]) -> Result<Vec<(String, Tensor)>> {
    let loaded = pipeline.loaded();
    let model = &loaded.model;
    let ids = Prompt::parse(prompt).encode(&loaded.tokenizer, &loaded.tokens, media.len())?.ids;
    if ids.is_empty() {
        return Err(Error::Prompt("no tokens".into()));
    }
    let device = model.language().cache_shape().device;
    let mut stages = vec![("input_ids".to_string(), Tensor::new(ids.as_slice(), &device)?)];
    let mut media_kv = Vec::new();
    if !media.is_empty() {
        let lengths = media.iter().map(|m| Ok(m.dim(0)? as u32)).collect::<Result<Vec<_>>>()?;
        stages.push(("pixels".into(), Tensor::cat(media, 0)?));
        stages.push(("lengths".into(), Tensor::new(lengths, &device)?));
        let pixels: Vec<MediumPixels> = media.iter().cloned().map(MediumPixels::from).collect();
        for tokens in model.visual_tokens(&pixels, Some(&mut recorder(&mut stages)))? {
            media_kv.push(model.media_kv(&tokens)?);
        }
    }
    let mut row = model.uncached_row(media_kv);
    let input = RowInput { ids: &ids, state: &mut row };
    let hidden = model.forward(&mut [input], None, Some(&mut recorder(&mut stages)))?;
    stages.push(("logits".into(), model.logits(&hidden)?));
    Ok(stages)
}

fn recorder(stages: &mut Vec<(String, Tensor)>) -> impl FnMut(&str, &Tensor) -> Result<()> + '_ {
    |name, tensor| {
        let tensor = if tensor.dtype().is_float() { tensor.to_dtype(DType::F32)? } else { tensor.clone() };
        stages.push((name.to_string(), tensor));
        Ok(())
    }
}

/// Splits pixels as [`trace`] returns them into one tensor per medium. Without `lengths` all frames are one medium.
///
/// # Errors
/// The lengths do not add up to the frames.
pub fn split_pixels(pixels: &Tensor, lengths: Option<&Tensor>) -> Result<Vec<Tensor>> {
    let frames = pixels.dim(0)?;
    let lengths = match lengths {
        Some(lengths) => lengths.to_dtype(DType::U32)?.to_vec1::<u32>()?,
        None => vec![frames as u32],
    };
    let sum: u64 = lengths.iter().map(|&n| u64::from(n)).sum();
    if sum != frames as u64 || lengths.contains(&0) || pixels.dim(D::Minus1)? == 0 {
        return Err(Error::Prompt(format!(
            "media of {lengths:?} frames do not add up to the {frames} frames of the pixels"
        )));
    }
    let mut start = 0;
    lengths
        .into_iter()
        .map(|n| {
            let medium = pixels.narrow(0, start, n as usize)?;
            start += n as usize;
            Ok(medium)
        })
        .collect()
}
