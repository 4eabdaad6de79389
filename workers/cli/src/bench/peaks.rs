//! Limits of the machine: operations and bytes per second. The floors are computed from them.

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};

use super::cost::Cost;
use super::fma::Instruction;

/// Side of the square matrices of the matrix product.
const CPU_SIDE: usize = 1536;
const CUDA_SIDE: usize = 8192;
/// Bytes that are read on the CPU; larger than a last-level cache.
const CPU_BYTES: usize = 512 << 20;
/// Bytes that are copied on a GPU.
const CUDA_BYTES: usize = 1 << 30;
/// Minimum number of repetitions. The best one counts; a busy machine needs more of them.
const MIN_RUNS: usize = 3;
/// Minimum time of all repetitions.
const MIN_TIME: Duration = Duration::from_millis(400);

/// Limits of device and threads, in the dtype of the measurements.
#[derive(Debug, Clone, Copy)]
pub struct Peaks {
    /// Operations per second: the larger of a large matrix product and the multiply-add instruction.
    pub operations: f64,
    /// Operations per second of a large matrix product of ours.
    pub product: f64,
    /// The widest multiply-add instruction of the CPU for the dtype, and its operations per second.
    pub instruction: Option<(&'static str, f64)>,
    /// Bytes per second.
    pub bandwidth: f64,
}

/// Resource that limits a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    Compute,
    Memory,
}

/// Measures the operations per second of one large matrix product.
///
/// # Errors
/// The device reports an error.
pub fn operations(device: &Device, dtype: DType) -> candle_core::Result<f64> {
    let side = if device.is_cpu() { CPU_SIDE } else { CUDA_SIDE };
    let matrix = Tensor::rand(-1f32, 1f32, (side, side), device)?.to_dtype(dtype)?;
    let seconds = best(device, || matrix.matmul(&matrix).map(drop))?;
    Ok(2.0 * (side as f64).powi(3) / seconds)
}

/// Measures the memory bandwidth in bytes per second: reading on the CPU, copying on a GPU.
///
/// # Errors
/// The device reports an error.
pub fn bandwidth(device: &Device) -> candle_core::Result<f64> {
    let (bytes, seconds) = if device.is_cpu() { (CPU_BYTES, read()) } else { copy(device)? };
    Ok(bytes as f64 / seconds)
}

impl Peaks {
    /// Peaks from measured products and bandwidth; measures the multiply-add instruction of a CPU.
    pub fn new(device: &Device, dtype: DType, product: f64, bandwidth: f64) -> Self {
        let instruction = Instruction::widest(dtype)
            .filter(|_| device.is_cpu())
            .map(|instruction| (instruction.name, instruction.operations_per_second()));
        let operations = instruction.map_or(product, |(_, peak)| peak.max(product));
        Self { operations, product, instruction, bandwidth }
    }

    /// Minimum time of a stage in seconds, and the resource that limits it.
    pub fn floor(&self, cost: &Cost) -> (f64, Bound) {
        let (compute, memory) = (cost.operations / self.operations, cost.bytes / self.bandwidth);
        if compute >= memory { (compute, Bound::Compute) } else { (memory, Bound::Memory) }
    }
}

/// Seconds of the fastest run, after one warm-up run.
pub(super) fn best(device: &Device, run: impl Fn() -> candle_core::Result<()>) -> candle_core::Result<f64> {
    run()?;
    device.synchronize()?;
    let (begin, mut best, mut runs) = (Instant::now(), f64::INFINITY, 0);
    while runs < MIN_RUNS || begin.elapsed() < MIN_TIME {
        let start = Instant::now();
        run()?;
        device.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    Ok(best)
}

/// Seconds in which all threads together read the bytes once.
fn read() -> f64 {
    let numbers = vec![1u64; CPU_BYTES / 8];
    let share = numbers.len().div_ceil(candle_core::utils::get_num_threads());
    let sum = |part: &[u64]| part.iter().fold(0u64, |sum, n| sum.wrapping_add(*n));
    let pass = || {
        std::thread::scope(|scope| {
            for part in numbers.chunks(share) {
                scope.spawn(move || std::hint::black_box(sum(part)));
            }
        });
        Ok(())
    };
    best(&Device::Cpu, pass).expect("reading memory does not fail")
}

/// Bytes read and written by one copy, and its seconds.
fn copy(device: &Device) -> candle_core::Result<(usize, f64)> {
    let bytes = Tensor::zeros(CUDA_BYTES / 4, DType::F32, device)?;
    Ok((2 * CUDA_BYTES, best(device, || bytes.copy().map(drop))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floor_is_the_slower_of_compute_and_memory() {
        let peaks = Peaks { operations: 100.0, product: 80.0, instruction: None, bandwidth: 10.0 };
        assert_eq!(peaks.floor(&Cost { operations: 300.0, bytes: 20.0 }), (3.0, Bound::Compute));
        assert_eq!(peaks.floor(&Cost { operations: 300.0, bytes: 40.0 }), (4.0, Bound::Memory));
    }
}
