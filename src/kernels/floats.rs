//! Values of CPU tensors as slices, and vectorised sums over them.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, DType, Layout, Storage, StorageRef, Tensor};

/// Whether the kernels of this folder handle `x`. All other tensors use candle's operations.
pub fn on_cpu_in_f32(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// Borrows the values of a contiguous f32 tensor on the CPU.
///
/// # Errors
/// The tensor is not contiguous, not f32, or not on the CPU.
pub fn floats(tensor: &Tensor) -> candle_core::Result<Floats<'_>> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(_)), Some((start, end))) => Ok(Floats { storage, range: start..end }),
        _ => candle_core::bail!("needs a contiguous f32 tensor on the CPU"),
    }
}

/// Borrowed values of a tensor, made by [`floats`].
pub struct Floats<'t> {
    storage: StorageRef<'t>,
    range: Range<usize>,
}

impl Deref for Floats<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(floats)) => &floats[self.range.clone()],
            _ => unreachable!("`floats` has checked the storage"),
        }
    }
}

/// Returns the values of an input of a custom operation.
///
/// # Errors
/// The input is not contiguous or not f32.
pub fn contiguous<'s>(storage: &'s CpuStorage, layout: &Layout) -> candle_core::Result<&'s [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => candle_core::bail!("needs contiguous inputs"),
    }
}

const LANES: usize = 16;

/// Sums the values of a slice.
pub fn sum(a: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = a.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, a)| *lane += a);
    }
    lanes.iter().sum::<f32>() + rest
}

/// Computes the dot product of two slices of the same length.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (a, b))| *lane += a * b);
    }
    lanes.iter().sum::<f32>() + rest
}
