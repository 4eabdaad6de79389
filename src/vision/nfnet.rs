//! NFNet-F (arXiv 2102.06171), with the tensor names of timm's `dm_nfnet_*`.
//!
//! A residual network without normalisation layers: convolution weights are standardised, activations carry a
//! gain that keeps their variance at one, and each block divides its input by its expected standard
//! deviation.

use candle_core::Tensor;
use candle_nn::{Init, init};
use serde::{Deserialize, Serialize};

use super::{EncoderConfig, Preprocess, VisionEncoder};
use crate::error::Result;
use crate::kernels::conv::conv2d_same;
use crate::kernels::gelu::scaled_gelu;
use crate::kernels::planes::{average_pool_2x2, gated_sum, global_average_pool};
use crate::kernels::standardise::standardise;
use crate::weights::Weights;

mod sizes;
mod cost;

pub use sizes::{Dimensions, Features, Variant};

/// Gain that makes the variance of GELU(N(0, 1)) one.
const GAMMA: f64 = 1.701_504_349_708_557_1;
/// Scale of residual branches. Each block adds its square to the variance.
const ALPHA: f64 = 0.2;
/// Gain of squeeze-and-excitation gates, which are 1/2 on average.
const GATE_GAIN: f64 = 2.0;
/// Epsilon of weight standardisation in timm (DeepMind's own is max(var * fan_in, 1e-4)).
const EPS: f64 = 1e-5;
/// Input pixels per feature, along each axis.
const STRIDE: usize = 32;

/// Configuration of an NFNet encoder.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Size of the network.
    pub variant: Variant,
    /// Layer that gives the features.
    pub features: Features,
    /// Preprocessing of frames.
    pub preprocess: Preprocess,
}

impl EncoderConfig for Config {
    fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    fn ignores(&self, name: &str) -> bool {
        let unused_final_conv = self.features == Features::FinalStage && name.starts_with("final_conv.");
        name.starts_with("head.fc.") || unused_final_conv
    }

    fn build(&self, weights: &Weights) -> Result<Box<dyn VisionEncoder>> {
        Ok(Box::new(NfNet::new(&self.variant.dimensions(), self.features, weights)?))
    }

    fn features(&self, side: usize) -> (usize, usize) {
        let dimensions = self.variant.dimensions();
        let width = match self.features {
            Features::FinalStage => dimensions.widths[3],
            Features::FinalConv => dimensions.final_width,
        };
        (side.div_ceil(STRIDE).pow(2), width)
    }

    fn parameters(&self) -> usize {
        cost::parameters(&self.variant.dimensions(), self.features)
    }

    fn operations(&self, side: usize) -> f64 {
        cost::operations(&self.variant.dimensions(), self.features, side)
    }

    fn describe(&self) -> serde_json::Value {
        let Dimensions { depths, widths, stem, group, final_width } = self.variant.dimensions();
        serde_json::json!({
            "depths": depths, "widths": widths, "stem": stem, "group": group, "final_width": final_width,
            "features": self.features,
        })
    }
}

/// An NFNet. After [`new`](NfNet::new) every call standardises the weights with differentiable operations;
/// [`fold`](NfNet::fold) standardises them once.
pub struct NfNet {
    stem: Vec<StdConv>,
    stages: Vec<Vec<Block>>,
    final_conv: Option<StdConv>,
    width: usize,
}

impl NfNet {
    /// Reads the network. The final convolution is read only if the features are its output.
    ///
    /// # Errors
    /// A tensor is missing or has a wrong shape; the error names it.
    pub fn new(dimensions: &Dimensions, features: Features, weights: &Weights) -> Result<Self> {
        let mut stem = Vec::new();
        let mut width = 3;
        for (i, (part, stride)) in [(8, 2), (4, 1), (2, 1), (1, 2)].into_iter().enumerate() {
            let shape = ConvShape { stride, ..ConvShape::new(width, dimensions.stem / part, 3) };
            stem.push(StdConv::new(shape, &weights.pp("stem").pp(format!("conv{}", i + 1)))?);
            width = dimensions.stem / part;
        }
        let mut stages = Vec::new();
        let mut variance = 1.0f64;
        for (s, (&depth, &out)) in dimensions.depths.iter().zip(&dimensions.widths).enumerate() {
            let mut blocks = Vec::new();
            for b in 0..depth {
                let stride = if s > 0 && b == 0 { 2 } else { 1 };
                let shape =
                    BlockShape { width, out, stride, group: dimensions.group, beta: variance.sqrt().recip() };
                blocks.push(Block::new(&shape, &weights.pp("stages").pp(s).pp(b))?);
                // The shortcut of the first block is a convolution of the scaled input, so the variance
                // restarts at 1.
                variance = if b == 0 { 1.0 } else { variance } + ALPHA * ALPHA;
                width = out;
            }
            stages.push(blocks);
        }
        let final_conv = match features {
            Features::FinalStage => None,
            Features::FinalConv => {
                let shape = ConvShape::new(width, dimensions.final_width, 1);
                width = dimensions.final_width;
                Some(StdConv::new(shape, &weights.pp("final_conv"))?)
            }
        };
        Ok(Self { stem, stages, final_conv, width })
    }

    /// Standardises the weights once, in f32, for inference. The result is not trainable.
    ///
    /// # Errors
    /// The tensor library refused an operation.
    pub fn fold(self) -> Result<Self> {
        let fold_all = |convs: Vec<StdConv>| convs.into_iter().map(StdConv::fold).collect::<Result<Vec<_>>>();
        let fold_stage = |blocks: Vec<Block>| blocks.into_iter().map(Block::fold).collect::<Result<Vec<_>>>();
        Ok(Self {
            stem: fold_all(self.stem)?,
            stages: self.stages.into_iter().map(fold_stage).collect::<Result<Vec<_>>>()?,
            final_conv: self.final_conv.map(StdConv::fold).transpose()?,
            width: self.width,
        })
    }

    /// Encodes `pixels` (n, 3, h, w) -> (n, d, ceil(h / 32), ceil(w / 32)). `observe` is called with `stem`,
    /// `stages.0` .. `stages.3` and, if it is part of the network, `final_conv` (before its activation).
    ///
    /// # Errors
    /// The tensor library refused an operation.
    pub fn forward(&self, pixels: &Tensor, observe: &mut dyn FnMut(&str, &Tensor)) -> Result<Tensor> {
        let mut x = pixels.clone(); // (n, 3, h, w)
        for (i, conv) in self.stem.iter().enumerate() {
            if i > 0 {
                x = scaled_gelu(&x, GAMMA)?;
            }
            x = conv.forward(&x)?; // (n, stem, h / 4, w / 4) after the last
        }
        observe("stem", &x);
        for (s, blocks) in self.stages.iter().enumerate() {
            for block in blocks {
                x = block.forward(&x)?; // (n, widths[s], h / 2^(s+2), w / 2^(s+2))
            }
            observe(&format!("stages.{s}"), &x);
        }
        if let Some(conv) = &self.final_conv {
            x = conv.forward(&x)?;
            observe("final_conv", &x);
            x = scaled_gelu(&x, GAMMA)?;
        }
        Ok(x)
    }
}

impl VisionEncoder for NfNet {
    fn encode(&self, pixels: &Tensor) -> Result<Tensor> {
        let grid = self.forward(pixels, &mut |_, _| ())?; // (n, d, h / 32, w / 32)
        Ok(grid.flatten_from(2)?.transpose(1, 2)?.contiguous()?) // (n, s, d)
    }

    fn width(&self) -> usize {
        self.width
    }

    fn patches(&self, height: usize, width: usize) -> usize {
        height.div_ceil(STRIDE) * width.div_ceil(STRIDE)
    }

    fn fold(self: Box<Self>) -> Result<Box<dyn VisionEncoder>> {
        Ok(Box::new(NfNet::fold(*self)?))
    }
}

struct BlockShape {
    width: usize,
    out: usize,
    stride: usize,
    group: usize,
    beta: f64,
}

/// Residual block: out = 0.2 * branch(h) + shortcut, h = beta * act(x).
struct Block {
    beta: f64,
    /// Whether average pooling precedes the convolution of the shortcut, because the block halves the grid.
    pool: bool,
    shortcut: Option<StdConv>,
    conv1: StdConv,
    conv2: StdConv,
    conv2b: StdConv,
    conv3: StdConv,
    gate: SqueezeExcite,
    skipinit_gain: Tensor,
}

impl Block {
    fn new(shape: &BlockShape, weights: &Weights) -> Result<Self> {
        let BlockShape { width, out, stride, group, beta } = *shape;
        let middle = out / 2;
        let grouped = ConvShape { groups: middle / group, ..ConvShape::new(middle, middle, 3) };
        let conv = |shape, name| StdConv::new(shape, &weights.pp(name));
        let changes = stride != 1 || width != out;
        Ok(Self {
            beta,
            pool: stride == 2,
            shortcut: changes.then(|| conv(ConvShape::new(width, out, 1), "downsample.conv")).transpose()?,
            conv1: conv(ConvShape::new(width, middle, 1), "conv1")?,
            conv2: conv(ConvShape { stride, ..grouped }, "conv2")?,
            conv2b: conv(grouped, "conv2b")?,
            conv3: conv(ConvShape::new(middle, out, 1), "conv3")?,
            gate: SqueezeExcite::new(out, &weights.pp("attn_last"))?,
            skipinit_gain: weights.get((), "skipinit_gain", Init::Const(0.0))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = scaled_gelu(x, GAMMA * self.beta)?; // (n, width, h, w)
        let shortcut = match &self.shortcut {
            Some(conv) if self.pool => conv.forward(&average_pool_2x2(&h)?)?,
            Some(conv) => conv.forward(&h)?,
            None => x.clone(), // not activated
        };
        let y = self.conv1.forward(&h)?; // (n, out / 2, h, w)
        let y = self.conv2.forward(&scaled_gelu(&y, GAMMA)?)?; // (n, out / 2, h / stride, w / stride)
        let y = self.conv2b.forward(&scaled_gelu(&y, GAMMA)?)?;
        let y = self.conv3.forward(&scaled_gelu(&y, GAMMA)?)?; // (n, out, h / stride, w / stride)
        let gain = (&self.skipinit_gain * (GATE_GAIN * ALPHA))?;
        let gate = self.gate.forward(&y)?.broadcast_mul(&gain)?; // (n, out, 1, 1)
        gated_sum(&y, &gate, &shortcut)
    }

    fn fold(self) -> Result<Self> {
        Ok(Self {
            shortcut: self.shortcut.map(StdConv::fold).transpose()?,
            conv1: self.conv1.fold()?,
            conv2: self.conv2.fold()?,
            conv2b: self.conv2b.fold()?,
            conv3: self.conv3.fold()?,
            gate: self.gate.detach(),
            skipinit_gain: self.skipinit_gain.detach(),
            ..self
        })
    }
}

/// Inner width of a squeeze-and-excitation gate: half of its width, rounded to the nearest multiple of 8.
fn gate_width(width: usize) -> usize {
    ((width / 2 + 4) / 8 * 8).max(8)
}

/// Squeeze-and-excitation: one gate per channel, computed from the channel means.
struct SqueezeExcite {
    squeeze: (Tensor, Tensor),
    excite: (Tensor, Tensor),
}

impl SqueezeExcite {
    fn new(width: usize, weights: &Weights) -> Result<Self> {
        let inner = gate_width(width);
        let layer = |from: usize, to: usize, name: &str| -> Result<(Tensor, Tensor)> {
            let weights = weights.pp(name);
            let weight = weights.get((to, from, 1, 1), "weight", init::DEFAULT_KAIMING_NORMAL)?;
            Ok((weight, weights.get(to, "bias", Init::Const(0.0))?))
        };
        Ok(Self { squeeze: layer(width, inner, "fc1")?, excite: layer(inner, width, "fc2")? })
    }

    fn detach(&self) -> Self {
        let detach = |(weight, bias): &(Tensor, Tensor)| (weight.detach(), bias.detach());
        Self { squeeze: detach(&self.squeeze), excite: detach(&self.excite) }
    }

    /// Computes the gates, each in 0..1: (n, d, h, w) -> (n, d, 1, 1).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        // 1x1 convolutions instead of one matrix product, because the gate of a frame must not depend on its
        // batch.
        let linear = |x: &Tensor, (weight, bias): &(Tensor, Tensor)| conv2d_same(x, weight, bias, 1, 1);
        let means = global_average_pool(x)?; // (n, d, 1, 1)
        let gate = linear(&linear(&means, &self.squeeze)?.relu()?, &self.excite)?;
        Ok(candle_nn::ops::sigmoid(&gate)?)
    }
}

#[derive(Clone, Copy)]
struct ConvShape {
    from: usize,
    to: usize,
    kernel: usize,
    stride: usize,
    groups: usize,
}

impl ConvShape {
    fn new(from: usize, to: usize, kernel: usize) -> Self {
        Self { from, to, kernel, stride: 1, groups: 1 }
    }
}

/// Convolution with a weight that is standardised per output channel and scaled by a gain.
struct StdConv {
    weight: Tensor,
    /// `None` after the gain was folded into the weight.
    gain: Option<Tensor>,
    bias: Tensor,
    stride: usize,
    groups: usize,
}

impl StdConv {
    fn new(shape: ConvShape, weights: &Weights) -> Result<Self> {
        let ConvShape { from, to, kernel, stride, groups } = shape;
        let weight = (to, from / groups, kernel, kernel);
        Ok(Self {
            weight: weights.get(weight, "weight", init::DEFAULT_KAIMING_NORMAL)?,
            gain: Some(weights.get((to, 1, 1, 1), "gain", Init::Const(1.0))?),
            bias: weights.get(to, "bias", Init::Const(0.0))?,
            stride,
            groups,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let weight = match &self.gain {
            Some(gain) => &standardise(&self.weight, gain, EPS)?,
            None => &self.weight,
        };
        conv2d_same(x, weight, &self.bias, self.stride, self.groups)
    }

    fn fold(mut self) -> Result<Self> {
        if let Some(gain) = self.gain.take() {
            self.weight = standardise(&self.weight, &gain, EPS)?.detach();
            self.bias = self.bias.detach();
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests;
