//! Parameters and operations of a CLIP vision transformer, counted from its sizes.

use super::Config;

/// Parameters of the matrices of one layer: four of attention, two of the feed-forward.
fn layer_matrices(config: &Config) -> usize {
    4 * config.width * config.width + 2 * config.width * config.feed_forward_width
}

/// Parameters of the patch embedding.
fn patch_matrix(config: &Config) -> usize {
    3 * config.patch * config.patch * config.width
}

/// Number of parameters.
pub(super) fn parameters(config: &Config) -> usize {
    let (width, hidden) = (config.width, config.feed_forward_width);
    let norm = 2 * width;
    let embeddings = patch_matrix(config) + width * (config.grid().pow(2) + 2);
    let layer = layer_matrices(config) + 2 * norm + 4 * width + hidden + width;
    embeddings + norm + config.layers * layer
}

/// Operations for one square frame of `side` pixels: two per multiplication with addition, matrix products only.
pub(super) fn operations(config: &Config, side: usize) -> f64 {
    let patches = (side / config.patch).pow(2);
    let tokens = patches + 1;
    let attention = 2 * tokens * tokens * config.width;
    2.0 * (patches * patch_matrix(config)) as f64
        + 2.0 * (config.layers * (tokens * layer_matrices(config) + attention)) as f64
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::vision::{EncoderConfig, VisionConfig};
    use crate::weights::Weights;

    /// Sizes of ViT-L/14; H/14 has others.
    const LARGE: &str = r#"{"encoder": "clip", "width": 1024, "layers": 24, "heads": 16, "patch": 14,
        "feed_forward_width": 4096, "activation": "quick_gelu", "class_token": "dropped",
        "preprocess": {"fit": "crop", "size": 224, "mean": [0, 0, 0], "std": [1, 1, 1]}}"#;

    /// Operations that PyTorch's `FlopCounterMode` counts in Hugging Face's model, and its parameters without the output.
    #[test]
    fn operations_equal_pytorch() {
        let VisionConfig::Clip(config) = serde_json::from_str(LARGE).unwrap() else { unreachable!() };
        assert_eq!(operations(&config, 224), 162_023_964_672.0);
        assert_eq!(parameters(&config), 303_177_728);
        assert_eq!(config.features(224), (256, 1024));
    }

    #[test]
    fn parameters_equal_tensors() {
        let VisionConfig::Clip(mut config) = serde_json::from_str(LARGE).unwrap() else { unreachable!() };
        (config.width, config.layers, config.heads, config.feed_forward_width) = (24, 3, 2, 40);
        let weights = Weights::random(0, &Device::Cpu, DType::F32);
        config.build(&weights).unwrap();
        assert_eq!(parameters(&config), weights.parameters().values().sum::<usize>());
    }
}
