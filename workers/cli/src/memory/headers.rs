//! Headers of the files of a model: names, types and sizes of its tensors, without their values.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use candle_core::pickle::PthTensors;
use flamingo::family::CONFIG;
use flamingo::weights::open_gguf;
use serde_json::Value;

/// Largest header of a safetensors file in bytes.
const HEADER_LIMIT: u64 = 100 << 20;
/// Largest description in bytes.
const CONFIG_LIMIT: u64 = 1 << 20;

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    pub name: String,
    /// Type as the file names it: `BF16`, `Q4K`.
    pub dtype: String,
    pub shape: Vec<usize>,
    /// Bytes in the file.
    pub bytes: u64,
    /// Whether the file stores it in blocks of quantised weights.
    pub quantized: bool,
}

impl Header {
    /// Number of values.
    pub fn values(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).fold(1, u64::saturating_mul)
    }
}

/// Returns the files of weights of a model directory, with the part that each belongs to; `None`: all parts.
///
/// # Errors
/// The description cannot be read, or names files that do not exist.
pub fn weight_files(directory: &Path) -> anyhow::Result<Vec<(Option<&'static str>, PathBuf)>> {
    let config = read_config(directory)?;
    let mut files = Vec::new();
    // Our own directories name their files, the others hold them.
    for (key, part) in [
        ("adapters", "trained parts"),
        ("checkpoint", "trained parts"),
        ("language", "language model"),
        ("vision", "vision encoder"),
    ] {
        let named = config[key]["file"].as_str().or(config[key].as_str());
        let Some(path) = named.map(|named| directory.join(named)) else { continue };
        let found = if path.is_dir() { in_directory(&path)? } else { vec![path] };
        files.extend(found.into_iter().map(|file| (Some(part), file)));
    }
    if files.is_empty() {
        files.extend(in_directory(directory)?.into_iter().map(|file| (None, file)));
    }
    Ok(files)
}

fn read_config(directory: &Path) -> anyhow::Result<Value> {
    let path = directory.join(CONFIG);
    let file = File::open(&path).with_context(|| path.display().to_string())?;
    let mut text = String::new();
    file.take(CONFIG_LIMIT).read_to_string(&mut text).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// Files of weights in a directory, of the preferred format.
fn in_directory(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut by_format: BTreeMap<usize, Vec<PathBuf>> = BTreeMap::new();
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        let format = ["safetensors", "bin", "pt", "pth", "gguf"]
            .iter()
            .position(|e| path.extension().is_some_and(|x| x == *e));
        if let Some(format) = format {
            by_format.entry(format).or_default().push(path);
        }
    }
    match by_format.into_values().next() {
        Some(files) => Ok(files),
        None => bail!("{}: no weights", directory.display()),
    }
}

/// Reads the header of a file.
///
/// # Errors
/// The file is missing or malformed.
pub fn headers(path: &Path) -> anyhow::Result<Vec<Header>> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("gguf") => of_gguf(path),
        Some("pt" | "pth" | "bin") => of_pickle(path),
        _ => of_safetensors(path),
    }
}

fn of_safetensors(path: &Path) -> anyhow::Result<Vec<Header>> {
    let error = || format!("{}: not a readable safetensors file", path.display());
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let mut length = [0; 8];
    file.read_exact(&mut length).with_context(error)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_LIMIT {
        bail!("{}: the header has {length} bytes", error());
    }
    let mut text = Vec::new();
    file.take(length).read_to_end(&mut text).with_context(error)?;
    let entries: BTreeMap<String, Value> = serde_json::from_slice(&text).with_context(error)?;
    let mut found = Vec::new();
    for (name, entry) in entries {
        if name == "__metadata__" {
            continue;
        }
        let number = |value: &Value| value.as_u64().with_context(error);
        let shape = entry["shape"]
            .as_array()
            .with_context(error)?
            .iter()
            .map(|n| Ok(number(n)? as usize))
            .collect::<anyhow::Result<_>>()?;
        let bytes = number(&entry["data_offsets"][1])?.saturating_sub(number(&entry["data_offsets"][0])?);
        let dtype = entry["dtype"].as_str().unwrap_or("unknown").to_owned();
        found.push(Header { name, dtype, shape, bytes, quantized: false });
    }
    Ok(found)
}

fn of_gguf(path: &Path) -> anyhow::Result<Vec<Header>> {
    let content = open_gguf(path)?;
    let header = |(name, info): (&String, &candle_core::quantized::gguf_file::TensorInfo)| {
        let (format, values) = (info.ggml_dtype, info.shape.elem_count() as u64);
        Header {
            name: name.clone(),
            dtype: format!("{format:?}"),
            shape: info.shape.dims().into(),
            bytes: values / format.block_size() as u64 * format.type_size() as u64,
            quantized: format.block_size() > 1,
        }
    };
    Ok(content.tensor_infos.iter().map(header).collect())
}

fn of_pickle(path: &Path) -> anyhow::Result<Vec<Header>> {
    let error = || format!("{}: not a readable PyTorch file", path.display());
    // candle indexes the arguments of a tensor without a check that they exist.
    let read = |key| std::panic::catch_unwind(|| PthTensors::new(path, key).ok()).ok().flatten();
    let flat = read(None).filter(|tensors| !tensors.tensor_infos().is_empty());
    let tensors = flat.or_else(|| read(Some("model_state_dict"))).with_context(error)?;
    // Aliases share their storage, and a model loads them once.
    let mut storages = HashSet::new();
    let mut found = Vec::new();
    for (name, info) in tensors.tensor_infos() {
        if storages.insert((info.path.clone(), info.layout.start_offset())) {
            let (shape, dtype) = (info.layout.shape(), info.dtype);
            let bytes = (shape.elem_count() * dtype.size_in_bytes()) as u64;
            let dtype = dtype.as_str().to_uppercase();
            found.push(Header {
                name: name.clone(),
                dtype,
                shape: shape.dims().into(),
                bytes,
                quantized: false,
            });
        }
    }
    Ok(found)
}
