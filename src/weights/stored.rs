//! Locations of tensors: one `Stored` per tensor of a safetensors, GGUF or PyTorch file, or in memory.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use candle_core::pickle::PthTensors;
use candle_core::quantized::{GgmlDType, QStorage, QTensor, gguf_file};
use candle_core::{DType, Device, Shape, Tensor, safetensors::MmapedSafetensors};
use sha2::{Digest, Sha256};

use super::formats::MatrixOptions;
use super::quantize::quantized;

/// Location of one tensor.
#[derive(Clone)]
pub(super) enum Stored {
    Memory(Tensor),
    Safetensors {
        file: Arc<MmapedSafetensors>,
        name: String,
    },
    Gguf {
        file: Arc<GgufFile>,
        name: String,
    },
    Pickle {
        file: Arc<PthTensors>,
        name: String,
    },
    /// One of `of` equal parts of a tensor along its first axis.
    Part {
        whole: Box<Stored>,
        index: usize,
        of: usize,
    },
    /// Tensors that follow each other along the first axis.
    Rows(Vec<Stored>),
    /// The elements of a tensor, along one axis.
    Flat(Box<Stored>),
    /// A tensor whose axes but the last are the rows of a matrix.
    Matrix(Box<Stored>),
    /// A tensor cut, or filled with zeros, to a number of rows.
    Resized {
        whole: Box<Stored>,
        rows: usize,
    },
}

/// A mapped GGUF file with its header; the length is checked.
pub(super) struct GgufFile {
    pub(super) content: gguf_file::Content,
    pub(super) bytes: Bytes,
}

/// A quantised matrix (rows, columns) in blocks of weights along the columns, laid out by its format. The bytes of a
/// mapped GGUF file are read on first use, and processes share them.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Quantisation format.
    pub format: GgmlDType,
    /// Rows and columns.
    pub shape: Shape,
    /// Blocks of all rows, one row after the other.
    pub bytes: Bytes,
    /// Device of the products.
    pub device: Device,
}

impl Packed {
    /// Copies the bytes of a quantised matrix of candle.
    ///
    /// # Errors
    /// The device refuses the copy.
    pub fn copied(matrix: &QTensor, device: &Device) -> candle_core::Result<Self> {
        let bytes = matrix.data()?.into_owned().into();
        Ok(Self { format: matrix.dtype(), shape: matrix.shape().clone(), bytes, device: device.clone() })
    }

    /// Copies the matrix to a quantised matrix of candle, on its device.
    ///
    /// # Errors
    /// The shape does not fit the format, or the device refuses an operation.
    pub fn to_candle(&self) -> candle_core::Result<QTensor> {
        // Copied first: candle needs aligned blocks, and a file does not align them.
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
        // `open_gguf` has checked that this range is in the file.
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
            Stored::Part { whole, of, .. } => {
                let mut dims = whole.shape()?.into_dims();
                match dims.first_mut() {
                    Some(rows) if *rows % of == 0 => *rows /= of,
                    _ => candle_core::bail!("{dims:?} does not divide into {of} parts"),
                }
                dims.into()
            }
            Stored::Rows(parts) => {
                let shapes = parts.iter().map(Stored::shape).collect::<candle_core::Result<Vec<_>>>()?;
                let dims: Vec<&[usize]> = shapes.iter().map(Shape::dims).collect();
                if dims.iter().any(|d| d.is_empty() || d[1..] != dims[0][1..]) {
                    candle_core::bail!("{dims:?} do not follow each other along the first axis");
                }
                let rows = dims.iter().map(|d| d[0]).sum();
                [&[rows], &dims[0][1..]].concat().into()
            }
            Stored::Flat(whole) => whole.shape()?.elem_count().into(),
            Stored::Matrix(whole) => match whole.shape()?.dims() {
                [rows @ .., columns] => (rows.iter().product::<usize>(), *columns).into(),
                [] => candle_core::bail!("a number has no rows"),
            },
            Stored::Resized { whole, rows } => {
                let mut dims = whole.shape()?.into_dims();
                match dims.first_mut() {
                    Some(first) => *first = *rows,
                    None => candle_core::bail!("a number has no rows"),
                }
                dims.into()
            }
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
            Stored::Part { whole, index, .. } => {
                let rows = self.shape()?.dim(0)?;
                // A copy, so that the parts do not keep the whole in memory.
                whole.read(device)?.narrow(0, index * rows, rows)?.copy()
            }
            Stored::Rows(parts) => {
                let parts = parts.iter().map(|p| p.read(device)).collect::<candle_core::Result<Vec<_>>>()?;
                Tensor::cat(&parts, 0)
            }
            Stored::Flat(whole) => whole.read(device)?.flatten_all(),
            Stored::Matrix(whole) => whole.read(device)?.reshape(self.shape()?),
            Stored::Resized { whole, rows } => {
                let whole = whole.read(device)?;
                match whole.dim(0)? {
                    more if more >= *rows => whole.narrow(0, 0, *rows)?.copy(),
                    less => whole.pad_with_zeros(0, 0, rows - less),
                }
            }
        }
    }

    /// Reads a matrix in its format after loading; `None`: it is dense.
    pub(super) fn read_quantized(&self, options: &MatrixOptions) -> candle_core::Result<Option<Packed>> {
        let format = match self {
            Stored::Gguf { file, name } => file.content.tensor_infos[name].ggml_dtype,
            Stored::Safetensors { file, name } if file.get(name)?.dtype() == safetensors::Dtype::BF16 => {
                GgmlDType::BF16
            }
            _ => GgmlDType::F32,
        };
        let Some(loaded) = options.format(format, self.shape()?.dims()) else { return Ok(None) };
        match self {
            Stored::Gguf { file, name } if loaded == format => file.packed(name, &options.device).map(Some),
            Stored::Safetensors { file, name } if loaded == format => {
                let view = SafetensorsView { file: file.clone(), name: name.clone() };
                let (shape, device) = (self.shape()?, options.device.clone());
                Ok(Some(Packed { format, shape, bytes: Bytes::from_owner(view), device }))
            }
            _ => {
                let bytes = quantized(&self.read(&Device::Cpu)?, loaded)?.into();
                let (shape, device) = (self.shape()?, options.device.clone());
                Ok(Some(Packed { format: loaded, shape, bytes, device }))
            }
        }
    }

    /// Adds the name, type, shape and bytes to a digest.
    pub(super) fn digest(&self, name: &str, digest: &mut Sha256) -> candle_core::Result<()> {
        if let Stored::Safetensors { file, name: theirs } = self {
            let view = file.get(theirs)?;
            digest.update(format!("{name} {:?} {:?}\n", view.dtype(), view.shape()).as_bytes());
            digest.update(view.data());
            return Ok(());
        }
        let tensor = self.read(&Device::Cpu)?;
        digest.update(format!("{name} {:?} {:?}\n", tensor.dtype(), tensor.dims()).as_bytes());
        for values in tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?.chunks(1 << 14) {
            digest.update(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
        }
        Ok(())
    }

    /// Tells whether two locations hold the same numbers in the same shape.
    pub(super) fn equals(&self, other: &Self) -> candle_core::Result<bool> {
        if let (Stored::Safetensors { file, name }, Stored::Safetensors { file: other, name: alias }) =
            (self, other)
        {
            let (a, b) = (file.get(name)?, other.get(alias)?);
            if a.dtype() == b.dtype() {
                return Ok(a.shape() == b.shape() && a.data() == b.data());
            }
        }
        let (a, b) = (self.read(&Device::Cpu)?, other.read(&Device::Cpu)?);
        if a.shape() != b.shape() {
            return Ok(false);
        }
        let (a, b) = (a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
        Ok(a.eq(&b)?.to_dtype(DType::U32)?.sum_all()?.to_scalar::<u32>()? as usize == a.elem_count())
    }
}

/// Bytes of one tensor of a mapped safetensors file.
struct SafetensorsView {
    file: Arc<MmapedSafetensors>,
    name: String,
}

impl AsRef<[u8]> for SafetensorsView {
    fn as_ref(&self) -> &[u8] {
        self.file.get(&self.name).expect("the file lists the tensor").data()
    }
}
