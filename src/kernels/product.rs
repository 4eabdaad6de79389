//! Products of matrices that are views of slices.

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
