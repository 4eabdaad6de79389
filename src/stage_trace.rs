//! Stage trace: every stage of one pass as a named tensor, for ports of checkpoints; also the format of the goldens.

use candle_core::{D, DType, Tensor};

use crate::error::{Error, Result};
use crate::model::{MediumPixels, RowInput};
use crate::pipeline::Pipeline;
use crate::prompt::Prompt;
use crate::vision::TileGrid;

/// Computes the stages of one prompt over media, in causal order.
///
/// `media` are the normalised pixels of each medium. Returns the tensors `input_ids` (l), `pixels` (all frames, 3, h, w), or of
/// tiles (all frames, slots, 3, h, w) with `grids` (all frames, 2: rows, columns), `lengths` (m: frames of each medium), `features` (all frames, s, d), `visual_tokens`
/// (m, q, d), `xattn.{layer}` (l, d) after each gated cross-attention, `logits` (l, vocabulary).
///
/// # Errors
/// The prompt has another number of media markers.
pub fn trace(pipeline: &Pipeline, prompt: &str, media: &[MediumPixels]) -> Result<Vec<(String, Tensor)>> {
    let loaded = pipeline.loaded();
    let model = &loaded.model;
    let ids = Prompt::parse(prompt).encode(&loaded.tokenizer, &loaded.tokens, media.len())?.ids;
    if ids.is_empty() {
        return Err(Error::Prompt("no tokens".into()));
    }
    let device = model.language().sizes().cache.device.clone();
    let mut stages = vec![("input_ids".to_string(), Tensor::new(ids.as_slice(), &device)?)];
    let mut media_kv = Vec::new();
    if !media.is_empty() {
        let media = media.iter().map(MediumPixels::repeated).collect::<Result<Vec<_>>>()?;
        let lengths = media.iter().map(|m| Ok(m.frames()? as u32)).collect::<Result<Vec<_>>>()?;
        stages
            .push(("pixels".into(), Tensor::cat(&media.iter().map(|m| &m.pictures).collect::<Vec<_>>(), 0)?));
        let grids = media.iter().flat_map(|m| &m.grids).flatten().map(|grid| vec![grid.rows, grid.columns]);
        let grids: Vec<Vec<u32>> = grids.collect();
        if !grids.is_empty() {
            stages.push(("grids".into(), Tensor::new(grids, &device)?));
        }
        stages.push(("lengths".into(), Tensor::new(lengths, &device)?));
        let all = model.visual_tokens(&media, Some(&mut recorder(&mut stages)))?;
        for (pixels, tokens) in media.iter().zip(&all) {
            let visible = model.visible_tokens(pixels, tokens.dim(0)?)?;
            media_kv.push(model.padded_media_kv(tokens, visible)?);
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

/// Splits pixels as [`trace`] returns them into those of each medium. Without `lengths` all frames are one medium.
///
/// # Errors
/// The lengths do not add up to the frames, or there are not as many tile grids as frames.
pub fn split_pixels(
    pixels: &Tensor,
    lengths: Option<&Tensor>,
    grids: Option<&Tensor>,
) -> Result<Vec<MediumPixels>> {
    let frames = pixels.dim(0)?;
    let lengths = match lengths {
        Some(lengths) => lengths.to_dtype(DType::U32)?.to_vec1::<u32>()?,
        None => vec![frames as u32],
    };
    let grid = |grid: &Vec<u32>| match grid[..] {
        [rows, columns] => Ok(TileGrid { rows, columns }),
        _ => Err(Error::Prompt(format!("{grid:?} is no tile grid"))),
    };
    let grids = match grids {
        Some(grids) => {
            grids.to_dtype(DType::U32)?.to_vec2::<u32>()?.iter().map(grid).collect::<Result<Vec<_>>>()?
        }
        None => Vec::new(),
    };
    let sum: u64 = lengths.iter().map(|&n| u64::from(n)).sum();
    let fits = grids.is_empty() || grids.len() == frames;
    if !fits || sum != frames as u64 || lengths.contains(&0) || pixels.dim(D::Minus1)? == 0 {
        return Err(Error::Prompt(format!(
            "media of {lengths:?} frames with {} tile grids do not add up to the {frames} frames of the pixels",
            grids.len()
        )));
    }
    let mut start = 0;
    let medium = |n: u32| {
        let range = start..start + n as usize;
        start = range.end;
        let pictures = pixels.narrow(0, range.start, range.len())?;
        Ok(MediumPixels { pictures, grids: grids.get(range).map(<[_]>::to_vec), shown: None })
    };
    lengths.into_iter().map(medium).collect()
}
