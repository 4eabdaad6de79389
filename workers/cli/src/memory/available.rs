//! Memory that this process can still allocate.

use std::path::{Path, PathBuf};

use candle_core::Device;

/// Mount point of the control groups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// An amount of memory, and the limit that it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Available {
    pub bytes: u64,
    pub limit: &'static str,
}

/// Bytes that this process can still allocate on `device`; `None` where this is unknown.
pub fn available(device: &Device) -> Option<Available> {
    if !device.is_cpu() {
        return on_gpu().map(|(free, _)| Available { bytes: free as u64, limit: "free on the GPU" });
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let machine = kilobytes(&read("/proc/meminfo"), "MemAvailable:");
    let group = control_group(Path::new(CGROUPS), &read("/proc/self/cgroup"));
    let process = address_space(&read("/proc/self/limits"));
    let limits = [
        (machine, "available on this machine"),
        (group, "left of the cgroup limit"),
        (process, "left of the limit of address space"),
    ];
    let limits = limits.into_iter().filter_map(|(bytes, limit)| Some(Available { bytes: bytes?, limit }));
    limits.min_by_key(|available| available.bytes)
}

/// Bytes left in the tightest control group of this process, of its own group and of those above it. The cache of files counts
/// as free: the kernel drops it on demand.
fn control_group(root: &Path, groups: &str) -> Option<u64> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let first = groups.lines().find_map(|line| Some(line.split_once(":memory:/")?.1)).unwrap_or_default();
    let second_version = folders(root, own).into_iter().filter_map(|folder| {
        let max = number(&folder, "memory.max")?;
        Some(max.saturating_sub(used(&folder, "memory.current")))
    });
    let first_version = folders(&root.join("memory"), first).into_iter().filter_map(|folder| {
        let max = number(&folder, "memory.limit_in_bytes")?;
        Some(max.saturating_sub(used(&folder, "memory.usage_in_bytes")))
    });
    second_version.chain(first_version).min()
}

/// The folder of a group and those of the groups above it.
fn folders(root: &Path, group: &str) -> Vec<PathBuf> {
    let inside = root.join(group.trim_end_matches('\n'));
    let groups = inside.ancestors().take_while(|path| path.starts_with(root));
    groups.map(Path::to_path_buf).collect()
}

fn number(folder: &Path, file: &str) -> Option<u64> {
    std::fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
}

/// Bytes in use, without the cache of files.
fn used(folder: &Path, file: &str) -> u64 {
    let statistics = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let of = |name: &str| -> u64 {
        let line = statistics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
    };
    let cache = of("inactive_file") + of("active_file");
    number(folder, file).unwrap_or(0).saturating_sub(cache)
}

/// Free and total bytes of the current GPU, from its driver.
#[cfg(feature = "cuda")]
pub fn on_gpu() -> Option<(usize, usize)> {
    candle_core::cuda_backend::cudarc::driver::result::mem_get_info().ok()
}

/// `None`: this build has no GPU.
#[cfg(not(feature = "cuda"))]
pub fn on_gpu() -> Option<(usize, usize)> {
    None
}

/// Parses a line such as `VmHWM:    1234 kB` into bytes.
pub fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Parses the soft limit of `Max address space` in bytes.
fn address_space(limits: &str) -> Option<u64> {
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
    fn the_tightest_group_counts_without_the_cache_of_files() {
        let root = tempfile::tempdir().unwrap();
        let group = |path: &str, files: &[(&str, &str)]| {
            let folder = root.path().join(path);
            std::fs::create_dir_all(&folder).unwrap();
            files.iter().for_each(|(name, text)| std::fs::write(folder.join(name), text).unwrap());
        };
        assert_eq!(control_group(root.path(), "0::/a/b\n"), None);
        group("a/b", &[("memory.max", "max\n"), ("memory.current", "70\n")]);
        assert_eq!(control_group(root.path(), "0::/a/b\n"), None);
        let statistics = "anon 10\ninactive_file 30\nactive_file 5\n";
        group("a", &[("memory.max", "100\n"), ("memory.current", "80\n"), ("memory.stat", statistics)]);
        assert_eq!(control_group(root.path(), "0::/a/b\n"), Some(55));
        assert_eq!(control_group(root.path(), "0::/\n"), None);
        // The first version of control groups has a folder per kind of limit.
        group("memory/c", &[("memory.limit_in_bytes", "40\n"), ("memory.usage_in_bytes", "15\n")]);
        assert_eq!(control_group(root.path(), "5:cpu:/x\n4:memory:/c\n"), Some(25));
    }
}
