//! Goldens: tensors of a reference implementation, compared stage by stage in causal order.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};

use crate::{repository, target};

pub struct Golden {
    name: String,
    tensors: HashMap<String, Tensor>,
}

/// Returns the folder of the goldens and of their generator scripts.
pub fn folder() -> PathBuf {
    repository::root().join("tests/parity/golden")
}

impl Golden {
    /// Reads `parity/golden/{name}.safetensors`.
    ///
    /// # Panics
    /// Panics if the file is missing or unreadable: a golden is part of the repository.
    pub fn load(name: &str) -> Golden {
        let path = folder().join(format!("{name}.safetensors"));
        let tensors = candle_core::safetensors::load(&path, &Device::Cpu)
            .unwrap_or_else(|e| panic!("golden {}: {e}", path.display()));
        Golden { name: name.to_owned(), tensors }
    }

    /// Returns a tensor of the file.
    ///
    /// # Panics
    /// Panics if the golden has no tensor of this name.
    pub fn tensor(&self, stage: &str) -> &Tensor {
        self.tensors.get(stage).unwrap_or_else(|| panic!("golden {} has no tensor `{stage}`", self.name))
    }

    /// Returns whether the file has a tensor of this name.
    pub fn has(&self, stage: &str) -> bool {
        self.tensors.contains_key(stage)
    }

    /// Returns the names of all tensors, unordered.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Compares `(stage, computed, tolerance)` in the order given and prints the relative error of each stage.
    ///
    /// # Panics
    /// Panics with the first stage whose relative error, max|a-b| / max|b|, is above its tolerance.
    pub fn compare(&self, stages: &[(&str, &Tensor, f64)]) {
        self.compare_by(relative_error, stages);
    }

    /// Compares `(stage, computed, tolerance)` as [`compare`](Self::compare) does, with the error max|a-b| / rms(b).
    ///
    /// # Panics
    /// Panics with the first stage whose error is above its tolerance.
    pub fn compare_rms(&self, stages: &[(&str, &Tensor, f64)]) {
        self.compare_by(rms_error, stages);
    }

    fn compare_by(&self, error_of: fn(&Tensor, &Tensor) -> f64, stages: &[(&str, &Tensor, f64)]) {
        let mut first_bad = None;
        for (stage, got, tolerance) in stages {
            let tolerance = target::tolerance(*tolerance);
            let want = self.tensor(stage);
            assert_eq!(got.dims(), want.dims(), "golden {}: shape of stage `{stage}`", self.name);
            let error = error_of(got, want);
            println!(
                "{} {stage:<24} {:?} relative error {error:.2e} (<= {tolerance:.0e})",
                self.name,
                got.dims()
            );
            if (error > tolerance || error.is_nan()) && first_bad.is_none() {
                first_bad = Some(format!("stage `{stage}`: relative error {error:.3e} > {tolerance:.0e}"));
            }
        }
        if let Some(bad) = first_bad {
            panic!("golden {}: first diverging {bad}", self.name);
        }
    }
}

/// Returns max|a-b| / rms(b) over tensors of one shape, in f64. NaN if either tensor contains NaN.
pub fn rms_error(a: &Tensor, b: &Tensor) -> f64 {
    let square =
        b.to_dtype(DType::F64).and_then(|b| b.sqr()?.mean_all()?.to_scalar::<f64>()).expect("floats");
    let largest =
        b.to_dtype(DType::F64).and_then(|b| b.abs()?.max_all()?.to_scalar::<f64>()).expect("floats");
    relative_error(a, b) * largest / square.sqrt()
}

/// Returns max|a-b| / max|b| over tensors of one shape, in f64. NaN if either tensor contains NaN.
pub fn relative_error(a: &Tensor, b: &Tensor) -> f64 {
    let flat = |t: &Tensor| {
        t.to_device(&Device::Cpu)
            .and_then(|t| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>())
            .expect("floats")
    };
    let nan_max = |m: f64, v: f64| if v.is_nan() || m.is_nan() { f64::NAN } else { m.max(v) };
    let (a, b) = (flat(a), flat(b));
    let difference = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, nan_max);
    difference / b.iter().map(|y| y.abs()).fold(f64::MIN_POSITIVE, nan_max)
}
