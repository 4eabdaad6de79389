//! Gradients of a convolution on the CPU in f32.

use std::ops::Range;

use rayon::prelude::*;

use super::super::product::{MatrixView, add_product};
use super::patches::{Geometry, TILE};
use crate::kernels::floats::sum;

/// Number of parts that the images of a batch are divided into. It does not depend on the number of threads:
/// sums over images are computed per part and then added in the order of the parts, so the same input always
/// has the same gradient.
const PARTS: usize = 4;

/// Unit of one matrix product: several whole images, or some output rows of one image.
struct Tile {
    images: Range<usize>,
    rows: Range<usize>,
}

impl Geometry {
    fn tiles(&self, images: Range<usize>) -> impl Iterator<Item = Tile> {
        let (tile_rows, out_h) = (self.tile_rows(), self.out.0);
        // Single planes of a few pixels are too narrow for a matrix product.
        let images_per_tile = (TILE / (self.depth() * self.columns())).max(1);
        let end = images.end;
        images.step_by(images_per_tile).flat_map(move |first| {
            (0..out_h).step_by(tile_rows).map(move |row| Tile {
                images: first..(first + images_per_tile).min(end),
                rows: row..(row + tile_rows).min(out_h),
            })
        })
    }

    fn images_per_part(&self) -> usize {
        self.n.div_ceil(PARTS).max(1)
    }

    /// Returns the part of `grad` (n, o, out_h, out_w) for a tile: (o_g, width).
    fn gradient<'a>(
        &self,
        grad: &'a [f32],
        group: usize,
        tile: &Tile,
        gathered: &'a mut Vec<f32>,
    ) -> MatrixView<'a> {
        let columns = self.columns();
        let image = |i: usize| &grad[(i * self.groups + group) * self.o_g * columns..][..self.o_g * columns];
        let width = tile.width(self);
        if tile.images.len() == 1 {
            let first = tile.rows.start * self.out.1;
            return MatrixView::new(&image(tile.images.start)[first..], (self.o_g, width), columns);
        }
        gathered.resize(self.o_g * width, 0.0);
        for (place, i) in tile.images.clone().enumerate() {
            for (line, row) in gathered.chunks_exact_mut(width).zip(image(i).chunks_exact(columns)) {
                line[place * columns..][..columns].copy_from_slice(row);
            }
        }
        MatrixView::new(gathered, (self.o_g, width), width)
    }
}

impl Tile {
    fn width(&self, g: &Geometry) -> usize {
        self.images.len() * self.rows.len() * g.out.1
    }

    /// Pairs every image with its first column in the patch matrix.
    fn places(&self, g: &Geometry) -> impl Iterator<Item = (usize, usize)> {
        self.images.clone().zip((0..).step_by(self.rows.len() * g.out.1))
    }
}

/// Parallelism within one task, given the number of tasks.
fn inner_parallelism(tasks: usize) -> gemm::Parallelism {
    if tasks < rayon::current_num_threads() { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None }
}

/// Gradient at the input: `weight` (o, c_g, k, k), `grad` (n, o, out_h, out_w) -> (n, c, h, w).
pub fn input_gradient(g: &Geometry, weight: &[f32], grad: &[f32]) -> Vec<f32> {
    let (depth, image) = (g.depth(), g.groups * g.input());
    let mut dx = vec![0f32; g.n * image];
    let inner = inner_parallelism(PARTS.min(g.n));
    let part_size = g.images_per_part();
    let parts = dx.par_chunks_mut(part_size * image).enumerate();
    parts.for_each_init(Default::default, |(patches, gathered): &mut (Vec<f32>, Vec<f32>), (part, dx)| {
        let start = part * part_size;
        for group in 0..g.groups {
            let weight =
                MatrixView::new(&weight[group * g.o_g * depth..], (g.o_g, depth), depth).transposed();
            for tile in g.tiles(start..start + dx.len() / image) {
                let place = |i: usize| (i - start) * image + group * g.input();
                let gradient = g.gradient(grad, group, &tile, gathered);
                if g.pointwise() && tile.images.len() == 1 {
                    let first = place(tile.images.start) + tile.rows.start * g.out.1;
                    add_product(&mut dx[first..], g.columns(), weight, gradient, inner);
                    continue;
                }
                let width = tile.width(g);
                patches.clear();
                patches.resize(depth * width, 0.0);
                add_product(patches, width, weight, gradient, inner);
                for (i, first) in tile.places(g) {
                    let dx = &mut dx[place(i)..][..g.input()];
                    g.col2im(patches, width, first, tile.rows.clone(), dx);
                }
            }
        }
    });
    dx
}

/// Gradient at the weight: `x` (n, c, h, w), `grad` (n, o, out_h, out_w) -> (o, c_g, k, k).
pub fn weight_gradient(g: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let depth = g.depth();
    let (of_group, all) = (g.o_g * depth, g.groups * g.o_g * depth);
    let part_size = g.images_per_part();
    let parts = g.n.div_ceil(part_size).max(1);
    let mut sums = vec![0f32; parts * all]; // (parts, o, depth)
    let inner = inner_parallelism(parts * g.groups);
    let tasks = sums.par_chunks_mut(of_group).enumerate();
    tasks.for_each_init(Default::default, |(patches, gathered): &mut (Vec<f32>, Vec<f32>), (task, sum)| {
        let (start, group) = (task / g.groups * part_size, task % g.groups);
        for tile in g.tiles(start..(start + part_size).min(g.n)) {
            let gradient = g.gradient(grad, group, &tile, gathered);
            let width = tile.width(g);
            let input = |i: usize| &x[(i * g.groups + group) * g.input()..][..g.input()];
            let columns = if g.pointwise() && tile.images.len() == 1 {
                let first = tile.rows.start * g.out.1;
                MatrixView::new(&input(tile.images.start)[first..], (depth, width), g.columns())
            } else {
                patches.resize(depth * width, 0.0);
                for (i, first) in tile.places(g) {
                    g.im2col(input(i), tile.rows.clone(), patches, width, first);
                }
                MatrixView::new(patches, (depth, width), width)
            };
            add_product(sum, depth, gradient, columns.transposed(), inner);
        }
    });
    let (total, rest) = sums.split_at_mut(all);
    total.par_chunks_mut(TILE).enumerate().for_each(|(i, total)| {
        for part in rest.chunks_exact(all) {
            total.iter_mut().zip(&part[i * TILE..]).for_each(|(total, part)| *total += part);
        }
    });
    sums.truncate(all);
    sums
}

/// Gradient at the bias: `grad` (n, o, out_h, out_w) -> (o).
pub fn bias_gradient(g: &Geometry, grad: &[f32]) -> Vec<f32> {
    let (o, columns) = (g.groups * g.o_g, g.columns());
    let plane = |i: usize, channel: usize| &grad[(i * o + channel) * columns..][..columns];
    (0..o).into_par_iter().map(|channel| (0..g.n).map(|i| sum(plane(i, channel))).sum()).collect()
}
