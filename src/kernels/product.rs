//! Products of matrices that are views of slices.

use rayon::prelude::*;

/// View of a matrix in a slice: element (i, j) is `values[i * strides.0 + j * strides.1]`.
#[derive(Clone, Copy)]
pub struct MatrixView<'a> {
    values: &'a [f32],
    shape: (usize, usize),
    strides: (usize, usize),
}

impl<'a> MatrixView<'a> {
    /// View of a row-major matrix with rows `pitch` floats apart.
    pub fn new(values: &'a [f32], shape: (usize, usize), pitch: usize) -> Self {
        assert!(shape.1 <= pitch && fits(values, shape, pitch));
        Self { values, shape, strides: (pitch, 1) }
    }

    /// The transposed view.
    pub fn transposed(self) -> Self {
        let swap = |(i, j)| (j, i);
        Self { shape: swap(self.shape), strides: swap(self.strides), ..self }
    }
}

/// Whether a row-major matrix fits into `values`.
fn fits(values: &[f32], (rows, columns): (usize, usize), pitch: usize) -> bool {
    rows == 0 || (rows - 1) * pitch + columns <= values.len()
}

/// Computes `y += a b`; `y` is row-major with rows `pitch` floats apart.
#[allow(unsafe_code)]
pub fn add_product(
    y: &mut [f32],
    pitch: usize,
    a: MatrixView,
    b: MatrixView,
    parallelism: gemm::Parallelism,
) {
    let ((rows, depth), columns) = (a.shape, b.shape.1);
    assert!(b.shape.0 == depth && columns <= pitch && fits(y, (rows, columns), pitch));
    // SAFETY: `MatrixView::new` asserts for `a` and `b`, and the line above for `y`, that every element is
    // inside its slice. Transposing swaps shape and strides together, so the addresses stay the same. `y` is
    // borrowed mutably, so it overlaps neither `a` nor `b`, and all its floats are initialised.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            y.as_mut_ptr(),
            1,
            pitch as isize,
            true,
            a.values.as_ptr(),
            a.strides.1 as isize,
            a.strides.0 as isize,
            b.values.as_ptr(),
            b.strides.1 as isize,
            b.strides.0 as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Transposes a matrix with rows of `pitch` floats to (rows, columns). Columns beyond its last row are zero.
pub fn transpose(values: &[f32], pitch: usize, (rows, columns): (usize, usize)) -> Vec<f32> {
    const TILE: usize = 8;
    const FLOATS_PER_TASK: usize = 1 << 15;
    let mut transposed = vec![0f32; rows * columns];
    let strips = transposed.par_chunks_mut(TILE * columns).with_min_len(FLOATS_PER_TASK / (TILE * columns));
    strips.enumerate().for_each(|(strip, to)| {
        let height = to.len() / columns;
        for (block, from) in values.chunks(TILE * pitch).enumerate() {
            // Rows of `to` may lie a multiple of the page size apart, so each is written in pieces, not value by value.
            let (width, mut tile) = (from.len() / pitch, [[0f32; TILE]; TILE]);
            for (j, from) in from.chunks_exact(pitch).enumerate() {
                for (tile, value) in tile.iter_mut().zip(&from[strip * TILE..][..height]) {
                    tile[j] = *value;
                }
            }
            for (to, tile) in to.chunks_exact_mut(columns).zip(&tile) {
                to[block * TILE..][..width].copy_from_slice(&tile[..width]);
            }
        }
    });
    transposed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes_with_zeros_beyond_the_last_row() {
        let value = |row: usize, column: usize| (11 * row + column) as f32 + 1.0;
        for columns in [9, 12] {
            let values: Vec<f32> = (0..99).map(|i| value(i / 11, i % 11)).collect();
            for (i, row) in transpose(&values, 11, (10, columns)).chunks_exact(columns).enumerate() {
                let expected: Vec<f32> =
                    (0..columns).map(|j| if j < 9 { value(j, i) } else { 0.0 }).collect();
                assert_eq!(row, expected, "{columns} columns, row {i}");
            }
        }
    }
}
