//! File format of cached visual tokens.

use std::collections::HashMap;

use bytes::Bytes;
use flamingo::video::{VideoInfo, Warning};
use inference::encoded_video::{EncodedVideo, EncodedWindow, VisualTokens};
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

/// Metadata of an entry.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    info: VideoInfo,
    warnings: Vec<Warning>,
    windows: Vec<WindowMetadata>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WindowMetadata {
    start: f64,
    end: f64,
    frame_times: Vec<f64>,
    visible: Option<usize>,
}

const METADATA: &str = "metadata";
const TOKENS: &str = "visual_tokens";
const FEATURES: &str = "features";

/// Serializes an entry: visual tokens (windows, q, d) and vision features (windows, d) in f32, with the metadata as JSON in the
/// header.
pub(super) fn write(video: &EncodedVideo) -> Result<Bytes, String> {
    let times = |w: &EncodedWindow| WindowMetadata {
        start: w.start,
        end: w.end,
        frame_times: w.frame_times.clone(),
        visible: w.visible,
    };
    let metadata = Metadata {
        info: video.info.clone(),
        warnings: video.warnings.clone(),
        windows: video.windows.iter().map(times).collect(),
    };
    let metadata = serde_json::to_string(&metadata).map_err(|e| e.to_string())?;
    let n = video.windows.len();
    let (q, d) = video.windows.first().map_or((0, 0), |w| w.tokens.shape);
    let width = video.windows.first().map_or(0, |w| w.features.len());
    let (mut tokens, mut features) = (Vec::new(), Vec::new());
    for window in &video.windows {
        tokens.extend(window.tokens.values.iter().flat_map(|v| v.to_le_bytes()));
        features.extend(window.features.iter().flat_map(|v| v.to_le_bytes()));
    }
    let view =
        |shape, bytes| TensorView::new(Dtype::F32, shape, bytes).map_err(|e: SafeTensorError| e.to_string());
    let tensors = [(TOKENS, view(vec![n, q, d], &tokens)?), (FEATURES, view(vec![n, width], &features)?)];
    let header = HashMap::from([(METADATA.to_owned(), metadata)]);
    safetensors::serialize(tensors, Some(header)).map(Bytes::from).map_err(|e| e.to_string())
}

/// Parses an entry. Untrusted: others may be able to write to the store.
pub(super) fn parse(bytes: &[u8]) -> Result<EncodedVideo, String> {
    let wrong = |e: SafeTensorError| e.to_string();
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(wrong)?;
    let metadata = header.metadata().as_ref().and_then(|m| m.get(METADATA)).ok_or("no metadata")?;
    let metadata: Metadata = serde_json::from_str(metadata).map_err(|e| e.to_string())?;
    let tensors = SafeTensors::deserialize(bytes).map_err(wrong)?;
    let ([n, q, d], tokens) = values::<3>(&tensors, TOKENS)?;
    let ([of, width], features) = values::<2>(&tensors, FEATURES)?;
    if n != metadata.windows.len() || of != n {
        return Err(format!("{} windows, but tokens of {n} and features of {of}", metadata.windows.len()));
    }
    if metadata.windows.iter().any(|window| window.visible.is_some_and(|visible| visible > q)) {
        return Err(format!("more visible tokens than the {q} of a window"));
    }
    let parts = tokens.chunks_exact(q * d).zip(features.chunks_exact(width));
    let windows = metadata.windows.into_iter().zip(parts);
    let windows = windows.map(|(WindowMetadata { start, end, frame_times, visible }, (tokens, features))| {
        EncodedWindow {
            start,
            end,
            frame_times,
            tokens: VisualTokens { shape: (q, d), values: tokens.to_vec() },
            features: features.to_vec(),
            visible,
        }
    });
    Ok(EncodedVideo { info: metadata.info, warnings: metadata.warnings, windows: windows.collect() })
}

/// Reads a tensor of f32 with `N` axes, none of them empty, and only finite values.
fn values<const N: usize>(tensors: &SafeTensors, name: &str) -> Result<([usize; N], Vec<f32>), String> {
    let tensor = tensors.tensor(name).map_err(|e| e.to_string())?;
    let shape: Option<[usize; N]> = tensor.shape().try_into().ok();
    let shape = shape.filter(|shape| tensor.dtype() == Dtype::F32 && !shape.contains(&0));
    let shape = shape.ok_or_else(|| format!("{name} of {:?} {:?}", tensor.dtype(), tensor.shape()))?;
    let values: Vec<f32> =
        tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if !values.iter().all(|value| value.is_finite()) {
        return Err("a value is not finite".into());
    }
    Ok((shape, values))
}
