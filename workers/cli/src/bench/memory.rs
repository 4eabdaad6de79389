//! Memory that is free before a model is made, and that was taken in the end.

use anyhow::bail;
use candle_core::Device;

/// Refuses to make what cannot fit.
///
/// # Errors
/// `bytes` of weights are more than the device has free.
pub fn check(what: &str, bytes: usize, device: &Device) -> anyhow::Result<()> {
    match available(device) {
        Some(free) if bytes > free => bail!(
            "{what} has {:.1} GB of weights, but only {:.1} GB of memory are free",
            bytes as f64 / 1e9,
            free as f64 / 1e9
        ),
        _ => Ok(()),
    }
}

/// Bytes that this process can still get on `device`; `None` where nobody says.
fn available(device: &Device) -> Option<usize> {
    if !device.is_cpu() {
        return on_gpu().map(|(free, _)| free);
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let number = |path: &str| read(path).trim().parse::<usize>().ok();
    let machine = kilobytes(&read("/proc/meminfo"), "MemAvailable:");
    let container = number("/sys/fs/cgroup/memory.max")
        .zip(number("/sys/fs/cgroup/memory.current"))
        .map(|(most, taken)| most.saturating_sub(taken));
    let process = address_space(&read("/proc/self/limits"));
    [machine, container, process].into_iter().flatten().min()
}

/// The most bytes that this process has had on `device` at once; on a GPU, what all processes have now.
pub fn peak(device: &Device) -> Option<usize> {
    if device.is_cpu() {
        kilobytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
    } else {
        on_gpu().map(|(free, total)| total - free)
    }
}

/// Free and all bytes of the GPU in use, as its driver says.
#[cfg(feature = "cuda")]
fn on_gpu() -> Option<(usize, usize)> {
    candle_core::cuda_backend::cudarc::driver::result::mem_get_info().ok()
}

#[cfg(not(feature = "cuda"))]
fn on_gpu() -> Option<(usize, usize)> {
    None
}

/// Bytes of a line such as `VmHWM:    1234 kB`.
fn kilobytes(text: &str, name: &str) -> Option<usize> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(rest.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? << 10)
}

/// The soft limit of `Max address space` in bytes.
fn address_space(limits: &str) -> Option<usize> {
    let rest = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says() {
        assert_eq!(kilobytes("VmPeak:\t 7 kB\nVmHWM:\t  12 kB\n", "VmHWM:"), Some(12 << 10));
        assert_eq!(kilobytes("VmPeak:\t 7 kB\n", "VmHWM:"), None);
        let limits =
            "Limit   Soft Limit  Hard Limit  Units\nMax address space    2048000    unlimited    bytes\n";
        assert_eq!(address_space(limits), Some(2_048_000));
        assert_eq!(address_space("Max address space   unlimited   unlimited   bytes"), None);
    }

    #[test]
    fn too_much_is_refused_in_words() {
        let error = check("the moon", usize::MAX, &Device::Cpu).unwrap_err().to_string();
        assert!(error.starts_with("the moon has ") && error.ends_with("GB of memory are free"), "{error}");
        check("a pebble", 1 << 20, &Device::Cpu).unwrap();
    }
}
