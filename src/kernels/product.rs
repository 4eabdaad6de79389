//! Products of matrices that lie in slices.

/// Element (i, j) is `values[i * steps.0 + j * steps.1]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    shape: (usize, usize),
    steps: (usize, usize),
}

impl<'a> Matrix<'a> {
    /// Row-major, one row `pitch` floats after the other.
    pub fn new(values: &'a [f32], shape: (usize, usize), pitch: usize) -> Self {
        assert!(shape.1 <= pitch && fits(values, shape, pitch));
        Self { values, shape, steps: (pitch, 1) }
    }

    pub fn transposed(self) -> Self {
        let swap = |(i, j)| (j, i);
        Self { shape: swap(self.shape), steps: swap(self.steps), ..self }
    }
}

/// Whether a row-major matrix lies inside `values`.
fn fits(values: &[f32], (rows, columns): (usize, usize), pitch: usize) -> bool {
    rows == 0 || (rows - 1) * pitch + columns <= values.len()
}

/// `y += a b`; `y` is row-major, one row `pitch` floats after the other.
#[allow(unsafe_code)]
pub fn add_product(y: &mut [f32], pitch: usize, a: Matrix, b: Matrix, parallelism: gemm::Parallelism) {
    let ((rows, depth), columns) = (a.shape, b.shape.1);
    assert!(b.shape.0 == depth && columns <= pitch && fits(y, (rows, columns), pitch));
    // SAFETY: `Matrix::new` asserts for `a` and `b`, and the line above for `y`, that every address of an element lies
    // inside its slice; transposing swaps shape and steps together, so the addresses stay the same. `y` is borrowed
    // mutably, so it overlaps neither `a` nor `b`, and every float of it is initialised.
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
            a.steps.1 as isize,
            a.steps.0 as isize,
            b.values.as_ptr(),
            b.steps.1 as isize,
            b.steps.0 as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}
