//! The CPU that a measurement ran on, as results files name it.

/// Instruction sets that decide the speed of matrix products, as `/proc/cpuinfo` spells them.
const INSTRUCTION_SETS: [&str; 9] = [
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
];

/// The model name of the first CPU and its instruction sets of interest; `None` where the kernel does not tell.
pub fn cpu() -> Option<(String, Vec<&'static str>)> {
    describe(&std::fs::read_to_string("/proc/cpuinfo").ok()?)
}

fn describe(cpuinfo: &str) -> Option<(String, Vec<&'static str>)> {
    let value = |key: &str| {
        cpuinfo
            .lines()
            .find_map(|line| line.split_once(':').filter(|(name, _)| name.trim() == key))
            .map(|(_, value)| value.trim())
    };
    let flags: Vec<&str> = value("flags").unwrap_or_default().split(' ').collect();
    let sets = INSTRUCTION_SETS.into_iter().filter(|set| flags.contains(set)).collect();
    Some((value("model name")?.to_string(), sets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_model_and_the_sets_of_interest() {
        let text =
            "processor\t: 0\nmodel name\t: Example CPU @ 2.00GHz\nflags\t\t: fpu fma avx2 avx512f aes\n";
        assert_eq!(describe(text), Some(("Example CPU @ 2.00GHz".into(), vec!["avx2", "fma", "avx512f"])));
        assert_eq!(describe("processor : 0\n"), None);
    }
}
