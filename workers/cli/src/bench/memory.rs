//! Check of free memory before a model is built, and peak memory after the measurements.

use anyhow::bail;
use candle_core::Device;

use crate::memory::available::{available, kilobytes, on_gpu};

/// Checks that `bytes` of weights fit into the free memory of the device.
///
/// # Errors
/// They do not fit.
pub fn check_fits(what: &str, bytes: usize, device: &Device) -> anyhow::Result<()> {
    match available(device) {
        Some(free) if bytes as u64 > free.bytes => bail!(
            "{what} has {:.1} GB of weights, but only {:.1} GB of memory are free",
            bytes as f64 / 1e9,
            free.bytes as f64 / 1e9
        ),
        _ => Ok(()),
    }
}

/// Peak memory of this process on `device` in bytes; on a GPU, the memory that all processes use now.
pub fn peak(device: &Device) -> Option<usize> {
    if device.is_cpu() {
        Some(kilobytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")? as usize)
    } else {
        on_gpu().map(|(free, total)| total - free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_models_larger_than_memory() {
        let error = check_fits("the moon", usize::MAX, &Device::Cpu).unwrap_err().to_string();
        assert!(error.starts_with("the moon has ") && error.ends_with("GB of memory are free"), "{error}");
        check_fits("a pebble", 1 << 20, &Device::Cpu).unwrap();
    }
}
