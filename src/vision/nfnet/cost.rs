//! Parameters and operations of an NFNet, counted from its dimensions.

use super::{Dimensions, Features};

/// One convolution, or one layer of the gates, which is a convolution on a grid of one.
struct Convolution {
    from: usize,
    to: usize,
    kernel: usize,
    groups: usize,
    /// Side of the output grid.
    side: usize,
    gate: bool,
}

impl Convolution {
    fn weights(&self) -> usize {
        self.to * (self.from / self.groups) * self.kernel * self.kernel
    }

    /// Weight, bias and, except in gates, one gain per output channel.
    fn parameters(&self) -> usize {
        self.weights() + self.to * if self.gate { 1 } else { 2 }
    }

    fn operations(&self) -> f64 {
        2.0 * (self.side * self.side) as f64 * self.weights() as f64
    }
}

/// Number of parameters. Each block has a gain of one number.
pub(super) fn parameters(dimensions: &Dimensions, features: Features) -> usize {
    let blocks: usize = dimensions.depths.iter().sum();
    convolutions(dimensions, features, 0).iter().map(Convolution::parameters).sum::<usize>() + blocks
}

/// Operations for one square frame of `side` pixels: two per multiplication with addition, convolutions only.
pub(super) fn operations(dimensions: &Dimensions, features: Features, side: usize) -> f64 {
    convolutions(dimensions, features, side).iter().map(Convolution::operations).sum()
}

/// Lists every convolution of the network for a square frame of `side` pixels.
fn convolutions(dimensions: &Dimensions, features: Features, side: usize) -> Vec<Convolution> {
    let mut all = Vec::new();
    let conv = |from, to, kernel, groups, side| Convolution { from, to, kernel, groups, side, gate: false };
    let (half, mut side) = (side.div_ceil(2), side.div_ceil(2).div_ceil(2));
    let width = dimensions.stem;
    let stem = [3, width / 8, width / 4, width / 2, width];
    for (i, grid) in [half, half, half, side].into_iter().enumerate() {
        all.push(conv(stem[i], stem[i + 1], 3, 1, grid));
    }
    let mut width = width;
    for (stage, (&depth, &out)) in dimensions.depths.iter().zip(&dimensions.widths).enumerate() {
        for block in 0..depth {
            let before = side;
            let halves = stage > 0 && block == 0;
            if halves {
                side = side.div_ceil(2);
            }
            if halves || width != out {
                all.push(conv(width, out, 1, 1, side));
            }
            let middle = out / 2;
            all.push(conv(width, middle, 1, 1, before));
            all.push(conv(middle, middle, 3, middle / dimensions.group, side));
            all.push(conv(middle, middle, 3, middle / dimensions.group, side));
            all.push(conv(middle, out, 1, 1, side));
            let inner = super::gate_width(out);
            all.push(Convolution { gate: true, ..conv(out, inner, 1, 1, 1) });
            all.push(Convolution { gate: true, ..conv(inner, out, 1, 1, 1) });
            width = out;
        }
    }
    if features == Features::FinalConv {
        all.push(conv(width, dimensions.final_width, 1, 1, side));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::Variant;
    use super::*;

    /// Numbers of multiplications that PyTorch's `FlopCounterMode` counts in timm's networks.
    #[test]
    fn operations_equal_pytorch() {
        for (variant, side, products) in
            [(Variant::F0, 192, 6_973_931_520u64), (Variant::F6, 320, 116_549_206_016)]
        {
            let operations = operations(&variant.dimensions(), Features::FinalConv, side);
            assert_eq!(operations, 2.0 * products as f64, "{variant:?}");
        }
    }
}
