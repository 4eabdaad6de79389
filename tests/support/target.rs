//! Device and dtype of the stages of the parity suite: `FLAMINGO_TEST_DEVICE` (`cpu`, `cuda`) and
//! `FLAMINGO_TEST_DTYPE` (`f32`, `bf16`, `f16`); CPU and f32 if they are not set.
//!
//! Tests that compare stages use both; tests that compare generated tokens stay in f32, where they are exact.

use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};

/// Tolerance of half precision over the few layers of a golden, relative to the largest value of a stage.
const HALF_TOLERANCE: f64 = 5e-2;

/// Returns the device of the whole suite.
///
/// # Panics
/// Panics if the device is absent: a suite for a GPU must not run elsewhere.
pub fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| match variable("FLAMINGO_TEST_DEVICE").as_deref() {
        None | Some("cpu") => Device::Cpu,
        Some("cuda") => Device::new_cuda(0).expect("a CUDA device"),
        Some(other) => panic!("FLAMINGO_TEST_DEVICE is `{other}`, not `cpu` or `cuda`"),
    })
}

/// Returns the dtype of stages that are compared with a tolerance.
///
/// # Panics
/// Panics if the variable names no dtype.
pub fn dtype() -> DType {
    match variable("FLAMINGO_TEST_DTYPE").as_deref() {
        None | Some("f32") => DType::F32,
        Some("bf16") => DType::BF16,
        Some("f16") => DType::F16,
        Some(other) => panic!("FLAMINGO_TEST_DTYPE is `{other}`, not `f32`, `bf16` or `f16`"),
    }
}

/// Returns the tolerance of a stage in the dtype of the suite, from its tolerance in f32.
pub fn tolerance(in_f32: f64) -> f64 {
    if dtype() == DType::F32 { in_f32 } else { in_f32.max(HALF_TOLERANCE) }
}

/// Moves an input to the device and dtype of the suite.
pub fn input(tensor: &Tensor) -> Tensor {
    tensor.to_device(device()).and_then(|t| t.to_dtype(dtype())).expect("the device takes an input")
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
