//! Sizes of the NFNets.

use serde::{Deserialize, Serialize};

/// Size of an NFNet: F0 to F6 of the paper (table 1), or the small one of this project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// 71.5M parameters.
    F0,
    /// 132.6M parameters.
    F1,
    /// 193.8M parameters.
    F2,
    /// 254.9M parameters.
    F3,
    /// 316.1M parameters.
    F4,
    /// 377.2M parameters.
    F5,
    /// 438.4M parameters; the encoder of Flamingo.
    F6,
    /// The small encoder that ships: 2.0M parameters and 0.2 GFLOP per frame of 128 x 128 up to the final
    /// stage.
    Mini,
}

/// Layer that gives the features. The Flamingo paper says "the output of the final stage", but its parameter
/// counts include the final convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Features {
    /// The output of the last residual stage.
    FinalStage,
    /// The output of the final 1x1 convolution and its activation, as timm's `forward_features` returns it.
    FinalConv,
}

/// Dimensions of an NFNet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dimensions {
    /// Blocks per stage.
    pub depths: [usize; 4],
    /// Output width per stage.
    pub widths: [usize; 4],
    /// Output width of the stem. Its four convolutions have 1/8, 1/4, 1/2 and all of it.
    pub stem: usize,
    /// Channels per group of the 3x3 convolutions.
    pub group: usize,
    /// Output width of the final convolution.
    pub final_width: usize,
}

impl Variant {
    /// Returns the dimensions of this variant.
    pub fn dimensions(self) -> Dimensions {
        let full = |depths| Dimensions {
            depths,
            widths: [256, 512, 1536, 1536],
            stem: 128,
            group: 128,
            final_width: 3072,
        };
        match self {
            Variant::F0 => full([1, 2, 6, 3]),
            Variant::F1 => full([2, 4, 12, 6]),
            Variant::F2 => full([3, 6, 18, 9]),
            Variant::F3 => full([4, 8, 24, 12]),
            Variant::F4 => full([5, 10, 30, 15]),
            Variant::F5 => full([6, 12, 36, 18]),
            Variant::F6 => full([7, 14, 42, 21]),
            Variant::Mini => Dimensions {
                depths: [1, 2, 6, 3],
                widths: [48, 96, 192, 384],
                stem: 48,
                group: 24,
                final_width: 768,
            },
        }
    }
}
