//! Frames -> visual features.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::weights::Weights;

pub mod resize;
pub mod tiles;
pub mod preprocess;
pub mod nfnet;
pub mod mllama;
pub mod clip_vit;

pub use preprocess::{Fit, Preprocess};
pub use tiles::TileGrid;

/// Encodes normalised frames as a grid of visual features. Immutable after construction.
pub trait VisionEncoder: Send + Sync {
    /// Encodes `pixels` (n, 3, h, w), normalised by the encoder's [`Preprocess`] -> (n, s, d), the grid row
    /// by row.
    ///
    /// # Errors
    /// The tensor library refused an operation.
    fn encode(&self, pixels: &Tensor) -> Result<Tensor>;

    /// Encodes pictures of several tiles: `tiles` (n, slots, 3, h, w) and the grid of each picture -> (n, s, d), slot by slot.
    /// The features of the slots that a picture leaves empty come last.
    ///
    /// # Errors
    /// The encoder takes no tiles, or the tensor library refused an operation.
    fn encode_tiles(&self, tiles: &Tensor, grids: &[TileGrid]) -> Result<Tensor> {
        let (shape, pictures) = (tiles.dims(), grids.len());
        Err(Error::Plan(format!(
            "{pictures} pictures of tiles {shape:?} for a vision encoder that takes none"
        )))
    }

    /// d, the width of one feature.
    fn width(&self) -> usize;

    /// s, the number of features of a frame of this height and width in pixels.
    fn patches(&self, height: usize, width: usize) -> usize;

    /// Computes constant sub-expressions of the weights once, for inference. The result is not trainable.
    ///
    /// # Errors
    /// The tensor library refused an operation.
    fn fold(self: Box<Self>) -> Result<Box<dyn VisionEncoder>>;
}

/// Configuration of one kind of vision encoder: its constructor, its checkpoint and its costs.
pub trait EncoderConfig {
    /// Preprocessing of frames for this encoder.
    fn preprocess(&self) -> &Preprocess;

    /// Whether the loader skips the tensor `name` (relative to the encoder) of a checkpoint: a classifier head, or a
    /// projection that this configuration does not use.
    fn ignores(&self, name: &str) -> bool;

    /// Builds the trainable encoder.
    ///
    /// # Errors
    /// A tensor is missing or has a wrong shape; the error names it.
    fn build(&self, weights: &Weights) -> Result<Box<dyn VisionEncoder>>;

    /// (s, d): the number of features of a square frame of `side` pixels, and the width of each.
    fn features(&self, side: usize) -> (usize, usize);

    /// Number of parameters.
    fn parameters(&self) -> usize;

    /// Operations for one square frame of `side` pixels. A multiplication and an addition are two operations; only
    /// matrix products and convolutions count.
    fn operations(&self, side: usize) -> f64;

    /// Sizes of the network as a JSON object, for programs that build an equal one.
    fn describe(&self) -> serde_json::Value;
}

/// Configuration of a vision encoder and of its preprocessing. One variant per encoder, tagged by `encoder`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(tag = "encoder", rename_all = "lowercase")]
pub enum VisionConfig {
    /// `{"encoder": "nfnet", "variant": "mini", "features": "final_stage", "preprocess": {...}}`
    Nfnet(nfnet::Config),
    /// `{"encoder": "clip", "width": 1024, "layers": 24, "heads": 16, "patch": 14, "feed_forward_width": 4096,
    /// "activation": "quick_gelu", "class_token": "dropped", "preprocess": {...}}`
    Clip(clip_vit::Config),
}

impl VisionConfig {
    /// The configuration behind its interface: the only match over all kinds of encoders.
    pub fn encoder(&self) -> &dyn EncoderConfig {
        match self {
            VisionConfig::Nfnet(config) => config,
            VisionConfig::Clip(config) => config,
        }
    }

    /// Preprocessing of frames for this encoder.
    pub fn preprocess(&self) -> &Preprocess {
        self.encoder().preprocess()
    }

    /// Whether the loader skips the tensor `name` (relative to the encoder) of a checkpoint: a classifier
    /// head, or a projection that this configuration does not use.
    pub fn ignores(&self, name: &str) -> bool {
        self.encoder().ignores(name)
    }
}

/// Builds the encoder for inference. Constant sub-expressions of the weights are computed once, here.
///
/// # Errors
/// A tensor is missing or has a wrong shape; the error names it.
pub fn build(config: &VisionConfig, weights: &Weights) -> Result<Box<dyn VisionEncoder>> {
    config.encoder().build(&weights.dense())?.fold()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINI: &str = r#"{"encoder": "nfnet", "variant": "mini", "features": "final_stage",
        "preprocess": {"fit": "pad", "size": 160, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}"#;

    #[test]
    fn config_survives_json() {
        let config: VisionConfig = serde_json::from_str(MINI).unwrap();
        assert_eq!(config.preprocess().size, 160);
        let again: VisionConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(config, again);
    }

    #[test]
    fn rejects_unknown_fields_and_values() {
        for (from, to) in [("160", "0"), ("0.225", "0"), ("\"pad\"", "{\"squash\": {\"crop\": 1.5}}")] {
            assert!(serde_json::from_str::<VisionConfig>(&MINI.replacen(from, to, 1)).is_err(), "{to}");
        }
        for (from, to) in
            [("variant", "variety"), ("mini", "f9"), ("nfnet", "nfnets"), ("\"size\"", "\"sise\"")]
        {
            assert!(serde_json::from_str::<VisionConfig>(&MINI.replacen(from, to, 1)).is_err(), "{to}");
        }
        let extra = MINI.replacen("\"variant\"", "\"extra\": 1, \"variant\"", 1);
        assert!(serde_json::from_str::<VisionConfig>(&extra).unwrap_err().to_string().contains("extra"));
    }
}
