//! File format of cached visual tokens.

use std::collections::HashMap;

use bytes::Bytes;
use flamingo::video::{VideoInfo, Warning};
use inference::encoded_video::{EncodedVideo, EncodedWindow, VisualTokens};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

/// Metadata of an entry.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    info: VideoInfo,
    warnings: Vec<Warning>,
    windows: Vec<WindowTimes>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WindowTimes {
    start: f64,
    end: f64,
    frame_times: Vec<f64>,
}

const METADATA: &str = "metadata";
const TOKENS: &str = "visual_tokens";

/// Serializes an entry: one tensor (windows, q, d) of f32, with the metadata as JSON in the header.
pub(super) fn write(video: &EncodedVideo) -> Result<Bytes, String> {
    let times =
        |w: &EncodedWindow| WindowTimes { start: w.start, end: w.end, frame_times: w.frame_times.clone() };
    let metadata = Metadata {
        info: video.info.clone(),
        warnings: video.warnings.clone(),
        windows: video.windows.iter().map(times).collect(),
    };
    let metadata = serde_json::to_string(&metadata).map_err(|e| e.to_string())?;
    let (q, d) = video.windows.first().map_or((0, 0), |w| w.tokens.shape);
    let values = video.windows.iter().flat_map(|w| &w.tokens.values);
    let bytes: Vec<u8> = values.flat_map(|v| v.to_le_bytes()).collect();
    let view =
        TensorView::new(Dtype::F32, vec![video.windows.len(), q, d], &bytes).map_err(|e| e.to_string())?;
    let header = HashMap::from([(METADATA.to_owned(), metadata)]);
    safetensors::serialize([(TOKENS, view)], Some(header)).map(Bytes::from).map_err(|e| e.to_string())
}

/// Parses an entry. Untrusted: others may be able to write to the store.
pub(super) fn parse(bytes: &[u8]) -> Result<EncodedVideo, String> {
    let wrong = |e: safetensors::SafeTensorError| e.to_string();
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(wrong)?;
    let metadata = header.metadata().as_ref().and_then(|m| m.get(METADATA)).ok_or("no metadata")?;
    let metadata: Metadata = serde_json::from_str(metadata).map_err(|e| e.to_string())?;
    let tensors = SafeTensors::deserialize(bytes).map_err(wrong)?;
    let tokens = tensors.tensor(TOKENS).map_err(wrong)?;
    let &[n, q, d] = tokens.shape() else { return Err(format!("shape {:?}", tokens.shape())) };
    if tokens.dtype() != Dtype::F32 || n != metadata.windows.len() || n * q * d == 0 {
        return Err(format!(
            "{} windows, but tokens of {:?} {:?}",
            metadata.windows.len(),
            tokens.dtype(),
            [n, q, d]
        ));
    }
    let values: Vec<f32> =
        tokens.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if !values.iter().all(|value| value.is_finite()) {
        return Err("a value is not finite".into());
    }
    let windows = metadata.windows.into_iter().zip(values.chunks_exact(q * d));
    let windows = windows.map(|(WindowTimes { start, end, frame_times }, values)| EncodedWindow {
        start,
        end,
        frame_times,
        tokens: VisualTokens { shape: (q, d), values: values.to_vec() },
    });
    Ok(EncodedVideo { info: metadata.info, warnings: metadata.warnings, windows: windows.collect() })
}
