//! The patch matrix that a convolution multiplies with its weight: the pixels under the kernel, one column
//! per output position.

use std::ops::Range;

/// Sizes of one convolution; names in `_g` are per group.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    pub n: usize,
    pub groups: usize,
    pub c_g: usize,
    pub h: usize,
    pub w: usize,
    pub o_g: usize,
    pub kernel: (usize, usize),
    pub stride: usize,
    pub before: (usize, usize),
    pub out: (usize, usize),
}

/// Floats of a tile of the patch matrix. Each tile is multiplied right after it is filled, while it is in the
/// cache.
pub const TILE: usize = 1 << 16;

/// Returns the padding before an axis and the length of the output axis.
pub fn same_padding(length: usize, kernel: usize, stride: usize) -> (usize, usize) {
    let out = length.div_ceil(stride);
    let missing = ((out - 1) * stride + kernel).saturating_sub(length);
    (missing / 2, out)
}

impl Geometry {
    /// Sizes for `x` (n, c, h, w) and a weight (o, c / groups, k, k).
    pub fn new(
        x: (usize, usize, usize, usize),
        weight: (usize, usize, usize, usize),
        stride: usize,
        groups: usize,
    ) -> candle_core::Result<Self> {
        let ((n, c, h, w), (o, c_g, kernel_h, kernel_w)) = (x, weight);
        if c_g * groups != c || o % groups != 0 {
            candle_core::bail!("convolution of {c} channels with a weight {weight:?} in {groups} groups")
        }
        let ((top, out_h), (left, out_w)) =
            (same_padding(h, kernel_h, stride), same_padding(w, kernel_w, stride));
        let (o_g, kernel, before, out) = (o / groups, (kernel_h, kernel_w), (top, left), (out_h, out_w));
        Ok(Self { n, groups, c_g, h, w, o_g, kernel, stride, before, out })
    }

    /// Rows of the patch matrix.
    pub fn depth(&self) -> usize {
        self.c_g * self.kernel.0 * self.kernel.1
    }

    /// Columns of the patch matrix of one image.
    pub fn columns(&self) -> usize {
        self.out.0 * self.out.1
    }

    /// Floats of the input of one image and group.
    pub fn input(&self) -> usize {
        self.c_g * self.h * self.w
    }

    /// Whether the patch matrix equals the input.
    pub fn pointwise(&self) -> bool {
        self.kernel == (1, 1) && self.stride == 1
    }

    /// Number of output rows of an image that fill a tile of patches.
    pub fn tile_rows(&self) -> usize {
        (TILE / (self.depth() * self.out.1)).clamp(1, self.out.0)
    }

    /// Returns (channel, ky, kx) of a row of the patch matrix.
    fn tap(&self, row: usize) -> (usize, usize, usize) {
        let (kernel_h, kernel_w) = self.kernel;
        (row / (kernel_h * kernel_w), row / kernel_w % kernel_h, row % kernel_w)
    }

    /// Output columns with an input column inside the image: 0 <= column * stride + kx - left < w.
    fn inside(&self, kx: usize) -> Range<usize> {
        let from = self.before.1.saturating_sub(kx).div_ceil(self.stride).min(self.out.1);
        let until = (self.w + self.before.1).saturating_sub(kx).div_ceil(self.stride);
        from..until.clamp(from, self.out.1)
    }

    /// Returns the offset in a plane of the pixels of `inside`, if row `ky` of the kernel is inside the image
    /// for this output row.
    fn source(&self, out_row: usize, (ky, kx): (usize, usize), inside: &Range<usize>) -> Option<usize> {
        let y = (out_row * self.stride + ky).wrapping_sub(self.before.0);
        let overlaps = y < self.h && !inside.is_empty();
        overlaps.then(|| y * self.w + inside.start * self.stride + kx - self.before.1)
    }

    /// Writes the patches of output rows `rows` of one image, (depth, rows * out_w), from `x` (c_g, h, w)
    /// into the columns of `patches` from `first` on. The rows of `patches` have `pitch` floats.
    pub fn im2col(&self, x: &[f32], rows: Range<usize>, patches: &mut [f32], pitch: usize, first: usize) {
        let out_w = self.out.1;
        for (index, line) in patches.chunks_exact_mut(pitch).enumerate() {
            let (channel, ky, kx) = self.tap(index);
            let plane = &x[channel * self.h * self.w..][..self.h * self.w];
            let inside = self.inside(kx);
            let line = &mut line[first..first + rows.len() * out_w];
            for (out_row, line) in rows.clone().zip(line.chunks_exact_mut(out_w)) {
                let Some(start) = self.source(out_row, (ky, kx), &inside) else {
                    line.fill(0.0);
                    continue;
                };
                line[..inside.start].fill(0.0);
                line[inside.end..].fill(0.0);
                let line = &mut line[inside.clone()];
                if self.stride == 1 {
                    line.copy_from_slice(&plane[start..start + line.len()]);
                } else {
                    let source = plane[start..].iter().step_by(self.stride);
                    line.iter_mut().zip(source).for_each(|(to, from)| *to = *from);
                }
            }
        }
    }

    /// Transpose of [`im2col`](Self::im2col): adds every element of `patches` to its source pixel.
    pub fn col2im(&self, patches: &[f32], pitch: usize, first: usize, rows: Range<usize>, x: &mut [f32]) {
        let out_w = self.out.1;
        for (index, line) in patches.chunks_exact(pitch).enumerate() {
            let (channel, ky, kx) = self.tap(index);
            let plane = &mut x[channel * self.h * self.w..][..self.h * self.w];
            let inside = self.inside(kx);
            let line = &line[first..first + rows.len() * out_w];
            for (out_row, line) in rows.clone().zip(line.chunks_exact(out_w)) {
                let Some(start) = self.source(out_row, (ky, kx), &inside) else { continue };
                let line = &line[inside.clone()];
                if self.stride == 1 {
                    let pixels = &mut plane[start..start + line.len()];
                    pixels.iter_mut().zip(line).for_each(|(to, from)| *to += from);
                } else {
                    let pixels = plane[start..].iter_mut().step_by(self.stride);
                    pixels.zip(line).for_each(|(to, from)| *to += from);
                }
            }
        }
    }
}
