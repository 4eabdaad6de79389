//! The peak of multiply-add instructions: a loop on registers alone, with no memory access and no dependency that stalls.
//!
//! Every matrix product stays below this peak, so it also shows what our own product leaves unused.

use std::hint::black_box;

use candle_core::{DType, Device};

use super::peaks::best;

/// Loop iterations of one run on one thread: about 10 ms.
const ITERATIONS: usize = 1 << 21;

/// A multiply-add instruction of this CPU.
#[derive(Debug, Clone, Copy)]
pub struct Instruction {
    pub name: &'static str,
    /// Floating-point operations (multiplications and additions) of one loop iteration.
    operations: usize,
    /// Runs the loop and returns a value that depends on each iteration.
    run: fn(usize) -> f32,
}

impl Instruction {
    /// The widest multiply-add of this CPU for `dtype`; `None` if it has none that this program can use. The matrix
    /// units of AMX are not measured.
    pub fn widest(dtype: DType) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        let widest = match dtype {
            DType::F32 if is_x86_feature_detected!("avx512f") => Some(x86::AVX512),
            DType::F32 if is_x86_feature_detected!("fma") => Some(x86::AVX2),
            DType::BF16 if is_x86_feature_detected!("avx512bf16") => Some(x86::AVX512_BF16),
            _ => None,
        };
        #[cfg(not(target_arch = "x86_64"))]
        let widest = (dtype == DType::F32).then_some(PORTABLE);
        widest
    }

    /// Operations per second of all threads together.
    pub fn operations_per_second(self) -> f64 {
        let threads = candle_core::utils::get_num_threads();
        let run = || {
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| black_box((self.run)(black_box(ITERATIONS))));
                }
            });
            Ok(())
        };
        let seconds = best(&Device::Cpu, run).expect("arithmetic on registers does not fail");
        (threads * ITERATIONS * self.operations) as f64 / seconds
    }
}

/// Independent sums: more than latency times instructions per cycle of any CPU, and as many as fit its registers.
const SUMS: usize = 12;

#[cfg(not(target_arch = "x86_64"))]
const PORTABLE: Instruction = {
    fn run(iterations: usize) -> f32 {
        let mut sums = [[0f32; 4]; SUMS];
        let factor = std::hint::black_box(0.5f32);
        for _ in 0..iterations {
            sums.iter_mut().flatten().for_each(|sum| *sum = sum.mul_add(factor, 1.0));
        }
        sums.iter().flatten().sum()
    }
    Instruction { name: "f32::mul_add", operations: SUMS * 4 * 2, run }
};

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{Instruction, SUMS};

    pub const AVX512: Instruction = Instruction {
        name: "AVX-512",
        operations: SUMS * 16 * 2,
        // SAFETY: `widest` returns this instruction only where the CPU has AVX-512F.
        run: |iterations| unsafe { avx512(iterations) },
    };
    pub const AVX2: Instruction = Instruction {
        name: "AVX2 with FMA",
        operations: SUMS * 8 * 2,
        // SAFETY: `widest` returns this instruction only where the CPU has FMA, and each CPU with FMA has AVX.
        run: |iterations| unsafe { avx2(iterations) },
    };
    pub const AVX512_BF16: Instruction = Instruction {
        name: "AVX-512 BF16",
        operations: SUMS * 32 * 2,
        // SAFETY: `widest` returns this instruction only where the CPU has AVX512-BF16, which includes AVX-512F.
        run: |iterations| unsafe { avx512_bf16(iterations) },
    };

    #[target_feature(enable = "avx512f")]
    fn avx512(iterations: usize) -> f32 {
        let (factor, one) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(1.0)));
        let mut sums = [one; SUMS];
        for _ in 0..iterations {
            sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(*sum, factor, one));
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }

    #[target_feature(enable = "avx,fma")]
    fn avx2(iterations: usize) -> f32 {
        let (factor, one) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(1.0)));
        let mut sums = [one; SUMS];
        for _ in 0..iterations {
            sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(*sum, factor, one));
        }
        sums.into_iter().map(|sum| _mm256_cvtss_f32(sum)).sum()
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn avx512_bf16(iterations: usize) -> f32 {
        let small = _mm512_set1_ps(black_box(1e-3));
        let factor = _mm512_cvtne2ps_pbh(small, small);
        let mut sums = [_mm512_setzero_ps(); SUMS];
        for _ in 0..iterations {
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, factor, factor));
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_is_executed_and_not_optimised_away() {
        let instruction = Instruction::widest(DType::F32).expect("each supported CPU has one");
        let peak = instruction.operations_per_second();
        // From one operation per 10 cycles of a slow core to 4 AVX-512 instructions per cycle of a fast one.
        let threads = candle_core::utils::get_num_threads() as f64;
        assert!((1e8..1e12).contains(&(peak / threads)), "{}: {peak:e} operations/s", instruction.name);
    }

    #[test]
    fn each_sum_converges_to_its_fixed_point() {
        // sum = sum / 2 + 1 has the fixed point 2, in each lane and each of the sums.
        let instruction = Instruction::widest(DType::F32).expect("each supported CPU has one");
        let total = (instruction.run)(100);
        assert!(total > 0.0 && total % 2.0 == 0.0, "{total}");
    }
}
