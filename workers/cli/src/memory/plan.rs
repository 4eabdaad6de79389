//! Plan of the memory of a model: an estimate from headers, checked against what is available before weights are read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::bail;
use flamingo::family::LoadOptions;
use flamingo::weights::MatrixOptions;
use serde_json::{Value, json};

use super::available::{Available, available};
use super::headers::{Header, headers, index_problems, truncation, weight_files};

/// Environment variable that turns the check off: `off`.
const CHECK: &str = "FLAMINGO_MEMORY_CHECK";

/// Estimated memory of the weights of a model.
#[derive(Debug, Clone, Default)]
pub struct MemoryPlan {
    parts: BTreeMap<&'static str, Part>,
    /// Bytes of the largest tensor in its file, which is in memory twice while it is converted.
    largest: u64,
    /// Contradictions between the files.
    problems: Vec<String>,
}

/// One part of a model.
#[derive(Debug, Clone, Default)]
struct Part {
    tensors: u64,
    values: u64,
    /// Bytes in the files by type.
    stored: BTreeMap<String, u64>,
    /// Bytes in memory.
    loaded: u64,
}

impl MemoryPlan {
    /// Reads the headers of the files of a model directory.
    ///
    /// # Errors
    /// A file is missing or malformed.
    pub fn read(directory: &Path, options: &LoadOptions) -> anyhow::Result<Self> {
        let mut plan = Self::default();
        let LoadOptions { device, dtype, quantization, .. } = options;
        let matrices = MatrixOptions { device: device.clone(), dtype: *dtype, quantization: *quantization };
        let mut files: BTreeMap<PathBuf, Vec<(PathBuf, Vec<Header>)>> = BTreeMap::new();
        for (part, file) in weight_files(directory)? {
            let headers = headers(&file)?;
            // A checkpoint of CLIP has a text tower, which is not loaded.
            let only_vision =
                part == Some("vision encoder") && headers.iter().any(|header| is_vision(&header.name));
            for header in headers.iter().filter(|header| !only_vision || is_vision(&header.name)) {
                let part = part.map_or_else(|| part_of(&header.name), |part| refine(part, &header.name));
                plan.add(part, header, &matrices);
            }
            plan.problems.extend(truncation(&file)?);
            let folder = file.parent().unwrap_or(directory).to_path_buf();
            files.entry(folder).or_default().push((file, headers));
        }
        for (folder, files) in &files {
            plan.problems.extend(index_problems(folder, files)?);
        }
        Ok(plan)
    }

    fn add(&mut self, part: &'static str, header: &Header, options: &MatrixOptions) {
        let loaded = loaded_bytes(part, header, options);
        let part = self.parts.entry(part).or_default();
        part.tensors += 1;
        part.values += header.values();
        *part.stored.entry(header.dtype.clone()).or_default() += header.bytes;
        part.loaded += loaded;
        self.largest = self.largest.max(header.bytes);
    }

    /// Estimated bytes while the model loads, its peak.
    pub fn bytes(&self) -> u64 {
        self.parts.values().map(|part| part.loaded).sum::<u64>() + self.largest
    }

    /// Checks that the weights fit into the available memory, and on a GPU the `caches` of the engine too: a GPU allocates them at
    /// the start. On a CPU they only grow, so caches that may not fit are a warning.
    ///
    /// # Errors
    /// They do not fit: the text has the numbers.
    pub fn check(&self, name: &str, caches: u64, options: &LoadOptions) -> anyhow::Result<()> {
        if std::env::var(CHECK).is_ok_and(|set| set == "off") {
            return Ok(());
        }
        let Some(free) = available(&options.device) else { return Ok(()) };
        match self.missing(name, caches, free) {
            Some(text) if self.bytes() > free.bytes || !options.device.is_cpu() => {
                bail!("{text}; --quantize or --dtype can reduce it, and {CHECK}=off tries it anyway")
            }
            Some(text) => tracing::warn!("{text}; engine.kv_bytes and engine.media_bytes limit the caches"),
            None => {}
        }
        Ok(())
    }

    /// A sentence with the numbers, if weights and caches do not fit.
    fn missing(&self, name: &str, caches: u64, free: Available) -> Option<String> {
        let needed = self.bytes().saturating_add(caches);
        if needed <= free.bytes {
            return None;
        }
        let mut parts: Vec<String> =
            self.parts.iter().map(|(part, plan)| format!("{part} {}", gigabytes(plan.loaded))).collect();
        parts.push(format!("largest tensor during the load {}", gigabytes(self.largest)));
        if caches > 0 {
            parts.push(format!("caches of the engine up to {}", gigabytes(caches)));
        }
        let (needed, available) = (gigabytes(needed), gigabytes(free.bytes));
        let parts = parts.join(", ");
        Some(format!("{name} needs about {needed} of memory ({parts}), and {available} are {}", free.limit))
    }

    /// Contradictions between the files: tensors that are missing or superfluous by an index of shards.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Prints a table of the parts.
    pub fn print(&self) {
        for (name, part) in &self.parts {
            let stored: Vec<_> =
                part.stored.iter().map(|(dtype, bytes)| format!("{dtype} {}", gigabytes(*bytes))).collect();
            println!(
                "  {name:<16} {:>8.2} M parameters in {} tensors; on disk {}; in memory {} (estimated)",
                part.values as f64 / 1e6,
                part.tensors,
                stored.join(", "),
                gigabytes(part.loaded)
            );
        }
        println!("  memory           {} while it loads, without caches (estimated)", gigabytes(self.bytes()));
    }

    /// The plan as one object.
    pub fn as_json(&self) -> Value {
        let part = |(name, part): (&&str, &Part)| {
            let plan = json!({
                "tensors": part.tensors, "parameters": part.values, "stored_bytes": part.stored, "loaded_bytes": part.loaded,
            });
            ((*name).to_owned(), plan)
        };
        let parts: serde_json::Map<String, Value> = self.parts.iter().map(part).collect();
        json!({"parts": parts, "estimated_bytes": self.bytes(), "problems": self.problems})
    }
}

/// Bytes of a tensor in memory. Only matrices of language model and cross-attention are quantised.
fn loaded_bytes(part: &str, header: &Header, options: &MatrixOptions) -> u64 {
    let dense = header.values().saturating_mul(options.dtype.size_in_bytes() as u64);
    let has = |words: &[&str]| words.iter().any(|word| header.name.contains(word));
    let quantization = match part {
        _ if header.shape.len() != 2 => return dense,
        "language model" | "cross-attention" if has(&VOCABULARY) => options.quantization.in_8_bits(),
        "language model" | "cross-attention" => options.quantization,
        // The encoder of Llama 3.2 Vision: other encoders are small, and dense.
        "vision encoder" if has(&["transformer.layers."]) => options.quantization.as_stored(),
        _ => return dense,
    };
    match (MatrixOptions { quantization, ..options.clone() }).format(header.format, &header.shape) {
        Some(format) => header.values() / format.block_size() as u64 * format.type_size() as u64,
        None => dense,
    }
}

/// Words in the names of embeddings and output heads.
const VOCABULARY: [&str; 5] = ["embed", "wte", "lm_head", "token_embd", "output.weight"];

/// Part of a model to which a tensor of a file of all parts belongs, by the words of its name.
fn part_of(name: &str) -> &'static str {
    if is_vision(name) { "vision encoder" } else { refine("language model", name) }
}

fn refine(part: &'static str, name: &str) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    match part {
        "vision encoder" => part,
        _ if is_vision(name) => "vision encoder",
        _ if has(&["perceiver", "resampler", "multi_modal_projector"]) => "connector",
        _ if has(&["cross_attn", "cross_attention", "xattn"]) => "cross-attention",
        _ => part,
    }
}

fn is_vision(name: &str) -> bool {
    name.starts_with("vision")
        || name.starts_with("visual.")
        || name.contains("vision_model")
        || name.contains("vision_encoder")
}

/// Formats bytes for people.
pub fn gigabytes(bytes: u64) -> String {
    if bytes < 100_000_000 {
        format!("{:.1} MB", bytes as f64 / 1e6)
    } else {
        format!("{:.2} GB", bytes as f64 / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::GgmlDType;
    use candle_core::{DType, Device};
    use flamingo::weights::Quantization;

    use super::*;

    fn options(dtype: DType, quantization: Quantization) -> MatrixOptions {
        MatrixOptions { device: Device::Cpu, dtype, quantization }
    }

    #[test]
    fn quantised_matrices_count_their_blocks() {
        let header = |name: &str, format| {
            let shape = vec![512, 512];
            Header { name: name.into(), dtype: String::new(), shape, bytes: 0, format }
        };
        let n = 512 * 512;
        for (part, name, quantization, expected) in [
            ("language model", "layers.0.mlp", Quantization::Q4K, n / 256 * 144),
            ("cross-attention", "gated_cross_attn_layers.0.q", Quantization::Q8_0, n / 32 * 34),
            ("language model", "model.embed_tokens.weight", Quantization::Q4K, n / 32 * 34),
            ("language model", "layers.0.mlp", Quantization::Keep, n * 2),
            ("language model", "layers.0.mlp", Quantization::Dequantize, n * 4),
            ("vision encoder", "vision.mlp", Quantization::Q4K, n * 4),
            ("vision encoder", "vision_model.transformer.layers.0.mlp", Quantization::Q4K, n * 2),
            ("connector", "perceiver.mlp", Quantization::Keep, n * 4),
        ] {
            let found =
                loaded_bytes(part, &header(name, GgmlDType::BF16), &options(DType::F32, quantization));
            assert_eq!(found, expected, "{name} {quantization:?}");
        }
    }

    #[test]
    fn names_parts_and_numbers() {
        let mut plan = MemoryPlan::default();
        for (name, shape, format) in [
            ("model.vision_model.embeddings.patch", vec![1000, 1000], GgmlDType::F32),
            ("model.perceiver_resampler.latents", vec![10, 10], GgmlDType::F32),
            ("model.gated_cross_attn_layers.0.alpha", vec![1], GgmlDType::F32),
            ("model.layers.0.mlp", vec![100_000, 1000], GgmlDType::F32),
            ("blk.0.ffn", vec![10, 320], GgmlDType::Q4_1),
        ] {
            let header = Header { name: name.into(), dtype: "F32".into(), shape, bytes: 1800, format };
            plan.add(part_of(name), &header, &options(DType::BF16, Quantization::Keep));
        }
        let names: Vec<_> = plan.parts.iter().map(|(name, part)| (*name, part.loaded)).collect();
        let language = 200_000_000 + 2000;
        assert_eq!(
            names,
            [
                ("connector", 200),
                ("cross-attention", 2),
                ("language model", language),
                ("vision encoder", 2_000_000)
            ]
        );
        let needed = 200 + 2 + language + 2_000_000 + 1800;
        assert_eq!(plan.bytes(), needed);
        let limit = "left of the cgroup limit";
        assert_eq!(plan.missing("m", 5, Available { bytes: needed + 5, limit }), None);
        let error = plan.missing("m", 5, Available { bytes: needed + 4, limit }).unwrap();
        for text in [
            "m needs about 0.20 GB of memory",
            "language model 0.20 GB",
            "are left of the cgroup limit",
            "caches of the engine",
        ] {
            assert!(error.contains(text), "{text}: {error}");
        }
    }
}
