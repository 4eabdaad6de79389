//! Where a tensor lies: one `Stored` per tensor of a safetensors, GGUF or PyTorch file, or in memory.

use std::borrow::Cow;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use candle_core::pickle::PthTensors;
use candle_core::quantized::{GgmlDType, QStorage, QTensor, gguf_file};
use candle_core::{DType, Device, Shape, Tensor, safetensors::MmapedSafetensors};
use sha2::{Digest, Sha256};

use super::pickle;
use crate::error::WeightsError;

#[derive(Clone)]
pub(super) enum Stored {
    Memory(Tensor),
    Safetensors { file: Arc<MmapedSafetensors>, name: String },
    Gguf { file: Arc<GgufFile>, name: String },
    Pickle { file: Arc<PthTensors>, name: String },
}

/// A GGUF file whose header is read and whose length is checked; the rest is mapped.
pub(super) struct GgufFile {
    content: gguf_file::Content,
    bytes: Bytes,
}

/// A quantised matrix (rows, columns): blocks of weights along the columns, as their format lays them out. What a GGUF
/// file has lies in the file: nothing is read before it is used, and processes share it.
#[derive(Debug, Clone)]
pub struct Packed {
    pub format: GgmlDType,
    pub shape: Shape,
    pub bytes: Bytes,
    /// Where it is multiplied.
    pub device: Device,
}

impl Packed {
    /// Takes the bytes of a matrix of candle's.
    ///
    /// # Errors
    /// They cannot be read back from its device.
    pub fn copied(matrix: &QTensor, device: &Device) -> candle_core::Result<Self> {
        let bytes = matrix.data()?.into_owned().into();
        Ok(Self { format: matrix.dtype(), shape: matrix.shape().clone(), bytes, device: device.clone() })
    }

    /// A copy as candle's quantised matrix, on its device.
    ///
    /// # Errors
    /// The shape is none for this format, or the device refuses.
    pub fn to_candle(&self) -> candle_core::Result<QTensor> {
        // Copied first, for candle wants blocks to lie where their numbers may: in a file they lie anywhere.
        let bytes = Cow::Owned(self.bytes.to_vec());
        QTensor::new(QStorage::from_data(bytes, &self.device, self.format)?, self.shape.clone())
    }
}

impl GgufFile {
    fn packed(&self, name: &str, device: &Device) -> candle_core::Result<Packed> {
        let info = &self.content.tensor_infos[name];
        let (format, shape) = (info.ggml_dtype, info.shape.clone());
        let block = format.block_size();
        if shape.dims().last().is_none_or(|columns| columns % block != 0) {
            candle_core::bail!("{shape:?} does not divide into blocks of {block}");
        }
        let start = (self.content.tensor_data_offset + info.offset) as usize;
        // `open_gguf` has seen that this is in the file.
        let bytes = self.bytes.slice(start..start + shape.elem_count() / block * format.type_size());
        Ok(Packed { format, shape, bytes, device: device.clone() })
    }
}

impl Stored {
    pub(super) fn shape(&self) -> candle_core::Result<Shape> {
        Ok(match self {
            Stored::Memory(tensor) => tensor.shape().clone(),
            Stored::Safetensors { file, name } => file.get(name)?.shape().into(),
            Stored::Gguf { file, name } => file.content.tensor_infos[name].shape.clone(),
            Stored::Pickle { file, name } => file.tensor_infos()[name].layout.shape().clone(),
        })
    }

    pub(super) fn read(&self, device: &Device) -> candle_core::Result<Tensor> {
        match self {
            Stored::Memory(tensor) => tensor.to_device(device),
            Stored::Safetensors { file, name } => file.load(name, device),
            Stored::Gguf { file, name } => file.packed(name, device)?.to_candle()?.dequantize(device),
            Stored::Pickle { file, name } => match file.get(name)? {
                Some(tensor) => tensor.to_device(device),
                None => candle_core::bail!("the archive lists it but does not hold it"),
            },
        }
    }

    /// The tensor in the file's quantisation, if it has one, or in what that is [`kept_as`].
    pub(super) fn read_quantized(&self, device: &Device) -> candle_core::Result<Option<Packed>> {
        let Stored::Gguf { file, name } = self else { return Ok(None) };
        let format = file.content.tensor_infos[name].ggml_dtype;
        if format.block_size() == 1 {
            return Ok(None);
        }
        let stored = file.packed(name, device)?;
        match kept_as(format, device) {
            same if same == format => Ok(Some(stored)),
            other => {
                let dense = stored.to_candle()?.dequantize(device)?;
                Packed::copied(&QTensor::quantize(&dense, other)?, device).map(Some)
            }
        }
    }

    /// Whether two places hold the same numbers in the same shape.
    pub(super) fn equals(&self, other: &Self) -> candle_core::Result<bool> {
        let (a, b) = (self.read(&Device::Cpu)?, other.read(&Device::Cpu)?);
        if a.shape() != b.shape() {
            return Ok(false);
        }
        let (a, b) = (a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
        Ok(a.eq(&b)?.to_dtype(DType::U32)?.sum_all()?.to_scalar::<u32>()? as usize == a.elem_count())
    }
}

/// The quantisation in which a matrix of a file lies on `device`: its own, or the nearest that is fast on the CPU. Neither
/// candle nor `kernels/quantized.rs` has a vector kernel for the formats that are changed here.
pub fn kept_as(format: GgmlDType, device: &Device) -> GgmlDType {
    match format {
        GgmlDType::Q5_0 | GgmlDType::Q5_1 | GgmlDType::Q8_1 if device.is_cpu() => GgmlDType::Q8_0,
        same => same,
    }
}

/// The tensors of one file, by the names that the file gives them.
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
    // `MmapedSafetensors` opens the file itself; asking first keeps "no such file" apart from "not safetensors".
    open(path)?;
    // SAFETY: the map is read-only, and a model file that is rewritten while it is loaded is outside the contract
    // of a model directory (files are replaced by rename, never in place).
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
    // A training save wraps the tensors; a release is the flat dictionary.
    let read = |key| {
        // candle takes the arguments of a tensor by their places, be they there or not.
        no_panic(path, "PyTorch", || PthTensors::new(path, key))
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
    // candle divides by the alignment that the file declares, be it zero.
    let content = no_panic(path, "GGUF", || gguf_file::Content::read(&mut BufReader::new(file)))?;
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
    // SAFETY: as for safetensors above. This map stays as long as the model.
    let map = unsafe { memmap2::Mmap::map(&open(path)?) }.map_err(|e| io(path, e))?;
    Ok(GgufFile { content, bytes: Bytes::from_owner(map) })
}

fn open(path: &Path) -> Result<std::fs::File, WeightsError> {
    std::fs::File::open(path).map_err(|e| io(path, e))
}

fn io(path: &Path, source: std::io::Error) -> WeightsError {
    WeightsError::Io { path: path.into(), source }
}

/// Reads a header that candle may stumble over.
fn no_panic<T>(
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

/// candle appends a backtrace to its messages when `RUST_BACKTRACE` is set, and quotes whole objects.
pub(super) fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().chars().take(400).collect()
}

/// Checks a file against its published SHA-256 (64 hexadecimal digits).
///
/// # Errors
/// The file cannot be read, or is another file.
pub fn verify_sha256(path: &Path, expected: &str) -> Result<(), WeightsError> {
    let found = sha256(path)?;
    if found.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(WeightsError::Hash { path: path.into(), expected: expected.into(), found })
}

/// The SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// The file cannot be read.
pub fn sha256(path: &Path) -> Result<String, WeightsError> {
    let mut file = open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer).map_err(|e| io(path, e))?;
        if n == 0 {
            return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hasher.update(&buffer[..n]);
    }
}
