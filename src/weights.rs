//! Strict reading of checkpoints: every tensor of the file is used exactly once, with the shape the model expects,
//! or the load fails and names it.
//!
//! A layer asks for what it needs by name (`weights.pp("attn").get((d, d), "to_q.weight", init)`); it does not know
//! whether a safetensors file, a GGUF file, a PyTorch pickle or a random initialiser answers. Foreign names are
//! translated once, when the file is opened, by a table from the file's names to ours.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::quantized::{QTensor, gguf_file};
use candle_core::{DType, Device, Shape, Tensor, Var, pickle, safetensors::MmapedSafetensors};
use candle_nn::Init;
use sha2::{Digest, Sha256};

use crate::error::{Result, WeightsError};
use init::initial_value;

mod init;

/// What becomes of a tensor's name when a file is opened.
pub enum Rename {
    /// The tensor is known to the model under this name.
    To(String),
    /// The tensor is known and deliberately not loaded (a classifier head, a buffer that is recomputed).
    Ignore,
}

/// Whether quantised tensors stay quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Quantization {
    /// Matrices stay as they are in the file; everything else is dequantised.
    #[default]
    Keep,
    /// Everything is dequantised at load: more memory, exact matrix products, differentiable.
    Dequantize,
}

/// A matrix as a layer receives it: dense in the weights' dtype, or quantised.
#[derive(Debug, Clone)]
pub enum Matrix {
    Dense(Tensor),
    Quantized(Arc<QTensor>),
}

/// A cursor into a source of tensors: cheap to clone, one clone per path segment.
#[derive(Clone)]
pub struct Weights {
    source: Arc<Source>,
    prefix: String,
}

struct Source {
    origin: String,
    device: Device,
    dtype: DType,
    quantization: Quantization,
    tensors: Tensors,
    /// Names that were asked for, and how many numbers each holds.
    taken: Mutex<BTreeMap<String, usize>>,
}

enum Tensors {
    /// Our name -> where it lies. More than one place means aliases, which must agree.
    Stored(HashMap<String, Vec<Stored>>),
    Random {
        seed: u64,
        vars: Mutex<BTreeMap<String, Var>>,
    },
}

#[derive(Clone)]
enum Stored {
    Memory(Tensor),
    Safetensors { file: Arc<MmapedSafetensors>, name: String },
    Gguf { path: PathBuf, content: Arc<gguf_file::Content>, name: String },
    Pickle { file: Arc<pickle::PthTensors>, name: String },
}

impl Weights {
    /// Opens checkpoint files (`.safetensors`, `.gguf`, `.pt`/`.pth`/`.bin`; shards together form one checkpoint).
    ///
    /// `rename` maps each name in the files to ours. Nothing is read beyond the headers yet.
    ///
    /// # Errors
    /// A missing, truncated or malformed file.
    pub fn open(
        files: &[PathBuf],
        device: &Device,
        dtype: DType,
        quantization: Quantization,
        rename: &dyn Fn(&str) -> Rename,
    ) -> Result<Self> {
        let mut stored: HashMap<String, Vec<Stored>> = HashMap::new();
        for path in files {
            for (name, place) in list(path)? {
                if let Rename::To(ours) = rename(&name) {
                    stored.entry(ours).or_default().push(place);
                }
            }
        }
        let origin = files.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
        Ok(Self::from_source(origin, device, dtype, quantization, Tensors::Stored(stored)))
    }

    /// Tensors that are already in memory, under our names.
    pub fn from_tensors(
        origin: &str,
        tensors: HashMap<String, Tensor>,
        device: &Device,
        dtype: DType,
    ) -> Self {
        let stored = tensors.into_iter().map(|(name, t)| (name, vec![Stored::Memory(t)])).collect();
        Self::from_source(origin.into(), device, dtype, Quantization::Keep, Tensors::Stored(stored))
    }

    /// Every tensor from its initialiser, as a trainable variable. The values depend on the seed and the tensor's
    /// name alone, not on the order in which layers ask.
    pub fn random(seed: u64, device: &Device, dtype: DType) -> Self {
        let tensors = Tensors::Random { seed, vars: Mutex::default() };
        Self::from_source(format!("seed {seed}"), device, dtype, Quantization::Dequantize, tensors)
    }

    fn from_source(
        origin: String,
        device: &Device,
        dtype: DType,
        quantization: Quantization,
        tensors: Tensors,
    ) -> Self {
        let device = device.clone();
        let source = Source { origin, device, dtype, quantization, tensors, taken: Mutex::default() };
        Self { source: Arc::new(source), prefix: String::new() }
    }

    /// The weights below `segment`.
    pub fn pp(&self, segment: impl ToString) -> Self {
        Self { source: self.source.clone(), prefix: self.full_name(&segment.to_string()) }
    }

    pub fn device(&self) -> &Device {
        &self.source.device
    }

    /// The dtype of every tensor handed out by [`get`](Self::get).
    pub fn dtype(&self) -> DType {
        self.source.dtype
    }

    /// Whether a tensor of this name exists (a random source has every tensor).
    pub fn contains(&self, name: &str) -> bool {
        match &self.source.tensors {
            Tensors::Stored(stored) => stored.contains_key(&self.full_name(name)),
            Tensors::Random { .. } => true,
        }
    }

    /// The tensor `name`, on the weights' device and in their dtype. `init` is used by a random source only.
    ///
    /// # Errors
    /// The tensor is missing, has another shape, or has aliases that differ.
    pub fn get(&self, shape: impl Into<Shape>, name: &str, init: Init) -> Result<Tensor> {
        let shape = shape.into();
        let full = self.take(name, &shape);
        match &self.source.tensors {
            Tensors::Random { seed, vars } => {
                let mut vars = vars.lock().expect("weights lock");
                if let Some(var) = vars.get(&full) {
                    return Ok(var.as_tensor().clone());
                }
                let value = initial_value(*seed, &full, &shape, init)?.to_dtype(self.dtype())?;
                let var = Var::from_tensor(&value.to_device(self.device())?)?;
                Ok(vars.entry(full).or_insert(var).as_tensor().clone())
            }
            Tensors::Stored(stored) => {
                let place = self.place(stored, &full)?;
                let tensor = place.read(self.device()).map_err(|e| self.unreadable(&full, e))?;
                self.check_shape(&full, &shape, tensor.shape())?;
                Ok(tensor.to_dtype(self.dtype())?)
            }
        }
    }

    /// The matrix `name`, kept quantised if the file has it so and the source was opened with
    /// [`Quantization::Keep`].
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn matrix(&self, shape: impl Into<Shape>, name: &str, init: Init) -> Result<Matrix> {
        let shape = shape.into();
        if let Tensors::Stored(stored) = &self.source.tensors
            && self.source.quantization == Quantization::Keep
        {
            let full = self.full_name(name);
            if let Stored::Gguf { path, content, name: theirs } = self.place(stored, &full)? {
                let q =
                    read_gguf(path, content, theirs, self.device()).map_err(|e| self.unreadable(&full, e))?;
                if q.dtype().block_size() > 1 {
                    self.check_shape(&full, &shape, q.shape())?;
                    self.take(name, &shape);
                    return Ok(Matrix::Quantized(Arc::new(q)));
                }
            }
        }
        Ok(Matrix::Dense(self.get(shape, name, init)?))
    }

    /// To be called when the model is built: every tensor of the files must have been taken.
    ///
    /// # Errors
    /// [`WeightsError::Unused`] with the names of the rest.
    pub fn finish(&self) -> Result<()> {
        let Tensors::Stored(stored) = &self.source.tensors else { return Ok(()) };
        let taken = self.source.taken.lock().expect("weights lock");
        let mut names: Vec<String> = stored.keys().filter(|n| !taken.contains_key(*n)).cloned().collect();
        if names.is_empty() {
            return Ok(());
        }
        names.sort();
        Err(WeightsError::Unused { origin: self.source.origin.clone(), names }.into())
    }

    /// How many parameters have been taken so far, by the first part of their names.
    pub fn parameters(&self) -> BTreeMap<String, usize> {
        let mut parts = BTreeMap::new();
        for (name, n) in self.source.taken.lock().expect("weights lock").iter() {
            let part = name.split('.').next().unwrap_or_default();
            *parts.entry(part.to_string()).or_default() += n;
        }
        parts
    }

    /// The variables that a random source has handed out, by name: what there is to train and to save.
    pub fn vars(&self) -> BTreeMap<String, Var> {
        match &self.source.tensors {
            Tensors::Random { vars, .. } => vars.lock().expect("weights lock").clone(),
            Tensors::Stored(_) => BTreeMap::new(),
        }
    }

    fn full_name(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }

    fn take(&self, name: &str, shape: &Shape) -> String {
        let full = self.full_name(name);
        self.source.taken.lock().expect("weights lock").insert(full.clone(), shape.elem_count());
        full
    }

    fn place<'s>(&self, stored: &'s HashMap<String, Vec<Stored>>, full: &str) -> Result<&'s Stored> {
        let origin = || self.source.origin.clone();
        let places =
            stored.get(full).ok_or_else(|| WeightsError::Missing { origin: origin(), name: full.into() })?;
        let (first, aliases) = places.split_first().expect("a stored name has a place");
        for alias in aliases {
            if !first.equals(alias).map_err(|e| self.unreadable(full, e))? {
                return Err(WeightsError::Aliases { origin: origin(), name: full.into() }.into());
            }
        }
        Ok(first)
    }

    fn check_shape(&self, name: &str, expected: &Shape, found: &Shape) -> Result<()> {
        if expected == found {
            return Ok(());
        }
        Err(WeightsError::Shape {
            origin: self.source.origin.clone(),
            name: name.into(),
            expected: expected.dims().into(),
            found: found.dims().into(),
        }
        .into())
    }

    fn unreadable(&self, name: &str, error: candle_core::Error) -> WeightsError {
        let origin = self.source.origin.clone();
        WeightsError::Unreadable { origin, name: name.into(), reason: first_line(&error) }
    }
}

impl Stored {
    fn read(&self, device: &Device) -> candle_core::Result<Tensor> {
        match self {
            Stored::Memory(tensor) => tensor.to_device(device),
            Stored::Safetensors { file, name } => file.load(name, device),
            Stored::Gguf { path, content, name } => {
                read_gguf(path, content, name, device)?.dequantize(device)
            }
            Stored::Pickle { file, name } => match file.get(name)? {
                Some(tensor) => tensor.to_device(device),
                None => candle_core::bail!("the archive lists it but does not hold it"),
            },
        }
    }

    fn equals(&self, other: &Self) -> candle_core::Result<bool> {
        let (a, b) = (self.read(&Device::Cpu)?, other.read(&Device::Cpu)?);
        if a.shape() != b.shape() {
            return Ok(false);
        }
        let (a, b) = (a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
        Ok(a.eq(&b)?.to_dtype(DType::U32)?.sum_all()?.to_scalar::<u32>()? as usize == a.elem_count())
    }
}

fn list(path: &Path) -> Result<Vec<(String, Stored)>, WeightsError> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("gguf") => {
            let content = Arc::new(open_gguf(path)?);
            let names: Vec<String> = content.tensor_infos.keys().cloned().collect();
            let place = |name: String| {
                let (path, content) = (path.to_path_buf(), content.clone());
                (name.clone(), Stored::Gguf { path, content, name })
            };
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
    let file = unsafe { MmapedSafetensors::new(path) }.map_err(|e| malformed(path, "safetensors", &e))?;
    let file = Arc::new(file);
    let names: Vec<String> = file.tensors().into_iter().map(|(name, _)| name).collect();
    Ok(names
        .into_iter()
        .map(|name| (name.clone(), Stored::Safetensors { file: file.clone(), name }))
        .collect())
}

fn list_pickle(path: &Path) -> Result<Vec<(String, Stored)>, WeightsError> {
    open(path)?;
    // A training save wraps the tensors; a release is the flat dictionary.
    let flat = pickle::PthTensors::new(path, None).map_err(|e| malformed(path, "PyTorch", &e))?;
    let file = if flat.tensor_infos().is_empty() {
        pickle::PthTensors::new(path, Some("model_state_dict")).map_err(|e| malformed(path, "PyTorch", &e))?
    } else {
        flat
    };
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
    let content =
        gguf_file::Content::read(&mut BufReader::new(file)).map_err(|e| malformed(path, "GGUF", &e))?;
    for (name, info) in &content.tensor_infos {
        let blocks = info.shape.elem_count() / info.ggml_dtype.block_size();
        let end = blocks
            .checked_mul(info.ggml_dtype.type_size())
            .and_then(|bytes| content.tensor_data_offset.checked_add(info.offset)?.checked_add(bytes as u64));
        if end.is_none_or(|end| end > length) {
            let reason = format!("truncated: tensor `{name}` ends beyond the {length} bytes of the file");
            return Err(WeightsError::Malformed { path: path.into(), format: "GGUF", reason });
        }
    }
    Ok(content)
}

fn read_gguf(
    path: &Path,
    content: &gguf_file::Content,
    name: &str,
    device: &Device,
) -> candle_core::Result<QTensor> {
    content.tensor(&mut std::fs::File::open(path)?, name, device)
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

fn open(path: &Path) -> Result<std::fs::File, WeightsError> {
    std::fs::File::open(path).map_err(|e| io(path, e))
}

fn io(path: &Path, source: std::io::Error) -> WeightsError {
    WeightsError::Io { path: path.into(), source }
}

fn malformed(path: &Path, format: &'static str, error: &candle_core::Error) -> WeightsError {
    WeightsError::Malformed { path: path.into(), format, reason: first_line(error) }
}

/// candle appends a backtrace to its messages when `RUST_BACKTRACE` is set.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests;
