//! Where and in which dtype the stages of the parity suite are computed: `FLAMINGO_TEST_DEVICE` (`cpu`, `cuda`) and
//! `FLAMINGO_TEST_DTYPE` (`f32`, `bf16`, `f16`); CPU and f32 if they are not set.
//!
//! Tests that compare stages use all of it; tests that compare written tokens stay in f32, where they are exact.

use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};

/// What half precision may lose over the few layers of a golden, relative to the largest value of a stage.
const HALF_TOLERANCE: f64 = 5e-2;

/// The device of the whole suite.
///
/// # Panics
/// When there is no such device: a suite that was sent to a GPU does not run elsewhere.
pub fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| match variable("FLAMINGO_TEST_DEVICE").as_deref() {
        None | Some("cpu") => Device::Cpu,
        Some("cuda") => Device::new_cuda(0).expect("a CUDA device"),
        Some(other) => panic!("FLAMINGO_TEST_DEVICE is `{other}`, not `cpu` or `cuda`"),
    })
}

/// The dtype of stages that are compared with a tolerance.
///
/// # Panics
/// When the variable names no dtype.
pub fn dtype() -> DType {
    match variable("FLAMINGO_TEST_DTYPE").as_deref() {
        None | Some("f32") => DType::F32,
        Some("bf16") => DType::BF16,
        Some("f16") => DType::F16,
        Some(other) => panic!("FLAMINGO_TEST_DTYPE is `{other}`, not `f32`, `bf16` or `f16`"),
    }
}

/// A stage's tolerance in the suite's dtype, from the one that holds in f32.
pub fn tolerance(in_f32: f64) -> f64 {
    if dtype() == DType::F32 { in_f32 } else { in_f32.max(HALF_TOLERANCE) }
}

/// An input on the suite's device and in its dtype.
pub fn input(tensor: &Tensor) -> Tensor {
    tensor.to_device(device()).and_then(|t| t.to_dtype(dtype())).expect("the device takes an input")
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
