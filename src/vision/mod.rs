//! Frames -> visual features.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::weights::Weights;

pub mod resize;
pub mod preprocess;
pub mod nfnet;

pub use preprocess::{Fit, Preprocess};

/// Turns normalised frames into a grid of visual features. Immutable once built.
pub trait VisionEncoder: Send + Sync {
    /// `pixels` (n, 3, h, w), normalised as the encoder's [`Preprocess`] says -> (n, s, d), row by row of the grid.
    ///
    /// # Errors
    /// The tensor library refused an operation.
    fn encode(&self, pixels: &Tensor) -> Result<Tensor>;

    /// d, the width of one feature.
    fn width(&self) -> usize;

    /// s, the number of features of a frame of this size in pixels.
    fn patches(&self, height: usize, width: usize) -> usize;
}

/// Which encoder, and how frames are prepared for it. One variant per encoder, tagged by `encoder`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(tag = "encoder", rename_all = "lowercase")]
pub enum VisionConfig {
    /// `{"encoder": "nfnet", "variant": "mini", "features": "final_stage", "preprocess": {...}}`
    Nfnet(nfnet::Config),
}

impl VisionConfig {
    /// How frames are prepared for this encoder.
    pub fn preprocess(&self) -> &Preprocess {
        match self {
            VisionConfig::Nfnet(config) => &config.preprocess,
        }
    }

    /// Whether a checkpoint of this encoder may hold the tensor `name` (relative to the encoder) without it being
    /// loaded: a classifier head, a projection that this configuration does not use.
    pub fn ignores(&self, name: &str) -> bool {
        match self {
            VisionConfig::Nfnet(config) => config.ignores(name),
        }
    }
}

/// Builds the encoder for inference: constant sub-expressions of the weights are computed once, here.
///
/// # Errors
/// A missing or misshapen tensor, by name.
pub fn build(config: &VisionConfig, weights: &Weights) -> Result<Box<dyn VisionEncoder>> {
    Ok(match config {
        VisionConfig::Nfnet(config) => {
            Box::new(nfnet::NfNet::new(&config.variant.row(), config.features, weights)?.fold()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINI: &str = r#"{"encoder": "nfnet", "variant": "mini", "features": "final_stage",
        "preprocess": {"fit": "pad", "size": 160, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}"#;

    #[test]
    fn reads_its_description() {
        let config: VisionConfig = serde_json::from_str(MINI).unwrap();
        assert_eq!(config.preprocess().size, 160);
        let again: VisionConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(config, again);
    }

    #[test]
    fn refuses_unknown_words() {
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
