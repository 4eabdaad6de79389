//! Strict reader of checkpoints: every tensor of a file is used exactly once, with the shape that the model expects, or
//! the load fails and names the tensor.
//!
//! A layer gets its tensors by name (`weights.pp("attn").get((d, d), "to_q.weight", init)`). The source is a safetensors
//! file, a GGUF file, a PyTorch pickle or a random initialiser; the layer does not see the difference. A table maps the
//! names of a file to ours, once, when the file is opened.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::Init;
use sha2::{Digest, Sha256};

use crate::digest::hex;
use crate::error::{Result, WeightsError};
use files::{first_line, list};
use init::{PATTERN, initial_value, repeated};
use places::Places;
use stored::Stored;

mod rename;
mod formats;
mod pickle;
mod quantize;
mod stored;
mod files;
mod places;
mod init;
mod header_check;

pub use files::{open_gguf, sha256, shapes, verify_sha256};
pub use formats::{MatrixOptions, Quantization};
pub use header_check::HeaderCheck;
pub use rename::{Layer, Rename};
pub use stored::Packed;

/// A matrix for a layer.
#[derive(Debug, Clone)]
pub enum Matrix {
    /// Dense, in the weights' dtype.
    Dense(Tensor),
    /// Quantised.
    Quantized(Packed),
}

/// A handle to a source of tensors with a name prefix: cheap to clone, one clone per path segment.
#[derive(Clone)]
pub struct Weights {
    source: Arc<Source>,
    prefix: String,
    quantization: Quantization,
    check: Option<HeaderCheck>,
}

struct Source {
    origin: String,
    device: Device,
    dtype: DType,
    tensors: Tensors,
    /// Names of the tensors handed out, with the number of elements of each.
    taken: Mutex<BTreeMap<String, usize>>,
}

enum Tensors {
    /// Our name -> location. Several locations are aliases, which must be equal.
    Stored(HashMap<String, Vec<Stored>>),
    Random {
        seed: u64,
        vars: Mutex<BTreeMap<String, Var>>,
    },
    /// A short sequence of numbers in -1..1 on the device, repeated to make every tensor.
    Placeholder(Tensor),
}

impl Weights {
    /// Opens checkpoint files (`.safetensors`, `.gguf`, `.pt`/`.pth`/`.bin`; shards together form one checkpoint).
    ///
    /// `rename` maps each name in the files to ours. Reads the headers only.
    ///
    /// # Errors
    /// A file is missing, truncated or malformed.
    pub fn open(
        files: &[PathBuf],
        device: &Device,
        dtype: DType,
        quantization: Quantization,
        rename: &dyn Fn(&str) -> Rename,
    ) -> Result<Self> {
        Self::open_layers(&[Layer { files, rename }], device, dtype, quantization)
    }

    /// Opens several checkpoints as one, each with a table of its own. A tensor of an earlier one replaces those of the same
    /// name in later ones: a checkpoint of trained parts, then the models that it was trained on.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_layers(
        layers: &[Layer],
        device: &Device,
        dtype: DType,
        quantization: Quantization,
    ) -> Result<Self> {
        let mut stored = HashMap::new();
        let paths = layers.iter().flat_map(|layer| layer.files);
        let origin = paths.map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
        for layer in layers {
            let mut places = Places::default();
            for path in layer.files {
                for (name, place) in list(path)? {
                    places.add((layer.rename)(&name), place);
                }
            }
            let missing = |whole| WeightsError::Missing {
                origin: origin.clone(),
                name: format!("{whole} (some of its rows)"),
            };
            for (name, places) in places.finish().map_err(missing)? {
                stored.entry(name).or_insert(places);
            }
        }
        Ok(Self::from_source(origin, device, dtype, quantization, Tensors::Stored(stored)))
    }

    /// Makes a source of tensors in memory, under our names.
    pub fn from_tensors(
        origin: &str,
        tensors: HashMap<String, Tensor>,
        device: &Device,
        dtype: DType,
    ) -> Self {
        let stored = tensors.into_iter().map(|(name, t)| (name, vec![Stored::Memory(t)])).collect();
        Self::from_source(origin.into(), device, dtype, Quantization::Keep, Tensors::Stored(stored))
    }

    /// Makes a source that initialises every tensor as a trainable variable. The values depend on the seed and the tensor's
    /// name only, not on the order of requests.
    pub fn random(seed: u64, device: &Device, dtype: DType) -> Self {
        let tensors = Tensors::Random { seed, vars: Mutex::default() };
        Self::from_source(format!("seed {seed}"), device, dtype, Quantization::Dequantize, tensors)
    }

    /// Makes a source that repeats one short sequence of numbers on the device, scaled as each initialiser says: for speed
    /// measurements of shapes without trained weights. The tensors are frozen and made as fast as memory is written.
    ///
    /// # Errors
    /// The device refuses an operation.
    pub fn placeholder(device: &Device, dtype: DType) -> Result<Self> {
        let tensors = Tensors::Placeholder(
            Tensor::rand(-1f32, 1f32, PATTERN, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?,
        );
        Ok(Self::from_source("placeholder".into(), device, dtype, Quantization::Dequantize, tensors))
    }

    fn from_source(
        origin: String,
        device: &Device,
        dtype: DType,
        quantization: Quantization,
        tensors: Tensors,
    ) -> Self {
        let device = device.clone();
        let source = Source { origin, device, dtype, tensors, taken: Mutex::default() };
        Self { source: Arc::new(source), prefix: String::new(), quantization, check: None }
    }

    /// With `check`, reads no values from here on: every tensor is zero, and `check` gets what is missing, misshapen or unused.
    pub fn by_headers(self, check: Option<&HeaderCheck>) -> Self {
        Self { check: check.cloned(), ..self }
    }

    /// Returns the weights below the name segment `segment`.
    pub fn pp(&self, segment: impl ToString) -> Self {
        Self { prefix: self.full_name(&segment.to_string()), ..self.clone() }
    }

    /// Returns the same weights with another treatment of matrices.
    pub fn quantized(&self, quantization: Quantization) -> Self {
        Self { quantization, ..self.clone() }
    }

    /// Returns the same weights with dense matrices only: for a part that is small and suffers from quantisation, as a vision
    /// encoder does.
    pub fn dense(&self) -> Self {
        self.quantized(Quantization::Dequantize)
    }

    /// Returns the same weights without quantisation at load: matrices keep the format of the file, or are dequantised if the
    /// source says so. For a large part that suffers from quantisation.
    pub fn as_stored(&self) -> Self {
        self.quantized(self.quantization.as_stored())
    }

    /// Returns the same weights for an embedding and an output head: [`Quantization::in_8_bits`]. They are a small part of the
    /// memory and matter much for the quality.
    pub fn in_8_bits(&self) -> Self {
        self.quantized(self.quantization.in_8_bits())
    }

    /// Returns the device of every tensor.
    pub fn device(&self) -> &Device {
        &self.source.device
    }

    /// Returns the dtype of every tensor from [`get`](Self::get).
    pub fn dtype(&self) -> DType {
        // Layers copy matrices in f32 only.
        if self.check.is_some() { DType::BF16 } else { self.source.dtype }
    }

    /// Returns the tensor `name`, on the weights' device and in their dtype. `init` matters for a source without files only.
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
            Tensors::Placeholder(pattern) => Ok(repeated(pattern, &shape, init)?),
            Tensors::Stored(stored) if let Some(check) = &self.check => {
                check.record(self.check_header(stored, &full, &shape));
                // Without memory for the values.
                Ok(Tensor::zeros((), self.dtype(), self.device())?.broadcast_as(shape)?)
            }
            Tensors::Stored(stored) => {
                let place = self.locate(stored, &full, &shape)?;
                let tensor = place.read(self.device()).map_err(|e| self.unreadable(&full, e))?;
                Ok(tensor.to_dtype(self.dtype())?)
            }
        }
    }

    /// Returns the matrix `name`, quantised as the [`Quantization`] of the source says.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn matrix(&self, shape: impl Into<Shape>, name: &str, init: Init) -> Result<Matrix> {
        let shape = shape.into();
        if let Tensors::Stored(stored) = &self.source.tensors
            && self.quantization != Quantization::Dequantize
            && self.check.is_none()
        {
            let full = self.full_name(name);
            let place = self.locate(stored, &full, &shape)?;
            let (device, dtype, quantization) = (self.device().clone(), self.dtype(), self.quantization);
            let quantized = place.read_quantized(&MatrixOptions { device, dtype, quantization });
            if let Some(quantized) = quantized.map_err(|e| self.unreadable(&full, e))? {
                self.take(name, &shape);
                return Ok(Matrix::Quantized(quantized));
            }
        }
        Ok(Matrix::Dense(self.get(shape, name, init)?))
    }

    /// Checks that every tensor of the files was used. Call it when the model is built.
    ///
    /// # Errors
    /// [`WeightsError::Unused`] with the names of the unused tensors.
    pub fn finish(&self) -> Result<()> {
        let Tensors::Stored(stored) = &self.source.tensors else { return Ok(()) };
        let taken = self.source.taken.lock().expect("weights lock");
        let mut names: Vec<String> = stored.keys().filter(|n| !taken.contains_key(*n)).cloned().collect();
        if names.is_empty() {
            return Ok(());
        }
        names.sort();
        let unused = Err(WeightsError::Unused { origin: self.source.origin.clone(), names }.into());
        match &self.check {
            Some(check) => {
                check.record(unused);
                Ok(())
            }
            None => unused,
        }
    }

    /// Returns the number of parameters handed out so far, by the first segment of their names.
    pub fn parameters(&self) -> BTreeMap<String, usize> {
        let mut parts = BTreeMap::new();
        for (name, n) in self.source.taken.lock().expect("weights lock").iter() {
            let part = name.split('.').next().unwrap_or_default();
            *parts.entry(part.to_string()).or_default() += n;
        }
        parts
    }

    /// Returns the variables that a random source has handed out, by name: the parameters to train and to save.
    pub fn vars(&self) -> BTreeMap<String, Var> {
        match &self.source.tensors {
            Tensors::Random { vars, .. } => vars.lock().expect("weights lock").clone(),
            Tensors::Stored(_) | Tensors::Placeholder(_) => BTreeMap::new(),
        }
    }

    /// Returns the SHA-256 of the stored tensors below some first segments of our names: of their names, types, shapes and
    /// bytes. Reads all of them; empty for a check of headers.
    ///
    /// # Errors
    /// A tensor cannot be read.
    pub fn content_sha256(&self, segments: &[&str]) -> Result<String> {
        self.sha256_of(|name| segments.contains(&name.split('.').next().unwrap_or_default()))
    }

    /// Returns the SHA-256 of all stored tensors, as [`content_sha256`](Self::content_sha256).
    ///
    /// # Errors
    /// A tensor cannot be read.
    pub fn all_sha256(&self) -> Result<String> {
        self.sha256_of(|_| true)
    }

    fn sha256_of(&self, chosen: impl Fn(&str) -> bool) -> Result<String> {
        let (Tensors::Stored(stored), None) = (&self.source.tensors, &self.check) else {
            return Ok(String::new());
        };
        let mut names: Vec<&String> = stored.keys().filter(|name| chosen(name)).collect();
        names.sort();
        let mut digest = Sha256::new();
        for name in names {
            for place in &stored[name] {
                place.digest(name, &mut digest).map_err(|e| self.unreadable(name, e))?;
            }
        }
        Ok(hex(&digest.finalize()))
    }

    fn full_name(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }

    fn take(&self, name: &str, shape: &Shape) -> String {
        let full = self.full_name(name);
        self.source.taken.lock().expect("weights lock").insert(full.clone(), shape.elem_count());
        full
    }

    /// Returns the location of a tensor. Checks its shape and its aliases before any allocation depends on its size.
    fn locate<'s>(
        &self,
        stored: &'s HashMap<String, Vec<Stored>>,
        full: &str,
        shape: &Shape,
    ) -> Result<&'s Stored> {
        self.check_header(stored, full, shape)?;
        let (first, aliases) = stored[full].split_first().expect("a stored name has a location");
        for alias in aliases {
            if !first.equals(alias).map_err(|e| self.unreadable(full, e))? {
                let origin = self.source.origin.clone();
                return Err(WeightsError::Aliases { origin, name: full.into() }.into());
            }
        }
        Ok(first)
    }

    /// Checks that a tensor is there, and the shapes of it and its aliases.
    fn check_header(&self, stored: &HashMap<String, Vec<Stored>>, full: &str, shape: &Shape) -> Result<()> {
        let origin = || self.source.origin.clone();
        let places =
            stored.get(full).ok_or_else(|| WeightsError::Missing { origin: origin(), name: full.into() })?;
        for place in places {
            self.check_shape(full, shape, &place.shape().map_err(|e| self.unreadable(full, e))?)?;
        }
        Ok(())
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

#[cfg(test)]
mod tests;
