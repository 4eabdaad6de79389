//! Free memory before a model is built, and peak memory after the measurements.

use anyhow::bail;
use candle_core::Device;

/// Checks that `bytes` of weights fit into the free memory of the device.
///
/// # Errors
/// They do not fit.
pub fn check_fits(what: &str, bytes: usize, device: &Device) -> anyhow::Result<()> {
    match available(device) {
        Some(free) if bytes > free => bail!(
            "{what} has {:.1} GB of weights, but only {:.1} GB of memory are free",
            bytes as f64 / 1e9,
            free as f64 / 1e9
        ),
        _ => Ok(()),
    }
}

/// Bytes that this process can still allocate on `device`; `None` where this is unknown.
fn available(device: &Device) -> Option<usize> {
    if !device.is_cpu() {
        return on_gpu().map(|(free, _)| free);
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let number = |path: &str| read(path).trim().parse::<usize>().ok();
    let machine = kilobytes(&read("/proc/meminfo"), "MemAvailable:");
    let container = number("/sys/fs/cgroup/memory.max")
        .zip(number("/sys/fs/cgroup/memory.current"))
        .map(|(max, used)| max.saturating_sub(used));
    let process = address_space(&read("/proc/self/limits"));
    [machine, container, process].into_iter().flatten().min()
}

/// Peak memory of this process on `device` in bytes; on a GPU, the memory that all processes use now.
pub fn peak(device: &Device) -> Option<usize> {
    if device.is_cpu() {
        kilobytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
    } else {
        on_gpu().map(|(free, total)| total - free)
    }
}

/// Free and total bytes of the current GPU, from its driver.
#[cfg(feature = "cuda")]
fn on_gpu() -> Option<(usize, usize)> {
    candle_core::cuda_backend::cudarc::driver::result::mem_get_info().ok()
}

#[cfg(not(feature = "cuda"))]
fn on_gpu() -> Option<(usize, usize)> {
    None
}

/// Parses a line such as `VmHWM:    1234 kB` into bytes.
fn kilobytes(text: &str, name: &str) -> Option<usize> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(rest.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? << 10)
}

/// Parses the soft limit of `Max address space` in bytes.
fn address_space(limits: &str) -> Option<usize> {
    let rest = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_proc_files() {
        assert_eq!(kilobytes("VmPeak:\t 7 kB\nVmHWM:\t  12 kB\n", "VmHWM:"), Some(12 << 10));
        assert_eq!(kilobytes("VmPeak:\t 7 kB\n", "VmHWM:"), None);
        let limits =
            "Limit   Soft Limit  Hard Limit  Units\nMax address space    2048000    unlimited    bytes\n";
        assert_eq!(address_space(limits), Some(2_048_000));
        assert_eq!(address_space("Max address space   unlimited   unlimited   bytes"), None);
    }

    #[test]
    fn refuses_models_larger_than_memory() {
        let error = check_fits("the moon", usize::MAX, &Device::Cpu).unwrap_err().to_string();
        assert!(error.starts_with("the moon has ") && error.ends_with("GB of memory are free"), "{error}");
        check_fits("a pebble", 1 << 20, &Device::Cpu).unwrap();
    }
}
