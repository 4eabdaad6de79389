//! Files of a checkpoint: safetensors, GGUF and PyTorch. Opens them, checks their headers and lists their tensors.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use candle_core::pickle::PthTensors;
use candle_core::quantized::gguf_file;
use candle_core::safetensors::MmapedSafetensors;

use super::pickle;
use super::stored::{GgufFile, Stored};
use crate::digest::sha256_of_file;
use crate::error::WeightsError;

/// Returns the shapes of the tensors of one file, by its names. Reads the header only.
///
/// # Errors
/// The file is missing, truncated or malformed.
pub fn shapes(path: &Path) -> Result<BTreeMap<String, Vec<usize>>, WeightsError> {
    let shape = |(name, place): (String, Stored)| match place.shape() {
        Ok(shape) => Ok((name, shape.into_dims())),
        Err(e) => {
            let origin = path.display().to_string();
            Err(WeightsError::Unreadable { origin, name, reason: first_line(&e) })
        }
    };
    list(path)?.into_iter().map(shape).collect()
}

/// Lists the tensors of one file, by the file's names.
pub(super) fn list(path: &Path) -> Result<Vec<(String, Stored)>, WeightsError> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("gguf") => {
            let file = Arc::new(map_gguf(path)?);
            let names: Vec<String> = file.content.tensor_infos.keys().cloned().collect();
            let place = |name: String| (name.clone(), Stored::Gguf { file: file.clone(), name });
            Ok(names.into_iter().map(place).collect())
        }
        Some("pt" | "pth" | "bin") => list_pickle(path),
        _ => list_safetensors(path),
    }
}

#[allow(unsafe_code)]
fn list_safetensors(path: &Path) -> Result<Vec<(String, Stored)>, WeightsError> {
    // `MmapedSafetensors` opens the file itself; opening it before tells "no such file" from "not safetensors".
    open(path)?;
    // SAFETY: the map is read-only, and the contract of a model directory excludes writes in place (files are replaced by
    // rename).
    let file = unsafe { MmapedSafetensors::new(path) }
        .map_err(|e| malformed(path, "safetensors", first_line(&e)))?;
    let file = Arc::new(file);
    let names: Vec<String> = file.tensors().into_iter().map(|(name, _)| name).collect();
    Ok(names
        .into_iter()
        .map(|name| (name.clone(), Stored::Safetensors { file: file.clone(), name }))
        .collect())
}

fn list_pickle(path: &Path) -> Result<Vec<(String, Stored)>, WeightsError> {
    open(path)?;
    pickle::check_archive(path).map_err(|reason| malformed(path, "PyTorch", reason))?;
    // A training checkpoint nests the tensors; a release is a flat dictionary.
    let read = |key| {
        // candle indexes the arguments of a tensor without a check that they exist.
        catch_panic(path, "PyTorch", || PthTensors::new(path, key))
    };
    let flat = read(None)?;
    let file = if flat.tensor_infos().is_empty() { read(Some("model_state_dict"))? } else { flat };
    let file = Arc::new(file);
    let names: Vec<String> = file.tensor_infos().keys().cloned().collect();
    Ok(names.into_iter().map(|name| (name.clone(), Stored::Pickle { file: file.clone(), name })).collect())
}

/// Reads a GGUF header and checks that the file is long enough for every tensor that it declares.
///
/// # Errors
/// A missing, truncated or malformed file.
pub fn open_gguf(path: &Path) -> Result<gguf_file::Content, WeightsError> {
    let file = open(path)?;
    let length = file.metadata().map_err(|e| io(path, e))?.len();
    // candle divides by the alignment that the file declares, even if it is zero.
    let content = catch_panic(path, "GGUF", || gguf_file::Content::read(&mut BufReader::new(file)))?;
    for (name, info) in &content.tensor_infos {
        let dims = info.shape.dims();
        if dims.contains(&0) {
            let reason = format!("tensor `{name}` has no elements: its shape is {dims:?}");
            return Err(malformed(path, "GGUF", reason));
        }
        let bytes = dims
            .iter()
            .try_fold(1usize, |n, &dim| n.checked_mul(dim))
            .and_then(|n| (n / info.ggml_dtype.block_size()).checked_mul(info.ggml_dtype.type_size()));
        let start = content.tensor_data_offset.checked_add(info.offset);
        let end = start.zip(bytes).and_then(|(start, bytes)| start.checked_add(bytes as u64));
        if end.is_none_or(|end| end > length) {
            let reason = format!("truncated: tensor `{name}` ends beyond the {length} bytes of the file");
            return Err(malformed(path, "GGUF", reason));
        }
    }
    Ok(content)
}

#[allow(unsafe_code)]
fn map_gguf(path: &Path) -> Result<GgufFile, WeightsError> {
    let content = open_gguf(path)?;
    // SAFETY: as for safetensors above. This map lives as long as the model.
    let map = unsafe { memmap2::Mmap::map(&open(path)?) }.map_err(|e| io(path, e))?;
    Ok(GgufFile { content, bytes: Bytes::from_owner(map) })
}

fn open(path: &Path) -> Result<std::fs::File, WeightsError> {
    std::fs::File::open(path).map_err(|e| io(path, e))
}

fn io(path: &Path, source: std::io::Error) -> WeightsError {
    WeightsError::Io { path: path.into(), source }
}

/// Reads a header that may make candle panic.
fn catch_panic<T>(
    path: &Path,
    format: &'static str,
    read: impl FnOnce() -> candle_core::Result<T>,
) -> Result<T, WeightsError> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)) {
        Ok(read) => read.map_err(|e| malformed(path, format, first_line(&e))),
        Err(_) => Err(malformed(path, format, "its header cannot be read".into())),
    }
}

fn malformed(path: &Path, format: &'static str, reason: String) -> WeightsError {
    WeightsError::Malformed { path: path.into(), format, reason }
}

/// Returns the first line of an error, cut: candle appends a backtrace when `RUST_BACKTRACE` is set, and quotes whole
/// objects.
pub(super) fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().chars().take(400).collect()
}

/// Checks a file against its published SHA-256 (64 hexadecimal digits).
///
/// # Errors
/// The file cannot be read, or has another hash.
pub fn verify_sha256(path: &Path, expected: &str) -> Result<(), WeightsError> {
    let found = sha256(path)?;
    if found.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(WeightsError::Hash { path: path.into(), expected: expected.into(), found })
}

/// Computes the SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// The file cannot be read.
pub fn sha256(path: &Path) -> Result<String, WeightsError> {
    sha256_of_file(path).map_err(|e| io(path, e))
}
