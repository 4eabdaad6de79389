//! Headers of the files of a model: names, types and sizes of its tensors, without their values.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use candle_core::pickle::PthTensors;
use candle_core::quantized::GgmlDType;
use flamingo::family::CONFIG;
use flamingo::weights::open_gguf;
use serde_json::Value;

/// Largest header of a safetensors file in bytes.
const HEADER_LIMIT: u64 = 100 << 20;
/// Largest index of shards in bytes.
const INDEX_LIMIT: u64 = 64 << 20;
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
    /// Format in which a matrix can stay in the mapped file: blocks of quantised weights, or bf16. F32 for any other type.
    pub format: GgmlDType,
}

impl Header {
    /// Number of values.
    pub fn values(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).fold(1, u64::saturating_mul)
    }
}

/// Returns a sentence if a safetensors file is shorter than its header says. The other formats are checked when they are read.
///
/// # Errors
/// The file is unreadable.
pub fn truncation(path: &Path) -> anyhow::Result<Option<String>> {
    if path.extension().is_none_or(|extension| extension != "safetensors") {
        return Ok(None);
    }
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let (end, entries) = safetensors_entries(path, &mut file)?;
    let last = entries.values().filter_map(|entry| entry["data_offsets"][1].as_u64()).max().unwrap_or(0);
    let (length, expected) = (file.metadata()?.len(), end.saturating_add(last));
    let text =
        || format!("{}: truncated: it has {length} bytes, its header announces {expected}", path.display());
    Ok((length < expected).then(text))
}

/// Compares the tensors of a directory with its index of shards. Returns a sentence per problem.
///
/// # Errors
/// The index is unreadable.
pub fn index_problems(directory: &Path, found: &[(PathBuf, Vec<Header>)]) -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    for name in ["model.safetensors.index.json", "pytorch_model.bin.index.json"] {
        let path = directory.join(name);
        if !path.is_file() {
            continue;
        }
        let index: Value = serde_json::from_str(&read_text(&path, INDEX_LIMIT)?)
            .with_context(|| path.display().to_string())?;
        let of = |file: &Path| Some(file.file_name()?.to_str()?.to_owned());
        let there: HashSet<(String, &str)> = found
            .iter()
            .filter_map(|(file, headers)| Some((of(file)?, headers)))
            .flat_map(|(file, headers)| {
                headers.iter().map(move |header| (file.clone(), header.name.as_str()))
            })
            .collect();
        let listed: HashSet<(String, &str)> = index["weight_map"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(tensor, file)| Some((file.as_str()?.to_owned(), tensor.as_str())))
            .collect();
        // Another format of the weights than that of the index may be the one that is read.
        if !there.iter().any(|(file, _)| listed.iter().any(|(listed, _)| listed == file)) {
            continue;
        }
        let mut missing: Vec<_> = listed.difference(&there).collect();
        let mut unlisted: Vec<_> = there.difference(&listed).collect();
        missing.sort();
        unlisted.sort();
        problems.extend(
            missing
                .into_iter()
                .map(|(file, tensor)| format!("{file}: tensor `{tensor}` is missing, {name} lists it")),
        );
        problems.extend(
            unlisted.into_iter().map(|(file, tensor)| format!("{file}: tensor `{tensor}` is not in {name}")),
        );
    }
    Ok(problems)
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
    serde_json::from_str(&read_text(&path, CONFIG_LIMIT)?).with_context(|| path.display().to_string())
}

fn read_text(path: &Path, limit: u64) -> anyhow::Result<String> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut text = String::new();
    file.take(limit).read_to_string(&mut text).with_context(|| path.display().to_string())?;
    Ok(text)
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

/// Reads the header of a safetensors file. Returns the place of its end, and the tensors.
fn safetensors_entries(path: &Path, file: &mut File) -> anyhow::Result<(u64, BTreeMap<String, Value>)> {
    let error = || format!("{}: not a readable safetensors file", path.display());
    let mut length = [0; 8];
    file.read_exact(&mut length).with_context(error)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_LIMIT {
        bail!("{}: the header has {length} bytes", error());
    }
    let mut text = Vec::new();
    file.take(length).read_to_end(&mut text).with_context(error)?;
    let mut entries: BTreeMap<String, Value> = serde_json::from_slice(&text).with_context(error)?;
    entries.remove("__metadata__");
    Ok((length + 8, entries))
}

fn of_safetensors(path: &Path) -> anyhow::Result<Vec<Header>> {
    let error = || format!("{}: not a readable safetensors file", path.display());
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let number = |value: &Value| value.as_u64().with_context(error);
    let mut found = Vec::new();
    for (name, entry) in safetensors_entries(path, &mut file)?.1 {
        let shape = entry["shape"].as_array().with_context(error)?.iter();
        let shape = shape.map(|n| Ok(number(n)? as usize)).collect::<anyhow::Result<_>>()?;
        let offsets = &entry["data_offsets"];
        let bytes = number(&offsets[1])?.saturating_sub(number(&offsets[0])?);
        let dtype = entry["dtype"].as_str().unwrap_or("unknown").to_owned();
        let format = if dtype == "BF16" { GgmlDType::BF16 } else { GgmlDType::F32 };
        found.push(Header { name, dtype, shape, bytes, format });
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
            format,
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
                format: GgmlDType::F32,
            });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Writes a safetensors file whose tensors have 3 bytes each, of which `kept` bytes are there.
    fn write(path: &Path, tensors: &[&str], kept: usize) {
        let entry = |(n, name): (usize, &&str)| {
            ((*name).to_owned(), json!({"dtype": "U8", "shape": [3], "data_offsets": [3 * n, 3 * n + 3]}))
        };
        let header: serde_json::Map<_, _> = tensors.iter().enumerate().map(entry).collect();
        let header = Value::Object(header).to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + kept, 0);
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn shards_are_compared_with_their_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        write(&path("model-1.safetensors"), &["a", "b"], 6);
        write(&path("model-2.safetensors"), &["c"], 2);
        let map = json!({"weight_map": {"a": "model-1.safetensors", "c": "model-2.safetensors", "d": "model-3.safetensors"}});
        std::fs::write(path("model.safetensors.index.json"), map.to_string()).unwrap();
        std::fs::write(path(CONFIG), "{}").unwrap();
        let files = weight_files(folder.path()).unwrap().into_iter().map(|(_, file)| file);
        let mut found: Vec<_> = files.map(|file| (file.clone(), headers(&file).unwrap())).collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(found[0].1[1].bytes, 3);
        let problems = index_problems(folder.path(), &found).unwrap();
        assert_eq!(
            problems,
            [
                "model-3.safetensors: tensor `d` is missing, model.safetensors.index.json lists it",
                "model-1.safetensors: tensor `b` is not in model.safetensors.index.json",
            ]
        );
        assert_eq!(truncation(&found[0].0).unwrap(), None);
        let text = truncation(&found[1].0).unwrap().unwrap();
        assert!(text.contains("model-2.safetensors: truncated: it has "), "{text}");
    }

    #[test]
    fn malformed_headers_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        for bytes in [&b"short"[..], &[255; 16], &[2, 0, 0, 0, 0, 0, 0, 0, b'{', b'}', b'x'][..9]] {
            std::fs::write(&path, bytes).unwrap();
            assert!(headers(&path).unwrap_err().to_string().contains("not a readable safetensors file"));
        }
    }
}
